"""The PostgreSQL backend (``pip install standfast[postgres]``)."""

from standfast.backends.postgres.database import PostgresDatabase
from standfast.backends.postgres.options import PostgresOptions
from standfast.backends.postgres.rate_limit import PostgresRateLimits

__all__ = ["PostgresDatabase", "PostgresOptions", "PostgresRateLimits"]
