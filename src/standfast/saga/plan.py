"""The shape of a saga, without its code: what the machine needs to decide, and nothing else."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from hashlib import blake2b
from typing import Literal, TypeAlias, get_args

from standfast.durations import human
from standfast.errors import DefinitionError
from standfast.resilience.retry import Retry

StepForm: TypeAlias = Literal["action", "wait", "sleep", "child"]
OnExhausted: TypeAlias = Literal["compensate", "park"]
OnTimeout: TypeAlias = Literal["compensate", "park", "continue"]
MOST_STEPS = 2000
"""More are refused: for each step, all that come after it are remembered."""


@dataclass(frozen=True, slots=True)
class StepPlan:
    """One step. Timeouts are seconds, None for no limit.

    `after` names the steps that must be done first. `conditional`: it has a ``when=``. `fans_out`:
    it has an ``each=``, run at most `limit` items at a time. `undo` says that it has a
    compensation. `signal` and `on_timeout` belong to waits. `duration` is how long a sleep lasts,
    None where its definition must be asked for the time. `is_plain`: it is run as soon as all
    before it are done, with nothing to be asked first, and once.
    """

    name: str
    form: StepForm = "action"
    after: tuple[str, ...] = ()
    pivot: bool = False
    conditional: bool = False
    fans_out: bool = False
    limit: int | None = None
    timeout: float | None = None
    retry: Retry = field(default_factory=Retry)
    on_exhausted: OnExhausted = "compensate"
    undo: bool = False
    undo_timeout: float | None = None
    undo_retry: Retry = field(default_factory=Retry)
    undo_transactional: bool = False
    no_compensation: str = ""
    transactional: bool = False
    signal: str = ""
    on_timeout: OnTimeout = "compensate"
    duration: float | None = None
    is_plain: bool = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        plain = self.form == "action" and not self.conditional and not self.fans_out
        object.__setattr__(self, "is_plain", plain)


class Plan:
    """The checked graph of a saga's steps, in order of definition.

    `deadline` is in seconds, None for none. Raises `DefinitionError` for duplicate or unknown
    names, cycles, options that make no sense or contradict each other, and whatever a pivot
    forbids.
    """

    __slots__ = (
        "deadline",
        "deadline_ends_parked",
        "descendants",
        "has_children",
        "has_sleeps",
        "has_waits",
        "name",
        "pivot",
        "steps",
        "successors",
        "version",
        "waiting_for",
    )

    def __init__(
        self,
        name: str,
        version: int,
        steps: Iterable[StepPlan],
        deadline: float | None = None,
        *,
        deadline_ends_parked: bool = False,
    ) -> None:
        self.name: str = name
        self.version: int = version
        self.deadline: float | None = deadline
        self.deadline_ends_parked: bool = deadline_ends_parked
        self.steps: dict[str, StepPlan] = {}
        for step in steps:
            if step.name in self.steps:
                raise self._error(step.name, "is defined twice", "rename one of them")
            self._check_options(step)
            self.steps[step.name] = step
        if not self.steps:
            raise DefinitionError(f"saga {name!r} has no steps: define at least one with @step")
        if len(self.steps) > MOST_STEPS:
            raise DefinitionError(
                f"saga {name!r} has {len(self.steps)} steps: at most {MOST_STEPS} are taken. Let "
                "one step do many things with each=, or put some into a child saga"
            )
        self.successors: dict[str, list[str]] = {n: [] for n in self.steps}
        for step in self.steps.values():
            for before in step.after:
                if before not in self.steps:
                    raise self._error(
                        step.name,
                        f"comes after {before!r}, which isn't a step of this saga",
                        f"choose from {', '.join(self.steps)}",
                    )
                self.successors[before].append(step.name)
        self.descendants: dict[str, frozenset[str]] = self._reach()
        self.waiting_for: dict[str, int] = {n: len(s.after) for n, s in self.steps.items()}
        self.has_children: bool = any(step.form == "child" for step in self.steps.values())
        self.has_waits: bool = any(step.form == "wait" for step in self.steps.values())
        self.has_sleeps: bool = any(step.form == "sleep" for step in self.steps.values())
        pivots = [s.name for s in self.steps.values() if s.pivot]
        if len(pivots) > 1:
            raise self._error(
                pivots[1], f"is a second pivot, after {pivots[0]!r}", "keep one point of no return"
            )
        self.pivot: str | None = pivots[0] if pivots else None
        self._check_undo()
        self._check_deadline()

    def _error(self, step: str, what: str, remedy: str) -> DefinitionError:
        return DefinitionError(f"saga {self.name!r}, step {step!r} {what}: {remedy}")

    def _check_options(self, step: StepPlan) -> None:
        for option, known in (("on_exhausted", OnExhausted), ("on_timeout", OnTimeout)):
            given = getattr(step, option)
            if given not in get_args(known):
                raise self._error(
                    step.name,
                    f"has {option}={given!r}",
                    f"choose from {', '.join(map(repr, get_args(known)))}",
                )
        for option, retry in (("retry", step.retry), ("the compensation's retry", step.undo_retry)):
            if not isinstance(retry, Retry):
                raise self._error(
                    step.name, f"has {option}={retry!r}", "give a Retry, as in Retry(attempts=3)"
                )
        if step.limit is not None and not step.fans_out:
            raise self._error(
                step.name, f"has limit={step.limit}, but runs once", "give it each=, or no limit"
            )
        if step.undo and step.no_compensation:
            raise self._error(
                step.name,
                "has a compensation, and says with no_compensation why it needs none",
                "remove one of the two",
            )

    def _reach(self) -> dict[str, frozenset[str]]:
        """All that come after each step. No recursion: a chain may be a thousand steps long."""
        left = {name: len(step.after) for name, step in self.steps.items()}
        order = [name for name, befores in left.items() if not befores]
        for name in order:  # grows meanwhile
            for successor in self.successors[name]:
                left[successor] -= 1
                if not left[successor]:
                    order.append(successor)
        if len(order) < len(self.steps):
            cycle = self._cycle({name for name, befores in left.items() if befores})
            what = f"depends on itself ({' → '.join(cycle)})"
            raise self._error(cycle[0], what, "remove one `after=`")
        reach: dict[str, frozenset[str]] = {}
        for name in reversed(order):
            after = self.successors[name]
            reach[name] = frozenset(after).union(*(reach[one] for one in after))
        return reach

    def _cycle(self, within: set[str]) -> list[str]:
        """The steps of one circle, among steps each of which comes after another of them."""
        path = [next(name for name in self.steps if name in within)]
        while True:
            before = next(name for name in self.steps[path[-1]].after if name in within)
            if before in path:
                return [before, *reversed(path[path.index(before) :])]
            path.append(before)

    @property
    def fingerprint(self) -> str:
        """A short hash of all that a journal depends on: which steps there are, and in what order.

        It isn't of what may change without another version: timeouts, retries, limits.
        """
        shape = [
            (
                *(step.name, step.form, sorted(step.after), step.pivot, step.conditional),
                *(step.fans_out, step.undo, bool(step.no_compensation.strip()), step.signal),
            )
            for step in self.steps.values()
        ]
        return blake2b(repr(shape).encode(), digest_size=6).hexdigest()

    def is_before(self, name: str, other: str) -> bool:
        """Whether step `name` must be done before step `other` begins."""
        return other in self.descendants[name]

    def _check_deadline(self) -> None:
        for step in self.steps.values():
            over = self.pivot is not None and (step.pivot or self.is_before(self.pivot, step.name))
            if self.deadline is None or over:
                continue  # past the pivot there is no deadline
            if step.duration is not None and step.duration >= self.deadline:
                raise self._error(
                    step.name,
                    f"sleeps for {human(step.duration)}, but the whole saga has a deadline of "
                    f"{human(self.deadline)}, at which it is undone",
                    "raise the deadline, sleep for less, or sleep after the pivot",
                )
            if step.timeout is not None and step.timeout > self.deadline:
                raise self._error(
                    step.name,
                    f"has timeout={human(step.timeout)}, but the whole saga a deadline of "
                    f"{human(self.deadline)}, at which it is undone",
                    "raise the deadline, or shorten the timeout",
                )

    def _check_undo(self) -> None:
        for step in self.steps.values():
            if self.pivot is not None and step.name != self.pivot:
                after = self.is_before(self.pivot, step.name)
                if not after and not self.is_before(step.name, self.pivot):
                    raise self._error(
                        step.name,
                        f"is neither before nor after the pivot {self.pivot!r}",
                        f'order it with after="{self.pivot}", or let the pivot come after it',
                    )
                if after and step.undo:
                    raise self._error(
                        step.name,
                        f"has a compensation that can never run, for it is after the pivot "
                        f"{self.pivot!r}",
                        "remove the compensation, or move the pivot",
                    )
                answer = step.on_timeout if step.form == "wait" else step.on_exhausted
                if after and answer == "compensate":
                    raise self._error(
                        step.name,
                        f"is after the pivot {self.pivot!r}, so it can't be answered by "
                        "compensating",
                        'choose on_exhausted="park"'
                        if step.form != "wait"
                        else 'choose on_timeout="park" or "continue"',
                    )
                if after:
                    continue
            if step.pivot:
                if step.fans_out:
                    raise self._error(
                        step.name,
                        "is the pivot and fans out, so some of its items could be past the point "
                        "of no return and others not",
                        "do it in one step, or put the pivot after it",
                    )
                if step.undo:
                    raise self._error(
                        step.name, "is the pivot and has a compensation", "remove one of the two"
                    )
                if step.on_exhausted == "compensate":
                    raise self._error(
                        step.name,
                        "is the pivot: when its retries are exhausted its outcome is unknown, so "
                        "it can't be answered by compensating",
                        'choose on_exhausted="park"',
                    )
                continue
            if step.form == "action" and not step.undo and not step.no_compensation.strip():
                raise self._error(
                    step.name,
                    "has no compensation",
                    f"add one with @{step.name}.compensation, say why it needs none with "
                    'no_compensation="…", or make it the pivot',
                )
