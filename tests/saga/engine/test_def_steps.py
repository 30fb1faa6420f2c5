"""Steps that are written with `def`: they run in threads, and all else is as for the others."""

import asyncio
import contextvars
import logging
import subprocess
import sys
import threading
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from opentelemetry import trace

from standfast import (
    Constant,
    Context,
    Refused,
    Retry,
    Saga,
    SagaCompensated,
    Standfast,
    Transaction,
    step,
)
from standfast.coordination.health import liveness, readiness
from standfast.doors.blocking import BlockingTransaction
from standfast.errors import DefinitionError, StoreError
from standfast.resilience import Pipeline, Timeout
from standfast.resilience.deadline import remaining
from standfast.saga import facts as fx
from standfast.testing import play_scenario, run_saga, simulate
from standfast.testing.virtual import RealIO
from tests.saga.engine.world import SOON, until

PATIENCE = 20.0
"""Seconds for a thread to hear of what it waits for: much longer than it ever takes."""
VARIABLE: contextvars.ContextVar[str] = contextvars.ContextVar("variable", default="none")


class Gate:
    """Holds threads up until it is opened, and knows who stands before it."""

    def __init__(self) -> None:
        self.opened = threading.Event()
        self.entered: list[str] = []
        self.left: list[str] = []
        self.threads: set[str] = set()

    def pass_through(self, name: str) -> str:
        self.entered.append(name)
        self.threads.add(threading.current_thread().name)
        assert self.opened.wait(PATIENCE)
        self.left.append(name)
        return f"{name} through"


@pytest.fixture
def gate() -> Iterator[Gate]:
    gate = Gate()
    yield gate
    gate.opened.set()


def given_up(caplog: pytest.LogCaptureFixture) -> list[logging.LogRecord]:
    return [one for one in caplog.records if "was given up" in one.getMessage()]


class Trip(Saga[str]):
    """Three steps in a row; the first two say in which threads they ran."""

    def __init__(self) -> None:
        self.log: list[str] = []
        self.fails: list[BaseException] = []

    @step(retry=SOON)
    def reserve(self, word: str, ctx: Context) -> str:
        self.log.append(f"reserve {ctx.attempt}")
        return threading.current_thread().name

    @reserve.compensation(retry=SOON)
    def release(self, word: str, ctx: Context) -> None:
        self.log.append(f"release {ctx.has_result(self.reserve)} {threading.current_thread().name}")

    @step(retry=SOON)
    def charge(self, word: str, ctx: Context) -> tuple[str, int]:
        self.log.append(f"charge {ctx.attempt}")
        if self.fails:
            raise self.fails.pop(0)
        return ctx.result(self.reserve), 7

    @charge.compensation
    async def refund(self, word: str, ctx: Context) -> None:
        self.log.append("refund")

    @step(each=lambda self, word, ctx: word.split(), limit=2, no_compensation="paper")
    def label(self, word: str, ctx: Context, item: str) -> str:
        return f"{item} {ctx.item} {ctx.idempotency_key == f'{ctx.saga_id}:label[{ctx.item}]'}"


# -- as for all others ---------------------------------------------------------------------------


async def test_it_runs_in_a_thread_and_its_result_is_typed(work):
    app = await work(Trip())
    result = await (await app.start(Trip, "a b c")).result(PATIENCE)
    name, number = result[Trip.charge]
    assert (name, number) == (result[Trip.reserve], 7)
    assert name.startswith("standfast-step-")
    assert result[Trip.label] == ["a 0 True", "b 1 True", "c 2 True"]


async def test_it_is_retried_and_refused_and_undone_in_a_thread(work):
    trip = Trip()
    trip.fails = [OSError("away"), OSError("away"), Refused("no funds")]
    app = await work(trip)
    handle = await app.start(Trip, "a")
    with pytest.raises(SagaCompensated, match="charge refused: no funds"):
        await handle.result(PATIENCE)
    *calls, undo = trip.log
    assert calls == ["reserve 1", "charge 1", "charge 2", "charge 3"]
    assert undo.startswith("release True standfast-step-")


