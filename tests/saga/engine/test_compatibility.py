"""What `check-compat` says of journals that today's code can, and can't, go on with."""

from dataclasses import dataclass
from typing import ClassVar

import pytest

from standfast import Context, Migration, Saga, Standfast, child, step, wait
from standfast.ports.journal import Mail
from standfast.saga.compatibility import check, problems
from standfast.saga.move import open_instance
from standfast.saga.operations import Operations
from standfast.saga.status import UNFINISHED
from tests.saga.engine.world import until


@dataclass(frozen=True)
class Old:
    id: str


@dataclass(frozen=True)
class New:
    id: str
    street: str


class Small(Saga[Old]):
    @step(no_compensation="nothing")
    async def only(self, order: Old, ctx: Context) -> None:
        pass


class Today(Saga[Old]):
    """As it was when the instances were started."""

    name = "order"

    @step(no_compensation="nothing")
    async def reserve(self, order: Old, ctx: Context) -> str:
        return "r"

    @step(each=lambda saga, order, ctx: ["a", "b"], no_compensation="nothing")
    async def pack(self, order: Old, ctx: Context, item: str) -> str:
        return item

    deliver = child(Small, lambda saga, order, ctx: order)
    approved = wait("approved", type=str)
    confirmed = wait("confirmed", type=int)


class _Order(Saga[Old]):
    name = "order"


class Same(Today):
    @step(no_compensation="a new last step does no harm")
    async def thank(self, order: Old, ctx: Context) -> None:
        pass


class NewVersion(Today):
    version = 2


class Moved(NewVersion):
    """Version 1 can move here."""

    migrations: ClassVar = {1: Migration()}


class MovedFurther(Moved):
    version = 3


class CantConvert(NewVersion):
    version = 3
    migrations: ClassVar = {1: Migration(input=lambda old: old["street"])}


class Gone(_Order):
    pack = Today.__dict__["pack"]
    deliver = child(Small, lambda saga, order, ctx: order)
    approved = wait("approved", type=str)
    confirmed = wait("confirmed", type=int)


class Inserted(_Order):
    @step(no_compensation="nothing")
    async def check(self, order: Old, ctx: Context) -> None:
        pass

    @step(no_compensation="nothing")
    async def reserve(self, order: Old, ctx: Context) -> str:
        return "r"

    pack = Today.__dict__["pack"]
    deliver = child(Small, lambda saga, order, ctx: order)
    approved = wait("approved", type=str)
    confirmed = wait("confirmed", type=int)


class OtherInput(Saga[New]):
    name = "order"

    @step(no_compensation="nothing")
    async def reserve(self, order: New, ctx: Context) -> str:
        return "r"

    @step(each=lambda saga, order, ctx: ["a", "b"], no_compensation="nothing")
    async def pack(self, order: New, ctx: Context, item: str) -> str:
        return item

    deliver = child(Small, lambda saga, order, ctx: Old("1"))
    approved = wait("approved", type=str)
    confirmed = wait("confirmed", type=int)


class OtherResults(_Order):
    @step(no_compensation="nothing")
    async def reserve(self, order: Old, ctx: Context) -> int:
        return 1

    @step(each=lambda saga, order, ctx: [1, 2], no_compensation="nothing")
    async def pack(self, order: Old, ctx: Context, item: int) -> int:
        return item

    deliver = child(Small, lambda saga, order, ctx: order)
    approved = wait("approved", type=int)
    confirmed = wait("confirmed", type=str)


class OtherKinds(_Order):
    reserve = Today.__dict__["reserve"]

    @step(no_compensation="nothing")
    async def pack(self, order: Old, ctx: Context) -> str:
        return "all"

    @step(no_compensation="nothing")
    async def deliver(self, order: Old, ctx: Context) -> None:
        pass

    approved = wait("approved", type=str)
    confirmed = wait("confirmed", type=int)


@pytest.fixture
async def stored(work):
    """An app with one that waits, has a result of each kind, and a signal that came early."""
    app = await work(Today(), Small())
    handle = await app.start(Today, Old("1"), key="1")
    await handle.signal("approved", "yes")
    await until(lambda: _at(handle, "confirmed"))
    return app


