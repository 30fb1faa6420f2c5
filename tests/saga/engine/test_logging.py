"""What is logged when a saga fails, with which fields, how often; what the journal keeps of it."""

import asyncio
import logging
from types import SimpleNamespace
from typing import Any
from uuid import uuid4

import pytest

from standfast import (
    Context,
    Refused,
    Retry,
    Saga,
    SagaCompensated,
    SagaParked,
    Standfast,
    child,
    step,
)
from standfast.errors import CircuitOpen, CorruptRecord, StaleWriter, StoreUnavailable
from standfast.ports.journal import Instance, Mail
from standfast.saga import facts as fx
from standfast.saga.saga_log import MOST, PERIOD, Limit, SagaLog, log_fields_of
from standfast.saga.timeline import entries, go_on
from standfast.saga.tracebacks import LENGTH, can_be_printed, traceback_of
from standfast.testing import ManualClock
from tests.saga.engine.test_races import Asks
from tests.saga.engine.world import SOON, Order, Trip, until
from tests.saga.test_timeline import CHILD, FACTS, PARENT

WITHIN = 10
FIELDS = ("saga", "saga_id", "key", "step", "operation", "attempt", "correlation_id", "worker")


@pytest.fixture(autouse=True)
def _everything(caplog):
    caplog.set_level(logging.DEBUG, "standfast.saga")


def records(caplog, level):
    found = [r for r in caplog.records if r.name == "standfast.saga" and r.levelno == level]
    return [{name: getattr(r, name) for name in FIELDS if hasattr(r, name)} for r in found]


async def test_each_failed_attempt_is_a_warning_with_its_fields_and_its_traceback(
    work, world, caplog
):
    world.will("charge", OSError("reset"), OSError("again"))
    app = await work(Trip(world), name="worker-7")
    handle = await app.start(Trip, Order("1"), key="k", correlation_id="c")
    await handle.result(timeout=WITHIN)
    about = {"saga": "trip", "saga_id": str(handle.id), "key": "k", "correlation_id": "c"}
    there = {"step": "charge", "operation": "action", "worker": "worker-7"}
    assert records(caplog, logging.WARNING) == [
        {**about, **there, "attempt": 1},
        {**about, **there, "attempt": 2},
    ]
    (first, _) = [r for r in caplog.records if r.levelno == logging.WARNING]
    assert first.getMessage() == f"saga trip {handle.id}: charge, attempt 1 failed: OSError: reset"
    assert first.exc_info is not None
    assert str(first.exc_info[1]) == "reset"
    assert not records(caplog, logging.ERROR)
    assert not records(caplog, logging.INFO)


async def test_that_it_parks_and_that_an_undo_is_exhausted_are_errors(work, world, caplog):
    class Stuck(Saga[Order]):
        @step(no_compensation="a test", on_exhausted="park", retry=Retry(attempts=1))
        async def hold(self, order: Order, ctx: Context) -> None:
            raise OSError("held")

    world.will("note", Refused("no"))
    world.will("refund", *[OSError("undo")] * 3)
    app = await work(Trip(world), Stuck())
    for saga in (Stuck, Trip):
        with pytest.raises(SagaParked):
            await (await app.start(saga, Order("1"))).result(timeout=WITHIN)
    told = [(r["saga"], r["step"], r["operation"], r["attempt"]) for r in records(caplog, 40)]
    assert told == [("stuck", "hold", "action", 1), ("trip", "charge", "compensation", 3)]
    undos = [r for r in records(caplog, logging.WARNING) if r["operation"] == "compensation"]
    assert [r["attempt"] for r in undos] == [1, 2, 3]


async def test_what_business_says_and_what_wasnt_tried_are_no_warnings(work, world, caplog):
    world.will("charge", CircuitOpen("open", retry_after=0.01))
    world.will("note", Refused("no paper"))
    app = await work(Trip(world))
    with pytest.raises(SagaCompensated):
        await (await app.start(Trip, Order("1"))).result(timeout=WITHIN)
    assert not records(caplog, logging.WARNING)
    told = [r.getMessage().partition(": ")[2] for r in caplog.records if r.levelno == logging.INFO]
    assert told == [
        "charge wasn't tried: CircuitOpen: open",
        "note refused: no paper",
        "compensation started (note refused: no paper)",
        "note refused: no paper",
    ], "the last one says that it is compensated, and why"
    assert not [r for r in caplog.records if r.exc_info]


