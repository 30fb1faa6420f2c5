"""Whether a process that works is alive, and whether it is ready: facts in, a report out.

*Alive* means that a restart wouldn't help; *ready*, that it does its work at this moment. A
database that is away makes a process unready but leaves it alive, for a restart brings no database
back.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from standfast.coordination.lifecycle import ServiceStatus


@dataclass(frozen=True, slots=True)
class Facts:
    """What is known of a process at one moment.

    `lease` is how long its lease lasts, in seconds. `has_begun`: it has joined the others.
    `is_stopping`: it drains, or has ended. `blocked_for`: for how many seconds the event loop
    hasn't run. `is_beating`: the heartbeat's task goes on. `beat_age`: seconds since the last beat
    ended, well or not. `lease_held` and `store_answers`: as of that beat. `services`: how each
    stands. `hindrances`: by service, why it can't work until the process is restarted.
    """

    lease: float
    has_begun: bool
    is_stopping: bool
    blocked_for: float
    is_beating: bool
    beat_age: float
    lease_held: bool
    store_answers: bool
    services: Sequence[ServiceStatus]
    hindrances: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Check:
    """One question and its answer. `reason` says why it is so, also where all is well."""

    name: str
    ok: bool
    reason: str


@dataclass(frozen=True, slots=True)
class Report:
    """The answers to all questions."""

    checks: Sequence[Check]

    @property
    def ok(self) -> bool:
        """Whether all of them are good."""
        return all(check.ok for check in self.checks)


def patience(lease: float) -> float:
    """The heartbeat timeout, in seconds, for liveness.

    A beat may wait long for a store that doesn't answer; only one that waits for good is a fault.
    """
    return max(60.0, 6 * lease)


def liveness(facts: Facts) -> Report:
    """Whether the process lives: its event loop runs, its heart beats, and nothing hinders it."""
    hindrances = [] if facts.is_stopping else _hindrances(facts)
    return Report([_loop(facts), _beat(facts), *hindrances])


def readiness(facts: Facts) -> Report:
    """Whether the process works: its lease is held, the store answers, and all services are up."""
    if not facts.has_begun:
        return Report([Check("process", False, "it is starting")])
    if facts.is_stopping:
        return Report([Check("process", False, "it is draining and takes no more work")])
    services = [_service(one) for one in facts.services if one.name not in facts.hindrances]
    return Report([_lease(facts), _store(facts), *services, *_hindrances(facts)])


def _loop(facts: Facts) -> Check:
    blocked = facts.blocked_for > facts.lease / 2
    reason = "the event loop runs"
    if blocked:
        reason = (
            f"the event loop hasn't run for {facts.blocked_for:.1f} s, over half the lease of "
            f"{facts.lease:g} s: the log says where it is blocked"
        )
    return Check("loop", not blocked, reason)


def _beat(facts: Facts) -> Check:
    if not facts.has_begun or facts.is_stopping:
        return Check("beat", True, "no beat is due")
    if not facts.is_beating:
        return Check("beat", False, "the heartbeat has ended: see the log, and restart the process")
    if facts.beat_age > patience(facts.lease):
        return Check(
            "beat",
            False,
            f"the heart hasn't beaten for {facts.beat_age:.0f} s: see the log, and restart the "
            "process",
        )
    return Check("beat", True, f"the heart beat {facts.beat_age:.1f} s ago")


def _lease(facts: Facts) -> Check:
    reason = "the lease is held" if facts.lease_held else "the lease isn't surely held any more"
    return Check("lease", facts.lease_held, reason)


def _store(facts: Facts) -> Check:
    if not facts.store_answers:
        return Check("store", False, "the last beat didn't reach the store: see the log")
    if facts.beat_age > facts.lease:
        return Check("store", False, f"no beat has ended for {facts.beat_age:.1f} s")
    return Check("store", True, f"the store answered {facts.beat_age:.1f} s ago")


def _hindrances(facts: Facts) -> list[Check]:
    return [Check(f"service:{name}", False, why) for name, why in facts.hindrances.items()]


def _service(status: ServiceStatus) -> Check:
    reason = status.state.replace("_", " ")
    if not status.is_up and status.error:
        reason += f" after {status.error}"
    return Check(f"service:{status.name}", status.is_up, reason)
