"""Rate limits counted in this process."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Sequence

from standfast.checks import whole
from standfast.clock import SYSTEM_CLOCK, Clock
from standfast.ports.rate_limit import RateRequest
from standfast.rates import Decision, Rate
from standfast.resilience.forking import survives_fork, unlock
from standfast.resilience.ratelimit.machine import Window, gcra, sliding_window


class MemoryRateLimits:
    """A `RateLimitStore` in memory, by the monotonic clock. For any number of threads.

    Memory is bounded. A key whose capacity is whole again is forgotten: each new key looks at two
    old ones, so that at most about twice as many are kept as are in use, and no call pays for many.
    Beyond `max_keys` in use, the oldest key is forgotten before its time, and starts anew.

    Raises `ConfigurationError` for `max_keys` below 1.
    """

    __slots__ = (
        "__weakref__",
        "_acquire",
        "_full_at",
        "_keys",
        "_lock",
        "_monotonic",
        "_release",
        "_windows",
        "max_keys",
    )

    always_local = True

    def __init__(self, *, max_keys: int = 1_000_000, clock: Clock = SYSTEM_CLOCK) -> None:
        self.max_keys: int = whole(max_keys, name="max_keys")
        self._monotonic = clock.monotonic
        self._full_at: dict[str, float] = {}
        self._windows: dict[str, Window] = {}
        # Every key of the two, once each: in the order in which they are looked at.
        self._keys: deque[tuple[bool, str]] = deque()
        self._lock = lock = threading.Lock()
        self._acquire, self._release = lock.acquire, lock.release
        survives_fork(self)

    def __len__(self) -> int:
        """How many keys are kept."""
        return len(self._keys)

    def after_fork(self) -> None:
        """A child process counts for itself, from where its parent was."""
        unlock(self._lock)

    def take(self, key: str, rate: Rate, cost: int = 1) -> Decision:
        """Decide one request. See `RateLimitStore.check`."""
        # By hand: twice as fast as `with`, and this is the way of every call.
        self._acquire()
        try:
            now = self._monotonic()
            if rate.algorithm == "gcra":
                before = self._full_at.get(key)
                self._full_at[key], decision = gcra(before, rate, cost, now)
                if before is None:
                    self._keep(False, key, now)
            else:
                window = self._windows.get(key)
                self._windows[key], decision = sliding_window(window, rate, cost, now)
                if window is None:
                    self._keep(True, key, now)
            return decision
        finally:
            self._release()

    def gate(self, rate: Rate) -> Callable[[str], bool]:
        """A quick way to take one unit: True if it was there, False to ask `take` for the decision.

        The machine's commonest answer, at half the price; what it doesn't know it leaves to it.
        """
        if rate.algorithm != "gcra":
            return _closed
        acquire, release, monotonic = self._acquire, self._release, self._monotonic
        states, interval, refill = self._full_at, rate.interval, rate.refill
        full_at_of = states.get

        def passes(key: str) -> bool:
            acquire()
            try:
                full_at = full_at_of(key)
                if full_at is None:
                    return False
                now = monotonic()
                after = (full_at if full_at > now else now) + interval
                if after - now > refill:
                    return False
                states[key] = after
                return True
            finally:
                release()

        return passes

    async def check(self, requests: Sequence[RateRequest]) -> list[Decision]:
        """See `RateLimitStore.check`."""
        return [self.take(*request) for request in requests]

    def _keep(self, sliding: bool, key: str, now: float) -> None:
        keys = self._keys
        for _ in range(min(2, len(keys))):
            old = keys.popleft()
            if self._expires_at(*old) <= now:
                self._forget(*old)
            else:
                keys.append(old)
        keys.append((sliding, key))
        if len(keys) > self.max_keys:
            self._forget(*keys.popleft())

    def _expires_at(self, sliding: bool, key: str) -> float:
        return self._windows[key].expires_at if sliding else self._full_at[key]

    def _forget(self, sliding: bool, key: str) -> None:
        if sliding:
            del self._windows[key]
        else:
            del self._full_at[key]


def _closed(key: str) -> bool:
    return False
