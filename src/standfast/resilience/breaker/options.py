"""The options of a circuit breaker, checked, and turned into what its machine goes by."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from typing import Literal, TypeAlias

from standfast.checks import whole
from standfast.durations import Duration, seconds
from standfast.errors import ConfigurationError
from standfast.resilience.backoff import Backoff, Constant
from standfast.resilience.breaker.machine import Settings
from standfast.resilience.breaker.window import CountWindow, TimeWindow, Window
from standfast.resilience.functions import number

Verdict: TypeAlias = Literal["success", "failure", "ignored"]
"""What a call counts as."""

MINIMUM_CALLS = 10
"""Calls that the rates need, if nobody says how many, and as far as the window holds them."""


def check(
    *,
    window: int | str | timedelta,
    failure_rate: float | None,
    failure_count: int | None,
    consecutive_failures: int | None,
    slow_call_rate: float | None,
    slow_call_duration: Duration | None,
    minimum_calls: int | None,
    wait: Duration | Backoff,
    maximum_retry_after: Duration,
    half_open_calls: int,
    half_open_timeout: Duration,
) -> Settings:
    """The settings for these options of `CircuitBreaker`. Raises `ConfigurationError`."""
    for option, rate in (("failure_rate", failure_rate), ("slow_call_rate", slow_call_rate)):
        if rate is not None and not 0 < number(rate, name=option) <= 1:
            raise ConfigurationError(f"{option}={rate!r}: give a share above 0 and up to 1")
    for option, calls in (
        ("failure_count", failure_count),
        ("consecutive_failures", consecutive_failures),
        ("minimum_calls", minimum_calls),
        ("half_open_calls", half_open_calls),
    ):
        if calls is not None:
            whole(calls, name=option)
    if (slow_call_rate is None) != (slow_call_duration is None):
        raise ConfigurationError(
            f"slow_call_rate={slow_call_rate!r}, slow_call_duration={slow_call_duration!r}: "
            "give both, the share and what is slow, or neither"
        )
    if (failure_rate, failure_count, consecutive_failures, slow_call_rate) == (None,) * 4:
        raise ConfigurationError("failure_rate=None: nothing could open it; give a threshold")
    make_window = _window(window)
    counted = (("minimum_calls", minimum_calls or 0), ("failure_count", failure_count or 0))
    for option, calls in counted:
        if isinstance(window, int) and calls > window:
            raise ConfigurationError(
                f"{option}={calls!r}: never reached in a window of {window} calls; "
                "widen the window or lower it"
            )
    if minimum_calls is None:
        minimum_calls = min(MINIMUM_CALLS, window) if isinstance(window, int) else MINIMUM_CALLS
    return Settings(
        window=make_window,
        failure_rate=failure_rate,
        failure_count=failure_count,
        consecutive_failures=consecutive_failures,
        slow_call_rate=slow_call_rate,
        minimum_calls=minimum_calls,
        wait=wait if isinstance(wait, Backoff) else Constant(seconds(wait, name="wait")),
        maximum_retry_after=seconds(maximum_retry_after, name="maximum_retry_after"),
        probes=half_open_calls,
        probe_timeout=seconds(half_open_timeout, name="half_open_timeout"),
    )


def _window(window: int | str | timedelta) -> Callable[[], Window]:
    if isinstance(window, int) and not isinstance(window, bool):
        if window < 1:
            raise ConfigurationError(f"window={window!r}: must be 1 call or more")
        return lambda: CountWindow(window)
    if isinstance(window, (str, timedelta)):
        span = seconds(window, name="window")
        return lambda: TimeWindow(span)
    raise ConfigurationError(
        f'window={window!r}: give a number of calls (100) or a time as text ("60s") or timedelta'
    )