async def test_an_unknown_outcome_is_undone_too(work):
    trip = Trip()
    trip.fails = [OSError("away")] * 3
    app = await work(trip)
    with pytest.raises(SagaCompensated, match="OSError: away"):
        await (await app.start(Trip, "a")).result(PATIENCE)
    assert trip.log[4] == "refund"


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (SystemExit(3), "SystemExit: 3"),
        (KeyboardInterrupt(), r"KeyboardInterrupt\(\) was raised in the step's thread"),
        (StopIteration(7), "StopIteration"),
        (GeneratorExit("out"), "GeneratorExit: out"),
        (asyncio.CancelledError("so"), "CancelledError: so .it was cancelled from within"),
    ],
)
async def test_whatever_it_raises_is_a_failed_attempt_and_its_thread_goes_on(work, error, told):
    trip = Trip()
    trip.fails = [error]
    app = await work(trip, threads=1)
    handle = await app.start(Trip, "a")
    await handle.result(PATIENCE)
    failed = [f for f in (await handle.story()).facts if isinstance(f, fx.AttemptFailed)]
    assert len(failed) == 1
    assert pytest.raises(Exception, match=told).matches(RuntimeError(failed[0].error))
    assert trip.log == ["reserve 1", "charge 1", "charge 2"]
    await (await app.start(Trip, "a")).result(PATIENCE)


class Secret(Saga[str]):
    @step(no_compensation="nothing is done")
    def act(self, word: str, ctx: Context):
        return asyncio.sleep(0)


async def test_one_that_answers_with_a_coroutine_is_told_and_not_tried_again(work):
    app = await work(Secret())
    handle = await app.start(Secret, "x")
    with pytest.raises(
        SagaCompensated, match=r"returned a coroutine that nobody awaits.*async def"
    ):
        await handle.result(PATIENCE)
    assert not [f for f in (await handle.story()).facts if isinstance(f, fx.AttemptFailed)]


def test_an_async_def_that_a_decorator_makes_a_def_is_refused():
    import functools

    async def act(self: Any, word: str, ctx: Context) -> None: ...

    @functools.wraps(act)
    def wrapped(*args: Any) -> Any:
        return act(*args)

    with pytest.raises(DefinitionError, match="under a decorator that makes a `def` of it"):
        step(wrapped)


def test_what_cant_be_a_step():
    def items(self: Any, word: str, ctx: Context) -> Iterator[int]:
        yield 1

    with pytest.raises(DefinitionError, match="it has a `yield`"):
        step(items)
    for other in (staticmethod(len), Trip.reserve, Trip):
        with pytest.raises(DefinitionError, match="write it with `async def`, or with `def`"):
            step(other)


class Guarded(Saga[str]):
    def __init__(self) -> None:
        self.calls = 0
        self.left: float | None = None

    @step(no_compensation="paper")
    @Pipeline(Timeout("5s"), Retry(attempts=3, backoff=Constant(0)))
    def act(self, word: str, ctx: Context) -> str:
        self.calls += 1
        self.left = remaining()
        if self.calls < 3:
            raise OSError("away")
        return threading.current_thread().name

    @step(retry=Retry(attempts=2, backoff=Constant(0.01)), no_compensation="paper")
    @Retry(attempts=2, backoff=Constant(0))
    def then(self, word: str, ctx: Context) -> str:
        self.calls += 1
        if self.calls < 6:
            raise OSError("still away")
        return f"attempt {ctx.attempt}"


async def test_policies_stand_around_it_as_around_any_function(work):
    guarded = Guarded()
    app = await work(guarded)
    result = await (await app.start(Guarded, "x")).result(PATIENCE)
    assert 0 < (guarded.left or 0) <= 5
    assert result["then"] == "attempt 2", "what a Retry inside gave up on is one attempt"


# -- its context ---------------------------------------------------------------------------------


class Contextual(Saga[str]):
    def __init__(self) -> None:
        self.spans: list[int] = []

    @step(no_compensation="paper")
    def act(self, word: str, ctx: Context) -> list[str]:
        seen = VARIABLE.get()
        VARIABLE.set("left by another")
        self.spans.append(trace.get_current_span().get_span_context().span_id)
        return [seen, ctx.headers()["traceparent"].split("-")[2]]

    @step(no_compensation="paper")
    def then(self, word: str, ctx: Context) -> str:
        ctx.log.warning("in %s", "a thread")
        return VARIABLE.get()


