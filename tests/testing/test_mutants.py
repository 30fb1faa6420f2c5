"""`simulate` finds what is wrong: bugs planted in sagas, and in the machine itself."""

from __future__ import annotations

import asyncio
from typing import ClassVar

import pytest

from standfast import Context, Refused, Saga, step
from standfast.saga import events as ev
from standfast.saga import facts as fx
from standfast.saga.branch import Branch
from standfast.saga.machine import Command, Machine, Run, Undo
from standfast.testing import InvariantViolated, Ledger, World, simulate
from standfast.testing.simulation.simulate import Simulation
from tests.testing.shop import Order, PlaceOrder
from tests.testing.test_simulate import all_or_nothing
from tests.testing.trip import SCHEMA, Approval, Trip, trip

pytestmark = pytest.mark.slow  # thousands of runs


def found(saga, pattern, *, seeds=300, invariants=(), **options) -> InvariantViolated:
    with pytest.raises(InvariantViolated, match=pattern) as caught:
        simulate(saga, Order(), seeds=seeds, invariants=invariants, **options)
    error = caught.value
    # The seed alone tells the same story again.
    with pytest.raises(InvariantViolated) as again:
        simulate(saga, Order(), seed=error.seed, invariants=invariants, **options)
    assert str(again.value) == str(error)
    assert f"simulate(…, seed={error.seed})" in str(error)
    return error


# -- sagas ---------------------------------------------------------------------------------------


class Shop(Saga[Order]):
    """The shop, to be spoilt."""

    def __init__(self) -> None:
        self.stock, self.payments = Ledger("stock"), Ledger("payments")

    def __repr__(self) -> str:
        return "the shop"  # without an address, which isn't the same in each run


def test_a_compensation_that_forgets():
    class Forgets(Shop):
        @step
        async def reserve(self, order: Order, ctx: Context) -> str:
            return await self.stock.post(ctx)

        @reserve.compensation
        async def release(self, order: Order, ctx: Context) -> None:
            pass

        @step(no_compensation="the last")
        async def charge(self, order: Order, ctx: Context) -> str:
            return await self.payments.post(ctx)

    error = found(Forgets, "stock: reserve isn't undone")
    assert len(error.story.splitlines()) < 20, "it is shrunk to what matters"


def test_a_charge_that_takes_the_money_again():
    def make() -> PlaceOrder:
        return PlaceOrder(payments=Ledger("payments", barrier=False))

    error = found(make, "payments: charge took effect 2 times")
    assert str(error).count("\n  - ") == 1, "one fault is enough"
    assert error.world.saga.payments.total == 2 * 1999


def test_a_pivot_that_comes_too_late():
    class Late(Shop):
        """What is shipped can't be called back, so shipping ought to be the pivot."""

        @step
        async def charge(self, order: Order, ctx: Context) -> str:
            return await self.payments.post(ctx)

        @charge.compensation
        async def refund(self, order: Order, ctx: Context) -> None:
            await self.payments.reverse(ctx)

        @step(no_compensation="parcels don't come back")
        async def ship(self, order: Order, ctx: Context) -> str:
            return await self.stock.post(ctx)

        @step(pivot=True)
        async def notify(self, order: Order, ctx: Context) -> None: ...

    def what_is_shipped_is_paid(world: World) -> bool:
        return world.saga.stock.total == world.saga.payments.total

    found(Late, "what_is_shipped_is_paid", invariants=what_is_shipped_is_paid)


def test_an_undo_that_reads_a_result_which_may_be_missing():
    class Reads(Shop):
        @step
        async def reserve(self, order: Order, ctx: Context) -> str:
            return await self.stock.post(ctx)

        @reserve.compensation
        async def release(self, order: Order, ctx: Context) -> None:
            assert_known = ctx.result(self.reserve)
            await self.stock.reverse(ctx)
            del assert_known

        @step(no_compensation="the last")
        async def charge(self, order: Order, ctx: Context) -> str:
            return await self.payments.post(ctx)

    error = found(Reads, "an undo can't succeed: ")
    assert "ResultUnavailable" in error.story


def test_a_participant_that_refuses_what_it_has_done():
    class Strict(Shop):
        def __init__(self) -> None:
            super().__init__()
            self.seen: set[str] = set()

        @step
        async def reserve(self, order: Order, ctx: Context) -> None:
            if ctx.idempotency_key in self.seen:
                raise Refused("already reserved")
            self.seen.add(ctx.idempotency_key)

        @reserve.compensation
        async def release(self, order: Order, ctx: Context) -> None:
            self.seen.discard(ctx.branch_key.key)

    found(Strict, "had taken effect and was refused when it was tried again")


def test_a_participant_that_acts_after_the_undo():
    class Hanging(Shop):
        """It knows its keys, but not that an undo closes them."""

        def __init__(self) -> None:
            super().__init__()
            self.reserved: set[str] = set()

        @step
        async def reserve(self, order: Order, ctx: Context) -> None:
            self.reserved.add(ctx.branch_key.key)

        @reserve.compensation
        async def release(self, order: Order, ctx: Context) -> None:
            self.reserved.discard(ctx.branch_key.key)

        @step(no_compensation="the last")
        async def charge(self, order: Order, ctx: Context) -> str:
            return await self.payments.post(ctx)

    def nothing_is_left(world: World) -> bool:
        return not (world.compensated and world.saga.reserved)

    error = found(Hanging, "nothing_is_left", seeds=3_000, invariants=nothing_is_left)
    assert "arrives late" in error.story


