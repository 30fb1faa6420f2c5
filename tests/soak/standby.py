"""Part `standby`: the primary is killed, and its synchronous standby takes over."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import asyncpg

from tests.servers import Postgres, TcpProxy
from tests.soak.chaos import IMPATIENT, a_postgres, create, in_database
from tests.soak.load.schedule import Blow, Kind
from tests.soak.load.trial import Place, Trial
from tests.soak.machine import log_folder
from tests.soak.part import Findings, Setting

STANDBY = "standby"
IN_STEP_WITHIN = 30.0


async def play(setting: Setting) -> Findings:
    """Fail over again and again, each time to a new standby of the primary of then."""
    async with cluster() as pair:
        trial = Trial(setting, "standby", pair.place(), log_folder("standby"), workers=2)
        return await trial.run()


class Standby(Postgres):
    """A copy of a primary that follows it, and can be promoted."""

    def __init__(self, primary: Postgres) -> None:
        self._primary = primary
        super().__init__()

    def create(self) -> None:
        self.run(
            *self.program("pg_basebackup"),
            *("-h", "127.0.0.1", "-p", str(self._primary.port), "-U", "postgres"),
            *("-D", str(self.data), "-X", "stream", "-c", "fast", "--no-sync"),
        )
        self.run("touch", str(self.data / "standby.signal"))
        # The copy has its primary's setting; promoted, it would wait for a standby of its own.
        with (self.data / "postgresql.auto.conf").open("a") as settings:
            settings.write("synchronous_standby_names = ''\n")

    def settings(self) -> dict[str, str]:
        follow = f"host=127.0.0.1 port={self._primary.port} user=postgres"
        return super().settings() | {"primary_conninfo": f"{follow} application_name={STANDBY}"}


class Pair:
    """A primary and the standby that its commits wait for, behind one address."""

    def __init__(self, primary: Postgres) -> None:
        self.primary = primary
        self.standby: Standby | None = None
        self.proxy = TcpProxy("127.0.0.1", primary.port)
        self._place: Place | None = None
        self._one_at_a_time = asyncio.Lock()

    async def follow(self) -> None:
        """Give the primary a new standby, and let commits wait for it once it is in step."""
        self.standby = Standby(self.primary)
        await asyncio.to_thread(self.standby.start)
        connection = await asyncpg.connect(self.primary.dsn)
        try:
            await _synchronous(connection)
        finally:
            await connection.close()

    async def fail_over(self, blow: Blow) -> None:
        """Kill the primary, promote its standby, and lead the address there."""
        async with self._one_at_a_time:
            old, new = await self._lose_primary()
            await asyncio.sleep(blow.lasts)
            await _promote(new)
            await self._lead_to(new)
            await self._go_on_with(old, new)
            await self._goes_on("after the standby took over")

    async def fail_over_early(self, blow: Blow) -> None:
        """The same, but the address leads there while the standby is still read-only."""
        async with self._one_at_a_time:
            old, new = await self._lose_primary()
            await self._lead_to(new)
            await asyncio.sleep(blow.lasts)
            await _promote(new)
            await self._go_on_with(old, new)
            await self._goes_on("after a standby took over to which the address led already")

    async def lead_astray(self, blow: Blow) -> None:
        """The address leads to the standby for a while, which stays one; what connected stays."""
        async with self._one_at_a_time:
            assert self.standby is not None
            await self._lead_to(self.standby)
            await asyncio.sleep(blow.lasts)
            self.proxy.redirect("127.0.0.1", self.primary.port)
            await self._goes_on("after the address had led to a standby for a while")

    async def _goes_on(self, after: str) -> None:
        if self._place is not None and self._place.goes_on is not None:
            await self._place.goes_on(after)

    async def _lose_primary(self) -> tuple[Postgres, Standby]:
        assert self.standby is not None
        await asyncio.to_thread(self.primary.kill)
        return self.primary, self.standby

    async def _go_on_with(self, old: Postgres, new: Standby) -> None:
        self.primary = new
        await asyncio.to_thread(old.close)
        await self.follow()

    async def _lead_to(self, server: Postgres) -> None:
        await self.proxy.cut()
        self.proxy.redirect("127.0.0.1", server.port)
        await self.proxy.restore()

    def close(self) -> None:
        """End both servers."""
        if self.standby is not None:
            self.standby.close()
        self.primary.close()

    def place(self) -> Place:
        """Where the sagas run. The audit takes the same way, since servers come and go."""
        through = self.proxy.through(self.primary.dsn)
        app, ledger = in_database(through, "app"), in_database(through, "ledger")
        self._place = Place(
            "postgres",
            f"{app}?{IMPATIENT}",
            f"{ledger}?{IMPATIENT}",
            app,
            ledger,
            {
                "failovers": Kind(1, 0.0, 2.0),
                "early failovers": Kind(1, 0.5, 3.0),
                "led astray": Kind(1, 1.0, 3.0),
            },
            {
                "failovers": self.fail_over,
                "early failovers": self.fail_over_early,
                "led astray": self.lead_astray,
            },
            pause=(6.0, 10.0),
        )
        return self._place


@asynccontextmanager
async def cluster() -> AsyncIterator[Pair]:
    """A pair with empty databases."""
    primary = await a_postgres()
    pair = Pair(primary)
    try:
        await asyncio.to_thread(primary.start)
        for name in ("app", "ledger"):
            await create(primary.dsn, name)
        await pair.follow()
        await pair.proxy.start()
        yield pair
    finally:
        await pair.proxy.close()
        await asyncio.to_thread(pair.close)


async def _synchronous(connection: asyncpg.Connection) -> None:
    await connection.execute(f"ALTER SYSTEM SET synchronous_standby_names = '{STANDBY}'")
    await connection.execute("SELECT pg_reload_conf()")
    deadline = time.monotonic() + IN_STEP_WITHIN
    while await connection.fetchval("SELECT sync_state FROM pg_stat_replication") != "sync":
        if time.monotonic() > deadline:
            raise RuntimeError(f"the standby wasn't in step within {IN_STEP_WITHIN:.0f} s")
        await asyncio.sleep(0.05)


async def _promote(standby: Postgres) -> None:
    connection = await asyncpg.connect(standby.dsn)
    try:
        if not await connection.fetchval("SELECT pg_promote(true, 30)"):
            raise RuntimeError("the standby wasn't promoted within 30 s")
    finally:
        await connection.close()