async def test_it_has_the_context_of_its_attempt(app_url, spans, caplog):
    saga = Contextual()
    VARIABLE.set("of the process")
    app = Standfast(app_url, migrate=True).add(saga)
    async with app.running():
        VARIABLE.set("of who started it")
        handle = await app.start(Contextual, "x")
        result = await handle.result(PATIENCE)
    seen, parent = result["act"]
    assert seen == result["then"] == "of the process"
    (span,) = [one for one in spans() if one.context.span_id in saga.spans]
    assert int(parent, 16) == span.context.span_id
    assert span.name == "action act"
    (said,) = [one for one in caplog.records if "in a thread" in one.getMessage()]
    assert (said.saga_id, said.step, said.attempt) == (str(handle.id), "then", 1)


# -- what is given up ----------------------------------------------------------------------------


class Slow(Saga[str]):
    """Its first attempt stands before the gate; all others go through at once."""

    def __init__(self, gate: Gate) -> None:
        self.gate = gate

    @step(timeout=0.3, retry=Retry(attempts=9, backoff=Constant(0.01)), no_compensation="paper")
    def act(self, word: str, ctx: Context) -> str:
        return self.gate.pass_through(word) if ctx.attempt == 1 else f"attempt {ctx.attempt}"


async def test_a_timeout_gives_its_thread_up_counts_and_names_it(work, gate, caplog):
    app = await work(Slow(gate))
    handle = await app.start(Slow, "x")
    assert (await handle.result(PATIENCE))["act"] == "attempt 2"
    (failed,) = [f for f in (await handle.story()).facts if isinstance(f, fx.AttemptFailed)]
    assert failed.error == "timed out: the outcome is unknown"
    (said,) = given_up(caplog)
    assert said.levelno == logging.ERROR
    assert f"saga slow {handle.id}: attempt 1 of act was given up" in said.getMessage()
    assert "in pass_through\n    assert self.opened.wait(PATIENCE)" in said.getMessage()
    assert (said.saga_id, said.step, said.attempt) == (str(handle.id), "act", 1)
    threads = app.sagas.threads
    assert (threads.hung, threads.given_up["slow", "act"]) == (1, 1)
    gate.opened.set()
    await until(lambda: threads.hung == 0)
    assert gate.left == ["x"]
    story = await handle.story()
    assert [type(f) for f in story.facts if isinstance(f, fx.StepCompleted)] == [fx.StepCompleted]
    assert (await handle.result(PATIENCE))["act"] == "attempt 2", "the late answer isn't heard"


class Hurried(Saga[str]):
    deadline = 0.2

    def __init__(self, gate: Gate) -> None:
        self.gate = gate
        self.undone = threading.Event()

    @step
    def act(self, word: str, ctx: Context) -> str:
        return self.gate.pass_through(word)

    @act.compensation
    def undo(self, word: str, ctx: Context) -> None:
        self.undone.set()


async def test_the_deadline_gives_it_up_and_undoes_it(work, gate, caplog):
    hurried = Hurried(gate)
    app = await work(hurried)
    with pytest.raises(SagaCompensated, match="deadline"):
        await (await app.start(Hurried, "x")).result(PATIENCE)
    assert hurried.undone.is_set()
    assert gate.left == []
    assert len(given_up(caplog)) == 1


class Patient(Saga[str]):
    def __init__(self, gate: Gate) -> None:
        self.gate = gate

    @step(no_compensation="paper")
    def act(self, word: str, ctx: Context) -> str:
        return self.gate.pass_through(word)


async def test_a_drain_waits_for_it(app_url, gate):
    app = Standfast(app_url, migrate=True).add(Patient(gate))
    async with app:
        running = app.running(drain=PATIENCE)
        await running.__aenter__()
        handle = await app.start(Patient, "x")
        await until(lambda: gate.entered)
        leaving = asyncio.create_task(running.__aexit__(None, None, None))
        await until(lambda: app.supervisor is not None and app.supervisor.is_stopping)
        assert not leaving.done()
        gate.opened.set()
        await leaving
        assert await handle.status() == "completed"


