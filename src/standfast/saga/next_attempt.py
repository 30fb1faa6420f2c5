"""Whether a failed attempt is followed by another, and when. Pure."""

from __future__ import annotations

import math
from typing import NamedTuple

from standfast.durations import human
from standfast.resilience.backoff import Exponential
from standfast.resilience.retry import Retry
from standfast.saga import events as ev

PATIENCE = 3600.0
"""Seconds from its first attempt on, for which a branch is put off by rejections at no cost."""

_PUT_OFF = Exponential(0.1, maximum=30, jitter="equal")
"""How long a rejected one waits at least: it is free, but each is a fact of the journal."""
_UNFIT = Exponential()
"""In place of a backoff that raises, or whose answer is no number of seconds."""


class Next(NamedTuple):
    """When the next attempt is due: in `delay` seconds; None: there is none.

    `rejected`: the one before it costs none of the attempts. `why`: what to add to its error.
    """

    delay: float | None
    rejected: bool = False
    why: str = ""


def next_attempt(
    failed: ev.Failed | ev.UndoFailed,
    policy: Retry,
    *,
    attempt: int,
    forgiven: int,
    elapsed: float,
    previous: float,
    random: float,
) -> Next:
    """What follows on a failed attempt.

    `attempt` is its number, and `forgiven` how many cost nothing; `elapsed` seconds ago the first
    began, and `previous` was the last delay.

    One that was rejected costs nothing, and waits for as long as it was told to at least, up to
    `PATIENCE` in all; from then on it counts like any other, so that it ends some time.
    """
    if not failed.retriable:
        return Next(None)
    longest: float = policy.max_retry_after  # type: ignore[assignment]  # seconds, once checked
    total: float = math.inf if policy.total is None else policy.total  # type: ignore[assignment]
    if failed.rejected:
        delay = max(
            _backoff(policy, attempt - forgiven, previous, random),
            _PUT_OFF.delay(forgiven + 1, 0.0, random),
            failed.retry_after,
        )
        if elapsed + delay <= min(PATIENCE, total):
            return Next(delay, rejected=True)
    asked = failed.retry_after
    if asked > longest:
        if isinstance(failed, ev.Failed):
            why = f" (asked to wait {human(asked)}, max_retry_after={human(longest)})"
            return Next(None, why=why)
        asked = longest  # an undo goes on all the same, rather than to wait for an operator
    paid = attempt - forgiven
    try:
        given = policy.next_delay(paid, elapsed, previous, random)
    except Exception:  # noqa: BLE001 — the user's backoff; the attempt has failed, and must be told
        given = math.nan
    if given is None:
        return Next(None)
    return Next(max(given if 0 <= given < math.inf else _UNFIT.delay(paid, 0.0, random), asked))


def _backoff(policy: Retry, attempt: int, previous: float, random: float) -> float:
    try:
        delay = policy.backoff.delay(attempt, previous, random)
    except Exception:  # noqa: BLE001 — as above
        delay = math.nan
    return delay if 0 <= delay < math.inf else _UNFIT.delay(attempt, 0.0, random)
