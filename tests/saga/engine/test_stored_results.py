"""What later steps see is what was stored, and what a reload would show: from the start."""

import asyncio
import math
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any, NamedTuple

import pytest

from standfast import Constant, Context, Retry, Saga, SagaCompensated, step, wait
from standfast.codec import JSON
from standfast.errors import CodecError
from standfast.saga import facts as fx
from standfast.saga.sharing import Values, is_immutable
from tests.saga.engine.world import SOON, Order, Receipt

WITHIN = 10


@dataclass
class Basket:
    id: str
    items: list[str] = field(default_factory=list)


class Mutating(Saga[Basket]):
    """Each step changes its input and an earlier result; the last tells what it sees."""

    paused = False

    @step(retry=Retry(attempts=2, backoff=Constant(0.01)))
    async def first(self, basket: Basket, ctx: Context) -> list[str]:
        basket.items.append("extra")
        made = [*basket.items]
        self.kept = made
        if ctx.attempt == 1:
            raise OSError("once")
        return made

    @first.compensation
    async def undo_first(self, basket: Basket, ctx: Context) -> None: ...

    @step(no_compensation="a test")
    async def second(self, basket: Basket, ctx: Context) -> list[str]:
        basket.items.append("more")
        self.kept.append("from outside")
        mine = ctx.result(Mutating.first)
        mine.append("mine")
        return ctx.result(Mutating.first)

    pause = wait("go", when=lambda self, basket, ctx: basket.id == "paused" or basket.items.clear())

    @step(each=lambda self, basket, ctx: basket.items or ["one"], no_compensation="a test")
    async def many(self, basket: Basket, ctx: Context, item: str) -> str:
        return f"{item} of {basket.items}"

    @step(no_compensation="a test")
    async def last(self, basket: Basket, ctx: Context) -> str:
        return f"{basket.items} {ctx.result(Mutating.first)} {ctx.result(Mutating.second)}"


@pytest.mark.parametrize("id", ["direct", "paused"])
async def test_what_one_step_changes_no_other_sees(work, id):
    app = await work(Mutating(), linger=0.01)
    given = Basket(id)
    handle = await app.start(Mutating, given)
    given.items.append("after the start")
    if id == "paused":
        async with asyncio.timeout(WITHIN):
            while await handle.status() != "waiting" or app.sagas.executor.active:
                await asyncio.sleep(0.01)
        await handle.signal("go")
    result = await handle.result(timeout=WITHIN)
    assert result["first"] == ["extra"]
    assert result["second"] == ["extra", "mine"]
    assert result["many"] == ["one of []"]
    assert result["last"] == "[] ['extra'] ['extra', 'mine']"
    result["first"].append("by a reader")
    assert (await handle.result(timeout=WITHIN))["first"] == ["extra"]


class Repeated(Saga[Basket]):
    """Both items are tried twice, and change their input when they succeed."""

    @step(each=lambda self, basket, ctx: ["a", "b"], retry=SOON, no_compensation="a test")
    async def many(self, basket: Basket, ctx: Context, item: str) -> str:
        if ctx.attempt == 1:
            raise OSError("once")
        basket.items.append(item)
        return " ".join(basket.items)


async def test_what_an_item_that_is_tried_again_changes_no_other_sees(work):
    app = await work(Repeated())
    handle = await app.start(Repeated, Basket("1"))
    assert (await handle.result(timeout=WITHIN))["many"] == ["a", "b"]


class Pair(NamedTuple):
    left: int
    right: str


class Typed(Saga[str]):
    """Returns what is asked for, under annotations that say otherwise or nothing."""

    values: dict[str, Any]

    @step(retry=SOON)
    async def plain(self, key: str, ctx: Context):  # type: ignore[no-untyped-def]
        return self.values[key]

    @plain.compensation
    async def undo_plain(self, key: str, ctx: Context) -> None: ...

    @step(no_compensation="a test")
    async def see(self, key: str, ctx: Context) -> str:
        return repr(ctx.result(self.plain))


@pytest.mark.parametrize(
    ("value", "seen"),
    [
        ((1, Decimal("1.10")), "[1, '1.10']"),
        ({"a": {1}}, "{'a': [1]}"),
        (Receipt("7", 3), "{'number': '7', 'amount': 3}"),
        (2**70, repr(float(2**70))),
        (True, "True"),
        (None, "None"),
        (1.5, "1.5"),
        ("text", "'text'"),
    ],
)
async def test_without_an_annotation_it_is_what_json_makes_of_it(work, value, seen):
    saga = Typed()
    saga.values = {"1": value}
    app = await work(saga)
    if value == 2**70:
        data = JSON.encode(value)  # the one that JSON keeps and a float doesn't
        seen = repr(JSON.decode(data, Any))
    handle = await app.start(Typed, "1")
    result = await handle.result(timeout=WITHIN)
    assert result["see"] == seen


