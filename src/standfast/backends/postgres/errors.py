"""The driver's errors, told in the library's own words. The driver's error is always the cause."""

from __future__ import annotations

import errno
import re
import socket
import ssl
from urllib.parse import unquote

import asyncpg

from standfast.errors import (
    ConfigurationError,
    ConstraintViolated,
    MigrationNeeded,
    StandfastError,
    StoreError,
    StoreFull,
    StoreUnavailable,
    TransactionConflict,
)

DRIVER_ERRORS: tuple[type[Exception], ...] = (
    asyncpg.PostgresError,
    asyncpg.InterfaceError,
    asyncpg.InternalClientError,
    OSError,  # TimeoutError is one
    UnicodeError,  # of a statement's own text
)

TRANSIENT = (
    asyncpg.DeadlockDetectedError,
    asyncpg.SerializationError,
    asyncpg.InvalidCachedStatementError,
)
"""The server rolled this transaction back: nothing was written, run it again."""

# What asyncpg keeps in a session isn't there, or is another client's.
_POOLED = ("26000", "42P05")
_UNDEFINED = ("42P01", "42703", "42883", "3F000")
# What passes by itself. Two characters stand for all the rest of their class.
_CONFLICT = {
    "40": "the transaction was rolled back",
    "40001": "the transaction conflicted with another",
    "40P01": "the transaction deadlocked with another",
}
_ALTERED = "a table or type was altered after the statement was prepared"
_AWAY = {
    "40003": "whether the statement was done isn't known",
    "53": "it lacks resources",
    "57": "an operator or the server itself intervened",
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
    "25P03": "the transaction was idle for longer than idle_timeout and was ended",
    "25P04": "the transaction took longer than the server's transaction_timeout and was ended",
    "25006": "it is read-only: is it a standby? Or default_transaction_read_only is on for this "
    "role, database or transaction",
    "3D000": "the server has no such database: check the name in the URL",
    "28000": "it refused the login: check user, password and pg_hba.conf",
    "28P01": "it refused the login: check user and password",
}
_REFUSED = "25P02"
"""Said of each statement after one that failed."""
# What doesn't pass by itself.
_FOR_GOOD = ("28000", "28P01", "3D000")


def translate(error: BaseException, place: str, *, own: bool = True) -> StandfastError:
    """What `error` from the driver means to a caller.

    `place` names the database without its password. `own` says that the statement was the
    library's and not the user's: then anything undefined is a matter of migrations.
    """
    if isinstance(error, StandfastError):
        return error
    if isinstance(error, asyncpg.ClientConfigurationError):
        return ConfigurationError(f"the address of PostgreSQL: {error}")
    if isinstance(error, TimeoutError):
        return StoreUnavailable(
            f"PostgreSQL at {place} didn't answer in time: check its load and the network, or "
            "raise the timeout. A write may have been done"
        )
    if isinstance(error, ssl.SSLError):
        return StoreUnavailable(
            f"PostgreSQL at {place}: no secure connection came about ({error}): check sslmode, "
            "sslrootcert, sslcert and sslkey, and the server's certificate"
        )
    if isinstance(error, OSError):
        return _unreachable(error, place)
    if isinstance(error, asyncpg.PostgresError):
        return of_server(error, _state(error), place, own=own)
    text = str(error)
    if isinstance(error, asyncpg.OutdatedSchemaCacheError):
        return _conflict(_ALTERED, error, place)
    if isinstance(error, asyncpg.TargetServerAttributeNotMatched):
        return StoreUnavailable(
            f"PostgreSQL at {place}: no server there is of the kind that is asked for; a standby "
            "takes no writes. Once one is promoted, or the address leads to the primary, it goes "
            "on. To read from a standby, say target_session_attrs=any in the URL"
        )
    # What asyncpg says when the server dies while it prepares a statement.
    if isinstance(error, asyncpg.InternalClientError) and "cannot switch to state" in text:
        return StoreUnavailable(f"The connection to PostgreSQL at {place} was lost ({text})")
    if "another operation is in progress" in text:
        return StoreError(
            f"PostgreSQL at {place}: {text}: a transaction has one connection, so one task at a "
            "time. Await its calls one after the other (no gather), or give each task a "
            "transaction of its own"
        )
    if ("closed" in text and "pool is" not in text) or "released back to the pool" in text:
        return StoreUnavailable(f"The connection to PostgreSQL at {place} was lost ({text})")
    return StoreError(f"PostgreSQL at {place}: {text}")


def _unreachable(error: OSError, place: str) -> StoreUnavailable:
    """No connection came about, or it broke off: with the remedy of the cause."""
    # The driver has no types for the first two.
    if "rejected SSL" in str(error):
        return StoreUnavailable(
            f"PostgreSQL at {place} offers no TLS ({error}): switch it on there (ssl = on), or say "
            "sslmode=prefer in the URL to go on without it",
            for_good=True,
        )
    if "during SSL exchange" in str(error):
        remedy = "the reason is in the server's log; it may have no connection left"
    elif isinstance(error, socket.gaierror):
        remedy = "the host's name isn't known here: check the host in the URL, and DNS"
    elif error.errno in (errno.EMFILE, errno.ENFILE):
        remedy = "too many files are open here: raise the limit (ulimit -n) or lower max_size"
    elif isinstance(error, FileNotFoundError):
        remedy = "there is no such socket: check that it runs, and the folder and port in the URL"
    elif isinstance(error, PermissionError):
        remedy = "this process may not connect to it: check the socket's rights or the firewall"
    else:
        remedy = "check that it runs, host and port"
    return StoreUnavailable(f"PostgreSQL at {place} can't be reached ({error}): {remedy}")


