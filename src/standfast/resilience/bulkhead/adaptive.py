"""`AdaptiveBulkhead`: a bulkhead that finds its limit by itself."""

from __future__ import annotations

from contextvars import ContextVar
from types import TracebackType
from typing import Any

from standfast.clock import SYSTEM_CLOCK, Clock
from standfast.durations import Duration
from standfast.errors import ConfigurationError
from standfast.resilience.bulkhead.gradient import Gradient2, GradientSettings
from standfast.resilience.bulkhead.semaphore import Bulkhead
from standfast.resilience.policy import AsyncCall, Call

# When the `with` blocks of this context began, the innermost first: (seconds, the rest).
_began: ContextVar[Any] = ContextVar("standfast_adaptive_bulkhead", default=None)


class AdaptiveBulkhead(Bulkhead):
    """A `Bulkhead` whose limit follows how long calls take (Gradient2; see `gradient.py`).

    The limit starts at `initial` and stays between `minimum` and `maximum`; it is reconsidered each
    second that has at least ten calls. While fewer than half the permits are used it stays as it
    is. Calls that succeed or time out (``TimeoutError``) are measured; other failures and cancelled
    calls aren't, for they say nothing about the load. A lowered limit stops no call that runs.
    """

    label = "adaptive_bulkhead"

    def __init__(
        self,
        initial: int = 20,
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
        if not 1 <= minimum <= initial <= maximum:
            raise ConfigurationError(
                f"minimum={minimum!r}, initial={initial!r}, maximum={maximum!r}: "
                "must be 1 or more and in this order"
            )
        if not 0 < smoothing <= 1:
            raise ConfigurationError(f"smoothing={smoothing!r}: must be above 0 and up to 1")
        if not tolerance >= 1:
            raise ConfigurationError(f"tolerance={tolerance!r}: must be 1 or more")
        super().__init__(initial, max_wait=max_wait, queue=queue, name=name, clock=clock)
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
            except TimeoutError:
                self._sample(began)
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
            except TimeoutError:
                self._sample(began)
                raise
            self._sample(began)
            return result

        return super().around_async(measured)

    def __enter__(self) -> None:
        super().__enter__()
        _began.set((self._monotonic(), _began.get()))

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._leave(error)

    async def __aenter__(self) -> None:
        await super().__aenter__()
        _began.set((self._monotonic(), _began.get()))

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._leave(error)

    def _leave(self, error: BaseException | None) -> None:
        # Left in another context than it was entered in, a block isn't measured.
        if (entered := _began.get()) is not None:
            began, rest = entered
            _began.set(rest)
            if error is None or isinstance(error, TimeoutError):
                self._sample(began)
        self._release()

    def _sample(self, began: float) -> None:
        permits = self._permits
        with self._lock:
            now = self._monotonic()
            limit = self._gradient.sample(now, now - began, permits.active)
            served = () if limit is None else permits.resize(limit)
        for waiter in served:
            if not waiter.wake():
                self._release()