async def _at(handle, step):
    state = (await handle.story()).state
    return step in state.branches


def beside(stored: Standfast, *sagas):
    """An app of other code on the same database, which the first one has opened."""
    other = Standfast(stored.database).add(*sagas)
    other.check_open = lambda: None
    return other


async def told(stored: Standfast, *sagas):
    """The problems, as (kind, text), that an app with these sagas would have."""
    other = beside(stored, *sagas)
    ops = Operations(other.sagas)
    found = [one async for one in check(ops, ops.select(statuses=UNFINISHED))]
    ((instance, problems),) = found
    assert instance.key == "1"
    return [(problem.aspect, problem.text.replace(str(instance.id), "ID")) for problem in problems]


@pytest.mark.parametrize("saga", [Today, Same])
async def test_what_fits_has_no_problem(stored, saga):
    assert await told(stored, saga()) == []


@pytest.mark.parametrize(
    ("sagas", "kinds", "said"),
    [
        ([], ["version"], "version 1 isn't registered; this app has no version of it"),
        ([NewVersion], ["version"], "version 1 isn't registered; this app has version 2"),
        ([Moved], ["version"], "has version 2; it can move: `standfast sagas migrate ID --to 2`"),
        ([MovedFurther, Moved], ["version"], "versions 2, 3; it can move: `standfast sagas mig"),
        ([MovedFurther, Moved], ["version"], "ID --to 3`"),
        ([Moved, CantConvert], ["version"], "3; it can't move to version 3: its input function"),
        ([Moved, CantConvert], ["version"], "KeyError: 'street'; it can move: `standfast"),
        ([CantConvert], ["version"], "it can't move to version 3: its input function raised"),
        ([Gone], ["step"], "step 'reserve' is gone from the code"),
        ([Inserted], ["order"], "speaks of 'reserve', which order version 1 can't have begun"),
        ([OtherInput], ["input"], "missing required field `street`"),
        ([OtherKinds], ["order", "order"], "step 'pack' doesn't fan out any more"),
        (
            [OtherResults],
            ["result", "input", "result", "input", "result", "result"],
            "the result of reserve: the JSON doesn't decode to int",
        ),
    ],
)
async def test_what_would_break_is_told(stored, sagas, kinds, said):
    found = await told(stored, *(saga() for saga in sagas))
    assert sorted(kind for kind, _ in found) == sorted(kinds)
    assert said in " ".join(text for _, text in found)


async def test_one_without_a_migration_is_not_said_to_move(stored):
    ((_, text),) = await told(stored, NewVersion())
    assert "move" not in text


async def test_what_is_said_to_move_does(stored):
    """By the act that the message names."""
    other = beside(stored, Moved())
    handle = await stored.saga(Today, "1")
    ops = Operations(other.sagas)
    act = ops.moved(2, [await stored.sagas.instance(handle.id)])
    assert [sent.done async for sent in ops.tell(act, [handle.id])] == [1]

    async def is_handed_over():
        return (await stored.sagas.instance(handle.id)).version == 2

    await until(is_handed_over)
    (loaded,) = await stored.sagas.store.load([handle.id])
    opened = open_instance(other.sagas.definitions, loaded)
    assert opened.definition.version == 2
    assert opened.move is not None
    assert not opened.move.problem


async def test_a_finished_one_needn_t_move(stored):
    handle = await stored.saga(Today, "1")
    await handle.signal("confirmed", 1)
    await handle.result(timeout=10)
    (loaded,) = await stored.sagas.store.load([handle.id])
    (problem,) = problems(Standfast(stored.database).add(Moved()).sagas.definitions, loaded, 0.0)
    assert problem.text == "version 1 isn't registered; this app has version 2"


async def test_a_finished_one_that_would_go_on(stored):
    handle = await stored.saga(Today, "1")
    await handle.signal("confirmed", 1)
    await handle.result(timeout=10)
    other = Standfast(stored.database).add(Same())
    (loaded,) = await stored.sagas.store.load([handle.id])
    (problem,) = problems(other.sagas.definitions, loaded, 0.0)
    assert "to this code" in problem.text
    loaded.facts[1] = "{"
    (problem,) = problems(other.sagas.definitions, loaded, 0.0)
    assert problem.aspect == "journal"
    loaded.facts.clear()
    (problem,) = problems(other.sagas.definitions, loaded, 0.0)
    assert problem.aspect == "journal"


