"""What a step of a saga is: its functions, its options, and its plan without the code."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable
from datetime import datetime
from typing import TYPE_CHECKING, Any, Generic, Self, TypeVar, overload

from standfast.durations import Duration, seconds, time_limit
from standfast.errors import ConfigurationError, DefinitionError
from standfast.resilience.backoff import Exponential
from standfast.resilience.marks import do_not_retry
from standfast.resilience.retry import Retry
from standfast.saga.plan import OnExhausted, StepForm, StepPlan
from standfast.saga.saga import Member, Saga
from standfast.saga.step_checks import check_options, must_be_function
from standfast.text import NAME_LENGTH, checked, with_article

I = TypeVar("I")  # noqa: E741 — the saga's input
R = TypeVar("R")
F = TypeVar("F", bound=Callable[..., Any])

DURABLE_RETRY = Retry(attempts=30, backoff=Exponential(0.1, maximum=30, jitter="equal"))
"""What steps and undos do where they say nothing: from 5 to 11 minutes pass until they give up."""


class Step(Member, Generic[I, R]):
    """One step of a saga, as `step`, `wait`, `sleep` and `child` make it.

    Calling it on an instance (``saga.reserve(order, ctx)``) calls the plain function, for unit
    tests.
    """

    def __init__(
        self,
        function: Callable[..., Any] | None,
        *,
        form: StepForm = "action",
        options: dict[str, Any] | None = None,
    ) -> None:
        super().__init__()
        self.form: StepForm = form
        self.function: Callable[..., Any] | None = function
        self.options: dict[str, Any] = options or {}
        self.undo_function: Callable[..., Any] | None = None
        self.undo_options: dict[str, Any] = {}
        self.when: Callable[..., bool] | None = self.options.get("when")
        self.each: Callable[..., Iterable[Any]] | None = self.options.get("each")
        self.until: Callable[..., datetime] | None = self.options.get("until")
        self.child: type[Saga[Any]] | None = None
        self.child_input: Callable[..., Any] | None = None
        self.__doc__ = function.__doc__ if function is not None else None

    def __set_name__(self, owner: type, name: str) -> None:
        self.name = name

    def __get__(self, saga: Saga[I] | None, owner: type[Saga[I]] | None = None) -> Self:
        if saga is None or self.function is None:
            return self
        bound = object.__new__(type(self))
        bound.__dict__.update(self.__dict__, function=self.function.__get__(saga))
        return bound

    def __call__(self, *args: Any, **kwargs: Any) -> Awaitable[R]:
        """Run the step's function itself: no journal, no retry."""
        if self.function is None:
            raise TypeError(f"{self.name} is a {self.form} step: it has no function")
        answer: Awaitable[R] = self.function(*args, **kwargs)
        return answer

    def __repr__(self) -> str:
        return f"<step {self.name}>" if self.name else f"<{self.shown()}>"

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
            must_be_function(function, "a compensation")
            what = f"the compensation {function.__name__!r}"
            check_options(what, {"retry": retry, "transactional": transactional})
            if self.form == "child":
                raise DefinitionError(
                    f"{function.__name__!r} can't undo a child saga: that undoes itself, by the "
                    "compensations of its own steps"
                )
            if self.undo_function is not None:
                raise DefinitionError(f"{self.shown()} has two compensations: keep one")
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
            timeout=time_limit(timeout, name=f"{self.name}.timeout"),
            retry=given.get("retry", DURABLE_RETRY),
            on_exhausted=given.get("on_exhausted", default),
            undo=self.undo_function is not None,
            undo_timeout=time_limit(undo_timeout, name=f"{self.name} compensation timeout"),
            undo_retry=DURABLE_RETRY if undo_retry is None else undo_retry,
            undo_transactional=self.undo_options.get("transactional", False),
            no_compensation=given.get("no_compensation", ""),
            transactional=given.get("transactional", False),
            signal=given.get("signal", ""),
            on_timeout=given.get("on_timeout", default),
            duration=None if duration is None else seconds(duration, name=f"{self.name}.sleep"),
        )


class BlockingStep(Step[I, R]):
    """A `Step` whose function is a ``def``, which runs in a thread."""

    if TYPE_CHECKING:

        def __call__(self, *args: Any, **kwargs: Any) -> R:  # type: ignore[override]
            """Run the step's function itself: no journal, no retry, and no thread."""


def name_of(step: Step[Any, Any] | str, *, option: str = "") -> str:
    """The name of a step that is given itself or by name, as `option` if it is one.

    Raises `ConfigurationError`.
    """
    given: object = step
    if isinstance(given, str):
        return given
    if isinstance(given, Step):
        return given.name
    shown = f"{option}={given!r}" if option else repr(given)
    raise do_not_retry(
        ConfigurationError(f"{shown} is no step: give one, as in PlaceOrder.ship, or its name")
    )


def checked_step(step: Step[Any, R], *, method: str) -> Step[Any, R]:
    """`step`, if it is one: given to the context's `method`, which takes no names.

    Raises `ConfigurationError`, which isn't retried: no other attempt would go otherwise.
    """
    given: object = step
    if isinstance(given, Step):
        return given
    raise do_not_retry(ConfigurationError(no_step(given, method)))


def no_step(given: object, method: str) -> str:
    """The message about what is `given` to the context's `method` in place of a step."""
    step = given if isinstance(given, str) and given.isidentifier() else "reserve"
    return f"ctx.{method}({given!r}): give the step itself, as in ctx.{method}(self.{step})"


def signal_name(signal: Step[Any, Any] | str) -> str:
    """The name of a signal: as it is, or of the wait for it.

    Raises `ConfigurationError` for what can't name one.
    """
    name: Any = signal
    if isinstance(signal, Step):
        if signal.form != "wait":
            raise ConfigurationError(
                f"signal={signal!r} is {with_article(signal.form)} step: give a wait, or the "
                "signal's name"
            )
        name = signal.options["signal"]
    return checked(name, name="signal", longest=NAME_LENGTH)
