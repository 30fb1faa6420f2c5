"""Real servers for the tests: each in a folder of its own, on a free port of 127.0.0.1.

`tests.servers.fixtures` hands them to tests. A server of ours ends with its test run, even
when the run is ended by `kill -9` (see `tests.servers.process`).
"""

from tests.servers.postgres import Postgres
from tests.servers.process import Server, ServerFailed, ServerMissing
from tests.servers.proxy import TcpProxy
from tests.servers.redis import Redis

__all__ = ["Postgres", "Redis", "Server", "ServerFailed", "ServerMissing", "TcpProxy"]