async def test_what_a_drain_gives_up_is_run_again_by_the_next(app_url, gate, caplog):
    app = Standfast(app_url, migrate=True).add(Patient(gate))
    async with app:
        async with app.running(drain=0):
            handle = await app.start(Patient, "x")
            await until(lambda: gate.entered)
        assert gate.left == [], "it left without it"
        (said,) = given_up(caplog)
        assert "in pass_through" in said.getMessage()
        async with app.running():
            await until(lambda: len(gate.entered) == 2)
            assert app.sagas.threads.hung == 1, "it keeps its thread"
            gate.opened.set()
            assert (await handle.result(PATIENCE))["act"] == "x through"
            await until(lambda: app.sagas.threads.hung == 0)


class Stubborn(Saga[str]):
    """Whose function a policy of its own would call again."""

    def __init__(self, gate: Gate) -> None:
        self.gate = gate

    @step(timeout=None, no_compensation="paper")
    @Retry(attempts=3, backoff=Constant(0))
    def act(self, word: str, ctx: Context) -> str:
        self.gate.pass_through(word)
        raise OSError("away")


async def test_what_was_given_up_is_not_called_again_by_its_own_policies(app_url, gate):
    app = Standfast(app_url, migrate=True).add(Stubborn(gate))
    async with app:
        async with app.running(drain=0):
            await app.start(Stubborn, "x")
            await until(lambda: gate.entered)
        gate.opened.set()
        await until(lambda: app.sagas.threads.hung == 0)
    assert gate.entered == ["x"], "beside the next attempt"


def test_the_process_ends_though_one_hangs(tmp_path):
    """As it does for no thread of an executor: those are joined at the end."""
    program = tmp_path / "hangs.py"
    program.write_text(HANGS)
    done = subprocess.run(
        [sys.executable, str(program)], capture_output=True, text=True, timeout=60, check=False
    )
    assert (done.returncode, done.stdout) == (0, "left\n"), done.stderr
    assert "attempt 1 of act was given up" in done.stderr


HANGS = """
import asyncio, threading
from standfast import Context, Saga, Standfast, step

class Hangs(Saga[str]):
    @step(no_compensation="paper")
    def act(self, word: str, ctx: Context) -> None:
        begun.set()
        threading.Event().wait()

begun = threading.Event()

async def main():
    app = Standfast("memory://").add(Hangs())
    async with app.running(drain=0):
        await app.start(Hangs, "x")
        await asyncio.to_thread(begun.wait)
    print("left")

asyncio.run(main())
"""


# -- how many ------------------------------------------------------------------------------------


class Few(Patient):
    threads = 2


async def test_no_more_run_at_once_than_the_app_says(work, gate):
    app = await work(Patient(gate), threads=3)
    handles = [await app.start(Patient, str(n)) for n in range(6)]
    await until(lambda: app.sagas.threads.waiting == 3)
    assert len(gate.entered) == app.sagas.threads.busy == 3
    gate.opened.set()
    for handle in handles:
        await handle.result(PATIENCE)
    assert len(gate.threads) == 3


async def test_a_saga_that_has_a_limit_leaves_threads_to_others(work, gate):
    other = Gate()
    app = await work(Few(gate), Patient(other), threads=4)
    handles = [await app.start(Few, str(n)) for n in range(8)]
    await until(lambda: len(gate.entered) == 2)
    handles.append(await app.start(Patient, "other"))
    await until(lambda: other.entered)
    assert len(gate.entered) == 2
    other.opened.set()
    gate.opened.set()
    for handle in handles:
        await handle.result(PATIENCE)
    assert len(gate.entered) == 8


class Impatient(Saga[str]):
    threads = 1

    def __init__(self, gate: Gate) -> None:
        self.gate = gate

    @step(
        timeout=0.1,
        retry=Retry(attempts=1, backoff=Constant(0.01)),
        when=lambda self, word, ctx: word == "b",
        no_compensation="paper",
    )
    def act(self, word: str, ctx: Context) -> str:
        return self.gate.pass_through(word)

    @step(when=lambda self, word, ctx: word == "a", no_compensation="paper", after=())
    def hold(self, word: str, ctx: Context) -> str:
        return self.gate.pass_through(word)


