"""OpenTelemetry over the policies' plain counters.

A policy counts in plain integers. Observable instruments read them, through `Policy.measures`, only
when somebody collects; so a call costs no telemetry. OpenTelemetry is imported when the first
policy is watched. Waits are recorded in a histogram, and attempts, openings and rejections become
events of the current span, for those are the slow paths anyway.
"""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Literal, NamedTuple, TypeAlias
from weakref import ref

from standfast._version import __version__
from standfast.resilience.policy import Policy, on_end

log = logging.getLogger("standfast.resilience")

Series: TypeAlias = tuple[str, tuple[tuple[str, str], ...]]
"""An instrument's name, and attributes."""


class Instrument(NamedTuple):
    """How an observed number is told."""

    type: Literal["counter", "updown", "gauge"]
    unit: str
    description: str


CALLS: dict[str, Instrument] = {
    "standfast.resilience.calls": Instrument(
        "counter", "{call}", "Finished calls, by policy and outcome"
    )
}
"""The instrument that several policies share."""

WAITS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)
"""Seconds: bounds of the buckets that are advised for waits."""

# The table in docs/reference/resilience-telemetry.md is made from this.
INSTRUMENTS: dict[str, Instrument] = {}

context: Callable[[], Mapping[str, object]] = dict
"""The current context, where the current span stands: OpenTelemetry's, once it is imported."""

# By identity, for equal policies are still two. One that goes takes itself out (`_bury`).
_watched: dict[int, ref[Policy]] = {}
_gone: deque[tuple[Series, float]] = deque()
"""What isn't in `_past` yet."""
_past: dict[Series, float] = {}
"""What the counters of policies that are gone had come to."""
_broken: set[type[Policy]] = set()
"""Kinds of policies whose `measures` failed, so that it is told once."""
_lock = threading.Lock()
_started: set[str] = set()
_histograms: dict[str, Any] = {}


def watch(policy: Policy, instruments: dict[str, Instrument]) -> None:
    """Observe `policy` through `instruments`. What it counted stays counted once it is gone.

    What several of the same attributes measure is added up.
    """
    global context
    from opentelemetry.context import get_current as context

    with _lock:
        _watched[id(policy)] = ref(policy)
        _add_gone()
        INSTRUMENTS.update(instruments)
        missing = instruments.keys() - _started
        _started.update(missing)
    for name in missing:
        _observe(name, INSTRUMENTS[name])


def _observe(name: str, instrument: Instrument) -> None:
    from opentelemetry import metrics

    meter = metrics.get_meter("standfast.resilience", __version__)

    def read(options: Any) -> Iterable[metrics.Observation]:
        with _lock:
            _add_gone()
            policies = [policy for one in list(_watched.values()) if (policy := one()) is not None]
            total = {series: value for series, value in _past.items() if series[0] == name}
        for policy in policies:
            for series, value in _measured(policy):
                if series[0] == name:
                    total[series] = total.get(series, 0) + value
        return [metrics.Observation(value, dict(series[1])) for series, value in total.items()]

    create: dict[str, Callable[..., Any]] = {
        "counter": meter.create_observable_counter,
        "updown": meter.create_observable_up_down_counter,
        "gauge": meter.create_observable_gauge,
    }
    create[instrument.type](
        name, callbacks=[read], unit=instrument.unit, description=instrument.description
    )


def _measured(policy: Policy) -> list[tuple[Series, float]]:
    """What it measures; nothing, and once a word in the log, where that fails."""
    try:
        return [
            ((name, tuple(attributes.items())), value)
            for name, value, attributes in policy.measures()
        ]
    except Exception:
        if type(policy) not in _broken:
            _broken.add(type(policy))
            log.exception("%r can't be measured, and is missing in telemetry", policy)
        return []


def _bury(policy: Policy) -> None:
    """Note what a policy that goes has counted.

    Called by its ``__del__``, so maybe in the middle of anything: it takes no lock that others of
    this module hold.
    """
    if _watched.pop(id(policy), None) is None:
        return
    for series, value in _measured(policy):
        if INSTRUMENTS[series[0]].type == "counter":
            _gone.append((series, value))


def _add_gone() -> None:
    """Add to `_past` what those that are gone had counted. The lock is held."""
    while _gone:
        series, value = _gone.popleft()
        _past[series] = _past.get(series, 0) + value


on_end(_bury)


def record(name: str, value: float, attributes: dict[str, str], *, description: str) -> None:
    """Record `value` seconds in the histogram `name`. For slow paths, such as a wait.

    Its buckets, where the SDK has none of its own, are `WAITS`.
    """
    histogram = _histograms.get(name)
    if histogram is None:
        from opentelemetry import metrics

        meter = metrics.get_meter("standfast.resilience", __version__)
        histogram = meter.create_histogram(
            name, "s", description, explicit_bucket_boundaries_advisory=WAITS
        )
        _histograms[name] = histogram
    histogram.record(value, attributes)


def span_event(name: str, /, **attributes: str | float) -> None:
    """Add an event ``standfast.<name>`` to the current span, if there is one that records."""
    if not context():
        return  # nor is there a span; this is much cheaper to ask, and rejections must be cheap
    from opentelemetry import trace

    span = trace.get_current_span()
    if span.is_recording():
        span.add_event(f"standfast.{name}", attributes)
