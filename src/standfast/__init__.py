"""Standfast: distributed patterns that hold.

Names are loaded when they are first used, so that ``standfast.resilience`` alone costs no import of
a database driver, a codec or the saga engine.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from standfast._version import __version__
from standfast.lazy import exports

if TYPE_CHECKING:
    from standfast.app import Standfast
    from standfast.branch_key import BranchKey
    from standfast.doors import Transaction
    from standfast.doors.blocking import BlockingTransaction
    from standfast.doors.blocking_handle import BlockingSagaHandle
    from standfast.durations import Duration
    from standfast.errors import (
        ConfigurationError,
        Refused,
        Rejected,
        SagaCompensated,
        SagaConflict,
        SagaNotFound,
        SagaParked,
        StandfastError,
        StoreError,
    )
    from standfast.idempotency import Barrier, barrier
    from standfast.resilience.backoff import Constant, Decorrelated, Exponential
    from standfast.resilience.retry import Retry
    from standfast.saga import (
        Context,
        Migration,
        Retention,
        Saga,
        SagaHandle,
        SagaResult,
        child,
        sleep,
        step,
        wait,
    )

_HOMES = {
    "app": ("Standfast",),
    "doors": ("Transaction",),
    "doors.blocking": ("BlockingTransaction",),
    "doors.blocking_handle": ("BlockingSagaHandle",),
    "durations": ("Duration",),
    "errors": (
        "ConfigurationError",
        "Refused",
        "Rejected",
        "SagaCompensated",
        "SagaConflict",
        "SagaNotFound",
        "SagaParked",
        "StandfastError",
        "StoreError",
    ),
    "idempotency": ("Barrier", "barrier"),
    "branch_key": ("BranchKey",),
    "resilience.backoff": ("Constant", "Decorrelated", "Exponential"),
    "resilience.retry": ("Retry",),
    "saga": (
        "Context",
        "Migration",
        "Retention",
        "Saga",
        "SagaHandle",
        "SagaResult",
        "child",
        "sleep",
        "step",
        "wait",
    ),
}

__all__ = [
    "Barrier",
    "BlockingSagaHandle",
    "BlockingTransaction",
    "BranchKey",
    "ConfigurationError",
    "Constant",
    "Context",
    "Decorrelated",
    "Duration",
    "Exponential",
    "Migration",
    "Refused",
    "Rejected",
    "Retention",
    "Retry",
    "Saga",
    "SagaCompensated",
    "SagaConflict",
    "SagaHandle",
    "SagaNotFound",
    "SagaParked",
    "SagaResult",
    "Standfast",
    "StandfastError",
    "StoreError",
    "Transaction",
    "__version__",
    "barrier",
    "child",
    "sleep",
    "step",
    "wait",
]

if not TYPE_CHECKING:  # to type checkers, every name would be there
    __getattr__, __dir__ = exports(__name__, _HOMES)
