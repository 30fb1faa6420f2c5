"""What every test may ask for."""

from tests.servers.fixtures import (
    _postgres_address,
    _redis_address,
    postgres_dsn,
    postgres_server,
    redis_server,
    redis_url,
    tcp_proxy,
)

__all__ = [
    "_postgres_address",
    "_redis_address",
    "postgres_dsn",
    "postgres_server",
    "redis_server",
    "redis_url",
    "tcp_proxy",
]