@pytest.mark.parametrize("app_wide", [False, True])
async def test_one_that_got_no_thread_in_time_wasnt_tried(work, gate, app_wide, monkeypatch):
    if app_wide:
        monkeypatch.setattr(Impatient, "threads", None)
    app = await work(Impatient(gate), threads=1)
    first = await app.start(Impatient, "a")
    await until(lambda: gate.entered == ["a"])
    second = await app.start(Impatient, "b")

    async def rejections() -> list[fx.AttemptFailed]:
        facts = (await second.story()).facts
        return [one for one in facts if isinstance(one, fx.AttemptFailed) and one.rejected]

    await until(rejections)
    (failed, *_) = await rejections()
    assert "no thread was free for it within 0.1 s" in failed.error
    gate.opened.set()
    assert (await second.result(PATIENCE))["act"] == "b through"
    await first.result(PATIENCE)
    assert gate.entered == ["a", "b"]


async def test_when_all_are_kept_by_what_was_given_up_it_is_told_and_health_says_so(
    work, gate, caplog
):
    from standfast.cli.health import observe

    app = await work(Slow(gate), threads=2)
    assert app.supervisor is not None
    for word in ("x", "y"):
        await app.start(Slow, word)
    await until(lambda: app.sagas.threads.hung == 2)
    said = [one.getMessage() for one in caplog.records if "runs here any more" in one.getMessage()]
    assert len(said) == 1
    assert "all 2 threads are kept" in said[0]
    for judge in (liveness, readiness):
        (bad,) = [one for one in judge(observe(app.supervisor, 10)).checks if not one.ok]
        assert bad.name == "service:sagas"
        assert "all 2 threads are kept" in bad.reason
    gate.opened.set()
    await until(lambda: app.sagas.threads.hung == 0)
    assert readiness(observe(app.supervisor, 10)).ok


class SlowFew(Slow):
    threads = 1


async def test_when_all_of_a_sagas_own_are_kept_that_is_told_too(work, gate, caplog):
    app = await work(SlowFew(gate), threads=2)
    await app.start(SlowFew, "x")
    await until(lambda: app.sagas.threads.hung == 1)
    assert "no `def` step of saga slow-few runs here any more: all of its 1 threads" in caplog.text
    assert not app.sagas.threads.hindrance


# -- transactions --------------------------------------------------------------------------------

TABLE = "CREATE TABLE moves (amount INTEGER)"


class Transfer(Saga[int]):
    def __init__(self) -> None:
        self.gate: Gate | None = None
        self.refused = False
        self.late: list[BaseException] = []
        self.ended = threading.Event()

    @step(
        transactional=True,
        timeout="1s",
        retry=Retry(attempts=9, backoff=Constant(0.01)),
        pivot=True,
    )
    def withdraw(self, amount: int, ctx: Context, tx: BlockingTransaction) -> int:
        tx.execute("INSERT INTO moves (amount) VALUES ($1)", -amount)
        if self.gate is not None and ctx.attempt == 1:
            try:
                self.gate.pass_through("withdraw")
                tx.execute("INSERT INTO moves (amount) VALUES (99)")
            except StoreError as error:
                self.late.append(error)
            finally:
                self.ended.set()
        if self.refused:
            raise Refused("no")
        tx.start(Trip, "a", key=str(amount))
        return int(tx.fetch_value("SELECT count(*) FROM moves"))

    @step(transactional=True, no_compensation="paper")
    def count(self, amount: int, ctx: Context, tx: BlockingTransaction) -> list[int]:
        return [row[0] for row in tx.fetch("SELECT amount FROM moves")]


@asynccontextmanager
async def at_work(url: str, transfer: Transfer) -> AsyncIterator[Standfast]:
    app = Standfast(url, migrate=True).add(transfer, Trip())
    async with app.running(drain=2):
        async with app.transaction() as tx:
            await tx.execute(TABLE)
        yield app


async def test_its_rows_commit_with_its_facts(durable_url, caplog):
    async with at_work(durable_url, Transfer()) as app:
        result = await (await app.start(Transfer, 7)).result(PATIENCE)
        assert result.as_dict() == {"withdraw": 1, "count": [-7]}
        await (await app.saga(Trip, "7")).result(PATIENCE)
        assert not given_up(caplog)


