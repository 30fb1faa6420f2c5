"""Standfast: distributed patterns that hold.

Names are loaded when they are first used, so that ``standfast.resilience`` alone costs no import of
a database driver, a codec or the saga engine.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from standfast._version import __version__

if TYPE_CHECKING:
    from standfast.app import Standfast, Transaction
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
    from standfast.idempotency import barrier
    from standfast.message import BranchKey
    from standfast.resilience.backoff import Constant, Decorrelated, Exponential
    from standfast.resilience.retry import Retry
    from standfast.saga import Context, Migration, Saga, SagaHandle, SagaResult, child, step, wait

_HOMES = {
    "standfast.app": ("Standfast", "Transaction"),
    "standfast.durations": ("Duration",),
    "standfast.errors": (
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
    "standfast.idempotency": ("barrier",),
    "standfast.message": ("BranchKey",),
    "standfast.resilience.backoff": ("Constant", "Decorrelated", "Exponential"),
    "standfast.resilience.retry": ("Retry",),
    "standfast.saga": (
        "Context",
        "Migration",
        "Saga",
        "SagaHandle",
        "SagaResult",
        "child",
        "step",
        "wait",
    ),
}
_HOME_OF = {name: home for home, names in _HOMES.items() for name in names}

__all__ = [
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
    "step",
    "wait",
]


def __getattr__(name: str) -> Any:
    home = _HOME_OF.get(name)
    if home is None:
        raise AttributeError(f"module 'standfast' has no attribute {name!r}")
    value = getattr(import_module(home), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return __all__
