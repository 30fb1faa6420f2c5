"""The example of a pattern of one's own: on SQLite and PostgreSQL, in one process and in more."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from examples.pattern.reminders import (
    LINE,
    Reminder,
    Reminders,
    ReminderStore,
    after_failure,
)
from examples.pattern.reminders import (
    TABLE as REMINDERS,
)

from standfast import Constant, Context, Saga, Standfast, Transaction, step
from standfast.errors import ConfigurationError, MigrationNeeded, StaleWriter, Unsupported
from standfast.ports.leases import LeaseStore
from standfast.testing import run_saga
from tests.docs.blocks import ROOT, read_page

LEASE = "2s"
TABLE = "CREATE TABLE said (key text, by int NOT NULL)"
LONG_AGO = 1.0


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.server)])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path}/reminders.db"
    dsn: str = request.getfixturevalue("postgres_dsn")
    return dsn


async def nothing(reminder: Reminder, tx: Transaction) -> None:
    pass


async def said(app: Standfast) -> list[tuple[str, int]]:
    async with app.transaction() as tx:
        return [(row[0], row[1]) for row in await tx.fetch("SELECT key, by FROM said")]


async def until(condition: Any, within: float = 30.0) -> None:
    async with asyncio.timeout(within):
        while not await condition():
            await asyncio.sleep(0.02)


# -- what is decided


@pytest.mark.parametrize(
    ("failures", "then"),
    [(0, (1, 101.0)), (1, (2, 102.0)), (2, (3, 104.0)), (3, None), (7, None)],
)
def test_a_reminder_that_failed_is_due_after_a_growing_pause(
    failures: int, then: tuple[int, float] | None
) -> None:
    again = after_failure(Reminder("a", "", 5.0, failures), 100.0, 4)
    assert then == (None if again is None else (again.failures, again.at))


# -- in one process


async def test_it_is_handed_out_when_it_is_due(url: str) -> None:
    handed: list[Reminder] = []

    async def handler(reminder: Reminder, tx: Transaction) -> None:
        handed.append(reminder)

    reminders = Reminders(handler)
    app = Standfast(url, migrate=True).add(reminders)
    async with app.running(poll="100ms"):
        due = time.time() + 0.3
        async with app.transaction() as tx:
            assert await reminders.remember(tx, "later", at=due, key="b")
            assert await reminders.remember(tx, "now", at=LONG_AGO, key="a")
            assert not await reminders.remember(tx, "something else", at=LONG_AGO, key="a")
        await asyncio.sleep(0.15)
        assert [one.text for one in handed] == ["now"]
        await until(lambda: asyncio.sleep(0, len(handed) == 2))
        assert handed[1].text == "later"
        assert time.time() >= due


async def test_a_hint_comes_before_the_poll(url: str) -> None:
    done = asyncio.Event()

    async def handler(reminder: Reminder, tx: Transaction) -> None:
        done.set()

    reminders = Reminders(handler)
    app = Standfast(url, migrate=True).add(reminders)
    async with app.running(poll="1h"):
        await asyncio.sleep(0.1)
        async with app.transaction() as tx:
            await reminders.remember(tx, "now", at=LONG_AGO, key="a")
        async with asyncio.timeout(10):
            await done.wait()


async def test_what_was_rolled_back_is_never_handed_out(url: str) -> None:
    handed: list[str] = []

    async def handler(reminder: Reminder, tx: Transaction) -> None:
        handed.append(reminder.key)

    reminders = Reminders(handler)
    app = Standfast(url, migrate=True).add(reminders)
    async with app.running(poll="50ms"):
        with pytest.raises(ZeroDivisionError):
            async with app.transaction() as tx:
                await reminders.remember(tx, "no", at=LONG_AGO, key="no")
                raise ZeroDivisionError
        async with app.transaction() as tx:
            assert await reminders.remember(tx, "yes", at=LONG_AGO, key="yes")
        await until(lambda: asyncio.sleep(0, handed == ["yes"]))
        await asyncio.sleep(0.2)
    assert handed == ["yes"]


async def test_a_handler_that_fails_leaves_nothing_and_is_called_again(
    url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("examples.pattern.reminders.BACKOFF", Constant("50ms"))
    calls: Counter[str] = Counter()

    async def handler(reminder: Reminder, tx: Transaction) -> None:
        calls[reminder.key] += 1
        await tx.execute("INSERT INTO said VALUES ($1, $2)", reminder.key, calls[reminder.key])
        if reminder.key == "never" or calls[reminder.key] < 3:
            raise RuntimeError("the line is busy")

    reminders = Reminders(handler, give_up_after=4)
    app = Standfast(url, migrate=True).add(reminders)
    async with app.running(poll="50ms") as supervisor:
        async with app.transaction() as tx:
            await tx.execute(TABLE)
            await reminders.remember(tx, "", at=LONG_AGO, key="third time")
            await reminders.remember(tx, "", at=LONG_AGO, key="never")

        async def over() -> bool:
            async with app.transaction() as tx:
                left = await tx.fetch_value("SELECT count(*) FROM reminders WHERE at IS NOT NULL")
            return bool(left == 0)

        await until(over)
        assert [(one.name, one.state, one.restarts) for one in supervisor.services] == [
            ("reminders", "running", 0)
        ]
    assert calls == {"third time": 3, "never": 4}
    assert await said(app) == [("third time", 3)]


async def test_who_lost_its_lease_can_neither_claim_nor_settle(url: str) -> None:
    reminders = Reminders(nothing)
    async with Standfast(url, migrate=True).add(reminders) as app:
        leases, store = app.database.port(LeaseStore), app.database.port(ReminderStore)
        lost, living = await leases.acquire(["lost", "living"], "test", ttl=60)
        assert lost is not None
        assert living is not None

        async def claim(token: int) -> list[str]:
            async with app.transaction() as tx:
                found = await tx.run_script(store.claim(token, now=LONG_AGO, limit=9))
            return [one.key for one in found]

        async with app.transaction() as tx:
            await reminders.remember(tx, "", at=LONG_AGO, key="a")
        assert await claim(lost) == ["a"]
        assert await claim(lost) == ["a"]  # what a turn that failed had in hand
        assert await claim(living) == []
        await leases.release([lost])
        assert await claim(living) == ["a"]
        for token in (lost, living + 1):
            with pytest.raises(StaleWriter):
                await claim(token)
            with pytest.raises(StaleWriter):
                async with app.transaction() as tx:
                    await tx.run_script(store.settle(token, "a", None))
        async with app.transaction() as tx:
            await tx.run_script(store.settle(living, "a", None))
        with pytest.raises(StaleWriter, match="other hands"):
            async with app.transaction() as tx:
                await tx.run_script(store.settle(living, "a", None))


# -- how it joins


async def test_its_table_is_made_with_the_others_and_missed_without(url: str) -> None:
    app = Standfast(url, migrate=False).add(Reminders(nothing))
    with pytest.raises(MigrationNeeded, match="reminders is at 0"):
        async with app:
            pass
    assert [line.name for line in app.database.lines([ReminderStore])] == [
        "coordination",
        LINE.name,
    ]


def test_it_takes_no_parts_and_needs_sql() -> None:
    with pytest.raises(ConfigurationError, match="Reminders takes no parts"):
        Reminders(nothing).add("part")
    with pytest.raises(Unsupported, match="memory:// has no ReminderStore"):
        Standfast("memory://").add(Reminders(nothing))


def test_the_how_to_shows_all_of_it() -> None:
    page = read_page(ROOT / "docs" / "how-to" / "write-a-pattern.md")
    shown = [block.code for block in page.blocks if block.title == "reminders.py"]
    assert "\n\n".join(shown) == (ROOT / "examples" / "pattern" / "reminders.py").read_text()


def test_a_saga_that_uses_its_verb_is_tested_in_memory() -> None:
    class Book(Saga[str]):
        name, version = "book", 1

        def __init__(self, reminders: Reminders) -> None:
            self.reminders = reminders

        @step(transactional=True, pivot=True)
        async def remind(self, trip: str, ctx: Context, tx: Transaction) -> tuple[bool, int]:
            new = await self.reminders.remember(tx, trip, at=LONG_AGO, key=trip)
            return new, await tx.fetch_value("SELECT count(*) FROM reminders")

    run = run_saga(Book(Reminders(nothing)), "Oslo", schema=REMINDERS)
    assert run.status == "completed"
    assert run[Book.remind] == (True, 1)


# -- in several processes


class Processes:
    """`standfast run -a examples.pattern.app:app` a few times, and what each has printed."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.running: dict[int, asyncio.subprocess.Process] = {}
        self.printed: list[str] = []
        self._readers: list[asyncio.Task[None]] = []

    async def standfast(self, *arguments: str, takes: float = 0.0) -> asyncio.subprocess.Process:
        return await asyncio.create_subprocess_exec(
            Path(sys.executable).with_name("standfast"),
            *arguments,
            cwd=ROOT,
            env={
                **os.environ,
                "REMINDERS_DATABASE": self.url,
                "REMINDERS_TAKE": str(takes),
            },
            stdout=asyncio.subprocess.PIPE,
        )

    async def start(self, *, takes: float = 0.0) -> int:
        process = await self.standfast(
            *("run", "--app", "examples.pattern.app:app", "--only", "reminders"),
            *("--lease", LEASE, "--poll", "50ms", "--log-level", "warning"),
            takes=takes,
        )
        self.running[process.pid] = process
        self._readers.append(asyncio.create_task(self._read(process)))
        return process.pid

    async def _read(self, process: asyncio.subprocess.Process) -> None:
        assert process.stdout is not None
        async for line in process.stdout:
            self.printed.append(line.decode().strip())

    async def end(self, pid: int, number: signal.Signals) -> int:
        process = self.running.pop(pid)
        process.send_signal(number)
        return await process.wait()

    async def close(self) -> None:
        for process in self.running.values():
            process.kill()
            await process.wait()
        await asyncio.gather(*self._readers)


