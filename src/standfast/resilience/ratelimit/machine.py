"""When a rate limit lets one pass: pure functions over a state of one or three numbers.

`now` is in seconds of any clock; a key nobody has used has no state (None). A negative cost gives
units back. A denied check leaves the state as it is. A clock that is set back shortens what a state
can claim: at most the whole capacity is taken.

Sources: GCRA is the Generic Cell Rate Algorithm of ITU-T I.371 (a token bucket, kept as the time at
which it will be full). The sliding window over two counters is from Cloudflare, "How we built rate
limiting capable of scaling to millions of domains", 2017.
"""

from __future__ import annotations

from math import floor
from typing import NamedTuple

from standfast.rates import Decision, Rate

# Half of the smallest unit that the stores keep: forgives what adding floats loses.
_SLACK = 5e-7

_new = tuple.__new__  # A third faster than calling the NamedTuple.


def gcra(full_at: float | None, rate: Rate, cost: int, now: float) -> tuple[float, Decision]:
    """The next state (when the bucket will be full again) and the decision."""
    full_again = now + rate.refill  # No state can claim more.
    if full_at is None or full_at < now:
        full_at = now
    elif full_at > full_again:
        full_at = full_again
    interval = rate.interval
    after = full_at + cost * interval
    left = full_again - after
    if left < -_SLACK and cost > 0:
        remaining = int((full_again - full_at + _SLACK) / interval)
        return full_at, Decision(False, remaining, -left, full_at - now)
    if after < now:  # More was given back than had been taken.
        after, left = now, rate.refill
    return after, _new(Decision, (True, int((left + _SLACK) / interval), 0.0, after - now, True))


class Window(NamedTuple):
    """Units of the window of that `number` since the clock's zero, and of the one before."""

    number: int
    current: int
    previous: int
    expires_at: float


def sliding_window(
    state: Window | None, rate: Rate, cost: int, now: float
) -> tuple[Window, Decision]:
    """The next state and the decision."""
    per, limit = rate.window, rate.limit
    number = floor(now / per)
    passed = now - number * per
    current = previous = 0
    if state is not None:
        if state.number >= number:
            current, previous = state.current, state.previous
        elif state.number == number - 1:
            previous = state.current
    weighted = previous * (1 - passed / per)
    allowed = cost <= 0 or weighted + current + cost <= limit + _SLACK
    if allowed:
        current = max(0, current + cost)
        wait = 0.0
    else:
        wait = _wait(current, previous, limit, cost, passed, per)
    remaining = max(0, int(limit - weighted - current + _SLACK))
    reset = per * 2 - passed if current else per - passed if previous else 0.0
    return Window(number, current, previous, now + reset), Decision(allowed, remaining, wait, reset)


def _wait(current: int, previous: int, limit: int, cost: int, passed: float, per: float) -> float:
    free = limit - cost
    if free < 0:  # It can never pass.
        return per
    if current <= free:  # Then the window before is what stands in the way.
        return max(0.0, per * (1 - (free - current) / previous) - passed)
    # In the next window the current one counts as the one before.
    return per - passed + per * (1 - free / current)
