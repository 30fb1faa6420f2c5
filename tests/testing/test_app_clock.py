"""Time that a test moves, for apps with the real engine, on each backend."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import pytest

from standfast import (
    ConfigurationError,
    Constant,
    Context,
    Saga,
    Standfast,
    Transaction,
    child,
    sleep,
    step,
    wait,
)
from standfast.clock import AdjustedClock
from standfast.resilience import Retry
from standfast.testing import (
    AppClock,
    assert_compensated,
    assert_completed,
    assert_parked,
)

DAY = 86_400.0
BEGIN = 1_700_000_000.0
Log: TypeAlias = list[tuple[float, str]]
Running: TypeAlias = Callable[..., AbstractAsyncContextManager[Standfast]]


@pytest.fixture(params=["memory", "sqlite", "postgres"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "postgres":
        return str(request.getfixturevalue("postgres_dsn"))
    return "memory://" if request.param == "memory" else f"sqlite:///{tmp_path / 'test.db'}"


@pytest.fixture
def clock() -> AppClock:
    return AppClock(wall=BEGIN)


@pytest.fixture
def running(url: str, clock: AppClock) -> Running:
    @asynccontextmanager
    async def run(*sagas: Saga[Any], **options: Any) -> AsyncIterator[Standfast]:
        app = Standfast(url, clock=clock.for_apps, migrate=True).add(*sagas)
        clock.drive(app)
        async with app.running(drain=1.0, **options):
            yield app

    return run


class Told(Saga[str]):
    """What it does is written down, with the days that have passed."""

    def __init__(self, clock: AppClock, log: Log) -> None:
        self.clock = clock
        self.log = log

    def tell(self, text: str) -> None:
        self.log.append((round((self.clock.now() - BEGIN) / DAY, 6), text))


class Remind(Told):
    name, version = "remind", 1

    @step(no_compensation="nothing to undo")
    async def first(self, order: str, ctx: Context) -> None:
        self.tell(f"first {order}")

    pause = sleep("3d")

    @step(no_compensation="nothing to undo")
    async def second(self, order: str, ctx: Context) -> None:
        self.tell(f"second {order}")


async def test_what_is_due_by_then_has_been_run_and_nothing_else(
    clock: AppClock, running: Running
) -> None:
    log: Log = []
    async with running(Remind(clock, log)) as app:
        handle = await app.start(Remind, "a")
        await clock.advance("2d23h59m59s")
        assert log == [(0, "first a")]
        assert await handle.status() == "waiting"
        await clock.advance("1s")
        assert log == [(0, "first a"), (3, "second a")]
        assert await handle.status() == "completed"


async def test_it_is_run_in_the_order_of_its_times(clock: AppClock, running: Running) -> None:
    log: Log = []
    async with running(Remind(clock, log)) as app:
        for hours in (30, 6, 18, 0, 12, 24):
            await app.start(Remind, f"{hours}", after=f"{hours}h")
        await clock.advance("10d")
    hours_in_order = [0, 6, 12, 18, 24, 30]
    assert log == [
        *((hours / 24, f"first {hours}") for hours in hours_in_order),
        *((3 + hours / 24, f"second {hours}") for hours in hours_in_order),
    ]


@pytest.mark.parametrize("linger", [0.001, "30d"])
async def test_it_makes_no_difference_whether_sagas_stay_in_memory(
    clock: AppClock, running: Running, linger: float | str
) -> None:
    log: Log = []
    async with running(Remind(clock, log), linger=linger, max_in_flight=100) as app:
        handles = [await app.start(Remind, f"{n}", after=f"{n % 7}h") for n in range(40)]
        await clock.advance("4d")
        assert {await handle.status() for handle in handles} == {"completed"}
    assert log == sorted(log, key=lambda told: told[0])
    assert len(log) == 80


class Chase(Told):
    """Attempts that fail, a wait that times out, a child, a deadline."""

    name, version, deadline = "chase", 1, "10d"

    async def ask(self, order: str) -> None:
        self.tell(f"ask {order}")
        raise ConnectionError("away")

    @step(retry=Retry(attempts=3, backoff=Constant("12h")))
    async def reserve(self, order: str, ctx: Context) -> None:
        self.tell(f"reserve {ctx.attempt}")
        if ctx.attempt < 3:
            raise ConnectionError("away")

    @reserve.compensation
    async def release(self, order: str, ctx: Context) -> None:
        self.tell("release")

    reminder = child(Remind, lambda self, order, ctx: order)
    paid = wait("paid", timeout="9d")


async def test_retries_children_and_deadlines(clock: AppClock, running: Running) -> None:
    log: Log = []
    async with running(Chase(clock, log), Remind(clock, log)) as app:
        handle = await app.start(Chase, "a")
        await clock.advance("9d23h")
        assert log == [
            (0, "reserve 1"),
            (0.5, "reserve 2"),
            (1, "reserve 3"),
            (1, "first a"),
            (4, "second a"),
        ]
        assert await handle.status() == "waiting"
        await clock.advance("1h")
        await assert_compensated(handle, because="deadline")
        assert log[-1] == (10, "release")


async def test_a_signal_that_came_is_acted_on(clock: AppClock, running: Running) -> None:
    log: Log = []
    async with running(Chase(clock, log), Remind(clock, log)) as app:
        handle = await app.start(Chase, "a")
        await clock.advance("5d")
        await handle.signal("paid")
        await clock.advance(0)
        assert await handle.status() == "completed"


@pytest.mark.parametrize("url", ["sqlite", "postgres"], indirect=True)
async def test_and_one_that_another_process_sent(url: str, clock: AppClock) -> None:
    def app() -> Standfast:
        sagas = Chase(clock, []), Remind(clock, [])
        return Standfast(url, clock=clock.for_apps, migrate=True).add(*sagas)

    worker, client = app(), app()
    clock.drive(worker)
    async with worker.running(drain=1.0, linger="30d", poll="1h"), client:
        handle = await client.start(Chase, "a")
        await clock.advance("5d")
        await handle.signal("paid")
        await clock.advance(0)
        assert await handle.status() == "completed"


class Slow(Told):
    """A step that takes its time by the clock."""

    name, version = "slow", 1

    @step(
        timeout="30s",
        retry=Retry(attempts=2, backoff=Constant("1m")),
        on_exhausted="park",
        no_compensation="nothing",
    )
    async def charge(self, order: str, ctx: Context) -> str:
        assert ctx.deadline is not None
        self.tell(f"charge, {ctx.deadline - self.clock.now():g}s left")
        await self.clock.sleep(float(order))
        return "paid"


@pytest.mark.parametrize(("takes", "attempts"), [("29", 1), ("31", 2)])
async def test_the_timeout_of_a_step_goes_by_it(
    clock: AppClock, running: Running, takes: str, attempts: int
) -> None:
    log: Log = []
    async with running(Slow(clock, log)) as app:
        handle = await app.start(Slow, takes)
        await clock.advance("28s")
        assert await handle.status() == "running"
        await clock.advance("1h")
        if attempts == 1:
            assert (await assert_completed(handle))[Slow.charge] == "paid"
        else:
            await assert_parked(handle, because="timed out")
    assert [text for _, text in log] == ["charge, 30s left"] * attempts


class Rests(Told):
    """Sleeps by the clock, and then works in real time."""

    name, version = "rests", 1

    @step(no_compensation="nothing")
    async def rest(self, order: str, ctx: Context) -> None:
        await self.clock.sleep(DAY)

    @step(no_compensation="nothing")
    async def work(self, order: str, ctx: Context) -> None:
        await asyncio.sleep(0.2)
        self.tell("worked")


async def test_what_has_slept_before_is_waited_for_when_it_works(
    clock: AppClock, running: Running
) -> None:
    log: Log = []
    async with running(Rests(clock, log)) as app:
        await app.start(Rests, "a")
        await clock.advance("3d")
        assert log == [(1, "worked")]


class Pay(Told):
    """Several at once, and rows of one's own."""

    name, version = "pay", 1

    @step(each=lambda self, order, ctx: [3.0, 1.0, 2.0], limit=2, no_compensation="nothing")
    async def pack(self, order: str, ctx: Context, hours: float) -> None:
        await self.clock.sleep(hours * 3600)
        self.tell(f"packed {hours:g}")

    pause = sleep("1d")

    @step(transactional=True, no_compensation="nothing")
    async def book(self, order: str, ctx: Context, tx: Transaction) -> None:
        await tx.start(Remind, order)


