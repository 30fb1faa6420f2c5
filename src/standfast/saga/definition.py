"""How a saga is written down: a class, its steps, their compensations."""

from __future__ import annotations

import inspect
from abc import ABCMeta
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Generic, TypeVar, get_args, get_origin, get_type_hints, overload

from standfast.codec import JSON, Codec
from standfast.durations import Duration, seconds
from standfast.errors import CodecError, DefinitionError, ResultUnavailable
from standfast.resilience.backoff import Exponential
from standfast.resilience.retry import Retry
from standfast.saga.branch import UNSET, Branch
from standfast.saga.context import known
from standfast.saga.plan import OnExhausted, OnTimeout, Plan, StepKind, StepPlan
from standfast.saga.state import SagaState
from standfast.text import is_storable

I = TypeVar("I")  # noqa: E741 — the saga's input
R = TypeVar("R")
F = TypeVar("F", bound=Callable[..., Awaitable[Any]])

STEP_RETRY = Retry(attempts=5, backoff=Exponential(0.1, maximum=10))
FORWARD_RETRY = Retry(attempts=20, backoff=Exponential(0.1, maximum=30))
UNDO_RETRY = Retry(attempts=20, backoff=Exponential(0.1, maximum=30))
STEP_OPTIONS = (
    *("after", "each", "limit", "no_compensation", "on_exhausted", "pivot", "retry", "timeout"),
    *("transactional", "when"),
)


class Step(Generic[I, R]):
    """One step of a saga, as `step`, `wait` and `child` make it.

    Calling it on an instance (``saga.reserve(order, ctx)``) calls the plain function, for unit
    tests.
    """

    def __init__(
        self,
        function: Callable[..., Awaitable[R]] | None,
        *,
        kind: StepKind = "action",
        options: dict[str, Any] | None = None,
    ) -> None:
        self.name: str = ""
        self.kind: StepKind = kind
        self.function: Callable[..., Awaitable[R]] | None = function
        self.options: dict[str, Any] = options or {}
        self.undo_function: Callable[..., Awaitable[Any]] | None = None
        self.undo_options: dict[str, Any] = {}
        self.when: Callable[..., bool] | None = self.options.get("when")
        self.each: Callable[..., Iterable[Any]] | None = self.options.get("each")
        self.child: type[Saga[Any]] | None = None
        self.child_input: Callable[..., Any] | None = None
        self.__doc__ = function.__doc__ if function is not None else None

    def __set_name__(self, owner: type, name: str) -> None:
        self.name = name

    def __get__(self, saga: Any, owner: type | None = None) -> Step[I, R]:
        if saga is None or self.function is None:
            return self
        bound = object.__new__(type(self))
        bound.__dict__.update(self.__dict__, function=self.function.__get__(saga))
        return bound

    def __call__(self, *args: Any, **kwargs: Any) -> Awaitable[R]:
        """Run the step's function itself: no journal, no retry."""
        if self.function is None:
            raise TypeError(f"{self.name} is a {self.kind} step: it has no function")
        return self.function(*args, **kwargs)

    def __repr__(self) -> str:
        return f"<step {self.name}>"

    @overload
    def compensation(self, function: F, /) -> F: ...
    @overload
    def compensation(
        self, /, *, timeout: Duration | None = None, retry: Retry | None = None
    ) -> Callable[[F], F]: ...
    def compensation(
        self,
        function: Any = None,
        /,
        *,
        timeout: Duration | None = None,
        retry: Retry | None = None,
    ) -> Any:
        """Mark the method that undoes this step. It may run although the step never took effect.

        `timeout` bounds an attempt (seconds or text); `retry` defaults to 20 attempts. When they
        are exhausted the saga is parked as ``compensation_failed`` for an operator.
        """

        def mark(function: F) -> F:
            _must_be_async(function, "a compensation")
            if self.undo_function is not None:
                raise DefinitionError(
                    f"step {self.name or self.function!r} has two compensations: keep one"
                )
            self.undo_function = function
            self.undo_options = {"timeout": timeout, "retry": retry}
            return function

        return mark if function is None else mark(function)

    def plan(self, after: tuple[str, ...], *, past_pivot: bool) -> StepPlan:
        """The step without its code."""
        given = self.options
        pivot = bool(given.get("pivot"))
        forward = pivot or past_pivot
        timeout = given.get("timeout")
        undo_timeout = self.undo_options.get("timeout")
        default: OnExhausted = "park" if forward else "compensate"
        return StepPlan(
            name=self.name,
            kind=self.kind,
            after=after,
            pivot=pivot,
            conditional=self.when is not None,
            fans_out=self.each is not None,
            limit=given.get("limit"),
            timeout=None if timeout is None else seconds(timeout, name=f"{self.name}.timeout"),
            retry=given.get("retry") or (FORWARD_RETRY if forward else STEP_RETRY),
            on_exhausted=given.get("on_exhausted") or default,
            undo=self.undo_function is not None,
            undo_timeout=None
            if undo_timeout is None
            else seconds(undo_timeout, name=f"{self.name} compensation timeout"),
            undo_retry=self.undo_options.get("retry") or UNDO_RETRY,
            no_compensation=given.get("no_compensation") or "",
            transactional=bool(given.get("transactional")),
            signal=given.get("signal") or "",
            on_timeout=given.get("on_timeout") or default,
        )


