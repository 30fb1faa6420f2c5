"""What is started can be read back, and what couldn't be is refused: at `add`, or at `start`."""

from __future__ import annotations

import asyncio
import enum
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Annotated, Any, Generic, Literal, NewType, Protocol, TypedDict, TypeVar
from uuid import UUID

import msgspec
import pydantic
import pytest

from standfast import (
    Context,
    Migration,
    Retry,
    Saga,
    SagaParked,
    Standfast,
    Transaction,
    step,
    wait,
)
from standfast.blocking import BlockingTransaction
from standfast.errors import CodecError, ConfigurationError, DefinitionError
from standfast.saga import events as ev
from standfast.saga import facts as fx
from standfast.saga.definition import Definition
from standfast.saga.operations import Operations
from standfast.transaction import UnitOfWork
from tests.saga.classes import saga_class

T = TypeVar("T")


@dataclass
class Card:
    number: str


@dataclass
class Cash:
    amount: int


@dataclass
class Order:
    id: str
    total: int
    note: str | None = None


class SameOrder(Order):
    """Says no more than an order."""


@dataclass
class Gift(Order):
    wrap: str = "red"


@dataclass
class Page(Generic[T]):
    items: list[T]


class Parcel(TypedDict):
    weight: int


class Tagged(msgspec.Struct, tag=True):
    number: str


class OtherTagged(msgspec.Struct, tag=True):
    amount: int


class Model(pydantic.BaseModel):
    id: str
    tags: set[str] = set()


class Secretive(pydantic.BaseModel):
    password: pydantic.SecretStr


@dataclass(eq=False)
class ById:
    """Two of them are never equal, to Python."""

    tags: frozenset[str] = frozenset()
    rate: float = 1.0


class Color(enum.Enum):
    RED = "r"


UserId = NewType("UserId", int)


class _Repr(Saga[T], Generic[T]):
    @step(no_compensation="it only looks")
    async def before(self, thing: T, ctx: Context) -> str:
        return repr(thing)

    go = wait("go")

    @step(no_compensation="it only looks")
    async def after(self, thing: T, ctx: Context) -> str:
        return repr(thing)


def saga_of(type_: Any) -> Saga[Any]:
    return saga_class(_Repr[type_], {"name": "look"}, "Look")()  # type: ignore[no-any-return]


ACCEPTED: list[tuple[Any, Any]] = [
    (Order, Order("1", 2)),
    (Order, SameOrder("1", 2)),
    (Order | None, None),
    (Page[Order], Page([Order("1", 2)])),
    (Tagged | OtherTagged, OtherTagged(5)),
    (Parcel, {"weight": 2}),
    (Model, Model(id="1", tags={"b", "a"})),
    (ById, ById(frozenset({"b", "a", "c"}))),
    (ById, ById(rate=3)),
    (Sequence[Order], (Order("1", 2),)),
    (list[float], [1, 2.5]),
    (UserId, UserId(4)),
    (Literal["x", "y"], "x"),
    (Annotated[str, msgspec.Meta(min_length=1)], "x"),
    (Color, Color.RED),
    (datetime, datetime(2024, 3, 31, tzinfo=UTC)),
    (Decimal, Decimal("1.50")),
    (float, 3),
    (set[int], {1, 2}),
    (bytes, b"\x00\xff"),
    (Any, {"a": [1, None]}),
    (object, "text"),
]


@pytest.mark.parametrize(("type_", "input"), ACCEPTED)
async def test_what_is_accepted_is_the_same_before_and_after_a_reload(type_, input, tmp_path):
    url = f"sqlite:///{tmp_path}/x.db"
    app = Standfast(url).add(saga_of(type_))
    async with app.running(drain=5):
        handle = await app.start("look", input)
        await reaches(handle, "waiting")
    app = Standfast(url).add(saga_of(type_))
    async with app.running(drain=5):
        again = app.handle(handle.id)
        await again.signal("go")
        result = await again.result("10s")
    assert result["before"] == result["after"]