async def test_its_rows_are_rolled_back_when_it_fails(durable_url):
    transfer = Transfer()
    transfer.refused = True
    async with at_work(durable_url, transfer) as app:
        with pytest.raises(SagaCompensated):
            await (await app.start(Transfer, 7)).result(PATIENCE)
        async with app.transaction() as tx:
            assert await tx.fetch_value("SELECT count(*) FROM moves") == 0


async def test_what_was_given_up_can_write_no_more(durable_url, gate):
    transfer = Transfer()
    transfer.gate = gate
    async with at_work(durable_url, transfer) as app:
        result = await (await app.start(Transfer, 7)).result(PATIENCE)
        gate.opened.set()
        await until(transfer.ended.is_set)
        (late,) = transfer.late
        assert "was given up, and the transaction is rolled back" in str(late)
        assert result["count"] == [-7]


# -- simulations ---------------------------------------------------------------------------------


def test_a_simulation_runs_it_in_line():
    run = run_saga(Trip(), "a b")
    assert run[Trip.reserve] == threading.current_thread().name
    assert run.trace == ["reserve", "charge", "label[0]", "label[1]"]
    run = run_saga([Transfer(), Trip()], 7, schema=TABLE)
    assert run.results == {"withdraw": 1, "count": [-7]}


class Sleepy(Saga[str]):
    @step(no_compensation="paper")
    def act(self, word: str, ctx: Context) -> None:
        time.sleep(1)


def test_a_simulation_refuses_one_that_sleeps_for_real():
    with pytest.raises(RealIO, match=r"time\.sleep\(1\) was called"):
        run_saga(Sleepy(), "x")


class Twin(Saga[int]):
    """As `DefTwin`, but for the `def`."""

    name = "twin"

    @step
    async def take(self, amount: int, ctx: Context) -> int:
        return amount

    @take.compensation
    async def put_back(self, amount: int, ctx: Context) -> None: ...

    @step(transactional=True)
    async def note(self, amount: int, ctx: Context, tx: Transaction) -> int:
        await tx.execute("INSERT INTO moves (amount) VALUES ($1)", amount)
        return amount

    @note.compensation(transactional=True)
    async def strike(self, amount: int, ctx: Context, tx: Transaction) -> None:
        await tx.execute("DELETE FROM moves")

    @step(each=lambda *_: [1, 2, 3], limit=2, timeout="5s")
    async def send(self, amount: int, ctx: Context, item: int) -> int:
        return ctx.result(self.take) * item

    @send.compensation
    async def call_back(self, amount: int, ctx: Context, item: int) -> None: ...


class DefTwin(Saga[int]):
    name = "twin"

    @step
    def take(self, amount: int, ctx: Context) -> int:
        return amount

    @take.compensation
    def put_back(self, amount: int, ctx: Context) -> None: ...

    @step(transactional=True)
    def note(self, amount: int, ctx: Context, tx: BlockingTransaction) -> int:
        tx.execute("INSERT INTO moves (amount) VALUES ($1)", amount)
        return amount

    @note.compensation(transactional=True)
    def strike(self, amount: int, ctx: Context, tx: BlockingTransaction) -> None:
        tx.execute("DELETE FROM moves")

    @step(each=lambda *_: [1, 2, 3], limit=2, timeout="5s")
    def send(self, amount: int, ctx: Context, item: int) -> int:
        return ctx.result(self.take) * item

    @send.compensation
    def call_back(self, amount: int, ctx: Context, item: int) -> None: ...


@pytest.mark.slow
def test_simulations_of_it_go_the_same_ways_as_those_of_an_async_def():
    """Seed by seed, so that they also go the same way each time."""
    ours, others = (simulate(one, 7, seeds=range(300), schema=TABLE) for one in (DefTwin, Twin))
    assert ours.seen == others.seen
    assert ours.coverage == others.coverage
    assert ours.outcomes["completed"]
    assert ours.outcomes["compensated"]
    assert ours.missed == []


def test_scenarios_of_it_are_those_of_an_async_def():
    told = "saga twin\ninput 7\n----\n\ntake -> 7\n----\n\nnote -> error boom\n----\n"
    played = play_scenario(told, DefTwin())
    assert "take completed 7" in played
    assert played == play_scenario(told, Twin())
