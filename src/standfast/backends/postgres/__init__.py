"""The PostgreSQL backend (the extra `postgres`)."""

from standfast.lazy import extra

with extra("asyncpg", of="postgres"):
    import asyncpg as _asyncpg  # noqa: F401 - to say what to install if it is missing

from standfast.backends.postgres.database import PostgresDatabase
from standfast.backends.postgres.options import PostgresOptions
from standfast.backends.postgres.rate_limit import PostgresRateLimits

__all__ = ["PostgresDatabase", "PostgresOptions", "PostgresRateLimits"]