async def test_results_and_inputs_are_never_logged(work, world, caplog):
    class Secret(Saga[str]):
        @step(each=lambda self, secret, ctx: [secret], no_compensation="a test")
        async def first(self, secret: str, ctx: Context, item: str) -> str:
            return secret

        inner = child(Trip, lambda self, secret, ctx: Order(secret))

    app = await work(Secret(), Trip(world))
    await (await app.start(Secret, "hunter2")).result(timeout=WITHIN)
    assert len(caplog.records) > 3
    assert "hunter2" not in caplog.text


def test_of_one_step_so_many_pass_in_a_period_and_the_rest_is_counted():
    limit, source = Limit(2, 10.0), ("s", "a", "action")
    assert [limit.admits(source, now) for now in (0, 1, 2, 3)] == [True, True, False, False]
    assert limit.admits(("s", "b", "action"), 3)
    assert limit.take_left_out(source) == 2
    assert limit.take_left_out(source) == 0
    assert [limit.admits(source, now) for now in (4, 5, 6)] == [True, True, False]
    assert [limit.admits(source, now) for now in (14, 15, 16)] == [True, True, False]


async def test_a_storm_of_failures_is_told_in_ten_lines_and_how_many_there_were_more(
    work, world, caplog
):
    class Storm(Saga[Order]):
        @step(no_compensation="a test", retry=Retry(attempts=1))
        async def fall(self, order: Order, ctx: Context) -> None:
            raise OSError(order.id)

    app = await work(Storm(), Trip(world))
    begun = await asyncio.gather(*(app.start(Storm, Order(str(n))) for n in range(25)))
    for handle in begun:
        with pytest.raises(SagaCompensated):
            await handle.result(timeout=WITHIN)
    warnings = [r for r in caplog.records if r.levelno == logging.WARNING]
    assert len(warnings) == MOST
    world.will("charge", OSError("another step is told all the same"))
    await (await app.start(Trip, Order("1"))).result(timeout=WITHIN)
    assert len(records(caplog, logging.WARNING)) == MOST + 1
    app.sagas.executor._runner._log.close()
    last = caplog.records[-1]
    assert last.getMessage().startswith(
        "saga storm: 15 more failed attempts of fall weren't logged"
    )
    assert (last.saga, last.step, last.left_out) == ("storm", "fall", 15)


async def test_what_was_left_out_is_told_when_the_minute_is_over(caplog, monkeypatch):
    monkeypatch.setattr("standfast.saga.saga_log.PERIOD", 0.05)
    log = SagaLog("w", ManualClock())
    source = ("s", "a", "compensation")
    passed = [log._admits(source) for _ in range(MOST + 3)]
    assert passed == [True] * MOST + [False] * 3
    await until(lambda: any("3 more failed attempts of undo of a" in m for m in caplog.messages))
    assert PERIOD == 60


async def test_what_was_left_out_is_told_though_failures_go_on_when_the_minute_is_over(caplog):
    clock = ManualClock()
    log, source = SagaLog("w", clock), ("s", "a", "action")
    for _ in range(MOST - 1):
        log._admits(source)
    clock.advance(PERIOD - 1)
    assert [log._admits(source) for _ in range(4)] == [True, False, False, False]
    clock.advance(2)
    assert log._admits(source), "the next minute has begun"
    assert ["3 more failed attempts of a" in message for message in caplog.messages] == [True]
    log.close()
    assert len(caplog.messages) == 1


async def test_what_no_worker_has_and_what_was_left_out_have_all_the_fields(caplog):
    log = SagaLog("w", ManualClock())
    for _ in range(MOST + 1):
        log._admits(("s", "a", "action"))
    log.close()
    (left_out,) = caplog.records
    assert all(hasattr(left_out, name) for name in FIELDS)
    row = Instance(
        uuid4(), "saga", "s", 1, "k", "c", "", "running", "a", "", None, 0, None, 0, 0, 0
    )
    assert set(log_fields_of(row, "w")) == set(FIELDS)