def translate_commit(error: BaseException, place: str) -> StandfastError:
    """As `translate`, for an error of a user's COMMIT: whether it took effect may not be known."""
    found = translate(error, place, own=False)
    answered = isinstance(error, asyncpg.PostgresError) and not _state(error).startswith(
        ("08", "57P")
    )
    if answered or not isinstance(found, StoreUnavailable):
        return found
    return StoreUnavailable(
        f"{found}. It was lost during COMMIT, so whether the transaction was committed isn't "
        "known: look before you do it again"
    )


def is_refused(error: BaseException) -> bool:
    """Whether the server refused a statement since an earlier one of its transaction had failed."""
    return isinstance(error, asyncpg.PostgresError) and _state(error) == _REFUSED


def is_of_server(error: BaseException) -> bool:
    """Whether the server told this error, and not the driver by itself."""
    return getattr(error, "severity", None) is not None


def rolled_back(place: str, failed: BaseException | None) -> StoreError:
    """Nothing of a transaction counts, though its block went on after a statement had failed.

    `failed` is the error of that statement, None where it isn't known.
    """
    why = "" if failed is None else f" ({str(failed).removeprefix(f'PostgreSQL at {place}: ')})"
    return StoreError(
        f"PostgreSQL at {place} rolled the transaction back, because a statement in it had "
        f"failed{why}. Let the error of a statement end the block; or, to go on after one, set a "
        "SAVEPOINT before it and ROLLBACK TO that, or let it not fail: INSERT … ON CONFLICT DO "
        "NOTHING"
    )


def translate_migration(error: BaseException, place: str) -> StandfastError:
    """As `translate`, for an error of a schema migration: which right its role lacks."""
    if not isinstance(error, asyncpg.InsufficientPrivilegeError):
        return translate(error, place, own=False)
    role = _role(place)
    if "owner" in str(error):
        remedy = "migrate as the role that owns the tables, or make this one a member of it"
    elif "schema" in str(error):
        remedy = f"run `GRANT USAGE, CREATE ON SCHEMA standfast TO {role}` as the schema's owner"
    else:
        remedy = (
            f"run `CREATE SCHEMA standfast AUTHORIZATION {role}` as one who may, or `GRANT CREATE "
            f"ON DATABASE … TO {role}`"
        )
    return StoreError(f"PostgreSQL at {place}: {error}. To migrate, {remedy}. Nothing was changed")


def _role(place: str) -> str:
    """The role in the address, as SQL writes it."""
    login = place.partition("//")[2].rpartition("@")[0].partition(":")[0]
    role = unquote(login) or "the_role"
    return role if re.fullmatch(r"[a-z_][a-z0-9_]*", role) else '"' + role.replace('"', '""') + '"'


def _state(error: asyncpg.PostgresError) -> str:
    return getattr(error, "sqlstate", None) or ""


def _conflict(what: str, error: BaseException, place: str) -> TransactionConflict:
    return TransactionConflict(
        f"PostgreSQL at {place}: {what} ({error}). Nothing was written: run all of it again"
    )


def _refusal(text: str) -> str:
    """Why a login was refused, where it isn't its user or password."""
    if text.endswith((", no encryption", ", SSL off")):
        return (
            "it takes no such login without TLS: say sslmode=require in the URL, or allow it in "
            "pg_hba.conf"
        )
    if "client certificate" in text:
        return "it asks for a client certificate: give sslcert and sslkey in the URL"
    return ""


def of_server(error: BaseException, state: str, place: str, *, own: bool) -> StandfastError:
    """What the server told, by its SQLSTATE, whichever driver `error` is of. See `translate`."""
    if state == "53100":
        return StoreFull(
            f"PostgreSQL at {place} has no room left on its device ({error}): free some space; "
            "nothing was written"
        )
    if isinstance(error, asyncpg.InvalidCachedStatementError):
        return _conflict(_ALTERED, error, place)
    if state in _AWAY or state[:2] in _AWAY:
        away = _AWAY.get(state) or _AWAY[state[:2]]
        if state == "28000":
            away = _refusal(str(error)) or away
        return StoreUnavailable(
            f"PostgreSQL at {place}: {away} ({error})", for_good=state in _FOR_GOOD
        )
    if state[:2] in _CONFLICT:
        return _conflict(_CONFLICT.get(state) or _CONFLICT[state[:2]], error, place)
    if state == "0A000" and "recovery" in str(error):
        # So it says it of unlogged tables.
        return StoreUnavailable(f"PostgreSQL at {place}: it is a standby ({error})")
    if state.startswith("08"):
        return StoreUnavailable(
            f"The connection to PostgreSQL at {place} was lost ({error}): check that the server "
            "runs. A write may have been done"
        )
    if state == "42501" and own:
        role = _role(place)
        return StoreError(
            f"PostgreSQL at {place}: {error}. As the owner of the schema run `GRANT USAGE ON "
            f"SCHEMA standfast TO {role}` and `GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES "
            f"IN SCHEMA standfast TO {role}`; to look only, SELECT is enough"
        )
    if state in _POOLED and "__asyncpg" in str(error):
        return StoreUnavailable(
            f"PostgreSQL at {place}: a prepared statement isn't where it was prepared ({error}): "
            "behind a pooler in transaction mode, such as pgbouncer, say statement_cache_size=0 in "
            "the URL. Nothing was written"
        )
    if state in _UNDEFINED and (own or "standfast." in str(error)):
        return MigrationNeeded(
            f"PostgreSQL at {place} lacks Standfast's tables or has old ones ({error}): run "
            "`standfast migrate`"
        )
    if state == _REFUSED:
        return rolled_back(place, None)
    if state.startswith("23"):
        return ConstraintViolated(f"PostgreSQL at {place}: {error}")
    return StoreError(f"PostgreSQL at {place}: {error} (SQLSTATE {state or 'unknown'})")
