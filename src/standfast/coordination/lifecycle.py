"""How a service stands, as a pure machine: a status and an event make the next status.

::

    starting ──ready──▶ running ──drain──▶ draining ──ended──▶ stopped
       ▲ ▲                 │
       │ └──taken── standing_by      failed, lost: restarting ──begin──▶ starting
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal, TypeAlias

from standfast.errors import ConfigurationError

ServiceState: TypeAlias = Literal[
    "starting", "standing_by", "running", "restarting", "draining", "stopped"
]
ServiceEvent: TypeAlias = Literal["begin", "stand_by", "ready", "lost", "fail", "drain", "end"]

_NEXT: dict[tuple[ServiceState, ServiceEvent], ServiceState] = {
    ("starting", "begin"): "starting",
    ("starting", "stand_by"): "standing_by",
    ("starting", "ready"): "running",
    ("standing_by", "begin"): "starting",
    ("restarting", "begin"): "starting",
    ("restarting", "stand_by"): "standing_by",
}
for _state in ("starting", "standing_by", "running", "restarting"):
    _NEXT[_state, "lost"] = "restarting"
    _NEXT[_state, "fail"] = "restarting"
    _NEXT[_state, "drain"] = "draining"
    _NEXT[_state, "end"] = "stopped"
_NEXT["draining", "ready"] = "draining"  # it comes up, and sees that it should stop
_NEXT["draining", "end"] = "stopped"
_NEXT["draining", "fail"] = "stopped"
_NEXT["draining", "lost"] = "stopped"


STEADY_AFTER = 60.0
"""Seconds after which a service that runs counts as sound: a failure then is its first."""


@dataclass(frozen=True, slots=True)
class ServiceStatus:
    """How one service stands, since when (seconds since the epoch).

    `restarts` counts how often it was begun again, and `failures` how often it failed in a row,
    without having run steadily in between. `error` is what it failed with last, "" if it never did.
    """

    name: str
    state: ServiceState
    since: float
    restarts: int = 0
    failures: int = 0
    error: str = ""

    @property
    def is_up(self) -> bool:
        """Whether it works, or waits for its turn as it should."""
        return self.state in ("running", "standing_by")


def after(
    status: ServiceStatus, event: ServiceEvent, now: float, *, error: str = ""
) -> ServiceStatus:
    """The next status, after an event at `now` (seconds since the epoch).

    Allowed are ``begin`` while it is starting, standing by or restarting, ``stand_by`` while it is
    starting or restarting, ``ready`` while it is starting or draining, ``drain`` until it drains,
    and ``lost``, ``fail`` and ``end`` until it has stopped. `error` goes with ``fail``. Raises
    `ConfigurationError` for any other.
    """
    state = _NEXT.get((status.state, event))
    if state is None:
        raise ConfigurationError(f"service {status.name!r} is {status.state}: {event!r} can't be")
    since = now if state != status.state else status.since
    changed = replace(status, state=state, since=since)
    if event == "fail":
        steady = status.state == "running" and now - status.since >= STEADY_AFTER
        failures = 1 if steady else status.failures + 1
        return replace(changed, failures=failures, error=error)
    if event == "begin" and status.state == "restarting":
        return replace(changed, restarts=status.restarts + 1)
    return changed