async def test_a_handler_that_raises_doesnt_fail_the_attempt_in_another_way(work, world, caplog):
    class Broken(logging.Filter):
        def filter(self, record: logging.LogRecord) -> bool:
            if record.levelno == logging.WARNING:
                raise ValueError("the log is full")
            return True

    broken = Broken()
    logging.getLogger("standfast.saga").addFilter(broken)
    try:
        world.will("charge", OSError("reset"))
        app = await work(Trip(world))
        handle = await app.start(Trip, Order("1"))
        await handle.result(timeout=WITHIN)
    finally:
        logging.getLogger("standfast.saga").removeFilter(broken)
    failed = [f for f in (await handle.story()).facts if isinstance(f, fx.AttemptFailed)]
    assert [f.error for f in failed] == ["OSError: reset"]


async def test_what_a_step_logs_is_told_whatever_its_saga_is_called(work, caplog):
    class Sale(Saga[str]):
        name = "50% off"

        @step(no_compensation="a test")
        async def sell(self, key: str, ctx: Context) -> None:
            ctx.log.info("sold %d", 3)
            ctx.log.info("100%")

    app = await work(Sale())
    handle = await app.start(Sale, "1")
    await handle.result(timeout=WITHIN)
    told = [r for r in caplog.records if r.funcName == "sell"]
    assert [r.getMessage() for r in told] == [
        f"[50% off {handle.id} sell] sold 3",
        f"[50% off {handle.id} sell] 100%",
    ]


# -- what the journal keeps ------------------------------------------------------------------------


class Deep(Saga[str]):
    """Fails in the same way each time, but for the last."""

    @step(retry=SOON, no_compensation="a test")
    async def dig(self, key: str, ctx: Context) -> None:
        await self.deeper("the last" if ctx.attempt == 3 else "as ever")

    async def deeper(self, why: str) -> None:
        try:
            raise KeyError("root")
        except KeyError as error:
            raise OSError(why) from error


async def test_the_journal_keeps_where_an_error_was_raised_once_for_the_same(work):
    app = await work(Deep())
    handle = await app.start(Deep, "1")
    with pytest.raises(SagaCompensated):
        await handle.result(timeout=WITHIN)
    facts = (await handle.story()).facts
    first, second = [f for f in facts if isinstance(f, fx.AttemptFailed)]
    (third,) = [f for f in facts if isinstance(f, fx.StepFailed)]
    assert first.traceback.startswith("Traceback (most recent call last)")
    assert 'raise KeyError("root")' in first.traceback
    assert first.traceback.endswith("OSError: as ever")
    assert "in dig" in first.traceback
    assert "standfast/saga" not in first.traceback, "the library's own frames say nothing"
    assert second.traceback == ""
    assert third.traceback.endswith("OSError: the last")
    told = [entry.traceback for entry in entries(facts) if entry.mood == "bad"]
    assert told == [first.traceback, "", third.traceback, ""]


def test_a_traceback_is_bounded_and_can_be_had_of_anything():
    def dive(depth: int) -> None:
        if depth:
            dive(depth - 1)
        raise OSError("x" * 10_000 + "\0\ud800")

    class Odd(Exception):
        def __str__(self) -> str:
            raise BaseException("no")

    for make in (lambda: dive(500), lambda: dive(0)):
        with pytest.raises(OSError) as caught:
            make()
        text = traceback_of(caught.value)
        assert 1000 < len(text) <= LENGTH + 10
        assert "\0" not in text
        text.encode()
    assert "Odd" in traceback_of(Odd())
    loop = OSError("a")
    loop.__cause__ = loop
    assert "OSError: a" in traceback_of(loop)


def test_of_an_error_that_was_raised_before_the_traceback_tells_of_this_time():
    stored = OSError("kept")

    def once(number):
        def raised():
            raise stored

        def second():
            raise stored

        try:
            raised() if number else second()
        except OSError:
            return stored

    for number in range(50):
        told = traceback_of(once(number))
        assert told.count(", in ") == 2
        assert told.endswith("OSError: kept")
        assert ("in second" in told) is (number == 0)
        assert can_be_printed(stored)


