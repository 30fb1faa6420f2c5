"""SQLite: the embedded default. One file, durable group commit, one worker process at a time."""

from standfast.backends.sqlite.database import SqliteDatabase

__all__ = ["SqliteDatabase"]
