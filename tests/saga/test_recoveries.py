"""A saga whose process died too often: what would run is parked, and nothing else."""

from typing import ClassVar
from uuid import uuid4

import msgspec
import pytest

from standfast import Context, Migration, Refused, Retry, Saga, Standfast, step
from standfast.coordination.membership import MEMBER
from standfast.errors import DefinitionError
from standfast.ports.journal import JournalStore
from standfast.ports.leases import LeaseStore
from standfast.saga import events as ev
from standfast.saga import facts as fx
from standfast.saga.machine import Machine, Run, Undo
from standfast.saga.plan import Plan, StepPlan
from standfast.saga.replay import replay
from standfast.saga.sagas import Sagas

RAW = msgspec.Raw(b"1")
CAUSE = "its process died 11 times in a row while it ran"


def machine(*steps: StepPlan, facts: tuple[fx.Fact, ...] = ()) -> Machine:
    found = Machine(uuid4(), Plan("shop", 1, list(steps)))
    started = fx.Started(at=0, input=RAW, version=1, key="k", correlation_id="k")
    replay(found, [started, *facts])
    return found


def died(at: Machine, now: float = 10.0) -> list[fx.Fact]:
    return at.handle(ev.Died(11), now)


def test_what_would_run_is_parked_and_a_retry_goes_on_with_new_numbers():
    shop = machine(StepPlan("pay", no_compensation="x"))
    (parked,) = died(shop)
    assert isinstance(parked, fx.StepParked)
    assert CAUSE in parked.error
    assert (shop.status, shop.failed_step) == ("parked", "pay")
    assert not shop.commands(11.0)
    shop.handle(ev.RetryAsked(), 12.0)
    (run,) = shop.commands(12.0)
    assert (type(run), run.attempt) == (Run, 2)


def test_what_sleeps_or_waits_didnt_run_and_goes_on():
    shop = machine(
        StepPlan("pay", no_compensation="x", after=()),
        StepPlan("approve", form="wait", signal="ok", no_compensation="x", after=()),
        StepPlan("later", no_compensation="x", after=()),
        facts=(fx.AttemptFailed(at=1, branch="later", attempt=1, error="e", retry_at=99, since=1),),
    )
    (parked,) = died(shop)
    assert parked.branch == "pay"
    (run,) = shop.commands(99.0)
    assert run.branch.id == "later"


def test_of_many_items_those_are_parked_that_could_run_at_once():
    step = StepPlan("pack", fans_out=True, limit=2, no_compensation="x")
    items = fx.FannedOut(at=1, branch="pack", items=[RAW] * 5)
    shop = machine(step, facts=(items,))
    assert [fact.branch for fact in died(shop)] == ["pack[0]", "pack[1]"]
    assert [run.branch.id for run in shop.commands(11.0)] == ["pack[2]", "pack[3]"]


def test_undos_are_given_up_that_could_run_and_their_numbers_go_on():
    shop = machine(
        StepPlan("a", undo=True),
        StepPlan("b", undo=True, after=("a",)),
        facts=(
            fx.StepCompleted(at=1, branch="a", result=RAW),
            fx.StepCompleted(at=2, branch="b", result=RAW),
        ),
    )
    shop.outcome = ""
    shop.handle(ev.UndoAsked(), 3.0)
    (failed,) = died(shop)
    assert isinstance(failed, fx.CompensationFailed)
    assert (failed.branch, failed.attempt) == ("b", 1)
    assert CAUSE in failed.error
    assert shop.status == "compensation_failed"
    shop.handle(ev.RetryAsked(), 12.0)
    (undo,) = shop.commands(12.0)
    assert (undo.branch.id, undo.attempt) == ("b", 2)


def test_a_child_that_is_to_undo_itself_is_asked_all_the_same():
    """That is a mail: no process can have died of it."""
    shop = machine(
        StepPlan("part", form="child"),
        StepPlan("note", no_compensation="x"),
        facts=(
            fx.ChildStarted(at=1, branch="part", child=uuid4()),
            fx.StepCompleted(at=2, branch="part", result=RAW),
            fx.CompensationStarted(at=3, cause="cancelled"),
        ),
    )
    assert died(shop) == []
    assert shop.status == "compensating"
    (undo,) = shop.commands(11.0)
    assert (type(undo), undo.branch.id) == (Undo, "part")


def test_a_saga_that_has_ended_is_left_alone():
    shop = machine(
        StepPlan("a", no_compensation="x"),
        facts=(fx.StepCompleted(at=1, branch="a", result=RAW),),
    )
    assert shop.outcome == "completed"
    assert died(shop) == []


@pytest.mark.parametrize("bound", [-1, True, "3", 1.5])
def test_a_bound_that_makes_no_sense_is_refused(bound):
    class Wrong(Saga[int]):
        max_recoveries = bound

        @step(no_compensation="x")
        async def go(self, n: int, ctx: Context) -> None: ...

    with pytest.raises(DefinitionError, match="max_recoveries"):
        Standfast("memory://").add(Wrong())


class Heavy(Saga[int]):
    name, max_recoveries = "heavy", 1

    def __init__(self) -> None:
        self.ran: list[str] = []

    @step(retry=Retry(attempts=1))
    async def lift(self, n: int, ctx: Context) -> None:
        self.ran.append("lift")
        raise Refused("too heavy")

    @lift.compensation
    async def put_down(self, n: int, ctx: Context) -> None:
        self.ran.append("put down")


class Mended(Heavy):
    """The version that doesn't kill its process any more."""

    name, version = "heavy", 2
    migrations: ClassVar = {1: Migration()}


class Boundless(Heavy):
    max_recoveries = None


class Never(Heavy):
    max_recoveries = 0


async def die(app: Standfast, times: int) -> None:
    """So many processes take the only saga there is, and die of it."""
    journal, leases = app.database.port(JournalStore), app.database.port(LeaseStore)
    for number in range(times):
        (token,) = await leases.acquire([f"{MEMBER}{number}"], "doomed", ttl=60)
        kinds = list(app.patterns.get(Sagas).definitions.limits)
        assert len(await journal.claim(token, kinds, now=2e10, limit=9)) == 1
        await leases.release([token])
        assert await journal.reclaim() == 1


@pytest.mark.parametrize(("kind", "dies", "runs"), [
    (Heavy, 1, True), (Heavy, 2, False), (Boundless, 9, True), (Never, 1, False),
])  # fmt: skip
async def test_the_bound_is_that_of_the_class(kind, dies, runs, caplog):
    heavy = kind()
    app = Standfast("memory://").add(heavy)
    async with app:
        handle = await app.start(kind, 1)
        await die(app, dies)
        async with app.running():
            while await handle.status() not in ("parked", "compensated"):
                await app.clock.sleep(0.01)
        assert heavy.ran == (["lift"] if runs else [])
        said = [r for r in caplog.records if f"its process died {dies} times" in r.getMessage()]
        assert [r.levelname for r in said] == (
            ["ERROR"] if not runs else ["WARNING"] if dies > 1 else []
        )


async def test_one_that_moves_to_another_version_runs_whatever_its_processes_died_of():
    """The move may well be the remedy."""
    heavy, mended = Heavy(), Mended()
    app = Standfast("memory://").add(heavy, mended)
    async with app:
        handle = await app.start(Heavy, 1)
        await die(app, 2)
        assert await app.operations.migrate(handle, 2) == 1
        async with app.running():
            while await handle.status() not in ("parked", "compensated"):
                await app.clock.sleep(0.01)
        assert (heavy.ran, mended.ran) == ([], ["lift"])
