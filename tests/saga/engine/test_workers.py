"""Workers: takeover, standing by, draining, limits, and versions that nobody has."""

import asyncio
import signal
import sys
import time
from contextlib import AsyncExitStack
from typing import Any

import pytest

from standfast import ConfigurationError, Context, Saga, Standfast, step
from standfast.coordination.membership import MEMBER
from standfast.errors import SagaParked
from standfast.ports.leases import LeaseStore
from tests.saga.engine.steward import Chore
from tests.saga.engine.world import SOON, Order, Trip, until

pytestmark = pytest.mark.crash


class Process:
    """A `steward`, and what it has said."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self.process = process
        self.said: list[str] = []
        self.reading = asyncio.create_task(self._read())

    async def _read(self) -> None:
        assert self.process.stdout is not None
        async for line in self.process.stdout:
            self.said.append(line.decode().strip())

    async def says(self, text: str) -> None:
        await until(lambda: text in self.said, within=30)


@pytest.fixture
async def steward(durable_url):
    """``await steward(drain=…, lease=…)``: a worker process on `durable_url`."""
    begun: list[Process] = []

    async def begin(drain: float = 5.0, *, lease: float = 1.0, ready: bool = True) -> Process:
        arguments = (durable_url, str(drain), str(lease))
        process = Process(
            await asyncio.create_subprocess_exec(
                *(sys.executable, "-m", "tests.saga.engine.steward", *arguments),
                stdout=asyncio.subprocess.PIPE,
            )
        )
        begun.append(process)
        if ready:
            await process.says("ready")
        return process

    yield begin
    for one in begun:
        if one.process.returncode is None:
            one.process.kill()
        await one.process.wait()
        await one.reading


@pytest.fixture
async def client(durable_url):
    async with Standfast(durable_url, migrate=True).add(Chore()) as app:
        app.sagas.poll = 0.05
        yield app


async def test_sigterm_lets_attempts_end_and_leaves_the_rest_due(client, steward):
    worker = await steward(drain=20)
    handle = await client.start(Chore, Order("1", amount=10))
    await worker.says("begin first 1")
    worker.process.send_signal(signal.SIGTERM)
    await worker.says("done")
    assert await worker.process.wait() == 0
    assert worker.said == ["ready", "begin first 1", "end first 1", "done"]
    assert len((await handle.story()).facts) == 2, "what ended is stored"
    assert await client.database.port(LeaseStore).leases() == [], "the lease is given up"
    row = await client.sagas.instance(handle.id)
    assert (row.owner, row.wake_at is not None) == (None, True)
    begun = time.monotonic()
    await steward()
    await handle.result(timeout=30)
    assert time.monotonic() - begun < 20
    assert len((await handle.story()).facts) == 3


async def test_what_doesnt_end_within_the_drain_is_cut_off_and_tried_again(client, steward):
    worker = await steward(drain=0.3)
    handle = await client.start(Chore, Order("1", amount=30))
    await worker.says("begin first 1")
    worker.process.send_signal(signal.SIGTERM)
    await worker.says("done")
    assert "cut first 1" in worker.said
    other = await steward()
    await handle.result(timeout=30)
    words = [word for word in other.said if word != "ready"]
    assert words == ["begin first 1", "end first 1", "begin second 1", "end second 1"]


async def test_a_dead_workers_sagas_are_taken_over_within_its_lease(client, steward):
    """Killed when it has just renewed its lease, so that it holds for as long as it can."""
    lease = 4.0
    worker = await steward(lease=lease)
    await client.start(Chore, Order("1", amount=600))
    await worker.says("begin first 1")
    # On SQLite it stands by for the lease, on PostgreSQL it works beside the other.
    other = await steward(lease=lease, ready=client.database.capabilities.many_workers)

    async def left() -> float:
        return (await client.database.port(LeaseStore).leases(MEMBER))[0].expires_in

    before = await left()
    while (now := await left()) <= before:
        before = now
        await asyncio.sleep(0.01)
    worker.process.kill()
    died = time.monotonic()
    await other.says("begin first 1")
    took = time.monotonic() - died
    # The takeover itself, the claim and the pipe take some ms; on a busy machine, half a second.
    assert took < lease + 0.5
    assert took > lease / 2, "a worker that is only late would have lost its sagas"


async def test_a_takeover_at_the_worst_moment_takes_a_lease_at_most(shared_url):
    """The dead one has just renewed its lease, and the other looks just before that runs out."""
    lease = 2.0
    began: list[str] = []

    class Held(Saga[Order]):
        def __init__(self, worker: str) -> None:
            self.worker = worker

        @step(timeout=None, retry=SOON, no_compensation="nothing to undo")
        async def hold(self, order: Order, ctx: Context) -> None:
            began.append(self.worker)
            await asyncio.Event().wait()

    other = Standfast(shared_url, migrate=True).add(Held("other"))
    doomed = Standfast(shared_url).add(Held("doomed"))
    leases: Any = doomed.database.port(LeaseStore)
    renew, dead = leases.renew, asyncio.Event()

    async def renew_once(*args, **options) -> list[bool]:
        if dead.is_set():
            await asyncio.Event().wait()
        dead.set()
        return await renew(*args, **options)

    async with other.running(lease=lease, poll=60, drain=0):
        await asyncio.sleep(0.1)  # which makes its looks come just before the other's renewals
        async with doomed.running(lease=lease, drain=0):
            leases.renew = renew_once
            await doomed.start(Held, Order("1"))
            await dead.wait()
            died = time.monotonic()
            await until(lambda: "other" in began)
            took = time.monotonic() - died
    assert began == ["doomed", "other"]
    assert lease / 2 < took < lease + 0.3  # which is for the query, on a busy machine


async def test_a_second_worker_stands_by_and_can_be_stopped(lone_url, world):
    first = Standfast(lone_url).add(Trip(world))
    second = Standfast(lone_url).add(Trip(world))
    async with first.running(lease=1, drain=2):
        async with second.running(drain=2) as supervisor:
            assert [one.state for one in supervisor.services] == ["standing_by"]
            # It can start and read, as any process can.
            handle = await second.start(Trip, Order("1"))
            assert (await handle.result(timeout=10))["note"] == "note of charge"
            assert not second.sagas.executor.active
        async with second:
            handle = await second.start(Trip, Order("2"))
            assert (await handle.result(timeout=10))["note"] == "note of charge"


async def test_one_that_stands_by_works_as_soon_as_the_other_has_left(lone_url, world):
    first = Standfast(lone_url).add(Trip(world))
    second = Standfast(lone_url).add(Trip(world))
    async with AsyncExitStack() as stack:
        await stack.enter_async_context(first.running(lease=60, drain=2))
        async with second.running(lease=60, drain=2) as supervisor:
            await stack.aclose()
            await until(lambda: supervisor.services[0].state == "running", within=3)
            handle = await second.start(Trip, Order("1"))
            assert (await handle.result(timeout=10))["note"] == "note of charge"


class Slow(Saga[Order]):
    max_in_flight = 3

    def __init__(self) -> None:
        self.now = self.most = 0

    @step(retry=SOON, no_compensation="nothing to undo")
    async def go(self, order: Order, ctx: Context) -> None:
        self.now += 1
        self.most = max(self.most, self.now)
        await asyncio.sleep(0.02)
        self.now -= 1


class Unlimited(Slow):
    max_in_flight = None


async def test_limits_of_a_worker_and_of_a_saga(work):
    limited, unlimited = Slow(), Unlimited()
    app = await work(limited, unlimited, max_in_flight=8, poll=0.1)
    handles = await asyncio.gather(
        *(app.start(Slow, Order(str(n))) for n in range(20)),
        *(app.start(Unlimited, Order(str(n))) for n in range(40)),
    )
    for handle in handles:
        await handle.result(timeout=30)
    assert limited.most == 3
    assert 4 <= unlimited.most <= 8


async def test_many_workers_share_the_work(shared_url):
    sagas = [Unlimited() for _ in range(3)]
    apps = [Standfast(shared_url, migrate=True).add(saga) for saga in sagas]
    async with AsyncExitStack() as stack:
        for app in apps:
            await stack.enter_async_context(app.running(max_in_flight=5, poll=0.1, drain=2))
        async with Standfast(shared_url).add(Unlimited()) as client:
            handles = await asyncio.gather(
                *(client.start(Unlimited, Order(str(n))) for n in range(90))
            )
            for handle in handles:
                await handle.result(timeout=30)
    assert all(saga.most > 0 for saga in sagas)


class One(Saga[Order]):
    name = "evolving"

    @step(retry=SOON, no_compensation="nothing to undo")
    async def go(self, order: Order, ctx: Context) -> str:
        return "one"


class Two(One):
    version = 2

    @step(retry=SOON, no_compensation="nothing to undo")
    async def go(self, order: Order, ctx: Context) -> str:
        return "two"


async def test_versions_live_side_by_side(work):
    app = await work(One(), Two())
    old, new = await app.start(One, Order("1")), await app.start("evolving", Order("2"))
    assert (await old.result(timeout=10))["go"] == "one"
    assert (await new.result(timeout=10))["go"] == "two"


@pytest.mark.timeout(90)
async def test_a_version_that_no_worker_has_is_parked_and_told(durable_url, caplog):
    async with Standfast(durable_url, migrate=True).add(One()) as client:
        handle = await client.start(One, Order("1"))
        newer = Standfast(durable_url).add(Two())
        async with newer.running(lease=1, poll=0.2, drain=2):
            other = await newer.start(Two, Order("2"))
            assert (await other.result(timeout=10))["go"] == "two", "the rest goes on"
            await until(lambda: _is(handle, "parked"), within=40)
            with pytest.raises(SagaParked, match="no live worker has version 1 of saga 'evolving'"):
                await client.handle(handle.id).result(timeout=10)
            assert any("no live worker has version 1" in r.getMessage() for r in caplog.records)
        # A worker that has it goes on where it was; until it is taken, one can wait for it there.
        older = Standfast(durable_url).add(One())
        claim = older.sagas.store.claim

        async def claim_late(*args, **options):
            await asyncio.sleep(0.5)
            return await claim(*args, **options)

        older.sagas.store.claim = claim_late
        async with older.running(poll=0.2, drain=2):
            assert (await older.handle(handle.id).result(timeout=20))["go"] == "one"
            await until(lambda: _is(handle, "completed"), within=20)


async def _is(handle, status):
    return await handle.status() == status


async def test_wrong_options_of_a_worker():
    app = Standfast("memory://").add(One())
    for options in ({"max_in_flight": 0}, {"lease": 0}, {"poll": -1}, {"linger": "soon"}):
        with pytest.raises(ConfigurationError, match=next(iter(options))):
            async with app.running(**options):
                pass
    async with app.running():
        with pytest.raises(ConfigurationError, match="running already"):
            async with app.running():
                pass
    with pytest.raises(ConfigurationError, match="isn't open"):
        await app.start(One, Order("1"))
