"""Part `pgbouncer`: sagas through a PgBouncer in transaction mode, which is killed meanwhile."""

from __future__ import annotations

import asyncio
import subprocess
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from tests.servers import Postgres, Server
from tests.servers.process import known_user
from tests.soak.chaos import IMPATIENT, a_postgres, create, in_database
from tests.soak.load.schedule import Blow, Kind
from tests.soak.load.trial import Place, Trial
from tests.soak.machine import log_folder, program
from tests.soak.part import Findings, Setting

OPTIONS = f"statement_cache_size=0&{IMPATIENT}"


async def play(setting: Setting) -> Findings:
    """Two workers run sagas through it."""
    async with place() as bounced:
        trial = Trial(setting, "pgbouncer", bounced, log_folder("pgbouncer"), workers=2)
        return await trial.run()


class PgBouncer(Server):
    """A PgBouncer before a server, whose connections it hands out for one transaction each."""

    # It refuses to run as root.
    user = "postgres" if known_user("postgres") else "nobody"

    def __init__(self, program: str, server: Postgres) -> None:
        super().__init__()
        self._program = program
        self._server = server

    @property
    def dsn(self) -> str:
        """The address of the database `postgres` of the server behind it."""
        return f"postgresql://postgres@127.0.0.1:{self.port}/postgres"

    def command(self) -> list[str]:
        settings = {
            "listen_addr": "127.0.0.1",
            "listen_port": str(self.port),
            "unix_socket_dir": "",
            "auth_type": "any",
            "pool_mode": "transaction",
            "max_client_conn": "500",
            # So few that clients do get each other's connections.
            "default_pool_size": "6",
            "server_login_retry": "1",
        }
        lines = "\n".join(f"{name} = {value}" for name, value in settings.items())
        behind = f"* = host=127.0.0.1 port={self._server.port} user=postgres"
        file = self.folder / "pgbouncer.ini"
        file.write_text(f"[databases]\n{behind}\n[pgbouncer]\n{lines}\n")
        return [self._program, str(file)]

    def ready(self) -> bool:
        asked = subprocess.run(
            [*self._server.program("psql"), "-d", self.dsn, "-c", "SELECT 1"],
            capture_output=True,
            check=False,
        )
        return asked.returncode == 0


@asynccontextmanager
async def place() -> AsyncIterator[Place]:
    """Two databases behind a PgBouncer."""
    path = await program("pgbouncer", "pgbouncer")
    with await a_postgres() as server:
        for name in ("app", "ledger"):
            await create(server.dsn, name)
        with PgBouncer(path, server) as bouncer:
            yield _place(bouncer, server)


def _place(bouncer: PgBouncer, server: Postgres) -> Place:
    one_at_a_time = asyncio.Lock()

    async def restart(blow: Blow) -> None:
        async with one_at_a_time:
            await asyncio.to_thread(bouncer.kill)
            await asyncio.sleep(blow.lasts)
            await asyncio.to_thread(bouncer.start)

    return Place(
        "postgres",
        in_database(bouncer.dsn, "app", OPTIONS),
        in_database(bouncer.dsn, "ledger", OPTIONS),
        in_database(server.dsn, "app"),
        in_database(server.dsn, "ledger"),
        {"kills": Kind(1), "pgbouncer restarts": Kind(2, 0.0, 1.5)},
        {"pgbouncer restarts": restart},
        pause=(2.0, 5.0),
    )