def _must_be_async(function: Any, what: str) -> None:
    if not inspect.iscoroutinefunction(function):
        raise DefinitionError(
            f"{getattr(function, '__qualname__', function)!r} can't be {what}: write it with "
            "`async def` (run blocking code with asyncio.to_thread)"
        )


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

    The method takes (input, ctx), and a third argument where it has one: the item with `each`, the
    transaction with `transactional`.

    `after`: the steps that must be done first (names or steps; ``()`` for none), by default the
    one defined before. `when(saga, input, ctx)`: skip the step if false. `each(saga, input,
    ctx)`: a list; the step runs once an item, at most `limit` at a time. Both must depend on
    nothing but the input and earlier results. `timeout` bounds one attempt, in seconds or text.
    `retry` defaults to 5 attempts (20 from the pivot on). `on_exhausted`: ``"compensate"``, or
    ``"park"`` until an operator or a ``resume`` signal goes on. `pivot`: the point of no return.
    `no_compensation`: why it needs none. `transactional`: the step's rows commit together with the
    journal, so it takes effect exactly once.
    """

    def make(function: Any) -> Any:
        _must_be_async(function, "a step")
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
        limit = options.get("limit")
        if limit is not None and limit < 1:
            raise DefinitionError(f"step {function.__name__!r}: limit={limit} must be 1 or more")
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
    result. `type`: the payload's type, checked when the signal is sent. A waiting saga uses no
    memory and no polling of its own.
    """
    options = {"timeout": timeout, "signal": signal, "on_timeout": on_timeout, "after": after}
    made: Step[Any, R] = Step(None, kind="wait", options={**options, "type": type, "when": when})
    if not signal or not is_storable(signal):
        raise DefinitionError(f"signal {signal!r} can't be stored: name it with plain text")
    if signal == "resume":
        raise DefinitionError('signal "resume" is taken: it resumes parked steps. Rename yours')
    made.when = when
    return made


def child(
    saga: type[Saga[I]],
    input: Callable[[Any, Any, Any], I],
    *,
    after: After | None = None,
    when: Callable[[Any, Any, Any], bool] | None = None,
    no_compensation: str = "",
) -> Step[Any, dict[str, Any]]:
    """A step that runs another saga to its end, on the input of ``input(self, order, ctx)``.

    Its result is a dict of the child's results by step name, as plain JSON values. If it
    compensates, the step counts as refused. To undo the step the child is asked to undo itself,
    even when it had completed (a child past its pivot can't, so give `no_compensation` then).
    """
    made: Step[Any, dict[str, Any]] = Step(
        None,
        kind="child",
        options={"after": after, "no_compensation": no_compensation, "when": when},
    )
    made.child, made.child_input = saga, input
    return made


@dataclass(frozen=True, slots=True)
class Migration:
    """How instances of an older version move to this one, by ``standfast sagas migrate``.

    `input` turns the old input (plain JSON values) into the new; `renamed` maps old step names to
    new ones.
    """

    input: Callable[[Any], Any] | None = None
    renamed: dict[str, str] = field(default_factory=dict)


class _Body(dict[str, Any]):
    """A class body in which a step's name can't be taken by something else, unnoticed."""

    def __setitem__(self, name: str, value: Any) -> None:
        if isinstance(self.get(name), Step):
            raise DefinitionError(
                f"step {name!r} is defined, and then its name is used again, which would replace "
                "it: rename one of them (a compensation has a name of its own)"
            )
        super().__setitem__(name, value)


