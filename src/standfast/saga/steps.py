"""How the steps of a saga are written: `step`, `wait`, `sleep` and `child`."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Sequence
from datetime import datetime
from typing import Any, Protocol, TypeVar, overload

from standfast.durations import Duration, seconds
from standfast.errors import ConfigurationError, DefinitionError
from standfast.resilience.retry import Retry
from standfast.saga.plan import OnExhausted, OnTimeout
from standfast.saga.saga import Saga
from standfast.saga.step import BlockingStep, Step
from standfast.saga.step_checks import (
    check_options,
    is_blocking,
    must_be_function,
    must_be_plain,
)
from standfast.text import NAME_LENGTH, checked

I = TypeVar("I")  # noqa: E741 — the saga's input
R = TypeVar("R")

STEP_OPTIONS = (
    *("after", "each", "limit", "no_compensation", "on_exhausted", "pivot", "retry", "timeout"),
    *("transactional", "when"),
)

After = str | Step[Any, Any] | Sequence[str | Step[Any, Any]]


class _Plain(Protocol):
    """Makes a method a step."""

    @overload
    def __call__(  # type: ignore[overload-overlap]
        self, function: Callable[[Any, I, Any], Awaitable[R]], /
    ) -> Step[I, R]: ...
    @overload
    def __call__(self, function: Callable[[Any, I, Any], R], /) -> BlockingStep[I, R]: ...


class _ForEach(Protocol):
    """Makes a method a step that fans out."""

    @overload
    def __call__(  # type: ignore[overload-overlap]
        self, function: Callable[[Any, I, Any, Any], Awaitable[R]], /
    ) -> Step[I, list[R]]: ...
    @overload
    def __call__(
        self, function: Callable[[Any, I, Any, Any], R], /
    ) -> BlockingStep[I, list[R]]: ...


class _Transactional(Protocol):
    """Makes a method a step that is given a transaction."""

    @overload
    def __call__(  # type: ignore[overload-overlap]
        self, function: Callable[[Any, I, Any, Any], Awaitable[R]], /
    ) -> Step[I, R]: ...
    @overload
    def __call__(self, function: Callable[[Any, I, Any, Any], R], /) -> BlockingStep[I, R]: ...


@overload
def step(  # type: ignore[overload-overlap]
    function: Callable[[Any, I, Any], Awaitable[R]], /
) -> Step[I, R]: ...
@overload
def step(function: Callable[[Any, I, Any], R], /) -> BlockingStep[I, R]: ...
@overload
def step(
    *,
    each: Callable[[Any, Any, Any], Iterable[Any]],
    after: After | None = None,
    when: Callable[[Any, Any, Any], bool] | None = None,
    limit: int | None = None,
    timeout: Duration | None = None,
    retry: Retry | None = None,
    on_exhausted: OnExhausted | None = None,
    pivot: bool = False,
    no_compensation: str = "",
) -> _ForEach: ...
@overload
def step(
    *,
    transactional: bool,
    after: After | None = None,
    when: Callable[[Any, Any, Any], bool] | None = None,
    timeout: Duration | None = None,
    retry: Retry | None = None,
    on_exhausted: OnExhausted | None = None,
    pivot: bool = False,
    no_compensation: str = "",
) -> _Transactional: ...
@overload
def step(
    *,
    after: After | None = None,
    when: Callable[[Any, Any, Any], bool] | None = None,
    timeout: Duration | None = None,
    retry: Retry | None = None,
    on_exhausted: OnExhausted | None = None,
    pivot: bool = False,
    no_compensation: str = "",
) -> _Plain: ...
def step(function: Any = None, /, **options: Any) -> Any:
    """Make a method a step of its saga: an ``async def``, or a ``def``, which runs in a thread.

    It stands over all other decorators. The method takes (input, ctx), and a third argument where
    it has one: the item with `each`, the transaction with `transactional`.

    `after`: the steps that must be done first (names or steps; ``()`` for none), by default the
    one defined before. `when(saga, input, ctx)`: skip the step if false. `each(saga, input,
    ctx)`: a list; the step runs once an item, at most `limit` at a time. Both must depend on
    nothing but the input and earlier results. `timeout` bounds one attempt, in seconds or text.
    `retry` outlasts an outage of five minutes by default: 30 attempts, with pauses that grow to
    half a minute, which takes 5 to 11 minutes. A `Rejected` (``CircuitOpen``, ``RateLimited`` …)
    costs no attempt for an hour, but waits its ``retry_after``. `on_exhausted`: ``"compensate"``,
    or ``"park"`` until an operator or a ``resume`` signal goes on. `pivot`: the point of no return.
    `no_compensation`: why it needs none. `transactional`: the step's rows commit together with the
    journal, so it takes effect exactly once.
    """

    def make(function: Any) -> Any:
        must_be_function(function, "a step")
        if unknown := sorted(options.keys() - set(STEP_OPTIONS)):
            raise DefinitionError(
                f"step {function.__name__!r}: {unknown[0]}= isn't an option: choose from "
                f"{', '.join(STEP_OPTIONS)}"
            )
        if options.get("each") is not None and options.get("transactional"):
            raise DefinitionError(
                f"step {function.__name__!r}: each= and transactional=True don't go together; loop "
                "over the items inside the one transaction"
            )
        check_options(f"step {function.__name__!r}", options)
        made = BlockingStep if is_blocking(function) else Step
        return made(function, options=options)

    return make if function is None else make(function)


@overload
def wait(
    signal: str,
    *,
    type: type[R],
    timeout: Duration | None = None,
    on_timeout: OnTimeout | None = None,
    after: After | None = None,
    when: Callable[[Any, Any, Any], bool] | None = None,
) -> Step[Any, R]: ...
@overload
def wait(
    signal: str,
    *,
    type: Any = None,
    timeout: Duration | None = None,
    on_timeout: OnTimeout | None = None,
    after: After | None = None,
    when: Callable[[Any, Any, Any], bool] | None = None,
) -> Step[Any, Any]: ...
def wait(
    signal: str,
    *,
    type: type[R] | Any = None,
    timeout: Duration | None = None,
    on_timeout: OnTimeout | None = None,
    after: After | None = None,
    when: Callable[[Any, Any, Any], bool] | None = None,
) -> Step[Any, R]:
    """A step that waits for ``handle.signal(signal, payload)``; its result is the payload.

    Signals that came early are kept, and each is taken once. `timeout` counts from when the step is
    reached (seconds or text, default for ever). `on_timeout`: ``"compensate"`` (default before the
    pivot), ``"park"`` (default after it; a late signal still goes on) or ``"continue"`` without a
    result; it needs a `timeout`. `type`: the payload's type, checked when the signal is sent. A
    waiting saga uses no memory and no polling of its own.
    """
    try:
        checked(signal, name="signal", longest=NAME_LENGTH)
    except ConfigurationError as error:
        raise DefinitionError(f"wait({signal!r}): {error}") from error
    if signal == "resume":
        raise DefinitionError('signal "resume" is taken: it resumes parked steps. Rename yours')
    if on_timeout is not None and timeout is None:
        raise DefinitionError(
            f"wait({signal!r}) has on_timeout={on_timeout!r}, but no timeout, so that it waits for "
            "ever: give timeout= as well, or no on_timeout="
        )
    check_options(f"wait({signal!r})", {"when": when})
    options = {"timeout": timeout, "signal": signal, "on_timeout": on_timeout, "after": after}
    return Step(None, form="wait", options={**options, "type": type, "when": when})


@overload
def sleep(
    duration: Duration,
    *,
    after: After | None = None,
    when: Callable[[Any, Any, Any], bool] | None = None,
) -> Step[Any, None]: ...
@overload
def sleep(
    *,
    until: Callable[[Any, Any, Any], datetime],
    after: After | None = None,
    when: Callable[[Any, Any, Any], bool] | None = None,
) -> Step[Any, None]: ...
def sleep(
    duration: Duration | None = None,
    *,
    until: Callable[[Any, Any, Any], datetime] | None = None,
    after: After | None = None,
    when: Callable[[Any, Any, Any], bool] | None = None,
) -> Step[Any, None]:
    """A step that lets time pass: for a `duration` (seconds or text), or `until` a moment.

    ``until(self, order, ctx)`` answers a datetime with a time zone, and must depend on nothing but
    the input and earlier results; one that has passed ends the sleep at once. The time is fixed in
    the journal when the step is reached, and read off the database's clock: the step takes never
    less, and more while no worker runs. A sleeping saga uses no memory and no polling of its own.
    It can be cancelled, and counts against the saga's `deadline`. There is nothing to undo.
    """
    if (duration is None) == (until is None):
        raise DefinitionError('sleep: give a duration, as in sleep("3d"), or until=, not both')
    if duration is not None:
        seconds(duration, name="sleep")
    check_options("sleep(…)", {"until": until, "when": when})
    options = {"duration": duration, "until": until, "after": after, "when": when}
    return Step(None, form="sleep", options=options)


@overload
def child(
    saga: type[Saga[I]],
    input: Callable[[Any, Any, Any], I],
    *,
    after: After | None = None,
    when: Callable[[Any, Any, Any], bool] | None = None,
    no_compensation: str = "",
) -> Step[Any, dict[str, Any]]: ...
@overload
def child(
    saga: type[Saga[I]],
    input: Callable[[Any, Any, Any, Any], I],
    *,
    each: Callable[[Any, Any, Any], Iterable[Any]],
    limit: int | None = None,
    after: After | None = None,
    when: Callable[[Any, Any, Any], bool] | None = None,
    no_compensation: str = "",
) -> Step[Any, list[dict[str, Any]]]: ...
def child(
    saga: type[Saga[I]],
    input: Callable[..., I],
    *,
    each: Callable[[Any, Any, Any], Iterable[Any]] | None = None,
    limit: int | None = None,
    after: After | None = None,
    when: Callable[[Any, Any, Any], bool] | None = None,
    no_compensation: str = "",
) -> Step[Any, Any]:
    """A step that runs another saga to its end, on the input of ``input(self, order, ctx)``.

    Its result is a dict of the child's results by step name, as plain JSON values. If it
    compensates, the step counts as refused. To undo the step the child is asked to undo itself,
    even when it had completed (a child past its pivot can't, so give `no_compensation` then).

    With ``each(self, order, ctx)``, a list, one child runs for each item, at most `limit` at once,
    on the input of ``input(self, order, ctx, item)``; the result is the list of their results, in
    the order of the items. If one compensates, all others are undone, whether they had completed or
    not. The item comes as the type that the function's argument is annotated with, else as plain
    JSON values.
    """
    given: object = saga
    if not isinstance(given, type) or not issubclass(given, Saga):
        raise DefinitionError(f"child({saga!r}, …): give the class of a saga, such as PackOrder")
    what = f"child({saga.__name__}, …)"
    must_be_plain(input, f"{what}: input=")
    check_options(
        what, {"each": each, "limit": limit, "no_compensation": no_compensation, "when": when}
    )
    made: Step[Any, Any] = Step(
        None,
        form="child",
        options={
            "after": after,
            "each": each,
            "limit": limit,
            "no_compensation": no_compensation,
            "when": when,
        },
    )
    made.child, made.child_input = saga, input
    return made
