"""What every resilience policy is: something that stands around a call.

A policy decides once, when it wraps a function, whether that is ``def`` or ``async def``, and
shares its state among all that it wraps. To write one, subclass `Policy` and give `around` and
`around_async`; decorating, calling and taking part in a `Pipeline` come with it.
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Awaitable, Callable, Coroutine, Iterable
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, ParamSpec, TypeAlias, TypeVar, cast

from standfast.checks import Outermost
from standfast.errors import ConfigurationError
from standfast.resilience.functions import (
    FINISHED,
    NoDependency,
    decorated_class,
    finished,
    must_await,
    set_origin,
    uncallable,
)

P = ParamSpec("P")
R = TypeVar("R")

Call: TypeAlias = Callable[..., Any]
AsyncCall: TypeAlias = Callable[..., Coroutine[Any, Any, Any]]
Measure: TypeAlias = tuple[str, float, dict[str, str]]
"""An instrument's name (see `standfast.resilience.telemetry`), a value, and attributes."""


_at_end: list[Callable[[Policy], None]] = []


def on_end(act: Callable[[Policy], None]) -> None:
    """Have `act` called with each policy that goes, while it still has all that it counted."""
    _at_end.append(act)


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

    # At the end of the process the names of modules may be gone before the last policies.
    _is_finalizing = staticmethod(sys.is_finalizing)

    def __del__(self) -> None:
        if self._is_finalizing():
            return
        for act in _at_end:
            act(self)

    if not TYPE_CHECKING:  # they see for themselves which policies stand around blocks

        def __enter__(self):
            raise no_block(self, "with")

        async def __aenter__(self):
            raise no_block(self, "async with")

        def __exit__(self, *_):
            """Python asks for it before it enters."""

        async def __aexit__(self, *_):
            """Python asks for it before it enters."""

    # -- for users ---------------------------------------------------------------------------

    def __call__(self, function: Callable[P, R]) -> Callable[P, R]:
        """Decorate a ``def`` or an ``async def``; the signature stays.

        A ``staticmethod`` or ``classmethod`` stays one. Raises `ConfigurationError` for a generator
        function and for one of ``contextlib.contextmanager``, which return before their work is
        done, so that no policy could see it fail; for a class or a property, which would be none
        any more; and for a saga's step, which a policy would hide: it stands under ``@step``. A
        plain function that turns out to answer with something whose work is still to come (a
        coroutine, task, future, generator or such a context manager) raises it when it is called.
        """
        if isinstance(function, Outermost):
            raise function.refusal(f"a {type(self).__name__}")
        if isinstance(function, type):
            raise decorated_class(function, type(self).__name__)
        if isinstance(function, (staticmethod, classmethod)):
            return cast("Callable[P, R]", type(function)(self(function.__func__)))
        around: Any = self.around_async if must_await(function) else self.around
        wrapper: Callable[P, R] = around(function)
        return functools.update_wrapper(wrapper, function)

    def call(self, function: Callable[P, R], /, *args: P.args, **kwargs: P.kwargs) -> R:
        """Call `function` under this policy; await the answer if it is an ``async def``.

        Raises `ConfigurationError` for a plain function that answers with an awaitable, which
        `call_async` is for, or with something else whose work is still to come.
        """
        if must_await(function):
            return self.around_async(function)(*args, **kwargs)  # type: ignore[arg-type, return-value]
        result: R = self.around(function)(*args, **kwargs)
        if type(result) not in FINISHED:
            finished(function, result)
        return result

    async def call_async(
        self, function: Callable[P, Awaitable[R]], /, *args: P.args, **kwargs: P.kwargs
    ) -> R:
        """Call anything that answers with an awaitable, such as a lambda around a coroutine.

        Raises `ConfigurationError` for what can't be called, such as a coroutine itself.
        """
        if not callable(function):
            raise uncallable(function)

        async def call(*args: Any, **kwargs: Any) -> R:
            return await function(*args, **kwargs)

        set_origin(call, function)
        return await self.around_async(call)(*args, **kwargs)  # type: ignore[no-any-return]


# As an object and not as text, which FastAPI can't read where a policy is called by its class.
Policy.__call__.__annotations__["function"] = Annotated[
    Callable[..., Any],
    NoDependency(
        "a policy is no dependency for FastAPI: to limit a route write "
        "Depends(RateLimit(RateLimiter(…))), with RateLimit from standfast.integrations.starlette; "
        "with any other policy decorate the route's function, under @app.get(…)"
    ),
]


def stands_around_blocks(policy: object, method: str) -> bool:
    """Whether `policy` may be entered by `method`, ``"__enter__"`` or ``"__aenter__"``."""
    own = getattr(type(policy), method, None)
    return own is not None and own is not getattr(Policy, method)


def no_block(policy: Policy, words: str) -> ConfigurationError:
    """The error for a `policy` around a block, which `words` (``with``) begin, to be raised."""
    kind = type(policy).__name__
    if words == "with" and stands_around_blocks(policy, "__aenter__"):
        return ConfigurationError(
            f"a {kind} can't stand around a plain block (`with`), for it couldn't interrupt it: "
            f"write `async with`, or decorate a function (it is {policy!r})"
        )
    loop = "for" if words == "with" else "async for"
    again = (
        f", or write `{loop} attempt in retry: with attempt:`" if policy.label == "retry" else ""
    )
    return ConfigurationError(
        f"a {kind} can't stand around a block (`{words}`), for it couldn't make the call again, "
        f"answer for it, or interrupt it: decorate a function, or use call(){again} (it is "
        f"{policy!r})"
    )


def a_policy(value: object, *, around: Call, note: str = "") -> Policy:
    """`value`, if it is a policy that can stand around calls such as `around`.

    `note` is what else might have been meant, for the message. For authors of integrations, who
    thus tell when one is built what would be told at its first call. Raises `ConfigurationError`.
    """
    if isinstance(value, Policy):
        try:
            value(around)
        except ConfigurationError as error:
            raise ConfigurationError(
                f"policy={value!r} can't stand around these calls: {error}"
            ) from error
        return value
    if isinstance(value, type) and issubclass(value, Policy):
        note = f": give an instance, {value.__name__}(…)"
    elif isinstance(value, (list, tuple)):
        note = ": for several policies give Pipeline(…), the outermost first"
    raise ConfigurationError(
        f"policy={value!r} is no policy{note or ': give Retry(…), say, or a Pipeline(…)'}"
    )