def test_an_assertion_in_a_fake():
    class Once(Shop):
        def __init__(self) -> None:
            super().__init__()
            self.calls = 0

        @step(no_compensation="none")
        async def call(self, order: Order, ctx: Context) -> None:
            self.calls += 1
            assert self.calls == 1, "called twice"

    found(Once, "called twice")


def test_a_step_that_waits_for_ever():
    class Waits(Shop):
        @step(no_compensation="none")
        async def wait(self, order: Order, ctx: Context) -> None:
            await asyncio.Event().wait()

    found(Waits, "wait waits for something that never comes")


def test_a_step_that_spins():
    class Spins(Shop):
        @step(no_compensation="none")
        async def spin(self, order: Order, ctx: Context) -> None:
            while True:
                await asyncio.sleep(0)

    with pytest.raises(InvariantViolated, match="doesn't end"):
        simulate(Spins, Order(), seeds=1)


def test_a_check_of_every_moment_sees_what_the_end_hides():
    """It pays before it has reserved; at the end nothing of that is to be seen."""

    class Hasty(Shop):
        @step
        async def charge(self, order: Order, ctx: Context) -> str:
            return await self.payments.post(ctx)

        @charge.compensation
        async def refund(self, order: Order, ctx: Context) -> None:
            await self.payments.reverse(ctx)

        @step(pivot=True)
        async def reserve(self, order: Order, ctx: Context) -> str:
            return await self.stock.post(ctx)

    def reserved_before_paid(world: World) -> None:
        assert world.saga.payments.total <= world.saga.stock.total

    simulate(Hasty, Order(), seeds=100, invariants=lambda w: not w.completed or w.saga.stock.total)
    found(Hasty, "reserved_before_paid", always=reserved_before_paid)


# -- the machine ---------------------------------------------------------------------------------


def found_in(machine: type[Machine], pattern: str, *, seeds: int = 400, everything: bool = False):
    if everything:
        simulation = Simulation(
            trip, Trip(), signals={"approved": Approval("ann")}, schema=SCHEMA, machine=machine
        )
    else:
        simulation = Simulation(PlaceOrder, Order(), all_or_nothing, machine=machine)
    with pytest.raises(InvariantViolated, match=pattern):
        simulation.run(range(seeds))


def folds(**changes):
    by_name = {fact.__name__: fact for fact in Machine._folds}
    return {**Machine._folds, **{by_name[name]: fold for name, fold in changes.items()}}


class SkipsAnUndo(Machine):
    __slots__ = ()

    def _skip(self, fact: fx.CompensationStarted) -> None:
        Machine._fold_compensation(self, fact)
        due = [b for b in self.branches.values() if b.undo == "due"]
        for branch in due[:1]:
            branch.undo = ""
            self.closing -= 1

    _folds: ClassVar = folds(CompensationStarted=_skip)


class ForgetsDoubt(Machine):
    __slots__ = ()

    def _compensate(self, now: float, cause: str, step: str, *, reopen: bool = False) -> None:
        if (self.undoing or self.outcome) and not reopen:
            return
        self._emit(fx.CompensationStarted(at=now, cause=cause, step=step, in_doubt=[]))


class UndoesInAnyOrder(Machine):
    __slots__ = ()

    def undo_ready(self) -> list[Branch]:
        due = [b for b in self.branches.values() if b.undo == "due" and not b.asked_child]
        return [b for b in due if b.id not in self.running]


class IgnoresThePivot(Machine):
    __slots__ = ()
    past_pivot = False
    pivot_in_doubt = False


class RunsAhead(Machine):
    __slots__ = ()

    def _ahead(self, fact: fx.Started) -> None:
        Machine._fold_started(self, fact)
        for step_ in self.plan.steps.values():
            if step_.name not in self.branches:
                self._open(Branch(step_.name, step_, fact.at))

    _folds: ClassVar = folds(Started=_ahead)


class KeepsACancelInMemory(Machine):
    """Told of a cancel it obeys, but a crash makes it forget: it isn't in the journal."""

    __slots__ = ()

    def _cancelled(self, event: ev.CancelAsked, now: float, random: float) -> None:
        self.cancel = fx.CancelRequested(at=now, reason=event.reason)

    _handlers: ClassVar = {**Machine._handlers, ev.CancelAsked: _cancelled}


class RefoldsAttemptsWrongly(Machine):
    """What it counts while it runs isn't what its fold counts."""

    __slots__ = ()

    def _failed(self, event: ev.Failed, now: float, random: float) -> None:
        Machine._failed(self, event, now, random)
        self.branches[event.branch].attempt += 1

    _handlers: ClassVar = {**Machine._handlers, ev.Failed: _failed}