@pytest.fixture
async def processes(url: str) -> AsyncIterator[Processes]:
    found = Processes(url)
    migrated = await found.standfast("migrate", "--app", "examples.pattern.app:app")
    await migrated.communicate()
    assert migrated.returncode == 0
    yield found
    await found.close()


@asynccontextmanager
async def filled(url: str, count: int) -> AsyncIterator[Standfast]:
    reminders = Reminders(nothing)
    async with Standfast(url).add(reminders) as app:
        async with app.transaction() as tx:
            await tx.execute(TABLE)
            for number in range(count):
                await reminders.remember(tx, "", at=LONG_AGO, key=f"{number:03}")
        yield app


@pytest.mark.crash
async def test_a_killed_process_leaves_its_reminders_to_the_next(
    url: str, processes: Processes
) -> None:
    async with filled(url, 12) as app:
        first = await processes.start(takes=0.1)
        await until(lambda: asyncio.sleep(0, len(processes.printed) >= 4))
        await processes.end(first, signal.SIGKILL)
        before = len(await said(app))
        assert 3 <= before < 12
        second = await processes.start()
        await until_said(app, 12)
        assert await shares(app) == {first: before, second: 12 - before}
        # Handed out at least once each; the one in the middle of which it died, twice.
        keys = Counter(line.partition(" ")[2] for line in processes.printed)
        assert len(keys) == 12
        assert sum(keys.values()) - 12 <= 1
        assert await processes.end(second, signal.SIGTERM) == 0