REFUSED: list[tuple[Any, Any, str]] = [
    (Order, Order("1", 12.5), r"can't|couldn't be read back: .*Expected `int`, got `float`"),
    (Order, Order(1, 2), r"couldn't be read back: .*Expected `str`, got `int`"),
    (Order, Gift("1", 2), "would be given an Order where it was started with a Gift"),
    (Order, {"id": "1", "total": 2}, "takes an Order, not a dict"),
    (int, True, "couldn't be read back"),
    (list[int], ["a"], "couldn't be read back"),
    (Parcel, {"weight": "x"}, "couldn't be read back"),
    (Parcel, {"weight": 1, "wieght": 2}, "has no field 'wieght': choose from weight"),
    (
        list[Parcel],
        [{"weight": 1, "wieght": 2}],
        r"has no field '\[0\].wieght': choose from weight",
    ),
    (Literal["x", "y"], "z", "couldn't be read back"),
    (float, float("nan"), "couldn't be read back"),
    (dict[str, Any], {"a": float("nan")}, "would be read back as None, not as nan, at 'a'"),
    (Any, Order("1", 2), r"would be given a dict .* say what it takes, as in .*Saga\[Order\]"),
    (Secretive, Secretive(password="x"), "read back as"),  # type: ignore[arg-type]
]


@pytest.mark.parametrize(("type_", "input", "match"), REFUSED)
async def test_an_input_that_couldnt_be_read_back_is_refused(type_, input, match):
    app = Standfast("memory://").add(saga_of(type_))
    async with app:
        with pytest.raises(ConfigurationError, match=match):
            await app.start("look", input)
        async with app.transaction() as tx:
            with pytest.raises(ConfigurationError, match=match):
                await tx.start("look", input)


async def test_what_cant_be_encoded_is_refused():
    app = Standfast("memory://").add(saga_of(Any))
    async with app:
        with pytest.raises(CodecError, match="can't be encoded"):
            await app.start("look", object())


async def test_a_step_doesnt_see_what_the_caller_does_to_its_input_later():
    app = Standfast("memory://").add(saga_of(Order))
    async with app.running(drain=5):
        order = Order("1", 2)
        handle = await app.start("look", order)
        order.total = 99
        await handle.signal("go")
        assert "total=2" in (await handle.result("10s"))["before"]


# -- at `add` ------------------------------------------------------------------------------------


@dataclass
class Holds:
    where: Path


def result_of(annotation: Any) -> type[Saga[Any]]:
    async def act(self, order, ctx):  # type: ignore[no-untyped-def]
        ...

    act.__annotations__["return"] = annotation
    made = step(no_compensation="none")(act)
    return saga_class(Saga[int], {"act": made}, "Results")


def items_of(annotation: Any) -> type[Saga[Any]]:
    async def act(self, order, ctx, item):  # type: ignore[no-untyped-def]
        ...

    act.__annotations__["item"] = annotation
    made = step(no_compensation="none", each=lambda self, order, ctx: [])(act)
    return saga_class(Saga[int], {"act": made}, "Items")


@pytest.mark.parametrize(
    ("saga", "match"),
    [
        (lambda: saga_of(Card | Cash), "its input couldn't be read back .*more than one dataclass"),
        (lambda: saga_of(Path), r"its input couldn't be read back .* Path can't be decoded"),
        (lambda: saga_of(list[Holds]), "its input couldn't be read back .* Path can't be decoded"),
        (lambda: saga_of("Nowhere"), "'Nowhere', which can't be found .* module level"),
        (lambda: result_of(Path)(), "the result of step 'act' couldn't be read back"),
        (lambda: result_of(Card | Cash)(), "the result of step 'act' couldn't be read back"),
        (lambda: result_of("Nowhere")(), "'act'.* 'Nowhere', which can't be found"),
        (lambda: items_of(Path)(), "an item of step 'act' couldn't be read back"),
        (
            lambda: saga_class(Saga[int], {"w": wait("w", type=Card | Cash)}, "Waits")(),
            "the payload of 'w' couldn't be read back",
        ),
    ],
)
def test_a_type_that_cant_be_decoded_is_refused(saga, match):
    with pytest.raises(DefinitionError, match=match):
        Standfast("memory://").add(saga())


class Forward(Saga["Later"]):
    @step(no_compensation="none")
    async def act(self, later: Later, ctx: Context) -> list[Later]:
        return [later]


@dataclass
class Later:
    id: str


class Middle(_Repr[list[T]], Generic[T]):
    """The same type variable stands for something else in its base."""


class Leaf(Middle[Order]):
    pass


class Note(Saga[T], Generic[T]):
    @step(no_compensation="none", each=lambda self, thing, ctx: [thing])
    async def keep(self, thing: T, ctx: Context, item: T) -> dict[str, T]:
        return {"it": item}


