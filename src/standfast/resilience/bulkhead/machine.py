"""Permits, first come first served, as a pure machine; and who gets a thread.

Waiters are whatever the runner gives, compared by identity. A permit that comes free goes straight
to the waiter at the front, so nobody can slip in between. Each waiter ends in exactly one of two
ways: it was handed a permit, which it must `release`, or it was withdrawn, and holds none.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import Generic, Literal, TypeVar

W = TypeVar("W")


class Permits(Generic[W]):
    """At most `limit` permits out at once, and at most `places` waiters (None: no bound)."""

    __slots__ = ("_full_since", "_gap", "_released", "active", "limit", "places", "waiting")

    def __init__(self, limit: int, places: int | None = None) -> None:
        self.limit = limit
        self.places = places
        self.active = 0
        self.waiting: OrderedDict[W, None] = OrderedDict()
        self._full_since = 0.0
        self._released = 0  # since it was full
        self._gap: float | None = None  # seconds between two releases while it was last full

    def take(self) -> bool:
        """Take a permit if one is free. None is while somebody waits: that would be jumping in."""
        if self.active < self.limit:
            self.active += 1
            return True
        return False

    def wait(self, waiter: W, *, anyway: bool = False) -> bool:
        """Queue up after `take` said no. False if every place is taken, unless `anyway`."""
        if self.places is not None and len(self.waiting) >= self.places and not anyway:
            return False
        self.waiting[waiter] = None
        return True

    def release(self, now: float) -> W | None:
        """Give a permit back. Returns the waiter who has it now, if any."""
        self._released += 1
        # `active` may exceed a limit that was lowered meanwhile: then the permit goes.
        if self.waiting and self.active <= self.limit:
            return self.waiting.popitem(last=False)[0]
        if self.active == self.limit:
            self._measure(now)
        self.active -= 1
        return None

    def withdraw(self, waiter: W) -> bool:
        """Leave the queue. False if the waiter isn't in it: it was handed a permit before."""
        if waiter in self.waiting:
            del self.waiting[waiter]
            return True
        return False

    def resize(self, limit: int) -> list[W]:
        """Change the limit. Returns the waiters who have a permit now."""
        self.limit = limit
        served = []
        while self.waiting and self.active < limit:
            self.active += 1
            served.append(self.waiting.popitem(last=False)[0])
        return served

    # -- how long until a permit is free ---------------------------------------------------------

    def filled(self, now: float) -> None:
        """The last permit went out at `now`."""
        self._full_since, self._released = now, 0

    def estimate(self, now: float) -> float | None:
        """Seconds until a newcomer would have a permit, or None before anybody has released one.

        The mean time between releases while all permits are out, times the waiters ahead and one.
        """
        self._measure(now)
        return None if self._gap is None else self._gap * (len(self.waiting) + 1)

    def _measure(self, now: float) -> None:
        if self.active >= self.limit and self._released and now > self._full_since:
            self._gap = (now - self._full_since) / self._released


def place_call(
    *, threads: int, idle: int, queued: int, core: int, maximum: int, capacity: int
) -> Literal["thread", "queue", "reject"]:
    """Where a pool puts one more call, in the order of Java's ``ThreadPoolExecutor``.

    First up to `core` threads, then the queue, then up to `maximum` threads, then nowhere. A queued
    call that an idle thread is about to take needs no place of the queue's `capacity`.
    """
    if queued < idle:
        return "queue"
    if threads < core:
        return "thread"
    if queued - idle < capacity:
        return "queue"
    return "thread" if threads < maximum else "reject"
