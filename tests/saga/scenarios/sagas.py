"""The sagas that the scenarios are about. Only their shape matters: no code of theirs is run."""

from __future__ import annotations

from typing import Any

from standfast import Constant, Context, Migration, Retry, Saga, child, sleep, step, wait

TWICE = Retry(attempts=2, backoff=Constant(1))


class Shop(Saga[Any]):
    name, version, deadline = "shop", 1, "10m"

    @step(timeout="5s", retry=TWICE)
    async def reserve(self, order: Any, ctx: Context) -> str: ...

    @reserve.compensation(retry=TWICE)
    async def release(self, order: Any, ctx: Context) -> None: ...

    @step(timeout="5s", retry=TWICE)
    async def charge(self, order: Any, ctx: Context) -> str: ...

    @charge.compensation(retry=TWICE)
    async def refund(self, order: Any, ctx: Context) -> None: ...

    @step(pivot=True, retry=TWICE)
    async def ship(self, order: Any, ctx: Context) -> str: ...

    @step(retry=TWICE)
    async def notify(self, order: Any, ctx: Context) -> None: ...


class NewShop(Saga[Any]):
    """The second version: `charge` is called `collect`, and all is wrapped before it is shipped."""

    name, version, deadline = "shop", 2, "10m"
    migrations = {1: Migration(renamed={"charge": "collect"})}  # noqa: RUF012

    @step(timeout="5s", retry=TWICE)
    async def reserve(self, order: Any, ctx: Context) -> str: ...

    @reserve.compensation(retry=TWICE)
    async def release(self, order: Any, ctx: Context) -> None: ...

    @step(timeout="5s", retry=TWICE)
    async def collect(self, order: Any, ctx: Context) -> str: ...

    @collect.compensation(retry=TWICE)
    async def give_back(self, order: Any, ctx: Context) -> None: ...

    @step(no_compensation="paper")
    async def wrap(self, order: Any, ctx: Context) -> None: ...

    @step(pivot=True, retry=TWICE)
    async def ship(self, order: Any, ctx: Context) -> str: ...

    @step(retry=TWICE)
    async def notify(self, order: Any, ctx: Context) -> None: ...


class Careful(Saga[Any]):
    """A step that is parked rather than undone when its retries are exhausted."""

    name = "careful"

    @step(retry=TWICE)
    async def reserve(self, order: Any, ctx: Context) -> str: ...

    @reserve.compensation
    async def release(self, order: Any, ctx: Context) -> None: ...

    @step(retry=TWICE, on_exhausted="park")
    async def charge(self, order: Any, ctx: Context) -> str: ...

    @charge.compensation
    async def refund(self, order: Any, ctx: Context) -> None: ...


class Patient(Careful):
    """Has a deadline, which what is parked doesn't heed."""

    name, deadline = "patient", "10m"


class Impatient(Careful):
    """Has a deadline, at which what is parked is undone, too."""

    name, deadline, deadline_ends_parked = "impatient", "10m", True


class Twins(Saga[Any]):
    """Two steps beside each other, parked when they fail, and a deadline that stands still then."""

    name, deadline = "twins", "10m"

    @step(retry=Retry(attempts=1), on_exhausted="park")
    async def left(self, order: Any, ctx: Context) -> str: ...

    @left.compensation
    async def undo_left(self, order: Any, ctx: Context) -> None: ...

    @step(after=(), retry=Retry(attempts=1), on_exhausted="park")
    async def right(self, order: Any, ctx: Context) -> str: ...

    @right.compensation
    async def undo_right(self, order: Any, ctx: Context) -> None: ...


class Approved(Saga[Any]):
    """Waits for two signals, one of which may not come."""

    name, deadline = "approved", "1h"

    @step
    async def reserve(self, order: Any, ctx: Context) -> str: ...

    @reserve.compensation
    async def release(self, order: Any, ctx: Context) -> None: ...

    approval = wait("approved", timeout="10m")
    wish = wait("wish", timeout="1m", on_timeout="continue")

    @step(pivot=True)
    async def ship(self, order: Any, ctx: Context) -> str: ...

    receipt = wait("received", timeout="1h")


class Diamond(Saga[Any]):
    """begin, then left and right beside each other, then end."""

    name = "diamond"

    @step
    async def begin(self, order: Any, ctx: Context) -> str: ...

    @begin.compensation
    async def undo_begin(self, order: Any, ctx: Context) -> None: ...

    @step(after="begin", retry=TWICE)
    async def left(self, order: Any, ctx: Context) -> str: ...

    @left.compensation
    async def undo_left(self, order: Any, ctx: Context) -> None: ...

    @step(after="begin", retry=TWICE)
    async def right(self, order: Any, ctx: Context) -> str: ...

    @right.compensation
    async def undo_right(self, order: Any, ctx: Context) -> None: ...

    @step(after=["left", "right"], no_compensation="a note")
    async def end(self, order: Any, ctx: Context) -> str: ...


class Packing(Saga[Any]):
    """Packs each item, two at a time, and wraps the whole if it is a gift."""

    name = "packing"

    @step(each=lambda self, order, ctx: order, limit=2, retry=TWICE)
    async def pack(self, order: Any, ctx: Context, item: str) -> str: ...

    @pack.compensation
    async def unpack(self, order: Any, ctx: Context, item: str) -> None: ...

    @step(when=lambda self, order, ctx: bool(order), no_compensation="paper")
    async def wrap(self, order: Any, ctx: Context) -> None: ...

    @step(no_compensation="a note")
    async def close(self, order: Any, ctx: Context) -> None: ...


class Insured(Saga[Any]):
    """Has a child saga in the middle."""

    name = "insured"

    @step
    async def reserve(self, order: Any, ctx: Context) -> str: ...

    @reserve.compensation
    async def release(self, order: Any, ctx: Context) -> None: ...

    insurance = child(Shop, lambda self, order, ctx: order)

    @step(no_compensation="a note")
    async def notify(self, order: Any, ctx: Context) -> None: ...


class Sleeper(Saga[Any]):
    """Lets three days pass, and then the time until a moment."""

    name, deadline = "sleeper", "30d"

    @step
    async def reserve(self, order: Any, ctx: Context) -> str: ...

    @reserve.compensation
    async def release(self, order: Any, ctx: Context) -> None: ...

    cool_off = sleep("3d")
    opening = sleep(until=lambda self, order, ctx: order, when=lambda self, order, ctx: True)

    @step(no_compensation="a note")
    async def notify(self, order: Any, ctx: Context) -> str: ...


class Fleet(Saga[Any]):
    """A child saga for each item, two at a time."""

    name = "fleet"

    @step
    async def reserve(self, order: Any, ctx: Context) -> str: ...

    @reserve.compensation
    async def release(self, order: Any, ctx: Context) -> None: ...

    ships = child(
        Shop,
        lambda self, order, ctx, item: item,
        each=lambda self, order, ctx: order,
        limit=2,
    )

    @step(no_compensation="a note")
    async def notify(self, order: Any, ctx: Context) -> None: ...


class Escrow(Saga[Any]):
    """Two waits for the same signal, beside each other."""

    name = "escrow"

    @step(pivot=True)
    async def pay(self, order: Any, ctx: Context) -> None: ...

    ours = wait("paper", timeout="1d", after=pay)
    theirs = wait("paper", timeout="1d", after=pay)


SAGAS = (
    Shop(),
    NewShop(),
    Careful(),
    Patient(),
    Impatient(),
    Twins(),
    Approved(),
    Diamond(),
    Packing(),
    Insured(),
    Sleeper(),
    Fleet(),
    Escrow(),
)
