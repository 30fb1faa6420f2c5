"""Redis, from Debian's package or wherever PATH says."""

import shutil
import socket
from functools import cache

from tests.servers.process import Server, ServerMissing


@cache
def _program() -> str:
    if (found := shutil.which("redis-server")) is not None:
        return found
    raise ServerMissing(
        "Redis isn't installed: run `make servers` (or `apt-get install redis-server`, "
        "`brew install redis`), or give the address of one in STANDFAST_TEST_REDIS"
    )


class Redis(Server):
    """A Redis server that keeps its data over `stop`, `kill` and `start`; `url` is its address."""

    def __init__(self, *, fsync: bool = False) -> None:
        self._program = _program()
        super().__init__(fsync=fsync)

    @property
    def url(self) -> str:
        """The address of logical database 0 of this server."""
        return f"redis://127.0.0.1:{self.port}/0"

    def command(self) -> list[str]:
        settings = {
            "appendfsync": "always" if self.fsync else "no",
            "appendonly": "yes",
            "bind": "127.0.0.1",
            "daemonize": "no",
            "dir": str(self.folder),
            "port": str(self.port),
            "save": "",
        }
        options = [part for name, value in settings.items() for part in (f"--{name}", value)]
        return [self._program, *options]

    def ready(self) -> bool:
        try:
            with socket.create_connection(("127.0.0.1", self.port), timeout=1) as connection:
                connection.sendall(b"INFO server\r\n")
                # While it loads its data it answers -LOADING. It could be another's, on our port.
                return f"process_id:{self.pid}\r\n".encode() in connection.recv(8192)
        except OSError:
            return False
