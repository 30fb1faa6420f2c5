"""Errors of PostgreSQL's drivers that speak DB-API, in our terms."""

from __future__ import annotations

from standfast.backends.postgres.errors import of_server
from standfast.backends.postgres.errors import translate as translate_own
from standfast.errors import StandfastError, StoreError, StoreUnavailable


def of_postgres(error: BaseException, place: str, *, own: bool) -> StandfastError:
    """What an error of the driver means: by its SQLSTATE if it has one."""
    state = getattr(error, "sqlstate", None) or getattr(error, "pgcode", None)
    if isinstance(state, str):
        return of_server(error, state, place, own=own)
    if isinstance(error, OSError):
        return translate_own(error, place, own=own)
    if any(kind.__name__ in ("OperationalError", "InterfaceError") for kind in type(error).__mro__):
        return StoreUnavailable(
            f"The connection to PostgreSQL at {place} was lost ({error}). What was written in this "
            "transaction may be gone: roll back, and do all of it again"
        )
    return StoreError(f"PostgreSQL at {place}: {error}")
