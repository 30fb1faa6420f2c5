"""SQLite's errors, in Standfast's terms."""

from __future__ import annotations

import sqlite3

from standfast.errors import (
    ConstraintViolated,
    CorruptRecord,
    MigrationNeeded,
    StaleWriter,
    StoreError,
    StoreFull,
    StoreUnavailable,
    TransactionConflict,
)

DRIVER_ERRORS = (sqlite3.Error, sqlite3.Warning, OverflowError, UnicodeError)
"""What the driver raises: the last two for integers beyond 64 bits and text that isn't UTF-8."""

REFUSED = (
    StaleWriter,
    sqlite3.IntegrityError,
    sqlite3.DataError,
    sqlite3.InterfaceError,
    sqlite3.ProgrammingError,
    OverflowError,
    UnicodeError,
)
"""What is wrong with one write, as against the database: others can be written."""

_AWAY = {
    sqlite3.SQLITE_BUSY: "another process holds its write lock for longer than the busy timeout, "
    "or this one does, by a transaction of your own that is still open",
    sqlite3.SQLITE_LOCKED: "a table is locked",
    sqlite3.SQLITE_INTERRUPT: "the statement was interrupted",
    sqlite3.SQLITE_NOMEM: "no memory is left",
    sqlite3.SQLITE_IOERR: "the device failed to read or write",
    sqlite3.SQLITE_CANTOPEN: "the file can't be opened: check the folder and its permissions",
    sqlite3.SQLITE_PROTOCOL: "its locks are contended",
}
_DAMAGED = (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)


def translate(error: BaseException, path: str) -> StoreError:
    """The `StoreError` to raise from the driver's `error`. `path` is the database's file."""
    code = getattr(error, "sqlite_errorcode", None)
    primary = code & 0xFF if code is not None else None
    if code == sqlite3.SQLITE_BUSY_SNAPSHOT:
        return TransactionConflict(
            f"{path}: the transaction began with a read, and another has written since, so it "
            f"can't write any more ({error}). Nothing was written: run all of it again, and begin "
            "one that will write with BEGIN IMMEDIATE"
        )
    if primary in _AWAY:
        return StoreUnavailable(f"{path}: {_AWAY[primary]} ({error})")
    if primary == sqlite3.SQLITE_FULL:
        return StoreFull(f"{path}: no room is left ({error}). Free space on the device")
    if primary == sqlite3.SQLITE_READONLY:
        return StoreUnavailable(
            f"{path}: can't be written ({error}). Check the permissions of the file and its folder"
        )
    if primary in _DAMAGED:
        return CorruptRecord(
            f"{path}: is damaged, or not an SQLite database ({error}). Run "
            "`PRAGMA integrity_check` on a copy, and restore a backup"
        )
    if primary == sqlite3.SQLITE_CONSTRAINT:
        return ConstraintViolated(str(error))
    # A trigger's statements name the database too.
    if str(error).startswith(("no such table: standfast_", "no such table: main.standfast_")):
        return MigrationNeeded(
            f"{path}: Standfast's tables are missing ({error}). Run `standfast migrate`"
        )
    if str(error).startswith("Could not decode to UTF-8"):
        return CorruptRecord(f"{path}: holds text that isn't UTF-8 ({error})")
    return StoreError(f"{path}: {error}")
