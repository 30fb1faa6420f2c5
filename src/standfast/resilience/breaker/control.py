"""`OperatorControl`: one hand on the circuit breakers of all processes.

An operator's order (open, close, auto) reaches every breaker of its name, also those made later and
in processes started later. Beside that, instances give each other hints rather than share a
counter: a breaker that opens puts its namesakes elsewhere on alert, where half the usual evidence
is enough for some time; one that closes after its probes lets those that are open probe at once. No
hint opens or closes anything by itself, so one instance with a bad network can't stop the others.

All of it happens beside the calls, in a task of its own. While the store is away breakers keep the
orders they have and decide for themselves.
"""

from __future__ import annotations

import asyncio
import logging
import uuid
from collections import deque
from collections.abc import Mapping
from contextlib import aclosing, suppress
from types import TracebackType
from weakref import WeakSet

from standfast.checks import provides, text
from standfast.clock import SYSTEM_CLOCK, Clock
from standfast.durations import Duration, seconds
from standfast.errors import ConfigurationError, StoreUnavailable
from standfast.ports.circuit_control import EVERY, CircuitControl, Hint, Order
from standfast.resilience.breaker.breaker import CircuitBreaker, CircuitRegistry, circuits
from standfast.resilience.breaker.machine import Change, State
from standfast.resilience.deadline import without_deadline
from standfast.shielding import shielded

logger = logging.getLogger(__name__)


class OperatorControl:
    """Keeps the breakers of `registry` to the orders in `control`, while its block lasts.

    ::

        async with OperatorControl(RedisCircuitControl("redis://…")) as operator:
            await operator.open("payments")   # everywhere
            await operator.auto("payments")   # let them decide again

    ``open`` rejects every call; ``close`` lets every call pass and goes on counting; ``auto`` ends
    the order, and the breaker starts afresh, closed. Without a name they mean every breaker; an
    order for one name goes before it. `alert` is how long a hint is heeded. Entering never fails
    because the store is away: it is tried again every `retry`. The three orders themselves raise
    `StoreUnavailable` then. When the block ends, breakers stay as their last order left them. For
    programs without an event loop, run it in one in a thread.
    """

    def __init__(
        self,
        control: CircuitControl,
        *,
        registry: CircuitRegistry = circuits,
        alert: Duration = "30s",
        retry: Duration = "1s",
        clock: Clock = SYSTEM_CLOCK,
    ) -> None:
        provides(
            control,
            "order",
            "orders",
            "hint",
            "follow",
            "close",
            name="control",
            instead="RedisCircuitControl(…) or ",
        )
        if not isinstance(registry, CircuitRegistry):
            raise ConfigurationError(f"registry={registry!r}: give a CircuitRegistry()")
        self._control = control
        self._registry = registry
        self._alert = seconds(alert, name="alert")
        self._retry = seconds(retry, name="retry")
        self._clock = clock
        self._instance = uuid.uuid4().hex
        self._orders: Mapping[str, Order] = {}
        self._held: WeakSet[CircuitBreaker] = WeakSet()
        self._hints: deque[Hint] = deque(maxlen=1000)
        self._hinted = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []

    async def open(self, name: str = EVERY) -> None:
        """Reject the calls of these breakers everywhere."""
        await self._control.order(text(name), "open")

    async def close(self, name: str = EVERY) -> None:
        """Let the calls of these breakers pass everywhere, whatever they count."""
        await self._control.order(text(name), "close")

    async def auto(self, name: str = EVERY) -> None:
        """End the order for `name`: breakers decide for themselves, or by the order for all."""
        await self._control.order(text(name), None)

    async def __aenter__(self) -> OperatorControl:
        self._loop = asyncio.get_running_loop()
        self._end = self._registry.on_add(self._take)
        for breaker in self._registry:
            self._take(breaker)
        with without_deadline():
            self._tasks = [asyncio.create_task(self._follow()), asyncio.create_task(self._send())]
        for task in self._tasks:
            task.add_done_callback(_tell_of_failure)
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await shielded(self._leave())

    async def _leave(self) -> None:
        # Once may not be enough: until Python 3.12 `asyncio.wait_for`, which redis-py writes with,
        # forgets a cancellation that comes just when it is done.
        while waiting := [task for task in self._tasks if not task.done()]:
            for task in waiting:
                task.cancel()
            await asyncio.wait(waiting, timeout=0.1)
        self._end()
        for breaker in self._registry:
            breaker.forget(self._changed)
        await self._control.close()

    # -- orders and hints that come --------------------------------------------------------------

    async def _follow(self) -> None:
        away = False
        while True:
            try:
                async with aclosing(self._control.follow()) as messages:
                    async for hint in messages:
                        if hint is None:
                            self._obey(await self._control.orders())
                        else:
                            self._heed(hint)
                        away = False
            except StoreUnavailable as error:
                if not away:
                    logger.warning("circuit control is away, calls go on: %s", error)
                away = True
            except Exception:  # of a port of the user's own, say: it may pass
                if not away:
                    logger.exception("circuit control failed; trying again, calls go on")
                away = True
            await self._clock.sleep(self._retry)

    def _obey(self, orders: Mapping[str, Order]) -> None:
        self._orders = orders
        for breaker in self._registry:
            self._hold(breaker)

    def _hold(self, breaker: CircuitBreaker) -> None:
        order = self._orders.get(breaker.name) or self._orders.get(EVERY)
        if order is None:
            if breaker in self._held:
                self._held.discard(breaker)
                breaker.reset()
            return
        self._held.add(breaker)
        if order == "open":
            breaker.force_open()
        else:
            breaker.metrics_only()

    def _heed(self, hint: Hint) -> None:
        if hint.instance == self._instance:
            return
        for breaker in self._registry.named(hint.name):
            if hint.state == "open":
                breaker.alert(self._alert)
            else:
                breaker.probe_early()

    # -- hints that go ---------------------------------------------------------------------------

    def _take(self, breaker: CircuitBreaker) -> None:
        breaker.on_change(self._changed)
        self._hold(breaker)

    def _changed(self, breaker: CircuitBreaker, change: Change) -> None:
        if change.new is State.OPEN:
            hint = Hint(breaker.name, "open", self._instance)
        elif change.new is State.CLOSED and change.old is State.HALF_OPEN:
            hint = Hint(breaker.name, "closed", self._instance)
        else:
            return
        if self._loop.is_running():  # else it would go out late, or never: an old one would mislead
            self._hints.append(hint)
            with suppress(RuntimeError):  # the loop was closed just now
                self._loop.call_soon_threadsafe(self._hinted.set)

    async def _send(self) -> None:
        while True:
            await self._hinted.wait()
            self._hinted.clear()
            while self._hints:
                try:
                    await self._control.hint(self._hints.popleft())
                except StoreUnavailable:
                    # `_follow` has told it. An old hint would mislead: it is dropped.
                    self._hints.clear()
                except Exception:  # hints are a help: without them the breaker works alone
                    logger.exception("a hint couldn't be sent; calls go on")
                    self._hints.clear()


def _tell_of_failure(task: asyncio.Task[None]) -> None:
    if not task.cancelled() and (error := task.exception()) is not None:
        logger.error("circuit control ended, orders no longer arrive", exc_info=error)