async def test_parallel_attempts_and_transactional_steps(clock: AppClock, running: Running) -> None:
    log: Log = []
    async with running(Pay(clock, log), Remind(clock, log)) as app:
        handle = await app.start(Pay, "a")
        await clock.advance("30d")
        await assert_completed(handle)
    # Two at once: the third begins an hour later, when the second is packed.
    packed = [
        (round(hours / 24, 6), f"packed {items}") for hours, items in ((1, 1), (3, 3), (3, 2))
    ]
    assert sorted(log[:3]) == sorted(packed)
    assert log[3:] == [(1.125, "first a"), (4.125, "second a")]


@dataclass
class Gate:
    """What a step waits for that isn't the clock."""

    opened: asyncio.Event


class Hangs(Saga[str]):
    name, version = "hangs", 1

    def __init__(self, gate: Gate) -> None:
        self.gate = gate

    @step(no_compensation="nothing")
    async def pass_through(self, order: str, ctx: Context) -> None:
        await self.gate.opened.wait()


async def test_time_cannot_pass_over_what_waits_for_something_else(
    clock: AppClock, running: Running
) -> None:
    gate = Gate(asyncio.Event())
    async with running(Hangs(gate)) as app:
        handle = await app.start(Hangs, "a", key="order-7")
        with pytest.raises(TimeoutError, match=r"hangs 'order-7' in pass_through.*clock\.sleep"):
            await clock.advance("1d", patience=0.05)
        assert clock.now() == BEGIN
        gate.opened.set()
        await clock.advance("1d")
        assert await handle.status() == "completed"
        assert clock.now() == BEGIN + DAY


