"""PostgreSQL, from `STANDFAST_TEST_POSTGRES_BIN`, Debian's package, or wherever PATH says."""

import os
import re
import shutil
import signal
import subprocess
from contextlib import suppress
from functools import cache
from pathlib import Path

from tests.servers.process import Server, ServerMissing, known_user


@cache
def _programs() -> Path:
    if given := os.environ.get("STANDFAST_TEST_POSTGRES_BIN"):
        if not (Path(given) / "postgres").exists():
            raise ServerMissing(f"STANDFAST_TEST_POSTGRES_BIN={given}: there is no postgres in it")
        return Path(given)
    debian = Path("/usr/lib/postgresql").glob("*/bin/postgres")
    found = sorted(debian, key=lambda path: int(re.sub(r"\D", "", path.parts[-3]) or 0))
    if found:
        return found[-1].parent
    if (on_path := shutil.which("postgres")) is not None:
        return Path(on_path).resolve().parent
    raise ServerMissing(
        "PostgreSQL isn't installed: run `make servers` (or `apt-get install postgresql`, "
        "`brew install postgresql`), or give the address of one in STANDFAST_TEST_POSTGRES"
    )


class Postgres(Server):
    """A PostgreSQL cluster; `dsn` is the address of its database `postgres`, as superuser.

    Logical decoding and PREPARE TRANSACTION are switched on.
    """

    # Immediate shutdown: tests don't need the checkpoint, and the journal replays on start.
    stop_signal = signal.SIGQUIT
    # It refuses to run as root. Debian's package makes this user, other ways to get it don't.
    user = "postgres" if known_user("postgres") else "nobody"

    def __init__(self, *, fsync: bool = False, programs: Path | None = None) -> None:
        self._programs = programs or _programs()
        super().__init__(fsync=fsync)
        self.data = self.folder / "data"

    @property
    def dsn(self) -> str:
        """The address of the database `postgres` of this server."""
        return f"postgresql://postgres@127.0.0.1:{self.port}/postgres"

    def program(self, name: str) -> list[str]:
        """The beginning of a command: a program of this server's version."""
        return [str(self._programs / name)]

    def start(self) -> None:
        if not self.data.exists():
            self.create()
        super().start()

    def create(self) -> None:
        """Make the cluster, before the first start."""
        self.run(
            *(str(self._programs / "initdb"), "-D", str(self.data), "-U", "postgres"),
            *("-A", "trust", "--no-sync", "--locale=C", "-E", "UTF8"),
        )

    def kill(self) -> None:
        # A child sees its parent's death only by and by, and holds the memory until then.
        children = Path(f"/proc/{self.pid}/task/{self.pid}/children")
        orphans = children.read_text().split() if children.exists() else []
        super().kill()
        for orphan in orphans:
            with suppress(ProcessLookupError):
                os.kill(int(orphan), signal.SIGKILL)

    def settings(self) -> dict[str, str]:
        """What the server is configured with."""
        return {
            "fsync": "on" if self.fsync else "off",
            "listen_addresses": "127.0.0.1",
            "max_connections": "200",
            "max_prepared_transactions": "100",
            "max_replication_slots": "20",
            "max_wal_senders": "20",
            "port": str(self.port),
            "shared_buffers": "64MB",
            "unix_socket_directories": "",
            "wal_level": "logical",
        }

    def command(self) -> list[str]:
        options = [
            part for name, value in self.settings().items() for part in ("-c", f"{name}={value}")
        ]
        return [str(self._programs / "postgres"), "-D", str(self.data), *options]

    def ready(self) -> bool:
        asked = subprocess.run(
            [str(self._programs / "pg_isready"), "-q", "-h", "127.0.0.1", "-p", str(self.port)],
            check=False,
        )
        return asked.returncode == 0