class OrderNote(Note[Order]):
    pass


def test_forward_references_and_generic_bases_are_resolved():
    forward = Definition(Forward())
    assert (forward.input_type, forward.result_types["act"]) == (Later, list[Later])
    assert Definition(Leaf()).input_type == list[Order]
    note = Definition(OrderNote())
    assert note.input_type is Order
    assert note.item_types == {"keep": Order}
    assert note.result_types == {"keep": dict[str, Order]}
    assert Definition(Note()).input_type is Any


class Bare(Saga):  # type: ignore[type-arg]
    @step(no_compensation="none")
    async def act(self, order: Order, ctx: Context) -> None: ...


class Plain(Saga):  # type: ignore[type-arg]
    @step(no_compensation="none")
    async def act(self, order: dict[str, Any], ctx: Context) -> None: ...


class Disagrees(Saga[Order]):
    @step(no_compensation="none")
    async def act(self, order: str, ctx: Context) -> None: ...


class UndoDisagrees(Saga[Order]):
    @step
    async def act(self, order: Order, ctx: Context) -> None: ...

    @act.compensation
    async def undo(self, order: list[Order], ctx: Context) -> None: ...


class ListOfOthers(Saga[list[Order]]):
    @step(no_compensation="none")
    async def act(self, orders: list[str], ctx: Context) -> None: ...


class OneOfTwo(Saga[Order | str]):
    @step(no_compensation="none")
    async def act(self, order: Order, ctx: Context) -> None: ...


class Wider(Saga[SameOrder]):
    @step(no_compensation="none")
    async def act(self, order: Order | None, ctx: Context) -> None: ...


@pytest.mark.parametrize(
    ("saga", "match"),
    [
        (Bare, r"step 'act' takes an Order, but the saga doesn't say so.*write Saga\[Order\]"),
        (Disagrees, "step 'act' takes a str, but the saga's input is an Order"),
        (UndoDisagrees, r"the compensation of 'act' takes a list\[.*Order\], but"),
        (ListOfOthers, r"step 'act' takes a list\[str\], but the saga's input is a list\["),
        (OneOfTwo, "step 'act' takes an Order, but the saga's input is an? "),
    ],
)
def test_a_step_that_takes_another_input_is_refused(saga, match):
    with pytest.raises(DefinitionError, match=match):
        Standfast("memory://").add(saga())


def test_a_step_may_take_more_than_its_saga_is_given():
    Standfast("memory://").add(Plain(), Wider())


class AsyncTakesBlocking(Saga[str]):
    @step(transactional=True, no_compensation="none")
    async def act(self, order: str, ctx: Context, tx: BlockingTransaction) -> None: ...


class DefTakesAsync(Saga[str]):
    @step(transactional=True, no_compensation="none")
    def act(self, order: str, ctx: Context, tx: Annotated[Transaction | None, "rows"]) -> None: ...


class AsyncUndoTakesBlocking(Saga[str]):
    @step(each=lambda self, order, ctx: ["item"])
    def act(self, order: str, ctx: Context, item: str) -> None: ...

    @act.compensation(transactional=True)
    async def undo(self, order: str, ctx: Context, item: str, tx: BlockingTransaction) -> None: ...


class DefUndoTakesAsync(Saga[str]):
    @step(transactional=True)
    async def act(self, order: str, ctx: Context, tx: UnitOfWork) -> None: ...

    @act.compensation(transactional=True)
    def undo(self, order: str, ctx: Context, tx: UnitOfWork) -> None: ...


@pytest.mark.parametrize(
    ("saga", "match"),
    [
        (AsyncTakesBlocking, "step 'act' is an `async def`, so it is given a Transaction, which"),
        (DefTakesAsync, "step 'act' is a `def`, so it is given a BlockingTransaction, which"),
        (AsyncUndoTakesBlocking, "compensation of 'act' is an `async def`, .*BlockingTransaction"),
        (DefUndoTakesAsync, "the compensation of 'act' is a `def`, .* takes an? UnitOfWork"),
    ],
)
def test_a_function_that_takes_the_other_kind_of_transaction_is_refused(saga, match):
    with pytest.raises(DefinitionError, match=match):
        Standfast("memory://").add(saga())


class Executes(Protocol):
    def execute(self, sql: str) -> int: ...


