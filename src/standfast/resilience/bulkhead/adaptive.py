"""`AdaptiveBulkhead`: a bulkhead that finds its limit by itself."""

from __future__ import annotations

import asyncio
from types import TracebackType
from typing import Any

from standfast.checks import whole
from standfast.clock import SYSTEM_CLOCK, Clock
from standfast.durations import Duration
from standfast.errors import ConfigurationError
from standfast.resilience.blocks import Blocks, OpenBlocks
from standfast.resilience.bulkhead.gradient import Gradient2, GradientSettings
from standfast.resilience.bulkhead.semaphore import Bulkhead
from standfast.resilience.deadline import current
from standfast.resilience.functions import number, with_brackets
from standfast.resilience.policy import AsyncCall, Call

INITIAL = 20
"""Permits to begin with, if nobody says how many, and as far as `minimum` and `maximum` let it."""


class AdaptiveBulkhead(Blocks[None], Bulkhead):
    """A `Bulkhead` whose limit follows how long calls take (Gradient2; see `gradient.py`).

    The limit starts at `initial` (20, or what is nearest to that) and stays between `minimum` and
    `maximum`; it is reconsidered each second that has at least ten calls. While fewer than half the
    permits are used it stays as it is. Calls that succeed or time out (``TimeoutError``, or a
    `Timeout` around that ends them) are measured; other failures and cancelled calls aren't, for
    they say nothing about the load. A lowered limit stops no call that runs.
    """

    label = "adaptive_bulkhead"

    def __init__(
        self,
        initial: int | None = None,
        *,
        minimum: int = 1,
        maximum: int = 200,
        smoothing: float = 0.2,
        tolerance: float = 1.5,
        max_wait: Duration | None = None,
        queue: int | None = None,
        name: str = "",
        clock: Clock = SYSTEM_CLOCK,
    ) -> None:
        with_brackets(self, initial)
        whole(minimum, name="minimum")
        whole(maximum, name="maximum")
        if initial is None:
            initial = max(minimum, min(INITIAL, maximum))
        whole(initial, name="initial")
        if not 1 <= minimum <= initial <= maximum:
            raise ConfigurationError(
                f"minimum={minimum!r}, initial={initial!r}, maximum={maximum!r}: "
                "must be 1 or more and in this order"
            )
        if not 0 < number(smoothing, name="smoothing") <= 1:
            raise ConfigurationError(f"smoothing={smoothing!r}: must be above 0 and up to 1")
        if not number(tolerance, name="tolerance") >= 1:
            raise ConfigurationError(f"tolerance={tolerance!r}: must be 1 or more")
        super().__init__(initial, max_wait=max_wait, queue=queue, name=name, clock=clock)
        self._blocks: OpenBlocks[_MeasuredBlock] = OpenBlocks()
        self._gradient = Gradient2(
            initial,
            GradientSettings(
                minimum=minimum, maximum=maximum, smoothing=smoothing, tolerance=tolerance
            ),
        )

    def around(self, call: Call) -> Call:
        """A function that makes `call` while it holds a permit, and measures it."""

        def measured(*args: Any, **kwargs: Any) -> Any:
            began = self._monotonic()
            try:
                result = call(*args, **kwargs)
            except (TimeoutError, asyncio.CancelledError) as error:
                self._ended(began, error)
                raise
            self._sample(began)
            return result

        return super().around(measured)

    def around_async(self, call: AsyncCall) -> AsyncCall:
        """A coroutine function that awaits `call` while it holds a permit, and measures it."""

        async def measured(*args: Any, **kwargs: Any) -> Any:
            began = self._monotonic()
            try:
                result = await call(*args, **kwargs)
            except (TimeoutError, asyncio.CancelledError) as error:
                self._ended(began, error)
                raise
            self._sample(began)
            return result

        return super().around_async(measured)

    def block(self) -> _MeasuredBlock:
        """One block, which holds a permit and is measured."""
        return _MeasuredBlock(self)

    def _ended(self, began: float, error: BaseException | None) -> None:
        """Measure what ended so, if that tells something about the load."""
        if isinstance(error, asyncio.CancelledError):
            deadline = current()
            if deadline is None or not (deadline.expired and deadline.telling):
                return
        if error is None or isinstance(error, (TimeoutError, asyncio.CancelledError)):
            self._sample(began)

    def _sample(self, began: float) -> None:
        permits = self._permits
        with self._lock:
            now = self._monotonic()
            limit = self._gradient.sample(now, now - began, permits.active)
            told: list[Any] = []
            for waiter in () if limit is None else permits.resize(limit):
                told += self._hand(waiter)
        self._tell(told)


class _MeasuredBlock:
    """One block under an `AdaptiveBulkhead`."""

    __slots__ = ("_began", "_bulkhead")

    def __init__(self, bulkhead: AdaptiveBulkhead) -> None:
        self._bulkhead = bulkhead
        self._began = 0.0

    def __enter__(self) -> None:
        Bulkhead.__enter__(self._bulkhead)
        self._began = self._bulkhead._monotonic()  # noqa: SLF001 - its own

    async def __aenter__(self) -> None:
        await Bulkhead.__aenter__(self._bulkhead)
        self._began = self._bulkhead._monotonic()  # noqa: SLF001 - its own

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._bulkhead._ended(self._began, error)  # noqa: SLF001 - its own
        self._bulkhead._release()  # noqa: SLF001 - its own

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.__exit__(kind, error, traceback)
