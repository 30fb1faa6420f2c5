"""One run: build the stage, let the customers in, kill the worker, audit the ledgers."""

import asyncio
import fcntl
import json
import os
import random
import shutil
import tempfile
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit
from uuid import uuid4

import asyncpg
import httpx

from examples.shop.audit import audit, collect, outcomes
from examples.shop.customers import Customers, initial_stock, wishes
from examples.shop.display import STATES, Display, Report
from examples.shop.processes import Child, ChildFailed
from examples.shop.worker import total

PREFIX = "standfast-shop-"
ENDS_WITHIN = 60.0  # seconds after the last order and the last kill


@dataclass(frozen=True)
class Options:
    """What a run can be told. `database`: a PostgreSQL server's URL, None for SQLite."""

    orders: int = 300
    kills: int = 3
    seed: int = 0
    database: str | None = None
    keep: Path | None = None
    metrics: bool = False


async def run(options: Options, display: Display) -> Report:
    """Run the shop from the first order to the audit."""
    began = time.monotonic()
    report = Report(options.orders, options.seed, "postgresql" if options.database else "sqlite")
    async with AsyncExitStack() as stack:
        folder = stack.enter_context(_folder(options.keep))
        postgres = None
        if options.database is not None:
            postgres = await stack.enter_async_context(
                _database_of_its_own(options.database, keep=options.keep is not None)
            )
        async with AsyncExitStack() as processes:
            stage = await Stage.build(options, folder, postgres, processes)
            display.say("Stock, payments, courier, web server and worker are up. The doors open.")
            await stage.play(display, report)
            report.tally = await stage.tally()
            await stage.worker.stop()
            if stage.worker.process.returncode != 0:
                raise ChildFailed(
                    f"the worker didn't drain: {stage.worker.log.read_text()[-2000:]}"
                )
            report.metrics = stage.metrics() if options.metrics else {}
        books = await collect(folder, postgres)
        report.outcomes = outcomes(books)
        report.findings = audit(books)
        if options.keep is not None:
            display.say(f"The ledgers stay in {folder}{f' and {postgres}' if postgres else ''}.")
    report.seconds = time.monotonic() - began
    return report


