"""One trial: sagas run on a place while it is broken by a schedule; then the books are audited."""

from __future__ import annotations

import asyncio
import json
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from standfast import Barrier, Standfast
from tests.crash.voyage import TABLES, Participant, sagas
from tests.soak.load.audit import Books, Ledgers, audit
from tests.soak.load.crew import Crew, Member
from tests.soak.load.schedule import Blow, Kind, schedule
from tests.soak.load.told import Told
from tests.soak.load.worker import TAG
from tests.soak.machine import ROOT
from tests.soak.part import Findings, Setting
from tests.soak.processes import Leash, started, tail

LEASE = 2.0
ENDS_WITHIN = 120.0
GOES_ON_WITHIN = 45.0
SO_FAR_EVERY = 5.0
Strike = Callable[[Blow], Awaitable[None]]

OF_PROCESSES = {
    "kills": Kind(3),
    "pauses": Kind(3, 1.5 * LEASE, 3 * LEASE),
    "drains": Kind(1),
    "starter kills": Kind(1),
}
"""What can be done to any crew: the names are those of the table of counts."""


@dataclass
class Place:
    """Where the sagas and the participants' ledgers lie.

    `app` and `ledger` are what the processes are given, `app_itself` and `ledger_itself` the ways
    around a proxy for the audit. `strikes` are the breakages of this place, `heal` ends them all.
    """

    tables: str
    app: str
    ledger: str
    app_itself: str
    ledger_itself: str
    kinds: Mapping[str, Kind] = field(default_factory=lambda: OF_PROCESSES)
    strikes: Mapping[str, Strike] = field(default_factory=dict)
    heal: Callable[[], Awaitable[None]] | None = None
    # Set by the trial, for a strike that is over: it is a fault if the sagas don't go on.
    goes_on: Callable[[str], Awaitable[None]] | None = None
    pause: tuple[float, float] = (1.0, 4.0)

    async def prepare(self) -> None:
        """Make the tables."""
        for url in (self.app, self.ledger):
            # Which tables there are depends on what is added, and nothing is run here.
            app = Standfast(url, migrate=True).add(Barrier())
            app.add(*sagas(TAG, Participant(app, TAG)))
            async with app, app.transaction() as tx:
                for table in TABLES[self.tables]:
                    await tx.execute(table)


