"""What is logged of sagas. ``docs/reference/logging.md`` lists it all: keep it true.

Every record has the fields of `log_fields`, so that it can be searched by saga, step and instance.
"""

from __future__ import annotations

import asyncio
import logging
from typing import Any, TypeAlias

from standfast.clock import Clock
from standfast.ports.journal import Instance
from standfast.saga import events as ev
from standfast.saga import facts as fx
from standfast.saga.active import Active
from standfast.saga.branch import Branch
from standfast.saga.context import log_fields
from standfast.saga.machine import Command, Resolve, Undo
from standfast.saga.timeline import go_on
from standfast.saga.tracebacks import can_be_printed, traceback_of, users

log = logging.getLogger("standfast.saga")

MOST = 10
PERIOD = 60.0
"""Of failed attempts of one step of one saga, so many are logged in so many seconds."""

Source: TypeAlias = tuple[str, str, str]
"""What failures are counted by: saga, step, operation."""


class Limit:
    """Lets at most `most` pass in `period` seconds, of each source. Pure."""

    def __init__(self, most: int, period: float) -> None:
        self.most: int = most
        self.period: float = period
        self._began: dict[Source, float] = {}
        self._seen: dict[Source, int] = {}

    def admits(self, source: Source, now: float) -> bool:
        """Whether one more may pass."""
        if now >= self._began.get(source, now) + self.period or source not in self._seen:
            self._began[source], self._seen[source] = now, 0
        self._seen[source] += 1
        return self._seen[source] <= self.most

    def remaining(self, source: Source, now: float) -> float:
        """Seconds until the period of a source is over; none are left if it is, or never began."""
        return max(0.0, self._began.get(source, now - self.period) + self.period - now)

    def take_left_out(self, source: Source) -> int:
        """How many of a source didn't pass in the period, which ends here."""
        self._began.pop(source, None)
        return max(0, self._seen.pop(source, 0) - self.most)

    def sources(self) -> list[Source]:
        """All that were seen in their periods."""
        return list(self._seen)