class Stage:
    """The processes of a run, and what happens to them."""

    def __init__(
        self,
        options: Options,
        folder: Path,
        processes: AsyncExitStack,
        services: list[str],
        arguments: list[str],
    ) -> None:
        self.options = options
        self.folder = folder
        self.processes = processes
        self.services = services
        self.arguments = arguments
        self.luck = random.Random(f"{options.seed} kills")
        self.shop: httpx.AsyncClient
        self.customers: Customers
        self.worker: Child
        self.workers = 0

    @classmethod
    async def build(
        cls, options: Options, folder: Path, postgres: str | None, processes: AsyncExitStack
    ) -> "Stage":
        """Start every process, and wait until it is ready."""

        async def service(name: str, *extra: str) -> str:
            arguments = (f"sqlite:///{folder}/{name}.db", str(options.seed), *extra)
            module = f"examples.shop.services.{name}"
            return (await Child.start(module, *arguments, logs=folder, stack=processes)).greeting

        stock = json.dumps(initial_stock(options.orders))
        services = list(
            await asyncio.gather(service("stock", stock), service("payments"), service("courier"))
        )
        arguments = [postgres or f"sqlite:///{folder}/shop.db", *services]
        stage = cls(options, folder, processes, services, arguments)
        web = await Child.start("examples.shop.api", *arguments, logs=folder, stack=processes)
        stage.shop = await processes.enter_async_context(
            httpx.AsyncClient(base_url=web.greeting, timeout=15)
        )
        stage.customers = Customers(folder / "customers.db", stage.shop, options.seed)
        await stage.hire()
        return stage

    async def hire(self) -> None:
        """Start a worker, and wait until it works."""
        self.workers += 1
        arguments = [f"{self._metrics_of(self.workers)}", *self.arguments]
        self.worker = await Child.start(
            "examples.shop.worker", *arguments, logs=self.folder, stack=self.processes
        )

    def _metrics_of(self, worker: int) -> Path:
        return self.folder / f"metrics-{worker}.json"

    def metrics(self) -> dict[str, float]:
        """What all workers counted, the killed ones until just before."""
        files = map(self._metrics_of, range(1, self.workers + 1))
        return total(json.loads(file.read_text()) for file in files if file.exists())

    async def play(self, display: Display, report: Report) -> None:
        """Orders flow and the worker dies; ends when every saga has come to rest."""
        async with asyncio.TaskGroup() as group:
            watching = group.create_task(self.watch(display))
            ordering = group.create_task(
                self.customers.order_all(wishes(self.options.orders, self.options.seed))
            )
            await self.kill_workers(display, report)
            await ordering
            try:
                async with asyncio.timeout(ENDS_WITHIN):
                    while await self.under_way():
                        await asyncio.sleep(0.1)
            except TimeoutError:
                display.say(f"Some sagas haven't ended after {ENDS_WITHIN:g} s.")
            watching.cancel()

    async def kill_workers(self, display: Display, report: Report) -> None:
        """Kill the worker at random moments of the flow, and start it anew each time."""
        share = [self.luck.uniform(0.05, 0.8) for _ in range(self.options.kills)]
        for moment in sorted(share):
            while self.customers.accepted < moment * self.options.orders:
                await asyncio.sleep(0.02)
            await asyncio.sleep(self.luck.uniform(0, 0.5))
            await self.worker.kill()
            text = f"process {self.worker.pid}, {await self.under_way()} sagas under way"
            report.kills.append(text)
            display.say(f"[bold red]SIGKILL[/] {len(report.kills)}: the worker, {text}")
            await self.hire()
            display.say(f"A new worker, process {self.worker.pid}, goes on.")

    async def counts(self) -> dict[str, int]:
        """The sagas by state; those that wait for an operator are one."""
        found: dict[str, int] = (await self.shop.get("/orders")).raise_for_status().json()
        found["parked"] = found.get("parked", 0) + found.pop("compensation_failed", 0)
        return found

    async def under_way(self) -> int:
        """How many accepted orders haven't come to rest."""
        counts = await self.counts()
        return self.customers.accepted - sum(counts.get(state, 0) for state in STATES)

    async def watch(self, display: Display) -> None:
        """Show the progress until cancelled."""
        while True:
            display.progress(self.customers.accepted, await self.counts())
            await asyncio.sleep(0.2)

    async def tally(self) -> dict[str, int]:
        """What the services met, summed up."""
        total: Counter[str] = Counter()
        async with httpx.AsyncClient(timeout=15) as http:
            for service in self.services:
                total.update((await http.get(f"{service}/tally")).raise_for_status().json())
        return dict(sorted(total.items()))


@contextmanager
def _folder(keep: Path | None) -> Iterator[Path]:
    """A folder for the ledgers and logs: a new one to keep, or a temporary one.

    A run that was killed couldn't remove its own. The next one does, and knows by the lock.
    """
    if keep is not None:
        keep.mkdir(parents=True)
        yield keep.resolve()
        return
    for left in Path(tempfile.gettempdir()).glob(f"{PREFIX}*"):
        # One that is still empty may belong to a run that is about to lock it.
        with _locked(left) as is_ours:
            if is_ours and any(left.iterdir()):
                shutil.rmtree(left, ignore_errors=True)
    with tempfile.TemporaryDirectory(prefix=PREFIX) as name, _locked(Path(name)):
        yield Path(name)


@contextmanager
def _locked(folder: Path) -> Iterator[bool]:
    """Lock a folder for as long as this process lives, or the block lasts; whether that worked."""
    try:
        descriptor = os.open(folder, os.O_RDONLY)
    except OSError:  # it has just gone, or isn't ours to look into
        yield False
        return
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        yield False
    else:
        yield True
    finally:
        os.close(descriptor)


@asynccontextmanager
async def _database_of_its_own(server: str, *, keep: bool) -> AsyncIterator[str]:
    """A new database on that server, for this run alone, dropped at the end."""
    name = f"standfast_shop_{uuid4().hex[:12]}"
    connection = await asyncpg.connect(server)
    try:
        await connection.execute(f"CREATE DATABASE {name}")
        try:
            yield urlsplit(server)._replace(path=f"/{name}").geturl()
        finally:
            if not keep:
                await connection.execute(f"DROP DATABASE {name} WITH (FORCE)")
    finally:
        await connection.close()