class _SagaType(ABCMeta):  # so that a saga may be abstract, too
    @classmethod
    def __prepare__(cls, name: str, bases: tuple[type, ...], /, **options: Any) -> _Body:
        return _Body()


class Saga(Generic[I], metaclass=_SagaType):
    """A long-running business action in steps, each with its undo. Subclass ``Saga[YourInput]``.

    Class attributes: `name` (default: the class name in kebab case), `version` (raise it when the
    steps change), `deadline` (time for the whole forward part, seconds or text), `max_in_flight`
    (how many instances one worker runs at once), `migrations` (from older versions).
    """

    name: ClassVar[str] = ""
    version: ClassVar[int] = 1
    deadline: ClassVar[Duration | None] = None
    max_in_flight: ClassVar[int | None] = None
    migrations: ClassVar[dict[int, Migration]] = {}

    @classmethod
    def saga_name(cls) -> str:
        """The name under which instances are stored."""
        if cls.name:
            return cls.name
        text = cls.__name__
        return "".join(
            "-" + c.lower() if c.isupper() and i else c.lower() for i, c in enumerate(text)
        )


class Definition:
    """A registered saga: its checked plan, and the code behind each step.

    Raises `DefinitionError` if the saga can't be run.
    """

    def __init__(self, saga: Saga[Any], codec: Codec = JSON) -> None:
        if isinstance(saga, type):
            raise DefinitionError(f"add an instance, not the class: app.add({saga.__name__}(…))")
        cls = type(saga)
        self.saga: Saga[Any] = saga
        self.codec: Codec = codec
        self.name: str = cls.saga_name()
        self.version: int = cls.version
        self.max_in_flight: int | None = cls.max_in_flight
        self.input_type: Any = input_type(cls)
        if not self.name or len(self.name) > 200 or not is_storable(self.name):
            raise DefinitionError(
                f"saga name {self.name[:40]!r} can't be stored: give 1 to 200 characters, without "
                "NUL or lone surrogates"
            )
        version: object = self.version
        if not isinstance(version, int) or version < 1:
            raise DefinitionError(f"saga {self.name!r}: version={version!r} must be 1 or more")
        if self.max_in_flight is not None and self.max_in_flight < 1:
            raise DefinitionError(
                f"saga {self.name!r}: max_in_flight={self.max_in_flight} must be 1 or more, or None"
            )
        self.steps: dict[str, Step[Any, Any]] = steps_of(cls)
        self.plan: Plan = _plan(cls, self.name, self.steps)
        self._check_migrations()
        self.result_types: dict[str, Any] = {s.name: _result_type(s) for s in self.steps.values()}
        self.item_types: dict[str, Any] = {
            s.name: _item_type(s) for s in self.steps.values() if s.each
        }

    def _check_migrations(self) -> None:
        for version, migration in self.saga.migrations.items():
            where = f"saga {self.name!r}, migration from version {version}"
            if not 0 < version != self.version:
                raise DefinitionError(f"{where}: give the number of another version, 1 or more")
            for old, new in migration.renamed.items():
                if new not in self.steps:
                    raise DefinitionError(
                        f"{where}: {old!r} is renamed to {new!r}, which isn't a step: choose from "
                        f"{', '.join(self.steps)}"
                    )
                if old in self.steps:
                    raise DefinitionError(
                        f"{where}: {old!r} is renamed, but a step has that name: the keys of the "
                        "two would be taken for each other. Call the new step something else"
                    )

    @property
    def kind(self) -> tuple[str, str, int]:
        """(pattern, name, version), as stores know it."""
        return ("saga", self.name, self.version)

    def input(self, state: SagaState) -> Any:
        """The instance's input as its own type."""
        return self.codec.decode(state.started.input, self.input_type)

    def branch_result(self, branch: Branch) -> Any:
        """What a branch's action returned. Raises `ResultUnavailable`."""
        if not known(branch):
            raise ResultUnavailable(
                f"{self.name}: {branch.id} has no result (it is {branch.state}): ask "
                "ctx.has_result(step) first; an undo can go by ctx.branch_key alone"
            )
        if branch.value is UNSET:
            assert branch.result is not None
            type = self.result_types[branch.step.name]
            if branch.fans_out:
                branch.value = [self.branch_result(item) for item in branch.children]
            else:
                branch.value = self.codec.decode(branch.result, type)
        return branch.value

    def result(self, state: SagaState, name: str) -> Any:
        """A step's result by name. Raises `ResultUnavailable`."""
        branch = state.branches.get(name)
        if branch is None:
            what = "hasn't begun" if name in self.steps else "isn't one of its steps"
            raise ResultUnavailable(f"{self.name}: {name!r} has no result: it {what}")
        if branch.fans_out and branch.state == "completed":
            return [self.branch_result(item) for item in branch.children]
        return self.branch_result(branch)

    def results(self, state: SagaState) -> dict[str, Any]:
        """All results known, by step name."""
        found = {}
        for name in self.steps:
            try:
                found[name] = self.result(state, name)
            except ResultUnavailable:
                continue
        return found

    def check_signal(self, name: str, payload: Any) -> bytes:
        """Encode a signal's payload, checked against its wait's type. Raises `CodecError`."""
        data = self.codec.encode(payload)
        for candidate in self.steps.values():
            if candidate.options.get("signal") == name:
                try:
                    self.codec.decode(data, self.result_types[candidate.name])
                except CodecError as error:
                    raise CodecError(f"signal {name!r} of saga {self.name!r}: {error}") from error
        return data


