"""Standfast for sync code: what ``app.blocking`` is, and what comes out of it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from standfast.lazy import exports

if TYPE_CHECKING:
    from standfast.blocking.client import BlockingClient
    from standfast.blocking.operations import BlockingOperations
    from standfast.doors.blocking import BlockingTransaction
    from standfast.doors.blocking_handle import BlockingSagaHandle

_HOMES = {
    "client": ("BlockingClient", "BlockingTransaction"),
    "operations": ("BlockingOperations", "BlockingSagaHandle"),
}

__all__ = ["BlockingClient", "BlockingOperations", "BlockingSagaHandle", "BlockingTransaction"]

if not TYPE_CHECKING:  # to type checkers, every name would be there
    __getattr__, __dir__ = exports(__name__, _HOMES)