class TakesItsOwnKind(Saga[str]):
    @step(transactional=True)
    def in_thread(self, order: str, ctx: Context, tx: Executes) -> None: ...

    @in_thread.compensation(transactional=True)
    async def undo(self, order: str, ctx: Context, tx: Transaction | None) -> None: ...

    @step(transactional=True, no_compensation="none")
    async def either(
        self, order: str, ctx: Context, tx: Transaction | BlockingTransaction
    ) -> None: ...

    @step(transactional=True, no_compensation="none")
    def untold(self, order, ctx, tx): ...

    @step(transactional=True, no_compensation="none")
    def for_checkers(self, order: str, ctx: Context, tx: Unimported) -> None: ...  # noqa: F821


def test_a_function_may_take_its_own_kind_of_transaction_by_whatever_name():
    Standfast("memory://").add(TakesItsOwnKind())


class OwnCodec:
    """A codec that knows types of its own."""

    def encode(self, value: Any) -> bytes:
        return msgspec.json.encode(str(value))

    def decode(self, data: bytes | msgspec.Raw, type: Any) -> Any:
        return type(msgspec.json.decode(data)) if type is Path else msgspec.json.decode(data)


async def test_a_codec_of_ones_own_may_know_more_types():
    app = Standfast("memory://", codec=OwnCodec()).add(saga_of(Path))
    async with app.running(drain=5):
        handle = await app.start("look", Path("/x"), key="1")
        assert not (await app.start("look", Path("/x"), key="1")).created
        await handle.signal("go")
        assert (await handle.result("10s"))["after"] == repr(Path("/x"))


# -- an input that can't be read any more --------------------------------------------------------


@dataclass
class Old:
    id: str


@dataclass
class New:
    id: str
    total: int


def shop(type_: Any, log: list[str], version: int = 1) -> Saga[Any]:
    async def charge(self, order: type_, ctx: Context) -> str:
        log.append("charge")
        return "c"

    async def refund(self, order: type_, ctx: Context) -> None:
        log.append("refund")

    async def ship(self, order: type_, ctx: Context) -> str:
        log.append("ship")
        return "s"

    for function in (charge, refund, ship):
        function.__annotations__["order"] = type_
    charged = step(charge)
    charged.compensation(refund)
    body = {
        "name": "shop",
        "version": version,
        "migrations": {1: Migration(input=lambda old: {**old, "total": 7})} if version > 1 else {},
        "charge": charged,
        "ok": wait("ok"),
        "ship": step(no_compensation="none")(ship),
    }
    return saga_class(Saga[type_], body, "Shop")()


async def reaches(handle, *statuses: str) -> str:
    async with asyncio.timeout(10):
        while (status := await handle.status()) not in statuses:
            await asyncio.sleep(0.01)
    return status


@pytest.fixture
async def unreadable(tmp_path):
    """A saga that waits, and whose input the code that comes next can't read."""
    log: list[str] = []
    url = f"sqlite:///{tmp_path}/x.db"
    app = Standfast(url).add(shop(Old, log))
    async with app.running(drain=5):
        handle = await app.start("shop", Old("1"))
        await reaches(handle, "waiting")
    return url, log, handle.id


async def act(app: Standfast, id: UUID, what: ev.Mailed) -> None:
    async for _ in Operations(app.sagas).tell(what, [id]):
        pass


async def test_what_cant_be_read_parks_and_goes_on_once_it_can(unreadable):
    url, log, id = unreadable
    app = Standfast(url).add(shop(New, log))
    async with app.running(drain=5):
        handle = app.handle(id)
        await handle.signal("ok")
        with pytest.raises(SagaParked, match=r"ship: its input can't be read: .*`total`"):
            await handle.result("10s")
        await act(app, id, ev.RetryAsked(by="ann"))
        async with asyncio.timeout(10):
            while (
                len([f for f in (await handle.story()).facts if f.__class__ is fx.StepParked]) < 2
            ):
                await asyncio.sleep(0.01)
    assert log == ["charge"]
    app = Standfast(url).add(shop(Old, log))
    async with app.running(drain=5):
        await act(app, id, ev.RetryAsked(by="ann"))
        assert (await app.handle(id).result("10s"))["ship"] == "s"