class Wrong(Saga[str]):
    """A step of each kind, whose annotation isn't true."""

    values: dict[str, Any]

    @step(retry=SOON)
    async def number(self, key: str, ctx: Context) -> int:
        return self.values.get("number", 1)  # type: ignore[no-any-return]

    @number.compensation
    async def undo_number(self, key: str, ctx: Context) -> None: ...

    @step(no_compensation="a test", transactional=True, retry=SOON)
    async def text(self, key: str, ctx: Context, tx: Any) -> str:
        return self.values.get("text", "")  # type: ignore[no-any-return]

    @step(no_compensation="a test", each=lambda self, key, ctx: [1], retry=SOON)
    async def many(self, key: str, ctx: Context, item: int) -> float:
        return self.values.get("many", 1.0)  # type: ignore[no-any-return]


@pytest.mark.parametrize(
    ("where", "value", "told"),
    [
        ("number", 12.5, "Expected `int`, got `float`"),
        ("number", True, "Expected `int`, got `bool`"),
        ("number", "7", "Expected `int`, got `str`"),
        ("text", None, "Expected `str`, got `null`"),
        ("many", math.nan, "nan has no JSON form"),
        ("many", math.inf, "inf has no JSON form"),
        ("many", [math.nan], "Expected `float`, got `array`"),
    ],
)
async def test_what_cant_be_read_back_as_annotated_fails_the_attempt_that_made_it(
    work, where, value, told
):
    saga = Wrong()
    saga.values = {where: value}
    app = await work(saga)
    handle = await app.start(Wrong, "1")
    with pytest.raises(SagaCompensated) as caught:
        await handle.result(timeout=WITHIN)
    assert f"what step '{where}" in caught.value.cause
    assert told in caught.value.cause
    facts = (await handle.story()).facts
    assert not [f for f in facts if isinstance(f, fx.AttemptFailed)], "no retry mends it"
    assert not [f for f in facts if isinstance(f, fx.StepCompleted) and f.branch == where]


async def test_the_order_of_a_fan_outs_input_is_read_a_few_times_only(app_url, work):
    """An input that holds ten thousand items isn't read ten thousand times."""
    reads = 0

    class Counting(type(JSON)):
        def decode(self, data, type):
            nonlocal reads
            reads += type is Basket
            return super().decode(data, type)

    class Many(Saga[Basket]):
        @step(each=lambda self, basket, ctx: basket.items, no_compensation="a test")
        async def each(self, basket: Basket, ctx: Context, item: str) -> str:
            return item

    app = await work(Many())
    app.sagas.definitions.of(Many).codec = Counting()
    handle = await app.start(Many, Basket("1", [str(n) for n in range(200)]))
    assert len((await handle.result(timeout=30))["each"]) == 200
    assert reads < 20


@dataclass(frozen=True)
class Tree:
    left: "Tree | None" = None
    names: tuple[str, ...] = ()


@dataclass(frozen=True)
class Bag:
    names: list[str]


@pytest.mark.parametrize(
    ("annotation", "answer"),
    [
        (str, True),
        (Decimal | None, True),
        (tuple[int, ...], True),
        (tuple[list[int], ...], False),
        (tuple, False),
        (frozenset[str], True),
        (Order, True),
        (Receipt, True),
        (Tree, True),
        (Pair, True),
        (Bag, False),
        (Basket, False),
        (list[str], False),
        (dict[str, int], False),
        (Any, False),
        (object, False),
    ],
)
def test_which_values_may_be_shared(annotation, answer):
    assert is_immutable(annotation) is answer


def test_exact_scalars_are_kept_without_being_read_back():
    class Never(type(JSON)):
        def decode(self, data, type):
            raise AssertionError("it was decoded")

    codec = Never()
    for annotation, value in (
        *((str, "a"), (int, 3), (bool, True), (None, None), (float, 1.5), (str | None, None)),
        *((Any, "a"), (Any, None), (int | str, 4)),
    ):
        data, back, kept = Values(annotation).stored(codec, value)
        assert data == JSON.encode(value)
        assert back is value
        assert kept
    for annotation, value in ((int, True), (float, 1), (Any, []), (Any, 2**64), (bool, 1)):
        with pytest.raises(AssertionError, match="decoded"):
            Values(annotation).stored(codec, value)
    with pytest.raises(CodecError, match="nan has no JSON form"):
        Values(Any).stored(codec, math.nan)