class Trial:
    """`workers` processes run what another starts, `at_once` sagas at a time."""

    def __init__(
        self,
        setting: Setting,
        name: str,
        place: Place,
        logs: Path,
        *,
        workers: int = 3,
        at_once: int = 24,
    ) -> None:
        self.setting = setting
        self.name = name
        self.place = place
        self.logs = logs
        logs.mkdir(parents=True, exist_ok=True)
        self.counts: Counter[str] = Counter()
        self.faults: list[str] = []
        self._told = logs / "told"
        self._at_once = at_once
        place.goes_on = self._goes_on
        self._ended = ""
        self._looked = 0.0
        self._leash = Leash()
        worker = ["tests.soak.load.worker", place.app, place.ledger, "{name}", str(LEASE)]
        starter = ["tests.soak.load.starter", place.app, str(self._told), str(at_once)]
        self.workers = Crew(self._leash, "worker", worker, workers, logs)
        self.starter = Crew(self._leash, "starter", starter, 1, logs)

    async def run(self) -> Findings:
        """Break and run for the time of the setting, see all to their ends, audit."""
        await self.place.prepare()
        begun = time.monotonic()
        with self._leash:
            async with self._crews():
                await self._break()
                await self._let_all_end()
            told = Told.read_file(self._told)
            books = audit(told, await self._ledgers())
            await self._ask_the_command_line(told)
        if not told.ended:
            self.faults.append("no saga ended, so the trial shows nothing")
        self._count_up(told, books, time.monotonic() - begun)
        crews = self.workers.faults + self.starter.faults
        faults = [*self.faults, *crews, *told.faults, *books.faults]
        return Findings(
            dict(self.counts), [f"{self.name}: {fault}" for fault in faults], self._in_short()
        )

    @asynccontextmanager
    async def _crews(self) -> AsyncIterator[None]:
        try:
            await self.workers.open()
            await self.starter.open()
            yield
        finally:
            await self.starter.close()
            await self.workers.close()

    # -- breaking ------------------------------------------------------------------------------

    async def _break(self) -> None:
        loop = asyncio.get_running_loop()
        seconds = self.setting.seconds
        blows = schedule(self.setting.seed, seconds, self.place.kinds, pause=self.place.pause)
        self.counts.update(dict.fromkeys(self.place.kinds, 0))
        begun = loop.time()
        with self.setting.show.bar(seconds, self.name) as bar:
            async with asyncio.TaskGroup() as group:
                for blow in [*blows, None]:
                    until = seconds if blow is None else blow.at
                    while (left := begun + until - loop.time()) > 0:
                        bar.at(loop.time() - begun, self._so_far())
                        await asyncio.sleep(min(left, 1))
                    if blow is not None:
                        group.create_task(self._strike(blow))
        if self.place.heal is not None:
            await self.place.heal()

    async def _strike(self, blow: Blow) -> None:
        if blow.kind in self.place.strikes:
            self.counts[blow.kind] += 1
            await self.place.strikes[blow.kind](blow)
            return
        crew = self.starter if blow.kind == "starter kills" else self.workers
        member = crew.pick(blow.draw)
        if member is not None:
            self.counts[blow.kind] += 1
            await self._hit(crew, member, blow)

    async def _hit(self, crew: Crew, member: Member, blow: Blow) -> None:
        if blow.kind == "pauses":
            await crew.freeze(member, blow.lasts)
        elif blow.kind == "drains":
            crew.ask_to_end(member)
        else:
            crew.kill(member)

    async def _goes_on(self, after: str) -> None:
        """See whether as many sagas end as there may be in flight."""
        ended = len(Told.read_file(self._told).ended)
        begun = time.monotonic()
        while len(Told.read_file(self._told).ended) < ended + self._at_once:
            if time.monotonic() - begun > GOES_ON_WITHIN:
                self.faults.append(f"{after}, it didn't go on within {GOES_ON_WITHIN:.0f} s")
                return
            await asyncio.sleep(0.5)

    def _so_far(self) -> str:
        # The file grows, so it isn't read with each move of the bar.
        if time.monotonic() - self._looked > SO_FAR_EVERY:
            told = Told.read_file(self._told)
            self._ended = f"{len(told.ended):,} of {len(told.started):,} sagas ended"
            self._looked = time.monotonic()
        blows = ", ".join(f"{self.counts[kind]} {kind}" for kind in self.place.kinds)
        return f"{self._ended}; {blows}"

    # -- the end -------------------------------------------------------------------------------

    async def _let_all_end(self) -> None:
        if not await self.starter.finish(ENDS_WITHIN):
            left = len(Told.read_file(self._told).unfinished)
            self.faults.append(
                f"{left} sagas hadn't ended {ENDS_WITHIN:.0f} s after the last blow; what the "
                f"workers said is in {self.logs.relative_to(ROOT)}"
            )
        if not await self.workers.finish():
            self.faults.append("the workers didn't drain in time")

    async def _ledgers(self) -> Ledgers:
        effects: list[tuple[str, str, str]] = []
        async with Standfast(self.place.ledger_itself) as ledger:
            last = 0
            while rows := await _page(ledger, last):
                effects += [(row["saga"], row["branch"], row["op"]) for row in rows]
                last = rows[-1]["n"]
        async with Standfast(self.place.app_itself) as app, app.transaction() as tx:
            stamps = [row["saga"] for row in await tx.fetch("SELECT saga FROM stamps")]
        return Ledgers(effects, stamps)

    async def _ask_the_command_line(self, told: Told) -> None:
        """What an operator is told has to agree with what the starter saw."""
        log = self.logs / "list.log"
        command = ("-m", "standfast.cli.main", "sagas", "list", "--count", "--json")
        async with started(
            self._leash,
            [sys.executable, *command, "--app", self.place.app_itself],
            log=log,
            output=asyncio.subprocess.PIPE,
        ) as process:
            said, _ = await process.communicate()
        if process.returncode:
            self.faults.append(f"`standfast sagas list` failed:\n{tail(log)}")
            return
        listed: Counter[str] = Counter()
        for row in json.loads(said):
            if row["name"].startswith("voyage"):
                listed[row["status"]] += row["count"]
        ended = Counter(told.ended.values())
        if listed != ended:
            self.faults.append(f"listed are {dict(listed)}, but {dict(ended)} were seen to end")

    def _leases_lost(self) -> int:
        """How often a worker found that it had been taken for dead: what the pauses are for."""
        logs = self.logs.glob("worker-*.log")
        return sum(log.read_text(errors="replace").count("lease was lost") for log in logs)

    def _in_short(self) -> str:
        blows = sum(self.counts[kind] for kind in self.place.kinds)
        return (
            f"{self.counts['sagas']:,} sagas, {blows} blows, "
            f"{self.counts['lost']} lost, {self.counts['doubled']} doubled"
        )

    def _count_up(self, told: Told, books: Books, seconds: float) -> None:
        ends = Counter(told.ended.values())
        blows = dict(self.counts)
        self.counts = Counter(
            {
                "sagas": len(told.started),
                "completed": ends["completed"],
                "compensated": ends["compensated"],
                **blows,
                "leases lost": self._leases_lost(),
                "lost": len(books.lost),
                "doubled": len(books.doubled),
                "wrong": len(books.wrong),
                "seconds": round(seconds),
            }
        )


async def _page(ledger: Standfast, after: int) -> Sequence[Any]:
    async with ledger.transaction() as tx:
        return await tx.fetch(
            "SELECT n, saga, branch, op FROM effects WHERE n > $1 ORDER BY n LIMIT 20000", after
        )