class UndoesTheRefused(Machine):
    __slots__ = ()

    def _failed(self, event: ev.Failed, now: float, random: float) -> None:
        event.refused = False
        event.retriable = False
        Machine._failed(self, event, now, random)

    _handlers: ClassVar = {**Machine._handlers, ev.Failed: _failed}


class GivesUpAnUndo(Machine):
    """The undo's failure counts as its success."""

    __slots__ = ()

    def _undo_failed(self, event: ev.UndoFailed, now: float, random: float) -> None:
        self._undone(ev.Undone(event.branch), now, random)

    _handlers: ClassVar = {**Machine._handlers, ev.UndoFailed: _undo_failed}


class ForgetsTheChild(Machine):
    __slots__ = ()

    def _undone(self, event: ev.Undone, now: float, random: float) -> None:
        branch = self.branches[event.branch]
        self._emit(fx.CompensationCompleted(at=now, branch=branch.id))

    _handlers: ClassVar = {**Machine._handlers, ev.Undone: _undone}


class NeverMovesOn(Machine):
    """It doesn't see that a wait has timed out."""

    __slots__ = ()

    def _settle_wait(self, branch: Branch, now: float) -> bool:
        return self.signal_for(branch) is not None and Machine._settle_wait(self, branch, now)


@pytest.mark.parametrize(
    ("machine", "pattern", "everything"),
    [
        (SkipsAnUndo, "wasn't undone", False),
        (ForgetsDoubt, "wasn't undone|isn't undone|which builds on it", False),
        (UndoesInAnyOrder, "which builds on it", False),
        (IgnoresThePivot, "pivot|in_doubt|all_or_nothing|isn't undone", False),
        (RunsAhead, "before 'reserve' was done", False),
        (KeepsACancelInMemory, "cancel is", False),
        (RefoldsAttemptsWrongly, "attempt is", False),
        (GivesUpAnUndo, "no undo of it ended|isn't undone", False),
        (ForgetsTheChild, "child saga of 'insurance' is", True),
        (NeverMovesOn, "doesn't end|nothing will move it|wake", True),
    ],
    ids=lambda value: value.__name__ if isinstance(value, type) else "",
)
def test_a_wrong_machine_is_found(machine, pattern, everything):
    found_in(machine, pattern, everything=everything)


def test_a_machine_that_undoes_the_refused_is_harmless_behind_a_barrier_and_no_false_alarm():
    """An undo too much is what a barrier is for: no effect is wrong, so nothing is violated."""
    Simulation(PlaceOrder, Order(), all_or_nothing, machine=UndoesTheRefused).run(range(200))


# -- what only one of the checks sees ------------------------------------------------------------


class Bare(Saga[Order]):
    """Steps without a participant that would notice anything."""

    @step
    async def one(self, order: Order, ctx: Context) -> None: ...

    @one.compensation
    async def undo_one(self, order: Order, ctx: Context) -> None: ...

    @step
    async def two(self, order: Order, ctx: Context) -> None: ...

    @two.compensation
    async def undo_two(self, order: Order, ctx: Context) -> None: ...

    @step(no_compensation="the last")
    async def three(self, order: Order, ctx: Context) -> None: ...


def test_two_branches_with_one_key(monkeypatch):
    monkeypatch.setattr(Context, "idempotency_key", property(lambda ctx: ctx.saga_id))
    with pytest.raises(InvariantViolated, match="two branches share an idempotency key"):
        simulate(Bare, Order(), seeds=20)


def test_a_key_that_isnt_stable(monkeypatch):
    def key(ctx: Context) -> str:
        return f"{ctx.saga_id}:{ctx.step}:{ctx.operation}:{ctx.attempt}"

    monkeypatch.setattr(Context, "idempotency_key", property(key))
    with pytest.raises(InvariantViolated, match="had another idempotency key than before"):
        simulate(Bare, Order(), seeds=50)


class TimesARetryWrongly(Machine):
    """When it tries again isn't what is stored."""

    __slots__ = ()

    def _failed(self, event: ev.Failed, now: float, random: float) -> None:
        Machine._failed(self, event, now, random)
        branch = self.branches[event.branch]
        if branch.retry_at:
            branch.retry_at += 1

    _handlers: ClassVar = {**Machine._handlers, ev.Failed: _failed}


class ActsAfterTheUndo(Machine):
    """It does again what it ought to undo."""

    __slots__ = ()

    def commands(self, now: float) -> list[Command]:
        commands = Machine.commands(self, now)
        return [Run(c.branch, c.attempt, False) if isinstance(c, Undo) else c for c in commands]


@pytest.mark.parametrize(
    ("machine", "pattern"),
    [
        (GivesUpAnUndo, "counts as undone, but no undo of it ended"),
        (TimesARetryWrongly, "retry_at is"),
        (ActsAfterTheUndo, "began after compensation had begun"),
    ],
    ids=lambda value: value.__name__ if isinstance(value, type) else "",
)
def test_a_wrong_machine_is_found_without_a_ledger(machine, pattern):
    with pytest.raises(InvariantViolated, match=pattern):
        Simulation(Bare, Order(), machine=machine).run(range(300))
