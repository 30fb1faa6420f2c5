"""How a saga is written down, and what is refused when it is registered: step and remedy named."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from functools import partial
from typing import Any

import pytest

from standfast import Constant, Context, Refused, Retry, Saga, Standfast, child, step, wait
from standfast.errors import ConfigurationError, DefinitionError
from standfast.saga.definition import Definition
from standfast.saga.step import DURABLE_RETRY


@dataclass(frozen=True)
class Order:
    id: str
    items: tuple[str, ...] = ()


class Whole(Saga[Order]):
    """One of everything."""

    name, version, deadline = "whole", 3, "2h"

    def __init__(self, stock: list[str]) -> None:
        self.stock = stock

    @step(timeout="5s", retry=Retry(attempts=7))
    async def reserve(self, order: Order, ctx: Context) -> str:
        """Take it from the shelf."""
        self.stock.append(order.id)
        return order.id

    @reserve.compensation(timeout="3s", retry=Retry(attempts=9))
    async def release(self, order: Order, ctx: Context) -> None:
        self.stock.remove(ctx.result(self.reserve))

    @step(after=reserve, when=lambda self, order, ctx: bool(order.items), no_compensation="paper")
    async def wrap(self, order: Order, ctx: Context) -> None: ...

    @step(after="reserve", each=lambda self, order, ctx: order.items, limit=2)
    async def pack(self, order: Order, ctx: Context, item: str) -> int:
        return len(item)

    @pack.compensation
    async def unpack(self, order: Order, ctx: Context, item: str) -> None: ...

    approved = wait("approved", timeout="1h", after=[wrap, "pack"], type=bool)

    @step(pivot=True)
    async def pay(self, order: Order, ctx: Context) -> None: ...

    @step(on_exhausted="park")
    async def ship(self, order: Order, ctx: Context) -> None: ...


def test_what_is_written_is_what_is_planned():
    stock: list[str] = []
    definition = Definition(Whole(stock))
    plan = definition.plan
    assert (plan.name, plan.version, plan.deadline, plan.pivot) == ("whole", 3, 7200.0, "pay")
    assert list(plan.steps) == ["reserve", "wrap", "pack", "approved", "pay", "ship"]
    assert {name: one.after for name, one in plan.steps.items()} == {
        "reserve": (),
        "wrap": ("reserve",),
        "pack": ("reserve",),
        "approved": ("wrap", "pack"),
        "pay": ("approved",),
        "ship": ("pay",),
    }
    reserve, pack, approved, pay = (plan.steps[n] for n in ("reserve", "pack", "approved", "pay"))
    assert (reserve.timeout, reserve.retry.attempts) == (5.0, 7)
    assert (reserve.undo, reserve.undo_timeout, reserve.undo_retry.attempts) == (True, 3.0, 9)
    assert (pack.fans_out, pack.limit, pack.retry, pack.undo_retry) == (
        *(True, 2, DURABLE_RETRY, DURABLE_RETRY),
    )
    assert plan.steps["wrap"].conditional
    assert (approved.form, approved.signal, approved.timeout) == ("wait", "approved", 3600.0)
    assert (pay.on_exhausted, pay.retry) == ("park", DURABLE_RETRY)
    assert reserve.on_exhausted == "compensate"
    assert definition.input_type is Order
    assert definition.result_types["reserve"] is str
    assert definition.result_types["approved"] is bool
    assert definition.item_types == {"pack": str}
    assert Whole.reserve.__doc__ == "Take it from the shelf."


async def test_a_steps_function_can_be_called_by_itself():
    stock: list[str] = []
    saga = Whole(stock)
    assert await saga.reserve(Order("7"), None) == "7"
    assert stock == ["7"]
    with pytest.raises(TypeError, match="approved is a wait step"):
        saga.approved()


def test_names_and_defaults():
    class ShipByTrain(Saga[Order]):
        @step(no_compensation="none")
        async def go(self, order: Order, ctx: Context) -> None: ...

    plan = Definition(ShipByTrain()).plan
    assert (plan.name, plan.version, plan.deadline) == ("ship-by-train", 1, None)

    class Longer(ShipByTrain):
        @step(no_compensation="none")
        async def further(self, order: Order, ctx: Context) -> None: ...

    assert Definition(Longer()).plan.steps["further"].after == ("go",)
    assert Definition(Longer()).input_type is Order


def test_a_saga_may_be_abstract():
    class Base(Saga[Order], ABC):
        @abstractmethod
        def price(self) -> int: ...

        @step(no_compensation="none")
        async def go(self, order: Order, ctx: Context) -> int:
            return self.price()

    class Real(Base):
        def price(self) -> int:
            return 7

    with pytest.raises(TypeError, match="abstract"):
        Base()
    assert list(Definition(Real()).plan.steps) == ["go"]


# -- refused -------------------------------------------------------------------------------------


async def nothing(self: object, order: Order, ctx: Context) -> None: ...


async def of_item(self: object, order: Order, ctx: Context, item: str) -> None: ...


async def with_tx(self: object, order: Order, ctx: Context, tx: object) -> None: ...


async def of_item_with_tx(
    self: object, order: Order, ctx: Context, item: str, tx: object
) -> None: ...


async def reads_by_name(self: object, order: Order, context: Context) -> None:
    order.result("a")
    context.result("a")


def fine(**options: object) -> object:
    return step(no_compensation="none", **options)(nothing)


def with_undo(made: Any, undo: Any = nothing, **options: Any) -> Any:
    made.compensation(**options)(undo)
    return made


def undone(**options: object) -> object:
    made = step(**options)(nothing)
    made.compensation(nothing)
    return made


CASES = {
    "empty": ({}, "saga 'broken' has no steps: define at least one with @step"),
    "no compensation": (
        {"a": step(nothing)},
        r"step 'a' has no compensation: add one with @a\.compensation, .*no_compensation=",
    ),
    "unknown after": (
        {"a": fine(), "b": fine(after="c")},
        r"step 'b' comes after 'c', which isn't a step of this saga: choose from a, b",
    ),
    "cycle": (
        {"a": fine(after="b"), "b": fine(after="a")},
        r"depends on itself \(a → b → a\): remove one `after=`",
    ),
    "itself": ({"a": fine(after="a")}, r"depends on itself \(a → a\)"),
    "two pivots": (
        {"a": step(pivot=True)(nothing), "b": step(pivot=True)(nothing)},
        "step 'b' is a second pivot, after 'a': keep one point of no return",
    ),
    "undo after the pivot": (
        {"a": step(pivot=True)(nothing), "b": undone()},
        "step 'b' has a compensation that can never run, for it is after the pivot 'a': remove",
    ),
    "undo of the pivot": (
        {"a": undone(pivot=True)},
        "step 'a' is the pivot and has a compensation: remove one of the two",
    ),
    "beside the pivot": (
        {"a": step(pivot=True)(nothing), "b": fine(after=())},
        "step 'b' is neither before nor after the pivot 'a': order it",
    ),
    "compensates after the pivot": (
        {"a": step(pivot=True)(nothing), "b": fine(on_exhausted="compensate")},
        "step 'b' is after the pivot .*choose on_exhausted=\"park\"",
    ),
    "wait compensates after the pivot": (
        {"a": step(pivot=True)(nothing), "b": wait("w", timeout=1, on_timeout="compensate")},
        'step \'b\' is after the pivot .*choose on_timeout="park" or "continue"',
    ),
    "pivot compensates": (
        {"a": step(pivot=True, on_exhausted="compensate")(nothing)},
        "step 'a' is the pivot: .*choose on_exhausted=\"park\"",
    ),
    "pivot fans out": (
        {"a": step(pivot=True, each=lambda *_: [])(of_item)},
        "step 'a' is the pivot and fans out",
    ),
    "each without item": (
        {"a": fine(each=lambda *_: [])},
        r"step 'a' has each=, so it must take \(self, input, ctx, item\)",
    ),
    "unknown on_exhausted": (
        {"a": fine(on_exhausted="explode")},
        "step 'a' has on_exhausted='explode': choose from 'compensate', 'park'",
    ),
    "unknown on_timeout": (
        {"a": wait("w", timeout=1, on_timeout="explode")},
        "step 'a' has on_timeout='explode': choose from 'compensate', 'park', 'continue'",
    ),
    "limit": ({"a": fine(limit=3)}, "step 'a' has limit=3, but runs once: give it each="),
    "a blank reason": (
        {"a": step(no_compensation=" ")(nothing)},
        "step 'a' has no compensation: add one",
    ),
    "undone, and why not": (
        {"a": undone(no_compensation="none")},
        "step 'a' has a compensation, and says .* why it needs none: remove one of the two",
    ),
    "after what isn't a step": (
        {"a": fine(after=nothing)},
        "step 'a' comes after <function nothing .*, which isn't a step of this saga: choose from a",
    ),
    "when takes too little": (
        {"a": fine(when=lambda order: True)},
        r"step 'a': when= must take \(self, input, ctx\): too many positional arguments",
    ),
    "transactional without tx": (
        {"a": fine(transactional=True)},
        r"step 'a' is transactional, so it must take \(self, input, ctx, tx\)",
    ),
    "undo of an item without item": (
        {"a": with_undo(step(each=lambda *_: [])(of_item))},
        r"the compensation of 'a' has each=, so it must take \(self, input, ctx, item\)",
    ),
    "transactional undo without tx": (
        {"a": with_undo(step(nothing), transactional=True)},
        r"the compensation of 'a' is transactional, so it must take \(self, input, ctx, tx\)",
    ),
    "tx without transactional": (
        {"a": step(no_compensation="none")(with_tx)},
        r"step 'a' must take \(self, input, ctx\), and no .* write @step\(transactional=True\)",
    ),
    "undo with tx, not transactional": (
        {"a": with_undo(step(transactional=True)(with_tx), undo=with_tx)},
        r"'a' must take \(self, input, ctx\), .* @a\.compensation\(transactional=True\)",
    ),
    "undo of an item with tx": (
        {"a": with_undo(step(each=lambda *_: [])(of_item), undo=of_item_with_tx)},
        r"\(self, input, ctx, item\), .* write @a\.compensation\(transactional=True\)",
    ),
    "transactional, and the remedy": (
        {"a": fine(transactional=True)},
        r"ctx, tx\): add tx, or leave out @step\(transactional=True\)",
    ),
    "more than it is given": (
        {"a": step(no_compensation="none")(of_item)},
        r"step 'a' must take \(self, input, ctx\): missing a required argument: 'item'",
    ),
    "a result by name": (
        {"a": fine(), "b": step(no_compensation="none")(reads_by_name)},
        r"step 'b': ctx\.result\('a'\): give the step itself, as in ctx\.result\(self\.a\)",
    ),
    "in a condition": (
        {"a": fine(), "b": fine(when=lambda self, order, ctx: ctx.has_result("a"))},
        r"step 'b': ctx\.has_result\('a'\): give the step itself",
    ),
    "in an undo": (
        {"a": with_undo(step(nothing), undo=reads_by_name)},
        r"step 'a': ctx\.result\('a'\): give the step itself",
    ),
    "timeout": (
        {"a": fine(timeout="soon")},
        r"a\.timeout='soon'",
    ),
    "negative timeout": (
        {"a": fine(timeout=-1)},
        r"a\.timeout=-1",
    ),
}


@pytest.mark.parametrize(("steps", "match"), list(CASES.values()), ids=list(CASES))
def test_refused_when_it_is_registered(steps, match):
    broken = type("Broken", (Saga,), dict(steps))
    for name, one in steps.items():
        one.__set_name__(broken, name)
    with pytest.raises(ConfigurationError, match=match):
        Standfast("memory://").add(broken())


def test_refused_when_it_is_written():
    with pytest.raises(DefinitionError, match="write it with `async def`"):
        step(partial(nothing))
    made = step(nothing)
    with pytest.raises(DefinitionError, match="write it with `async def`"):
        made.compensation(partial(nothing))
    made.compensation(nothing)
    with pytest.raises(DefinitionError, match="two compensations: keep one"):
        made.compensation(nothing)
    inner = child(Whole, lambda self, order, ctx: order)
    with pytest.raises(DefinitionError, match="that undoes itself"):
        inner.compensation(nothing)
    with pytest.raises(DefinitionError, match="don't go together"):
        step(each=lambda *_: [], transactional=True)(of_item)
    with pytest.raises(DefinitionError, match="limit=0: must be a whole number, 1 or more"):
        step(each=lambda *_: [], limit=0)(of_item)
    with pytest.raises(DefinitionError, match='signal "resume" is taken'):
        wait("resume")
    with pytest.raises(
        DefinitionError, match=r"step 'nothing': timout= isn't an option: .*timeout"
    ):
        fine(timout="5s")


def test_a_name_that_is_taken_twice_is_refused():
    """Python would let the second replace the first, and the step would be gone."""
    with pytest.raises(DefinitionError, match=r"step 'a' is defined, and then .*: rename one"):

        class Twice(Saga[Order]):
            @step(no_compensation="none")
            async def a(self, order: Order, ctx: Context) -> None: ...

            @step(no_compensation="none")
            async def a(self, order: Order, ctx: Context) -> None: ...  # noqa: F811

    with pytest.raises(DefinitionError, match="a compensation has a name of its own"):

        class LikeASetter(Saga[Order]):
            @step
            async def a(self, order: Order, ctx: Context) -> None: ...

            @a.compensation
            async def a(self, order: Order, ctx: Context) -> None: ...


class Early(Saga[Order]):
    @step(no_compensation="none")
    async def first(self, order: Order, ctx: Context) -> str:
        return ctx.result(self.second)

    @step(no_compensation="none")
    async def second(self, order: Order, ctx: Context) -> str:
        return ""


class Beside(Saga[Order]):
    @step(no_compensation="none", after=())
    async def left(self, order: Order, ctx: Context) -> str:
        return ""

    @step(after=())
    async def right(self, order: Order, ctx: Context) -> str:
        return ""

    @right.compensation
    async def undo_right(self, order: Order, ctx: Context) -> None:
        ctx.result(self.right)
        ctx.result(self.left)


class EarlyCondition(Saga[Order]):
    @step(
        no_compensation="none",
        when=lambda self, order, ctx: bool(ctx.result(self.second)),
    )
    async def first(self, order: Order, ctx: Context) -> None: ...

    @step(no_compensation="none")
    async def second(self, order: Order, ctx: Context) -> str:
        return ""


class EarlyInput(Saga[Order]):
    inner = child(Whole, lambda self, order, ctx: Order(ctx.result(self.second)))

    @step(no_compensation="none")
    async def second(self, order: Order, ctx: Context) -> str:
        return ""


class EarlyItems(Saga[Order]):
    def items(self, order: Order, ctx: Context) -> list[str]:
        return [ctx.result(EarlyItems.second)]

    @step(each=items, no_compensation="none")
    async def many(self, order: Order, ctx: Context, item: str) -> None: ...

    @step(no_compensation="none")
    async def second(self, order: Order, ctx: Context) -> str:
        return ""


class EarlyWait(Saga[Order]):
    word = wait(
        "word",
        when=lambda self, order, ctx: bool(ctx.result(self.second)),
    )

    @step(no_compensation="none")
    async def second(self, order: Order, ctx: Context) -> str:
        return ""


@pytest.mark.parametrize(
    ("saga", "match"),
    [
        (Early, "step 'first' reads the result of 'second', .* add after='second'"),
        (EarlyCondition, "step 'first' reads the result of 'second', .* add after='second'"),
        (EarlyInput, "step 'inner' reads the result of 'second', .* add after='second'"),
        (EarlyItems, "step 'many' reads the result of 'second', .* add after='second'"),
        (EarlyWait, "step 'word' reads the result of 'second', .* add after='second'"),
        (Beside, "step 'right' reads the result of 'left', which isn't done before it"),
    ],
)
def test_a_result_that_cant_be_there_is_refused(saga, match):
    with pytest.raises(DefinitionError, match=match):
        Standfast("memory://").add(saga())


def test_what_an_app_is_given():
    app = Standfast("memory://").add(Whole([]))
    with pytest.raises(DefinitionError, match="'whole' version 3 is added twice: raise the"):
        app.add(Whole([]))
    with pytest.raises(ConfigurationError, match="instance of a Saga subclass"):
        app.add(Whole)  # type: ignore[arg-type]
    with pytest.raises(ConfigurationError, match="instance of a Saga subclass"):
        app.add("whole")  # type: ignore[arg-type]

    class Newer(Whole):
        version = 4

    class Zeroth(Whole):
        name, version = "zeroth", 0

    class Textual(Whole):
        name, version = "textual", "2"  # type: ignore[assignment]

    class Never(Whole):
        name, max_in_flight = "never", 0

    with pytest.raises(DefinitionError, match="version='2': must be a whole number, 1 or more"):
        app.add(Textual([]))
    with pytest.raises(DefinitionError, match="max_in_flight=0: must be a whole number, 1 or more"):
        app.add(Never([]))
    app.add(Newer([]))
    assert app.sagas.definitions.of("whole").version == 4, "by name, the newest"
    assert app.sagas.definitions.of(Whole).version == 3
    with pytest.raises(DefinitionError, match="version=0: must be a whole number, 1 or more"):
        app.add(Zeroth([]))


def test_a_type_that_cant_be_found_is_named():
    class Local(Saga[Order]):
        @step(no_compensation="none")
        async def go(self, order: Order, ctx: Context) -> Nowhere: ...  # type: ignore[name-defined]  # noqa: F821

    with pytest.raises(DefinitionError, match=r"step 'go': .*'Nowhere'.* move it to module"):
        Standfast("memory://").add(Local())


# -- what an attempt is given ----------------------------------------------------------------------


async def test_a_context_tells_all_of_its_attempt(caplog):
    seen: list[Context] = []
    results: list[object] = []

    class Seen(Saga[Order]):
        @step(timeout="5s", retry=Retry(attempts=3, backoff=Constant(0.01)))
        async def act(self, order: Order, ctx: Context) -> int:
            seen.append(ctx)
            ctx.log.warning("trying")
            if ctx.attempt < 3:
                raise OSError("again")
            return 42

        @act.compensation
        async def undo(self, order: Order, ctx: Context) -> None:
            seen.append(ctx)
            results.append(ctx.result(self.act))

        @step(each=lambda self, order, ctx: order.items, no_compensation="none")
        async def many(self, order: Order, ctx: Context, item: str) -> None:
            seen.append(ctx)

        @step(no_compensation="it refuses")
        async def refuse(self, order: Order, ctx: Context) -> None:
            results.append(ctx.has_result(self.act))
            raise Refused("no")

    app = Standfast("memory://").add(Seen())
    async with app.running(drain=2):
        handle = await app.start(Seen, Order("1", ("a", "b")), key="k", correlation_id="c-1")
        with pytest.raises(Exception, match="refuse refused: no"):
            await handle.result(timeout=10)
    tries, items, undo = seen[:3], seen[3:5], seen[5]
    assert [ctx.attempt for ctx in seen] == [1, 2, 3, 1, 1, 1]
    assert {ctx.idempotency_key for ctx in tries} == {f"{handle.id}:act"}
    assert undo.idempotency_key == f"{handle.id}:act:undo"
    assert {ctx.idempotency_key for ctx in items} == {f"{handle.id}:many[{n}]" for n in (0, 1)}
    assert sorted(ctx.item for ctx in items) == [0, 1]
    assert {ctx.branch_key.key for ctx in (*tries, undo)} == {f"{handle.id}:act"}
    assert (undo.branch_key.operation, undo.operation) == ("compensation", "compensation")
    assert {(ctx.correlation_id, ctx.key, ctx.saga_id) for ctx in seen} == {
        ("c-1", "k", str(handle.id))
    }
    assert tries[0].deadline is not None
    assert items[0].deadline is None
    assert tries[0].headers()["Standfast-Correlation-Id"] == "c-1"
    assert results == [True, 42]
    record = next(r for r in caplog.records if "trying" in r.getMessage())
    assert (record.saga, record.step, record.attempt) == ("seen", "act", 1)  # type: ignore[attr-defined]


def test_child_and_step_in_one_saga():
    class Outer(Saga[Order]):
        inner = child(Whole, lambda self, order, ctx: order, no_compensation="past its pivot")

    plan = Definition(Outer()).plan
    assert (plan.steps["inner"].form, plan.steps["inner"].no_compensation) == (
        *("child", "past its pivot"),
    )
