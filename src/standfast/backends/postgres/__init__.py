"""The PostgreSQL backend (``pip install standfast[postgres]``)."""

from standfast.backends.postgres.database import PostgresDatabase
from standfast.backends.postgres.options import PostgresOptions

__all__ = ["PostgresDatabase", "PostgresOptions"]
