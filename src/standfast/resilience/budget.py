"""How many retries one dependency bears, shared by all who call it.

Retries help while few calls fail. When most fail, each retry is load on something that is already
down. A `RetryBudget` bounds retries to a share of the calls; the mark that an exhausted retry
leaves on its exception (`marks.py`) stops the layers around it.

Source of the budget: Finagle's ``RetryBudget`` (a share of the calls, and a few per second for the
quiet hours) and gRPC's retry throttling, gRFC A6 (a bucket with a top).
"""

from __future__ import annotations

import threading
from weakref import ref

from standfast.checks import text
from standfast.clock import SYSTEM_CLOCK, Clock
from standfast.errors import ConfigurationError
from standfast.resilience.forking import survives_fork, unlock
from standfast.resilience.functions import as_made, number
from standfast.resilience.marks import do_not_retry as do_not_retry
from standfast.resilience.marks import is_final as is_final
from standfast.resilience.marks import is_marked as is_marked
from standfast.resilience.marks import let_pass as let_pass


class RetryBudget:
    """A bucket of retries for one dependency. Share one among everything that calls it.

    Each call adds `ratio` retries (0.2: one retry for five calls), time adds `per_second`, and the
    bucket holds `burst` at most, with which it starts. A retry takes 1, and gives it
    back when its caller goes before it is made.

    Threads may share it. A call counted by two threads at the same instant may be counted once,
    which errs towards fewer retries; a retry is never given twice.
    """

    def __init__(
        self,
        ratio: float = 0.2,
        *,
        per_second: float = 1.0,
        burst: float = 10.0,
        name: str = "",
        clock: Clock = SYSTEM_CLOCK,
    ) -> None:
        text(name)
        for option, value in (("ratio", ratio), ("per_second", per_second), ("burst", burst)):
            number(value, name=option)
        if not 0 <= ratio <= 1:
            raise ConfigurationError(
                f"ratio={ratio!r}: retries per call, from 0 to 1 (0.2: one for five calls)"
            )
        if not 0 <= per_second < float("inf"):
            raise ConfigurationError(f"per_second={per_second!r}: must be 0 or more")
        if not 1 <= burst < float("inf"):
            raise ConfigurationError(f"burst={burst!r}: must be 1 or more, or no retry is possible")
        self.ratio: float = ratio
        self.per_second: float = per_second
        self.burst: float = burst
        self.name: str = name
        self.clock: Clock = clock
        self.calls: int = 0
        """Calls so far. Policies add 1 for each, before the first attempt."""
        self.taken: int = 0
        self.denied: int = 0
        self._tokens = float(burst)
        self._seen = 0
        self._settled = clock.monotonic()
        # Re-entrant: in the middle, the garbage collector may take a policy that is measured then.
        self._lock = threading.RLock()
        self._teller: ref[object] | None = None
        survives_fork(self)

    def after_fork(self) -> None:
        """Go on as the parent's budget stood; a thread of the parent may have held the lock."""
        unlock(self._lock)

    def take(self) -> bool:
        """Take one retry, if there is one."""
        with self._lock:
            self._settle()
            if self._tokens < 1:
                self.denied += 1
                return False
            self._tokens -= 1
            self.taken += 1
            return True

    def give_back(self) -> None:
        """Put back one retry that was taken and isn't made after all."""
        with self._lock:
            self._settle()
            self._tokens = min(self.burst, self._tokens + 1)
            self.taken -= 1

    def left(self) -> float:
        """How many retries are in the bucket now."""
        with self._lock:
            self._settle()
            return self._tokens

    def is_told_by(self, policy: object) -> bool:
        """Whether it is that one, of all that share it, that tells telemetry how it stands."""
        if self._teller is None or self._teller() is None:
            self._teller = ref(policy)
        return self._teller() is policy

    def _settle(self) -> None:
        """Put in what calls and time have added since the last look."""
        calls, now = self.calls, self.clock.monotonic()
        added = (calls - self._seen) * self.ratio + (now - self._settled) * self.per_second
        self._seen, self._settled = calls, now
        self._tokens = min(self.burst, self._tokens + added)

    def __repr__(self) -> str:
        return as_made(
            "RetryBudget",
            self.ratio,
            per_second=self.per_second,
            burst=self.burst,
            name=self.name,
        )