class SagaLog:
    """Tells of the instances that one worker runs. `worker` is its process's name.

    Of failed attempts of one step of one saga, 10 are logged in a minute at most, and then how many
    were left out.
    """

    def __init__(self, worker: str, clock: Clock) -> None:
        self._worker = worker
        self._clock = clock
        self._limit = Limit(MOST, PERIOD)
        self._timers: dict[Source, asyncio.TimerHandle] = {}

    def close(self) -> None:
        """Tell what was left out until now."""
        for source in self._limit.sources():
            self._tell_left_out(source)

    # -- attempts ----------------------------------------------------------------------------

    def failed(
        self,
        active: Active,
        command: Command,
        error: BaseException,
        event: ev.Failed | ev.UndoFailed,
    ) -> None:
        """An attempt failed, or was refused, or not even tried."""
        is_known = event.rejected or (isinstance(event, ev.Failed) and event.refused)
        if not log.isEnabledFor(logging.INFO if is_known else logging.WARNING):
            return
        branch = command.branch
        operation = "compensation" if isinstance(command, Undo) else "action"
        if not self._admits((active.definition.name, branch.step.name, operation)):
            return
        attempt = 1 if isinstance(command, Resolve) else command.attempt
        extra = self._fields(active, branch, operation, attempt)
        name, what = active.definition.name, f"{_undo(operation)}{branch.id}"
        if event.rejected:
            log.info(
                "saga %s %s: %s wasn't tried: %s", name, active.id, what, event.error, extra=extra
            )
        elif is_known:
            log.info("saga %s %s: %s refused: %s", name, active.id, what, event.error, extra=extra)
        else:
            fit = can_be_printed(error)
            log.warning(
                "saga %s %s: %s, attempt %d failed: %s%s",
                name,
                active.id,
                what,
                attempt,
                event.error,
                "" if fit else f"\n{traceback_of(error)}",
                exc_info=(type(error), error, users(error.__traceback__)) if fit else None,
                extra=extra,
            )

    def misjudged(self, active: Active, command: Command) -> None:
        """What came of a failed attempt couldn't be told: a policy of the user's raised."""
        log.exception(
            "saga %s %s: what the failure of %s means can't be told; it counts as one to try again",
            active.definition.name,
            active.id,
            command.branch.id,
            extra=self._fields(active, command.branch, "", 0),
        )

    def _admits(self, source: Source) -> bool:
        now = self._clock.monotonic()
        if not self._limit.remaining(source, now):
            self._tell_left_out(source)  # its timer may be late; the next period begins now
        if self._limit.admits(source, now):
            return True
        if source not in self._timers:
            self._timers[source] = asyncio.get_running_loop().call_later(
                self._limit.remaining(source, now), self._tell_left_out, source
            )
        return False

    def _tell_left_out(self, source: Source) -> None:
        timer = self._timers.pop(source, None)
        if timer is not None:
            timer.cancel()
        left_out = self._limit.take_left_out(source)
        if left_out:
            saga, step, operation = source
            log.warning(
                "saga %s: %d more failed attempts of %s weren't logged, of at most %d in %g s",
                saga,
                left_out,
                f"{_undo(operation)}{step}",
                MOST,
                PERIOD,
                extra={
                    "saga": saga,
                    "saga_id": "",
                    "key": "",
                    "step": step,
                    "operation": operation,
                    "attempt": 0,
                    "correlation_id": "",
                    "left_out": left_out,
                    "worker": self._worker,
                },
            )

    # -- what was stored ---------------------------------------------------------------------

    def stored(self, active: Active, fact: fx.Fact) -> None:
        """A fact was stored: what an operator must know of is an error."""
        kind = type(fact)
        if kind is fx.StepParked or kind is fx.CompensationFailed:
            self._stuck(active, fact)
        elif isinstance(fact, fx.Resolved) and fact.children:
            log.warning(
                "saga %s %s was resolved by hand: %s",
                active.definition.name,
                active.id,
                go_on(fact.children),
                extra=self.fields(active),
            )
        elif kind in _TOLD or (isinstance(fact, fx.StepSkipped) and fact.reason):
            if log.isEnabledFor(logging.INFO):
                told, extra = self._about(active, fact)
                log.info("saga %s %s: %s", active.definition.name, active.id, told, extra=extra)
        elif log.isEnabledFor(logging.DEBUG):
            told, extra = self._about(active, fact)
            log.debug("saga %s %s: %s", active.definition.name, active.id, told, extra=extra)

    def _stuck(self, active: Active, fact: fx.Fact) -> None:
        assert isinstance(fact, (fx.StepParked, fx.CompensationFailed))
        branch, name = active.machine.branches[fact.branch], active.definition.name
        if isinstance(fact, fx.StepParked):
            log.error(
                "saga %s %s is parked at %s, for an operator: %s",
                name,
                active.id,
                branch.id,
                fact.error,
                extra=self._fields(active, branch, "action", fact.attempt),
            )
        else:
            log.error(
                "saga %s %s: the undo of %s failed for good, an operator must see to it: %s",
                name,
                active.id,
                branch.id,
                fact.error,
                extra=self._fields(active, branch, "compensation", fact.attempt),
            )

    def _about(self, active: Active, fact: fx.Fact) -> tuple[str, dict[str, Any]]:
        """A fact in words: what happened, and why. No values: they are nobody's business here."""
        what = str(fact.__struct_config__.tag).replace("_", " ")
        branch = active.machine.branches.get(getattr(fact, "branch", ""))
        if branch is not None:
            what = f"{branch.id}: {what}"
        whys = [str(getattr(fact, name, "")) for name in _WHYS]
        why = next((f" ({one})" for one in whys if one), "")
        return what + why, self._fields(active, branch, "", getattr(fact, "attempt", 0))

    def ended(self, active: Active) -> None:
        """An instance ended, and that is stored."""
        machine = active.machine
        if machine.outcome == "completed":
            if log.isEnabledFor(logging.DEBUG):
                log.debug(
                    "saga %s %s is completed",
                    active.definition.name,
                    active.id,
                    extra=self.fields(active),
                )
        else:
            log.info(
                "saga %s %s is %s: %s",
                active.definition.name,
                active.id,
                machine.outcome,
                machine.cause,
                extra=self.fields(active),
            )

    def fields(self, active: Active) -> dict[str, Any]:
        """What a record that tells of an instance as a whole carries."""
        return self._fields(active, None, "", 0)

    def _fields(
        self, active: Active, branch: Branch | None, operation: str, attempt: int
    ) -> dict[str, Any]:
        return log_fields(active.definition.name, active.machine, branch, operation, attempt) | {
            "worker": self._worker
        }


def log_fields_of(instance: Instance, worker: str) -> dict[str, Any]:
    """What a record carries that tells of an instance which isn't in memory."""
    return {
        "saga": instance.name,
        "saga_id": str(instance.id),
        "key": instance.key,
        "step": instance.step,
        "operation": "",
        "attempt": 0,
        "correlation_id": instance.correlation_id,
        "worker": worker,
    }


def _undo(operation: str) -> str:
    return "undo of " if operation == "compensation" else ""


_WHYS = ("cause", "reason", "error", "act", "by")
"""The fields of facts that say why."""
_TOLD = frozenset(
    {
        *(fx.CancelRequested, fx.CompensationStarted, fx.CompensationSkipped, fx.Resumed),
        *(fx.Resolved, fx.Migrated, fx.Ignored),
    }
)
"""Facts that somebody caused, or that turn a saga round."""