async def test_many_are_read_in_pages(work, monkeypatch):
    monkeypatch.setattr("standfast.saga.compatibility.AT_ONCE", 2)
    app = await work(Today(), Small())
    for number in range(5):
        await app.start(Today, Old(str(number)), key=str(number))
    ops = Operations(app.sagas)
    found = [one.key async for one, _ in check(ops, ops.select(name="order"))]
    assert sorted(found) == ["0", "1", "2", "3", "4"]


# -- what waits for something that it doesn't wait for any more ----------------------------------


class Paused(Saga[Old]):
    """As it was when the instances came to wait."""

    name = "paused"

    @step(no_compensation="nothing")
    async def ask(self, order: Old, ctx: Context) -> str:
        return "asked"

    answered = wait("answered", when=lambda saga, order, ctx: ctx.result(saga.ask) == "asked")
    beside = wait("beside", after=ask, timeout="1h")
    last = wait("last", after=[answered, beside])


class _Paused(Saga[Old]):
    name = "paused"

    ask = Paused.__dict__["ask"]


class WithoutTheWait(_Paused):
    beside = wait("beside", after=_Paused.__dict__["ask"], timeout="1h")
    last = wait("last")


class WithAStepInstead(_Paused):
    @step(no_compensation="nothing")
    async def answered(self, order: Old, ctx: Context) -> None:
        pass

    beside = wait("beside", after=_Paused.__dict__["ask"], timeout="1h")
    last = wait("last", after=[answered, beside])


class WithAnotherCondition(_Paused):
    answered = wait("answered", when=lambda saga, order, ctx: False)
    beside = wait("beside", after=_Paused.__dict__["ask"], timeout="1h")
    last = wait("last", after=[answered, beside])


class Sooner(_Paused):
    answered = wait("answered", when=lambda saga, order, ctx: True)
    beside = wait("beside", after=_Paused.__dict__["ask"], timeout="1s")
    last = wait("last", after=[answered, beside])


class Later(_Paused):
    answered = wait("answered", when=lambda saga, order, ctx: True)
    beside = wait("beside", after=_Paused.__dict__["ask"])
    last = wait("last", after=[answered, beside])


class Nothing(_Paused):
    """It ends where the others wait."""


@pytest.fixture
async def paused(work):
    app = await work(Paused(), linger=0.01)
    handle = await app.start(Paused, Old("1"), key="1")

    async def rests():
        row = await app.sagas.instance(handle.id)
        return row.status == "waiting" and row.owner is None

    await until(rests)
    return app


@pytest.mark.parametrize("saga", [Paused, Later])
async def test_what_waits_on_has_no_problem(paused, saga):
    assert await told(paused, saga()) == []


@pytest.mark.parametrize(
    ("saga", "said"),
    [
        (WithAStepInstead, "answered is due"),
        (WithAnotherCondition, "answered is due"),
        (Sooner, "it has something to do at "),
        (Nothing, "it is completed"),
    ],
)
async def test_what_nobody_would_look_at_is_told(paused, saga, said):
    ((aspect, text),) = await told(paused, saga())
    assert aspect == "due"
    assert f"to this code {said}" in text
    assert "it is stored as waiting, so that no worker looks at it before 20" in text
    assert text.endswith("with `standfast sagas signal resume ID`")


async def test_what_has_mail_is_looked_at_soon(paused):
    handle = await paused.saga(Paused, "1")
    (loaded,) = await paused.sagas.store.load([handle.id])
    definitions = Standfast(paused.database).add(Nothing()).sagas.definitions
    (problem,) = problems(definitions, loaded, paused.clock.now())
    assert problem.aspect == "due"
    loaded.mails.append(Mail(handle.id, "1", "signal", "{}", 1.0))
    assert problems(definitions, loaded, paused.clock.now()) == []


async def test_a_removed_wait_beside_one_that_there_still_is(paused):
    assert await told(paused, WithoutTheWait()) == []  # the other one is still to come