async def test_what_cant_be_read_can_be_skipped(unreadable):
    url, log, id = unreadable
    app = Standfast(url).add(shop(New, log))
    async with app.running(drain=5):
        handle = app.handle(id)
        await handle.signal("ok")
        await reaches(handle, "parked")
        await act(app, id, ev.SkipAsked(reason="by hand", by="ann"))
        assert (await handle.result("10s")).as_dict()["charge"] == "c"


@pytest.mark.parametrize(
    "ends",
    [
        ev.SkipAsked(reason="by hand", by="ann"),
        ev.ResolveAsked("compensated", "by hand", "ann"),
    ],
    ids=["skip", "resolve"],
)
async def test_what_cant_be_read_can_be_cancelled_and_its_undo_settled_by_hand(unreadable, ends):
    url, log, id = unreadable
    app = Standfast(url).add(shop(New, log))
    async with app.running(drain=5):
        handle = app.handle(id)
        await handle.cancel("it is wrong")
        await reaches(handle, "compensation_failed")
        assert "its input can't be read" in (await app.sagas.instance(id)).cause
        await act(app, id, ends)
        await reaches(handle, "compensated")
    assert log == ["charge"]


async def test_what_cant_be_read_can_be_moved_to_a_version_that_reads_it(unreadable):
    url, log, id = unreadable
    app = Standfast(url).add(shop(New, log), shop(New, log, version=2))
    async with app.running(drain=5):
        handle = app.handle(id)
        await handle.signal("ok")
        await reaches(handle, "parked")
        await act(app, id, ev.MigrateAsked(2, by="ann"))
        await act(app, id, ev.RetryAsked(by="ann"))
        assert (await handle.result("10s"))["ship"] == "s"


async def test_an_item_that_cant_be_read_parks(tmp_path):
    log: list[str] = []

    async def pack(self, order, ctx, item):  # type: ignore[no-untyped-def]
        log.append("pack")
        if not ready:
            raise OSError("not yet")

    ready = False

    def of(type_: Any) -> Saga[Any]:
        async def act(self, order, ctx, item):  # type: ignore[no-untyped-def]
            await pack(self, order, ctx, item)

        act.__annotations__["item"] = type_
        retry = Retry(attempts=1)
        options = {"no_compensation": "none", "retry": retry, "on_exhausted": "park"}
        made = step(each=lambda self, order, ctx: [Old("1")], **options)(act)
        return saga_class(Saga[int], {"name": "packing", "act": made}, "Packing")()

    url = f"sqlite:///{tmp_path}/x.db"
    app = Standfast(url).add(of(Old))
    async with app.running(drain=5):
        handle = await app.start("packing", 1)
        await reaches(handle, "parked")
    app = Standfast(url).add(of(New))
    async with app.running(drain=5):
        await act(app, handle.id, ev.RetryAsked(by="ann"))
        async with asyncio.timeout(10):
            while "can't be read" not in (await app.sagas.instance(handle.id)).cause:
                await asyncio.sleep(0.01)
        assert await app.handle(handle.id).status() == "parked"
    ready = True
    app = Standfast(url).add(of(Old))
    async with app.running(drain=5):
        await act(app, handle.id, ev.RetryAsked(by="ann"))
        await app.handle(handle.id).result("10s")
    assert log == ["pack", "pack"]


async def test_a_result_that_cant_be_read_parks_the_step_that_asks_for_it(tmp_path):
    def of(returns: Any) -> Saga[Any]:
        async def count(self, order, ctx):  # type: ignore[no-untyped-def]
            return "seven"

        async def ship(self, order, ctx):  # type: ignore[no-untyped-def]
            return ctx.result(self.count)

        count.__annotations__["return"] = returns
        plain = step(no_compensation="none")
        body = {"name": "counts", "count": plain(count), "ok": wait("ok"), "ship": plain(ship)}
        return saga_class(Saga[int], body)()

    url = f"sqlite:///{tmp_path}/x.db"
    app = Standfast(url).add(of(str))
    async with app.running(drain=5):
        handle = await app.start("counts", 1)
        await reaches(handle, "waiting")
    app = Standfast(url).add(of(int))
    async with app.running(drain=5):
        await app.handle(handle.id).signal("ok")
        with pytest.raises(SagaParked, match="ship: the result of count can't be read"):
            await app.handle(handle.id).result("10s")
    app = Standfast(url).add(of(str))
    async with app.running(drain=5):
        await act(app, handle.id, ev.RetryAsked(by="ann"))
        assert (await app.handle(handle.id).result("10s"))["ship"] == "seven"
