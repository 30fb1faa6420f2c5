"""The driver's errors, told in the library's own words. The driver's error is always the cause."""

from __future__ import annotations

import asyncpg

from standfast.errors import (
    ConstraintViolated,
    MigrationNeeded,
    StandfastError,
    StoreError,
    StoreFull,
    StoreUnavailable,
)

DRIVER_ERRORS: tuple[type[Exception], ...] = (
    asyncpg.PostgresError,
    asyncpg.InterfaceError,
    asyncpg.InternalClientError,
    OSError,  # TimeoutError is one
)

TRANSIENT = (asyncpg.DeadlockDetectedError, asyncpg.SerializationError)
"""The server chose this transaction as a victim: nothing was written, run it again."""

_UNDEFINED = ("42P01", "42703", "42883", "3F000")
_AWAY = {
    "53000": "it is out of resources",
    "53200": "it is out of memory",
    "53300": "it has no connection left: raise its max_connections or lower max_size",
    "53400": "a configured limit was reached",
    "57014": "the statement was cancelled: look for a statement_timeout or long locks",
    "57P01": "it is shutting down or ended this connection",
    "57P02": "it crashed and is recovering",
    "57P03": "it is starting up or shutting down",
    "57P04": "the database was dropped",
    "57P05": "the connection was idle for too long",
    "55P03": "a lock was held for too long",
    "40001": "the transaction conflicted with another: run it again",
    "40P01": "the transaction deadlocked with another: run it again",
    "25P03": "the transaction was idle for longer than idle_timeout and was ended",
    "25006": "it is read-only: is it a standby?",
    "3D000": "the server has no such database: check the name in the URL",
    "28000": "it refused the login: check user, password and pg_hba.conf",
    "28P01": "it refused the login: check user and password",
}
# What doesn't pass by itself.
_FOR_GOOD = ("28000", "28P01", "3D000")


def translate(error: BaseException, place: str, *, own: bool = True) -> StandfastError:
    """What `error` from the driver means to a caller.

    `place` names the database without its password. `own` says that the statement was the
    library's and not the user's: then anything undefined is a matter of migrations.
    """
    if isinstance(error, StandfastError):
        return error
    if isinstance(error, TimeoutError):
        return StoreUnavailable(
            f"PostgreSQL at {place} didn't answer in time: check its load and the network, or "
            "raise the timeout. A write may have been done"
        )
    if isinstance(error, OSError):
        return StoreUnavailable(
            f"PostgreSQL at {place} can't be reached ({error}): check that it runs, host and port"
        )
    if isinstance(error, asyncpg.PostgresError):
        return _of_server(error, place, own)
    text = str(error)
    # What asyncpg says when the server dies while it prepares a statement.
    if isinstance(error, asyncpg.InternalClientError) and "cannot switch to state" in text:
        return StoreUnavailable(f"The connection to PostgreSQL at {place} was lost ({text})")
    if ("closed" in text and "pool is" not in text) or "released back to the pool" in text:
        return StoreUnavailable(f"The connection to PostgreSQL at {place} was lost ({text})")
    return StoreError(f"PostgreSQL at {place}: {text}")


def _of_server(error: asyncpg.PostgresError, place: str, own: bool) -> StandfastError:
    state: str = getattr(error, "sqlstate", None) or ""
    if state == "53100":
        return StoreFull(
            f"PostgreSQL at {place} has no room left on its device ({error}): free some space; "
            "nothing was written"
        )
    if state in _AWAY:
        return StoreUnavailable(
            f"PostgreSQL at {place}: {_AWAY[state]} ({error})", for_good=state in _FOR_GOOD
        )
    if state == "0A000" and "recovery" in str(error):
        # So it says it of unlogged tables.
        return StoreUnavailable(f"PostgreSQL at {place}: it is a standby ({error})")
    if state.startswith("08"):
        return StoreUnavailable(
            f"The connection to PostgreSQL at {place} was lost ({error}): check that the server "
            "runs. A write may have been done"
        )
    if state in _UNDEFINED and (own or "standfast." in str(error)):
        return MigrationNeeded(
            f"PostgreSQL at {place} lacks Standfast's tables or has old ones ({error}): run "
            "`standfast migrate`"
        )
    if state.startswith("23"):
        detail = getattr(error, "detail", None)
        detail = f": {detail}" if detail else ""
        return ConstraintViolated(f"PostgreSQL at {place}: {error}{detail}")
    return StoreError(f"PostgreSQL at {place}: {error} (SQLSTATE {state or 'unknown'})")
