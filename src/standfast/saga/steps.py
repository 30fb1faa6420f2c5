"""How the steps of a saga are written: `step`, `wait`, `sleep`, `child`, and compensations."""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable, Iterable, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any, Generic, TypeVar, overload

from standfast.checks import flag, is_async, whole
from standfast.durations import Duration, seconds
from standfast.errors import ConfigurationError, DefinitionError
from standfast.resilience.backoff import Exponential
from standfast.resilience.marks import do_not_retry
from standfast.resilience.retry import Retry
from standfast.saga.plan import OnExhausted, OnTimeout, StepForm, StepPlan
from standfast.saga.saga import Member, Saga
from standfast.text import NAME_LENGTH, checked

I = TypeVar("I")  # noqa: E741 — the saga's input
R = TypeVar("R")
F = TypeVar("F", bound=Callable[..., Awaitable[Any]])

DURABLE_RETRY = Retry(attempts=30, backoff=Exponential(0.1, maximum=30, jitter="equal"))
"""What steps and undos do where they say nothing: from 5 to 11 minutes pass until they give up."""
STEP_OPTIONS = (
    *("after", "each", "limit", "no_compensation", "on_exhausted", "pivot", "retry", "timeout"),
    *("transactional", "when"),
)


class Step(Member, Generic[I, R]):
    """One step of a saga, as `step`, `wait`, `sleep` and `child` make it.

    Calling it on an instance (``saga.reserve(order, ctx)``) calls the plain function, for unit
    tests.
    """

    def __init__(
        self,
        function: Callable[..., Awaitable[R]] | None,
        *,
        form: StepForm = "action",
        options: dict[str, Any] | None = None,
    ) -> None:
        super().__init__()
        self.name: str = ""
        self.form: StepForm = form
        self.function: Callable[..., Awaitable[R]] | None = function
        self.options: dict[str, Any] = options or {}
        self.undo_function: Callable[..., Awaitable[Any]] | None = None
        self.undo_options: dict[str, Any] = {}
        self.when: Callable[..., bool] | None = self.options.get("when")
        self.each: Callable[..., Iterable[Any]] | None = self.options.get("each")
        self.until: Callable[..., datetime] | None = self.options.get("until")
        self.child: type[Saga[Any]] | None = None
        self.child_input: Callable[..., Any] | None = None
        self.__doc__ = function.__doc__ if function is not None else None

    def __set_name__(self, owner: type, name: str) -> None:
        super().__set_name__(owner, name)
        self.name = name

    def __get__(self, saga: Saga[I] | None, owner: type[Saga[I]] | None = None) -> Step[I, R]:
        if saga is None or self.function is None:
            return self
        bound = object.__new__(type(self))
        bound.__dict__.update(self.__dict__, function=self.function.__get__(saga))
        return bound

    def __call__(self, *args: Any, **kwargs: Any) -> Awaitable[R]:
        """Run the step's function itself: no journal, no retry."""
        if self.function is None:
            raise TypeError(f"{self.name} is a {self.form} step: it has no function")
        return self.function(*args, **kwargs)

    def __repr__(self) -> str:
        return f"<step {self.name or self.shown()}>"

    def shown(self) -> str:
        """What it is, for people."""
        if self.form == "wait":
            return f"wait({self.options['signal']!r})"
        if self.form == "sleep":
            duration = self.options.get("duration")
            return "sleep(until=…)" if duration is None else f"sleep({duration!r})"
        if self.child is not None:
            return f"child({self.child.__name__}, …)"
        return f"step {self.name or getattr(self.function, '__name__', '')!r}"

    def remedy(self) -> str:
        """How to write it, so that it stands in the class by a name."""
        if self.form == "action":
            return (
                "write other decorators under @step, and keep what @step answers with by a name "
                "of its own in the body of the class"
            )
        name = {"wait": "approval", "sleep": "pause"}.get(self.form, "part")
        return f"assign it by itself in the body of the class, as in {name} = {self.shown()}"

    if not TYPE_CHECKING:  # they see for themselves that it can't be awaited

        def __await__(self):
            raise do_not_retry(
                DefinitionError(
                    f"{self.shown()} is awaited, but it is a step itself, which the saga runs: "
                    f"{self.remedy()}"
                    + (" (within a step: await asyncio.sleep)" if self.form == "sleep" else "")
                )
            )

    @overload
    def compensation(self, function: F, /) -> F: ...
    @overload
    def compensation(
        self,
        /,
        *,
        timeout: Duration | None = None,
        retry: Retry | None = None,
        transactional: bool = False,
    ) -> Callable[[F], F]: ...
    def compensation(
        self,
        function: Any = None,
        /,
        *,
        timeout: Duration | None = None,
        retry: Retry | None = None,
        transactional: bool = False,
    ) -> Any:
        """Mark the method that undoes this step. It may run although the step never took effect.

        It takes (input, ctx), then the item where the step has `each`, then the transaction with
        `transactional`: its rows commit together with the journal, so the undo takes effect exactly
        once. `timeout` bounds an attempt (seconds or text); `retry` is by default what it is for a
        step. When it is exhausted the saga is parked as ``compensation_failed`` for an operator.
        """

        def mark(function: F) -> F:
            must_be_async(function, "a compensation")
            what = f"the compensation {function.__name__!r}"
            _check_options(what, {"retry": retry, "transactional": transactional})
            if self.form == "child":
                raise DefinitionError(
                    f"{function.__name__!r} can't undo a child saga: that undoes itself, by the "
                    "compensations of its own steps"
                )
            if self.undo_function is not None:
                raise DefinitionError(
                    f"step {self.name or self.function!r} has two compensations: keep one"
                )
            self.undo_function = function
            self.undo_options = {"timeout": timeout, "retry": retry, "transactional": transactional}
            return function

        return mark if function is None else mark(function)

    def plan(self, after: tuple[str, ...], *, past_pivot: bool) -> StepPlan:
        """The step without its code."""
        given = {name: value for name, value in self.options.items() if value is not None}
        undo_retry = self.undo_options.get("retry")
        pivot = given.get("pivot", False)
        forward = pivot or past_pivot
        timeout = given.get("timeout")
        duration = given.get("duration")
        undo_timeout = self.undo_options.get("timeout")
        default: OnExhausted = "park" if forward else "compensate"
        return StepPlan(
            name=self.name,
            form=self.form,
            after=after,
            pivot=pivot,
            conditional=self.when is not None,
            fans_out=self.each is not None,
            limit=given.get("limit"),
            timeout=None if timeout is None else seconds(timeout, name=f"{self.name}.timeout"),
            retry=given.get("retry", DURABLE_RETRY),
            on_exhausted=given.get("on_exhausted", default),
            undo=self.undo_function is not None,
            undo_timeout=None
            if undo_timeout is None
            else seconds(undo_timeout, name=f"{self.name} compensation timeout"),
            undo_retry=DURABLE_RETRY if undo_retry is None else undo_retry,
            undo_transactional=self.undo_options.get("transactional", False),
            no_compensation=given.get("no_compensation", ""),
            transactional=given.get("transactional", False),
            signal=given.get("signal", ""),
            on_timeout=given.get("on_timeout", default),
            duration=None if duration is None else seconds(duration, name=f"{self.name}.sleep"),
        )


