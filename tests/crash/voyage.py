"""A saga with all that a saga can have, and a participant whose own tables tell what happened.

DAG, fan-out, retry, transactional step, wait, child saga, sleep, a child saga for each item, and an
end that refuses if it is told to.
The participant lies in a database of its own; the barrier guards each of its effects.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from standfast import (
    Constant,
    Context,
    Refused,
    Retry,
    Saga,
    Standfast,
    Transaction,
    barrier,
    child,
    sleep,
    step,
    wait,
)

SOON = Retry(attempts=20, backoff=Constant(0.01))

TABLES = {
    "sqlite": (
        "CREATE TABLE effects (n INTEGER PRIMARY KEY, tag TEXT, saga TEXT, branch TEXT, op TEXT)",
        "CREATE TABLE stamps (tag TEXT, saga TEXT)",
    ),
    "postgres": (
        "CREATE TABLE effects (n bigserial PRIMARY KEY, tag text, saga text, branch text, op text)",
        "CREATE TABLE stamps (tag text, saga text)",
    ),
}


@dataclass(frozen=True)
class Plan:
    name: str
    fails: bool
    parcels: tuple[str, ...] = ("a", "b", "c")


@dataclass(frozen=True)
class Stop:
    plan: str
    place: str


GOOD, BAD = Plan("good", False), Plan("bad", True)


class Participant:
    """Writes down each effect that the barrier lets through, in the same transaction."""

    def __init__(self, app: Standfast, tag: str) -> None:
        self.app = app
        self.tag = tag

    async def act(self, plan: str, ctx: Context, place: str = "") -> None:
        async with self.app.transaction() as tx, barrier(tx, ctx) as gate:
            if gate.first:
                branch = ctx.branch_key.key.partition(":")[2] + place
                await tx.execute(
                    "INSERT INTO effects (tag, saga, branch, op) VALUES ($1, $2, $3, $4)",
                    *(self.tag, plan, branch, ctx.operation),
                )


def sagas(tag: str, shop: Participant, soon: Retry = SOON) -> list[Saga[Any]]:
    """The saga and its child, under names of their own, so that only who has them runs them.

    `soon` is how steps and undos are tried again.
    """

    class Hotel(Saga[Plan]):
        name = f"hotel-{tag}"

        @step(retry=soon)
        async def room(self, plan: Plan, ctx: Context) -> None:
            await shop.act(plan.name, ctx)

        @room.compensation(retry=soon)
        async def undo_room(self, plan: Plan, ctx: Context) -> None:
            await shop.act(plan.name, ctx)

        @step(retry=soon)
        async def breakfast(self, plan: Plan, ctx: Context) -> None:
            await shop.act(plan.name, ctx)

        @breakfast.compensation(retry=soon)
        async def undo_breakfast(self, plan: Plan, ctx: Context) -> None:
            await shop.act(plan.name, ctx)

    class Tour(Saga[Stop]):
        name = f"tour-{tag}"

        @step(retry=soon)
        async def visit(self, stop: Stop, ctx: Context) -> None:
            await shop.act(stop.plan, ctx, f" {stop.place}")

        @visit.compensation(retry=soon)
        async def undo_visit(self, stop: Stop, ctx: Context) -> None:
            await shop.act(stop.plan, ctx, f" {stop.place}")

    class Voyage(Saga[Plan]):
        name = f"voyage-{tag}"

        @step(retry=soon)
        async def begin(self, plan: Plan, ctx: Context) -> None:
            await shop.act(plan.name, ctx)
            if ctx.attempt == 1:
                raise OSError("the answer was lost")

        @begin.compensation(retry=soon)
        async def undo_begin(self, plan: Plan, ctx: Context) -> None:
            await shop.act(plan.name, ctx)

        @step(after="begin", retry=soon)
        async def left(self, plan: Plan, ctx: Context) -> None:
            await shop.act(plan.name, ctx)

        @left.compensation(retry=soon)
        async def undo_left(self, plan: Plan, ctx: Context) -> None:
            await shop.act(plan.name, ctx)

        @step(after="begin", retry=soon)
        async def right(self, plan: Plan, ctx: Context) -> None:
            await shop.act(plan.name, ctx)

        @right.compensation(retry=soon)
        async def undo_right(self, plan: Plan, ctx: Context) -> None:
            await shop.act(plan.name, ctx)

        @step(after=["left", "right"], each=lambda self, plan, ctx: plan.parcels, retry=soon)
        async def pack(self, plan: Plan, ctx: Context, parcel: str) -> None:
            await shop.act(plan.name, ctx)

        @pack.compensation(retry=soon)
        async def undo_pack(self, plan: Plan, ctx: Context, parcel: str) -> None:
            await shop.act(plan.name, ctx)

        @step(transactional=True, retry=soon, no_compensation="it stays, to be counted")
        async def stamp(self, plan: Plan, ctx: Context, tx: Transaction) -> None:
            await tx.execute("INSERT INTO stamps (tag, saga) VALUES ($1, $2)", tag, plan.name)

        word = wait("go")

        hotel = child(Hotel, lambda self, plan, ctx: plan)

        nap = sleep("30ms")

        tours = child(
            Tour,
            lambda self, plan, ctx, place: Stop(plan.name, place),
            each=lambda self, plan, ctx: plan.parcels[:2],
            limit=1,
        )

        @step(retry=soon, no_compensation="it refuses, or nothing comes after it")
        async def end(self, plan: Plan, ctx: Context) -> str:
            if plan.fails:
                raise Refused("no")
            await shop.act(plan.name, ctx)
            return plan.name

    return [Voyage(), Hotel(), Tour()]


ACTIONS = frozenset(
    {
        *("begin", "left", "right", "pack[0]", "pack[1]", "pack[2]", "room", "breakfast"),
        *("visit a", "visit b"),
    }
)
"""The branches that have an effect and an undo."""
