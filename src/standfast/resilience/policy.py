"""What every resilience policy is: something that stands around a call.

A policy decides once, when it wraps a function, whether that is ``def`` or ``async def``, and
shares its state among all that it wraps. To write one, subclass `Policy` and give `around` and
`around_async`; decorating, calling and taking part in a `Pipeline` come with it.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Awaitable, Callable, Coroutine, Iterable
from typing import Any, ClassVar, ParamSpec, TypeAlias, TypeVar

from standfast.errors import ConfigurationError

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

    def measures(self) -> Iterable[Measure]:
        """What telemetry reads off this policy's plain counters, whenever it collects."""
        return ()

    # -- for users ---------------------------------------------------------------------------

    def __call__(self, function: Callable[P, R]) -> Callable[P, R]:
        """Decorate a ``def`` or an ``async def``; the signature stays.

        Raises `ConfigurationError` for a generator function, which returns before its work is
        done, so that no policy could see it fail.
        """
        around: Any = self.around_async if is_async(function) else self.around
        wrapper: Callable[P, R] = around(function)
        return functools.update_wrapper(wrapper, function)

    def call(self, function: Callable[P, R], /, *args: P.args, **kwargs: P.kwargs) -> R:
        """Call `function` under this policy; await the answer if it is an ``async def``."""
        around: Any = self.around_async if is_async(function) else self.around
        return around(function)(*args, **kwargs)  # type: ignore[no-any-return]

    async def call_async(
        self, function: Callable[P, Awaitable[R]], /, *args: P.args, **kwargs: P.kwargs
    ) -> R:
        """Call anything that answers with an awaitable, such as a lambda around a coroutine."""

        async def call(*args: Any, **kwargs: Any) -> R:
            return await function(*args, **kwargs)

        return await self.around_async(call)(*args, **kwargs)  # type: ignore[no-any-return]


def is_async(function: Callable[..., Any]) -> bool:
    """Whether calling `function` gives a coroutine. Raises `ConfigurationError` for generators."""
    bare: Any = function
    while isinstance(bare, functools.partial):
        bare = bare.func
    if not callable(bare):
        raise ConfigurationError(f"{function!r} can't be called: give a function")
    inner = bare if inspect.isroutine(bare) else getattr(bare, "__call__", bare)  # noqa: B004
    if any(inspect.isgeneratorfunction(f) or inspect.isasyncgenfunction(f) for f in (bare, inner)):
        raise ConfigurationError(
            f"{getattr(bare, '__qualname__', bare)!r} is a generator: it returns before its work "
            "is done, so no policy can see it fail. Wrap the function that consumes it"
        )
    return inspect.iscoroutinefunction(bare) or inspect.iscoroutinefunction(inner)
