"""Hedge: a second call when the first is slow, and the first answer of either.

Source: Dean and Barroso, "The Tail at Scale", Communications of the ACM 56(2), 2013; gRPC's
hedging, gRFC A6.
"""

from __future__ import annotations

import asyncio
import queue
from collections.abc import Iterable
from typing import Any, ClassVar

from standfast.checks import text, whole
from standfast.clock import SYSTEM_CLOCK, Clock
from standfast.durations import Duration, seconds
from standfast.errors import ConfigurationError
from standfast.resilience.budget import RetryBudget
from standfast.resilience.deadline import remaining
from standfast.resilience.functions import FINISHED, as_made, finished, number, with_brackets
from standfast.resilience.in_progress import may_repeat
from standfast.resilience.latencies import Latencies
from standfast.resilience.policy import AsyncCall, Call, Measure, Policy
from standfast.resilience.telemetry import Instrument, span_event, watch
from standfast.resilience.threads import Abandoned, RunningCall, next_ended, start

INSTRUMENTS = {
    "standfast.hedge.launched": Instrument("counter", "{call}", "Second calls made"),
    "standfast.hedge.won": Instrument("counter", "{call}", "Second calls that answered first"),
    "standfast.hedge.abandoned": Instrument(
        "updown", "{thread}", "Threads still busy with a call whose answer came from another"
    ),
}