def input_type(cls: type[Saga[Any]]) -> Any:
    """The I of ``Saga[I]``, or Any."""
    for origin in cls.__mro__:
        for generic in getattr(origin, "__orig_bases__", ()):
            if get_origin(generic) is Saga:
                (found,) = get_args(generic)
                return Any if isinstance(found, TypeVar) else found
    return Any


def steps_of(cls: type[Saga[Any]]) -> dict[str, Step[Any, Any]]:
    """The steps of a saga class in order of definition, inherited ones first."""
    found: dict[str, Step[Any, Any]] = {}
    for origin in reversed(cls.__mro__):
        found |= {name: step for name, step in vars(origin).items() if isinstance(step, Step)}
    return found


def _plan(cls: type[Saga[Any]], name: str, steps: dict[str, Step[Any, Any]]) -> Plan:
    before: str | None = None
    afters: dict[str, tuple[str, ...]] = {}
    for current in steps.values():
        after = current.options.get("after")
        names: tuple[str, ...]
        if after is None:
            names = () if before is None else (before,)
        else:
            given = list(after) if isinstance(after, (list, tuple, set, frozenset)) else [after]
            names = tuple(dict.fromkeys(s.name if isinstance(s, Step) else s for s in given))
        afters[current.name] = names
        before = current.name
    past = _past_pivot(steps, afters)
    plans = [s.plan(afters[s.name], past_pivot=s.name in past) for s in steps.values()]
    deadline = None if cls.deadline is None else seconds(cls.deadline, name=f"{name}.deadline")
    plan = Plan(name, cls.version, plans, deadline)
    from standfast.saga.inspection import check_functions

    check_functions(plan, steps)
    return plan


def _past_pivot(steps: dict[str, Step[Any, Any]], afters: dict[str, tuple[str, ...]]) -> set[str]:
    """The steps behind the pivot, wherever they are defined."""
    pivots = {s.name for s in steps.values() if s.options.get("pivot")}
    past: set[str] = set()
    grown = True
    while grown:
        more = {n for n, names in afters.items() if not (past | pivots).isdisjoint(names)}
        grown, past = more != past, more
    return past


def _hints(current: Step[Any, Any]) -> dict[str, Any]:
    if current.function is None:
        return {}
    try:
        return get_type_hints(current.function)
    except NameError as error:
        raise DefinitionError(
            f"step {current.name!r}: its annotations name something that can't be found "
            f"({error}): move the type to module level"
        ) from error


def _result_type(current: Step[Any, Any]) -> Any:
    """The type to decode a stored result to: the return annotation, or plain JSON without one."""
    if current.kind == "wait":
        return current.options.get("type") or Any
    found = _hints(current).get("return", Any)
    return Any if isinstance(found, TypeVar) else found


def _item_type(current: Step[Any, Any]) -> Any:
    """The annotation of the method's third argument after self."""
    assert current.function is not None
    names = list(inspect.signature(current.function).parameters)
    if len(names) != 4:
        raise DefinitionError(
            f"step {current.name!r} has each=, so it must take (self, input, ctx, item)"
        )
    return _hints(current).get(names[3], Any)