@pytest.mark.crash
async def test_of_two_processes_one_is_paused_for_longer_than_its_lease(
    url: str, processes: Processes
) -> None:
    """On PostgreSQL they share the work; on SQLite one stands by until then."""
    share = not url.startswith("sqlite")
    async with filled(url, 100) as app:
        pids = {await processes.start(takes=0.05), await processes.start(takes=0.05)}
        if share:
            await until(lambda: asyncio.sleep(0, speakers(processes) == pids))
        else:
            await until(lambda: asyncio.sleep(0, len(processes.printed) >= 3))
            assert len(speakers(processes)) == 1
        paused = int(processes.printed[0].split()[0])
        os.kill(paused, signal.SIGSTOP)
        try:
            await asyncio.sleep(3)
        finally:
            os.kill(paused, signal.SIGCONT)
        await until_said(app, 100)
        found = await shares(app)
        assert found.keys() == pids
        assert found.total() == 100
        for pid in pids:
            assert await processes.end(pid, signal.SIGTERM) == 0


def speakers(processes: Processes) -> set[int]:
    return {int(line.split()[0]) for line in processes.printed}


async def shares(app: Standfast) -> Counter[int]:
    """How many each process has said, none of them twice."""
    found = await said(app)
    assert len({key for key, _ in found}) == len(found)
    return Counter(by for _, by in found)


async def until_said(app: Standfast, count: int) -> None:
    async def all_said() -> bool:
        return len(await said(app)) >= count

    await until(all_said, within=60)
