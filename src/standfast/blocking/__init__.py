"""Standfast for sync code: what ``app.blocking`` is, and what comes out of it."""

from __future__ import annotations

from standfast.blocking.client import BlockingClient
from standfast.blocking.operations import BlockingOperations
from standfast.doors.blocking import BlockingTransaction
from standfast.doors.blocking_handle import BlockingSagaHandle

__all__ = ["BlockingClient", "BlockingOperations", "BlockingSagaHandle", "BlockingTransaction"]
