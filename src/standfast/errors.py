"""Every error that Standfast raises, in one tree.

::

    StandfastError
    ├── ConfigurationError (ValueError)   an option or definition is wrong, told when it is made
    │   ├── DefinitionError               a saga can't be run as defined
    │   ├── RealIO                        raised by standfast.testing: a simulated step did real I/O
    │   └── ScenarioError                 raised by standfast.testing: a scenario can't be read
    ├── Refused                           business says no: raised by *your* code, never retried
    ├── Rejected                          not even tried; carries `retry_after` (seconds or None)
    │   ├── CircuitOpen
    │   ├── BulkheadFull
    │   └── RateLimited
    ├── TimedOut (TimeoutError)           it was tried and took too long: the outcome is unknown
    ├── InvariantViolated (AssertionError)  raised by standfast.testing: a simulated saga did wrong
    ├── CodecError                        a value can't be encoded or decoded
    │   └── Unreadable                    stored data isn't what the code at hand takes
    ├── StoreError                        the database said no
    │   ├── StoreUnavailable              away or overloaded: try again later
    │   │   └── TransactionConflict       a deadlock or the like: run the transaction again
    │   ├── StoreFull                     no room on the device
    │   ├── MigrationNeeded               the tables are missing or old: `standfast migrate`
    │   ├── CorruptRecord                 a stored row can't be read
    │   ├── ConstraintViolated            a unique, foreign-key, not-null or check constraint
    │   ├── StaleWriter                   this writer's lease was lost: a fencing check refused it
    │   └── Unsupported                   the backend lacks a capability that was asked for
    └── SagaError
        ├── SagaNotFound
        ├── SagaConflict                  the key is taken by a start with another input
        ├── SagaCompensated               it ended undone; carries the cause
        ├── SagaParked                    it waits for an operator; carries the cause
        └── ResultUnavailable             a step's result was asked for that isn't there

A driver's own error is always chained (``__cause__``) and never raised bare.
"""

from __future__ import annotations

from typing import Any


class StandfastError(Exception):
    """The root of everything raised on purpose by this library."""


class ConfigurationError(StandfastError, ValueError):
    """An option is wrong. The message names the value and the remedy."""


class DefinitionError(ConfigurationError):
    """A saga can't be run as it is defined. The message names the step and the remedy."""


class Refused(StandfastError):
    """Business says no: the participant understood, did nothing and will not do it.

    Raise it from a step to say that the outcome is *known*: the step is neither retried nor
    undone. Any other exception means that the outcome is unknown. It speaks for the branch, not for
    this request alone: an earlier one that is still on its way must have no effect either, nor one
    beside it in the same ``TaskGroup``. A participant behind a `barrier` keeps that promise by
    letting the barrier keep the refusal.
    """


class Rejected(StandfastError):
    """The call was not made, so there is nothing to undo.

    `retry_after` is how long to wait before it can succeed, in seconds, or None if unknown. In a
    saga's step or undo it costs no attempt for an hour from the first attempt on.
    """

    def __init__(self, message: str = "", *, retry_after: float | None = None) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class CircuitOpen(Rejected):
    """A circuit breaker is open, or has no half-open permit left."""

    # Without a dict to be made, a rejection is cheaper.
    __slots__ = ("retry_after",)

    def __reduce__(self) -> tuple[Any, ...]:
        # An exception is pickled and copied with its dict, but without its slots.
        return type(self), self.args, {**vars(self), "retry_after": self.retry_after}


class BulkheadFull(Rejected):
    """Every permit and every waiting place of a bulkhead is taken."""


class RateLimited(Rejected):
    """A rate limit is used up for now."""


class TimedOut(StandfastError, TimeoutError):
    """The call was made and took too long. Whether it took effect is unknown."""


class CodecError(StandfastError):
    """A value can't be encoded for storage, or stored data doesn't decode to the type asked for."""


class Unreadable(CodecError):
    """What is stored can't be read as what the code at hand takes: an operator must decide.

    Code that has another type than the code that stored it raises it. In a step it parks the saga.
    """


class StoreError(StandfastError):
    """The database refused or failed. The driver's error is the cause."""


class StoreUnavailable(StoreError):
    """The database is away or overloaded. Nothing is known to be written: try again later.

    `for_good` tells that it won't come back by itself: it refuses the login, say. The message says
    what to do.
    """

    def __init__(self, message: str = "", *, for_good: bool = False) -> None:
        super().__init__(message)
        self.for_good = for_good


class TransactionConflict(StoreUnavailable):
    """The database ended this transaction because something else got in its way.

    A deadlock, a serialization failure, or a table that was altered meanwhile. Nothing was written:
    run all of it again. In a transactional step or undo that costs no attempt, as with `Rejected`.
    """


class StoreFull(StoreError):
    """No room is left on the database's device. Nothing was written."""


class MigrationNeeded(StoreError):
    """Standfast's tables are missing or older than this version. Run ``standfast migrate``."""


class CorruptRecord(StoreError):
    """A stored row can't be read back. The row is left as it is."""


class ConstraintViolated(StoreError):
    """A statement broke a unique, foreign-key, not-null or check constraint."""


class StaleWriter(StoreError):
    """The writer's lease was lost to another, so its write was refused. Nothing was written."""


class Unsupported(StoreError):
    """The backend doesn't have a capability that was asked for."""


class SagaError(StandfastError):
    """Something about one saga instance."""


class SagaNotFound(SagaError):
    """No instance has this id or key."""


class SagaConflict(SagaError):
    """The key belongs to an instance that was started with another input."""


class SagaCompensated(SagaError):
    """The saga ended with everything undone. `cause` tells why (``"charge refused: no funds"``)."""

    def __init__(self, message: str, *, cause: str = "") -> None:
        super().__init__(message)
        self.cause = cause


class SagaParked(SagaError):
    """The saga waits for an operator. `cause` tells why."""

    def __init__(self, message: str, *, cause: str = "") -> None:
        super().__init__(message)
        self.cause = cause


class ResultUnavailable(SagaError):
    """A step's result was asked for, but there is none: skipped, failed, or outcome unknown."""