def must_be_async(function: Any, what: str) -> None:
    """Raise `DefinitionError` for what can't be the function of a step or an undo."""
    name = repr(getattr(function, "__qualname__", function))
    if inspect.isasyncgenfunction(function):
        raise DefinitionError(
            f"{name} can't be {what}, for it has a `yield`, and nobody iterates over it: return a "
            "value instead"
        )
    if not inspect.iscoroutinefunction(function) or not hasattr(function, "__get__"):
        raise DefinitionError(
            f"{name} can't be {what}: write it with `async def` (run blocking code with "
            "asyncio.to_thread)"
        )


def must_be_plain(function: Any, what: str) -> None:
    """Raise `DefinitionError` for what can't be a condition, or tell the items or an input."""
    if not callable(function):
        raise DefinitionError(f"{what} must be a function of (self, input, ctx), not {function!r}")
    if is_async(function):
        name = getattr(function, "__qualname__", function)
        raise DefinitionError(
            f"{what} must be a plain function, and {name!r} is async: nobody would await it. "
            "Write it with `def`; what must be awaited belongs in a step before, whose result it "
            "can read"
        )


def _check_options(what: str, options: dict[str, Any]) -> None:
    """Raise `DefinitionError` for values of a wrong type; durations are checked with the plan."""
    for name in ("when", "each", "until"):
        if options.get(name) is not None:
            must_be_plain(options[name], f"{what}: {name}=")
    try:
        if options.get("limit") is not None:
            whole(options["limit"], name="limit", note=", or None")
        for name in ("pivot", "transactional"):
            flag(options.get(name, False), name=name)
    except ConfigurationError as error:
        raise DefinitionError(f"{what}: {error}") from error
    retry, why_not = options.get("retry"), options.get("no_compensation", "")
    if retry is not None and not isinstance(retry, Retry):
        raise DefinitionError(f"{what} has retry={retry!r}: give a policy, as in Retry(attempts=3)")
    if not isinstance(why_not, str):
        raise DefinitionError(f"{what} has no_compensation={why_not!r}: say in words why")


After = str | Step[Any, Any] | Sequence[str | Step[Any, Any]]


@overload
def step(function: Callable[[Any, I, Any], Awaitable[R]], /) -> Step[I, R]: ...
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
) -> Callable[[Callable[[Any, I, Any, Any], Awaitable[R]]], Step[I, list[R]]]: ...
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
) -> Callable[[Callable[[Any, I, Any, Any], Awaitable[R]]], Step[I, R]]: ...
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
) -> Callable[[Callable[[Any, I, Any], Awaitable[R]]], Step[I, R]]: ...
def step(function: Any = None, /, **options: Any) -> Any:
    """Make an ``async def`` method a step of its saga.

    It stands over all other decorators. The method takes (input, ctx), and a third argument where it has one: the item with `each`, the
    transaction with `transactional`.

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
        must_be_async(function, "a step")
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
        _check_options(f"step {function.__name__!r}", options)
        return Step(function, options=options)

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
    result; it needs a `timeout`. `type`: the payload's type, checked when the signal is sent. A waiting saga uses no
    memory and no polling of its own.
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
    _check_options(f"wait({signal!r})", {"when": when})
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
    _check_options("sleep(…)", {"until": until, "when": when})
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
    _check_options(
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


def check_parameters(current: Step[Any, Any]) -> None:
    """Raise `DefinitionError` where a method can't take what it will be given."""
    fans_out = current.each is not None
    for function, options, what in (
        (current.function, current.options, f"step {current.name!r}"),
        (current.undo_function, current.undo_options, f"the compensation of {current.name!r}"),
    ):
        if function is None:
            continue
        given, why = ["self", "input", "ctx"], ""
        if fans_out:
            given.append("item")
            why = " has each=, so it"
        if options.get("transactional"):
            given.append("tx")
            why = " is transactional, so it"
        try:
            inspect.signature(function).bind(*given)
        except TypeError as error:
            raise DefinitionError(f"{what}{why} must take ({', '.join(given)}): {error}") from error