async def test_one_moves_it_at_a_time() -> None:
    clock = AppClock(wall=BEGIN)
    first, second = await asyncio.gather(
        clock.advance("2d"), clock.advance("2d"), return_exceptions=True
    )
    assert first is None
    assert isinstance(second, ConfigurationError)
    assert "one after the other" in f"{second}"
    await clock.advance("2d")
    assert clock.now() == BEGIN + 4 * DAY


def test_it_drives_apps_that_have_it() -> None:
    clock, other = AppClock(), AppClock()
    for app in (Standfast("memory://"), Standfast("memory://", clock=other.for_apps)):
        with pytest.raises(ConfigurationError, match=r"clock=clock\.for_apps"):
            clock.drive(app)


async def test_a_saga_that_waits_tells_that_time_stands_still(
    clock: AppClock, running: Running
) -> None:
    async with running(Remind(clock, [])) as app:
        handle = await app.start(Remind, "a", key="order-7")
        with pytest.raises(
            AssertionError, match=r"with key 'order-7'.*time stands still at 2023-11-14 22:13:20Z"
        ):
            await assert_completed(handle, timeout=0.05)


@pytest.mark.parametrize(
    ("check", "wanted"), [(assert_compensated, "compensated"), (assert_parked, "parked")]
)
async def test_whatever_end_it_doesnt_come_to_its_story_is_told(
    clock: AppClock, running: Running, check: Any, wanted: str
) -> None:
    async with running(Remind(clock, [])) as app:
        handle = await app.start(Remind, "a", key="order-7")
        await clock.advance(0)
        with pytest.raises(
            AssertionError, match=rf"(?s)not {wanted}: .*first  completed.*now: pause"
        ):
            await check(handle, timeout=0.05)


async def test_what_is_no_handle_is_told() -> None:
    for check in (assert_completed, assert_compensated, assert_parked):
        with pytest.raises(ConfigurationError, match=r"'order-7' isn't a SagaHandle: give what"):
            await check("order-7")  # type: ignore[arg-type]


async def test_no_store_sets_it_right(clock: AppClock, running: Running) -> None:
    async with running(Remind(clock, [])) as app:
        await clock.advance("100d")
        assert isinstance(app.clock, AdjustedClock)
        await app.clock.adjust(app.database.clock_offset)
        assert app.clock.now() == clock.now() == BEGIN + 100 * DAY


async def test_leases_know_nothing_of_it(clock: AppClock, running: Running) -> None:
    log: Log = []
    async with running(Remind(clock, log), lease=0.5) as app:
        assert app.supervisor is not None
        membership = app.supervisor.membership
        token = membership.token
        await clock.advance("3650d")
        assert await membership.check()
        assert membership.token == token


async def test_a_worker_that_ended_and_came_back(clock: AppClock, running: Running) -> None:
    log: Log = []
    async with running(Remind(clock, log)) as app:
        handle = await app.start(Remind, "a")
        await clock.advance("1d")
    async with app.running(drain=1.0):
        await clock.advance("2d")
        assert await handle.status() == "completed"


async def test_policies_and_fakes_may_have_it_too() -> None:
    clock = AppClock(wall=BEGIN)
    begun: list[float] = []

    @Retry(attempts=3, backoff=Constant("1h"), clock=clock)
    async def call() -> None:
        begun.append(clock.monotonic())
        raise ConnectionError

    calling = asyncio.create_task(call())
    await clock.advance("1d")
    assert begun == [0, 3600, 7200]
    with pytest.raises(ConnectionError):
        await calling


async def test_a_timeout_that_is_over_is_forgotten() -> None:
    clock = AppClock(wall=BEGIN)
    async with clock.for_apps.timeout(5):
        pass
    await clock.advance("1d")
    with pytest.raises(TimeoutError):
        async with clock.for_apps.timeout(5):
            advancing = asyncio.create_task(clock.advance("5s"))
            await asyncio.Event().wait()
    await advancing
