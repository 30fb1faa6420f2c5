"""What every resilience policy is: something that stands around a call.

A policy decides once, when it wraps a function, whether that is ``def`` or ``async def``, and
shares its state among all that it wraps. To write one, subclass `Policy` and give `around` and
`around_async`; decorating, calling and taking part in a `Pipeline` come with it.
"""

from __future__ import annotations

import functools
from collections.abc import Awaitable, Callable, Coroutine, Iterable
from typing import Any, ClassVar, ParamSpec, TypeAlias, TypeVar

from standfast.resilience.functions import is_async as is_async
from standfast.resilience.functions import set_origin, unawaited

P = ParamSpec("P")
R = TypeVar("R")

Call: TypeAlias = Callable[..., Any]
AsyncCall: TypeAlias = Callable[..., Coroutine[Any, Any, Any]]
Measure: TypeAlias = tuple[str, float, dict[str, str]]
"""An instrument's name (see `standfast.resilience.telemetry`), a value, and attributes."""


class Policy:
    """One policy. Use it as a decorator, with `call`, or in a `Pipeline`.

    `kind` is the word for it in telemetry and messages (``"retry"``).
    """

    __slots__ = ()

    label: ClassVar[str] = ""

    # -- for authors -------------------------------------------------------------------------

    def around(self, call: Call) -> Call:
        """A function that applies this policy to the plain function `call`."""
        raise NotImplementedError

    def around_async(self, call: AsyncCall) -> AsyncCall:
        """A coroutine function that applies this policy to the coroutine function `call`."""
        raise NotImplementedError

    def around_under_deadline(self, call: Call) -> Call:
        """As `around`, for where a `Timeout` stands outside and may stop waiting for the call.

        Override it to hear of that: see `standfast.resilience.deadline.ThreadDeadline`.
        """
        return self.around(call)

    def block(self) -> Any:
        """What one ``with`` or ``async with`` block of this policy enters, and leaves again.

        A policy that remembers something from a block's beginning to its end gives an object made
        for that one block, which may be left in any task, thread or context.
        """
        return self

    def measures(self) -> Iterable[Measure]:
        """What telemetry reads off this policy's plain counters, whenever it collects."""
        return ()

    # -- for users ---------------------------------------------------------------------------

    def __call__(self, function: Callable[P, R]) -> Callable[P, R]:
        """Decorate a ``def`` or an ``async def``; the signature stays.

        A ``staticmethod`` or ``classmethod`` stays one. Raises `ConfigurationError` for a generator
        function, which returns before its work is done, so that no policy could see it fail. A
        plain function that turns out to answer with a coroutine raises it when it is called, before
        any of the coroutine's work is done.
        """
        if isinstance(function, (staticmethod, classmethod)):
            return type(function)(self(function.__func__))
        around: Any = self.around_async if is_async(function) else self.around
        wrapper: Callable[P, R] = around(function)
        return functools.update_wrapper(wrapper, function)

    def call(self, function: Callable[P, R], /, *args: P.args, **kwargs: P.kwargs) -> R:
        """Call `function` under this policy; await the answer if it is an ``async def``.

        Raises `ConfigurationError` for a plain function that answers with an awaitable, which
        `call_async` is for.
        """
        if is_async(function):
            return self.around_async(function)(*args, **kwargs)  # type: ignore[arg-type, return-value]
        result: R = self.around(function)(*args, **kwargs)
        if hasattr(type(result), "__await__"):
            raise unawaited(function, result)
        return result

    async def call_async(
        self, function: Callable[P, Awaitable[R]], /, *args: P.args, **kwargs: P.kwargs
    ) -> R:
        """Call anything that answers with an awaitable, such as a lambda around a coroutine."""

        async def call(*args: Any, **kwargs: Any) -> R:
            return await function(*args, **kwargs)

        set_origin(call, function)
        return await self.around_async(call)(*args, **kwargs)  # type: ignore[no-any-return]