def test_a_fact_of_before_there_were_tracebacks_is_read():
    old = '{"kind":"step_parked","at":1.0,"branch":"a","error":"e","attempt":2}'
    fact = fx.decode(old, 3)
    assert isinstance(fact, fx.StepParked)
    assert fact.traceback == ""
    assert "traceback" not in fx.encode(fact)
    again = fx.decode(
        '{"kind":"attempt_failed","at":1,"branch":"a","attempt":1,"error":"e",'
        '"retry_at":2,"since":1}',
        3,
    )
    assert isinstance(again, fx.AttemptFailed)
    assert not again.rejected


async def test_what_was_left_out_is_told_at_the_end_of_the_work(world, caplog):
    app = Standfast("memory://").add(Trip(world))
    world.will("reserve", *[OSError("away")] * 36)
    async with app.running(drain=5, name="here"):
        for number in range(12):
            with pytest.raises(SagaCompensated):
                await (await app.start(Trip, Order(f"{number}"))).result(WITHIN)
        assert not [one for one in caplog.messages if "weren't logged" in one]
    (told,) = [r for r in caplog.records if "weren't logged" in r.getMessage()]
    assert told.getMessage() == (
        "saga trip: 26 more failed attempts of reserve weren't logged, of at most 10 in 60 s"
    )
    assert (told.worker, told.left_out, told.step, told.operation) == (
        "here",
        26,
        "reserve",
        "action",
    )


async def test_mail_that_cant_be_read_is_told_once_and_dropped(caplog):
    app = Standfast("memory://").add(Asks())
    async with app.running(drain=5):
        handle = await app.start(Asks, 7, key="k", correlation_id="c")
        await until(lambda: not app.sagas.executor.active)  # it waits, in the store
        odd = Mail(handle.id, "m1", "odd", "{", app.clock.now())
        await app.sagas.store.send([odd])
        app.sagas.executor.sent(handle.id)
        await until(lambda: records(caplog, logging.ERROR))
        await handle.signal("go")
        assert (await handle.result(WITHIN))["act"] == 7
        (loaded,) = await app.sagas.store.load([handle.id])
        assert loaded.mails == []
    (told,) = [r for r in caplog.records if r.levelno == logging.ERROR]
    assert told.getMessage() == f"saga asks {handle.id}: dropped unreadable mail m1"
    assert told.exc_info
    (fields,) = records(caplog, logging.ERROR)
    assert (fields["saga"], fields["key"], fields["correlation_id"]) == ("asks", "k", "c")


async def test_what_cant_be_set_aside_yet_is_told_and_set_aside_later(caplog, monkeypatch):
    app = Standfast("memory://").add(Asks())
    store, fails = app.sagas.store, [StoreUnavailable("away")]
    sets = store.set_aside

    async def set_aside(*args: Any, **options: Any) -> None:
        if fails:
            raise fails.pop()
        await sets(*args, **options)

    def unreadable(loaded: Any) -> Any:
        raise CorruptRecord("row 1 can't be read")

    monkeypatch.setattr(store, "set_aside", set_aside)
    async with app:
        handle = await app.start(Asks, 7)
    monkeypatch.setattr(app.sagas.definitions, "machine", unreadable)
    async with app.running(drain=5, poll=0.1):

        async def is_parked() -> bool:
            return await handle.status() == "parked"

        await until(is_parked)
        assert (await app.sagas.instance(handle.id)).cause == "row 1 can't be read"
        assert app.sagas.telemetry.set_aside == 2
    told = [r.getMessage() for r in caplog.records if r.levelno == logging.ERROR]
    begin = f"saga asks {handle.id}"
    assert told == [
        f"{begin} can't be run: row 1 can't be read",
        f"{begin} couldn't be set aside; trying again",
        f"{begin} can't be run: row 1 can't be read",
    ]
    assert {one["worker"] for one in records(caplog, logging.ERROR)} != {""}