class Hedge(Policy):
    """When no answer has come after `delay`, the call is made once more; the first answer counts.

    Only for what may be made twice. With `percentile` (0.95: five calls of a hundred are slow) the
    delay is that percentile of the last 256 good calls, and `delay` (seconds or text) serves until
    16 have been seen. `most` is how many more calls there can be, each `delay` after the one
    before. `budget` bounds them, as a share of the calls: 10 % unless you give a `RetryBudget`,
    which may be one that retries share. An empty budget just means no second call.

    An error comes out when no other call is under way; it is the first call's. This is no retry.

    Around ``async def`` each call is a task with a copy of the context; the losers are cancelled,
    and so are all when the caller is. They are not waited for, so one that resists cancellation
    can't slow the winner. Around ``def`` each call runs in a daemon thread of its own. Python
    can't end a thread, so a loser runs on and shows in ``standfast.hedge.abandoned``.
    """

    label: ClassVar[str] = "hedge"

    def __init__(
        self,
        delay: Duration,
        *,
        percentile: float | None = None,
        most: int = 1,
        budget: RetryBudget | None = None,
        name: str = "",
        clock: Clock = SYSTEM_CLOCK,
    ) -> None:
        with_brackets(self, delay)
        text(name)
        if percentile is not None and not 0 < number(percentile, name="percentile") < 1:
            raise ConfigurationError(
                f"percentile={percentile!r}: a fraction between 0 and 1 (0.95), or None"
            )
        whole(most, name="most")
        if budget is not None and not isinstance(budget, RetryBudget):
            raise ConfigurationError(f"budget={budget!r}: give a RetryBudget(...), or None")
        self.delay: float = seconds(delay, name="delay")
        self.percentile: float | None = percentile
        self.most: int = most
        self.budget: RetryBudget = RetryBudget(0.1, clock=clock) if budget is None else budget
        self.name: str = name
        self.clock: Clock = clock
        self.launched: int = 0
        self.won: int = 0
        self.abandoned: Abandoned = Abandoned()
        self._latencies = None if percentile is None else Latencies(percentile)
        self._losers: set[asyncio.Task[Any]] = set()
        self._watched = False

    def __repr__(self) -> str:
        return as_made("Hedge", self.delay, name=self.name)

    def measures(self) -> Iterable[Measure]:
        """Second calls, those that won, and threads that still run."""
        yield "standfast.hedge.launched", self.launched, {"name": self.name}
        yield "standfast.hedge.won", self.won, {"name": self.name}
        yield "standfast.hedge.abandoned", self.abandoned.count, {"name": self.name}

    def current_delay(self) -> float:
        """Seconds until the next call would be hedged."""
        seen = None if self._latencies is None else self._latencies.percentile()
        return self.delay if seen is None else seen

    # -- coroutines --------------------------------------------------------------------------

    def around_async(self, call: AsyncCall) -> AsyncCall:
        """`call`, made once more when it is slow."""
        self._watch()
        monotonic = self.clock.monotonic

        async def hedged(*args: Any, **kwargs: Any) -> Any:
            self.budget.calls += 1
            began, delay = monotonic(), self.current_delay()
            tasks: list[asyncio.Task[Any]] = []
            try:
                while True:
                    tasks.append(asyncio.create_task(call(*args, **kwargs)))
                    winner = await self._first_good(tasks, delay)
                    if winner is None and not self._may_launch(len(tasks)):
                        winner = await self._first_good(tasks, None)
                    if winner is not None:
                        result = winner.result()
                        self._answered(tasks.index(winner), monotonic() - began)
                        return result
            finally:
                for task in tasks:
                    self._dismiss(task)

        return hedged

    async def _first_good(
        self, tasks: list[asyncio.Task[Any]], delay: float | None
    ) -> asyncio.Task[Any] | None:
        """The first that has an answer, or the first of all if all failed; None after `delay`."""
        timer = None if delay is None else asyncio.create_task(self.clock.sleep(delay))
        try:
            while True:
                for task in tasks:
                    if task.done() and not task.cancelled() and task.exception() is None:
                        return task
                running = [task for task in tasks if not task.done()]
                if not running:
                    return tasks[0]
                if timer is not None and timer.done():
                    return None
                waited = running if timer is None else [*running, timer]
                await asyncio.wait(waited, return_when=asyncio.FIRST_COMPLETED)
        finally:
            if timer is not None:
                timer.cancel()

    def _dismiss(self, task: asyncio.Task[Any]) -> None:
        """Cancel a loser, and take note of how it ends, so that nobody complains."""
        self._losers.add(task)  # the event loop itself holds tasks weakly
        task.add_done_callback(self._ended)
        task.cancel()

    def _ended(self, task: asyncio.Task[Any]) -> None:
        self._losers.discard(task)
        if not task.cancelled():
            task.exception()

    # -- plain functions ---------------------------------------------------------------------

    def around(self, call: Call) -> Call:
        """`call`, made once more in another thread when it is slow."""
        self._watch()
        clock = self.clock

        def hedged(*args: Any, **kwargs: Any) -> Any:
            self.budget.calls += 1
            began, delay = clock.monotonic(), self.current_delay()
            ended: queue.SimpleQueue[RunningCall] = queue.SimpleQueue()
            calls: list[RunningCall] = []
            try:
                while True:
                    calls.append(start(call, args, kwargs, name=f"standfast-hedge-{self.name}"))
                    calls[-1].when_done(ended.put)
                    winner = self._first_good_call(calls, ended, clock.monotonic() + delay)
                    if winner is None and not self._may_launch(len(calls)):
                        winner = self._first_good_call(calls, ended, None)
                    if winner is not None:
                        result = winner.result()
                        if type(result) not in FINISHED:
                            finished(call, result)
                        self._answered(calls.index(winner), clock.monotonic() - began)
                        return result
            finally:
                for one in calls:
                    self.abandoned.note(one)

        return hedged

    def _first_good_call(
        self,
        calls: list[RunningCall],
        ended: queue.SimpleQueue[RunningCall],
        deadline: float | None,
    ) -> RunningCall | None:
        """The first that has an answer, or the first of all if all failed; None at `deadline`."""
        while True:
            if all(one.done and one.error is not None for one in calls):
                return calls[0]
            one = next_ended(ended, deadline, self.clock)
            if one is None or one.error is None:
                return one

    # -- both --------------------------------------------------------------------------------

    def _may_launch(self, made: int) -> bool:
        left = remaining(self.clock)
        if made > self.most or (left is not None and left <= 0) or not may_repeat():
            return False
        if not self.budget.take():
            return False
        self.launched += 1
        span_event("hedge", name=self.name, call=made + 1)
        return True

    def _answered(self, number: int, latency: float) -> None:
        """Call `number` (from 0) answered, `latency` after the first began.

        The latency of a call that lost isn't known, but it is more than this. So it is this that
        goes into the percentile: hedged calls stay above the delay, which stays where it belongs.
        """
        if number > 0:
            self.won += 1
        if self._latencies is not None:
            self._latencies.add(latency)

    def _watch(self) -> None:
        if not self._watched:
            self._watched = True
            watch(self, INSTRUMENTS)