async def test_a_write_that_is_refused_is_told_and_the_instance_read_anew(caplog, monkeypatch):
    app = Standfast("memory://").add(Asks())
    store, refusals = app.sagas.store, [StaleWriter("it already has a fact 1: load it anew")]
    appends = store.append

    async def append(owner: int, some: Any) -> Any:
        return [refusals.pop()] if refusals else await appends(owner, some)

    monkeypatch.setattr(store, "append", append)
    async with app.running(drain=5):
        handle = await app.start(Asks, 7)
        await until(lambda: records(caplog, logging.WARNING))
        await handle.signal("go")
        assert (await handle.result(WITHIN))["act"] == 7
    (told,) = [r for r in caplog.records if r.levelno == logging.WARNING]
    assert told.getMessage() == f"saga asks {handle.id}: it already has a fact 1: load it anew"
    assert records(caplog, logging.WARNING)[0]["saga_id"] == str(handle.id)


def test_each_fact_is_told_at_its_level_with_why_and_without_values(caplog):
    """At INFO what somebody caused or what turns a saga round; as an error what is stuck."""
    branches = {fact.branch for fact in FACTS if hasattr(fact, "branch")}
    machine = SimpleNamespace(
        id=PARENT,
        started=FACTS[0],
        branches={name: SimpleNamespace(id=name) for name in branches},
        outcome="compensated",
        cause="cancelled",
    )
    active: Any = SimpleNamespace(
        definition=SimpleNamespace(name="sell"), id=PARENT, machine=machine
    )
    log = SagaLog("w", ManualClock())
    left = fx.Resolved(at=1.0, outcome="completed", reason="x", by="ann", children=[CHILD])
    plain = fx.StepSkipped(at=1.0, branch="gift")
    caplog.set_level(logging.DEBUG, logger="standfast.saga")
    for fact in (*FACTS, left, plain):
        log.stored(active, fact)
    begin = f"saga sell {PARENT}"
    told = [(r.levelname, r.getMessage().removeprefix(begin)) for r in caplog.records]
    assert told == [
        ("DEBUG", ": started"),
        ("DEBUG", ": begun"),
        ("DEBUG", ": pack: fanned out"),
        ("DEBUG", ": pack[0]: step completed"),
        ("DEBUG", ": pack[1]: step completed"),
        ("DEBUG", ": charge: attempt failed (OSError: away)"),
        ("ERROR", " is parked at charge, for an operator: OSError: away"),
        ("INFO", ": charge: resumed (ann)"),
        ("DEBUG", ": deliver: child started"),
        ("DEBUG", ": cool_off: sleep started"),
        ("DEBUG", ": signal received"),
        ("INFO", ": gift: step skipped (none asked for)"),
        ("INFO", ": migrated (bob)"),
        ("INFO", ": cancel requested (changed my mind)"),
        ("DEBUG", ": ship: step failed (no such street)"),
        ("DEBUG", ": bill: step failed (gone)"),
        ("INFO", ": compensation started (cancelled)"),
        ("DEBUG", ": charge: compensation attempt failed (OSError)"),
        (
            "ERROR",
            ": the undo of charge failed for good, an operator must see to it: OSError",
        ),
        ("INFO", ": charge: compensation skipped (paid back in cash)"),
        ("DEBUG", ": deliver: child undo requested"),
        ("DEBUG", ": pack[0]: compensation completed"),
        ("INFO", ": resolved (done by hand)"),
        ("INFO", ": ignored (retry)"),
        ("WARNING", f" was resolved by hand: {go_on([CHILD])}"),
        ("DEBUG", ": gift: step skipped"),
    ]
    fields = [{name: getattr(r, name) for name in FIELDS} for r in caplog.records]
    whole = {"saga": "sell", "saga_id": str(PARENT), "key": "k", "correlation_id": "k"}
    assert all(one.items() >= {**whole, "worker": "w"}.items() for one in fields)
    assert [(f["step"], f["operation"], f["attempt"]) for f in fields if f["attempt"] > 1] == [
        ("pack[1]", "", 3),
        ("charge", "action", 2),
        ("bill", "", 5),
        ("charge", "compensation", 2),
    ]
    caplog.clear()
    log.ended(active)
    machine.outcome = "completed"
    log.ended(active)
    assert [(r.levelname, r.getMessage().removeprefix(begin)) for r in caplog.records] == [
        ("INFO", " is compensated: cancelled"),
        ("DEBUG", " is completed"),
    ]
