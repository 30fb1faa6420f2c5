"""What a step is given beside its input."""

from __future__ import annotations

import logging
from typing import Any, Protocol, TypeVar

from standfast.branch_key import CORRELATION_HEADER, BranchKey, Operation
from standfast.errors import ResultUnavailable
from standfast.resilience.marks import do_not_retry
from standfast.saga.branch import UNSET, Branch
from standfast.saga.state import SagaState
from standfast.saga.step import Step, checked_step

R = TypeVar("R")
_logger = logging.getLogger("standfast.saga")


class Results(Protocol):
    """The code of a saga, as far as it knows what steps returned."""

    name: str

    def result(self, state: SagaState, name: str) -> Any:
        """A step's result by name."""
        ...

    def branch_result(self, branch: Branch) -> Any:
        """What a branch's action returned."""
        ...


class Context:
    """One attempt's view of its saga.

    `attempt` is 1 for the first, and goes on counting over crashes. `deadline` is when the attempt
    will be interrupted, in seconds since the epoch, or None. `item` is the number of the item of a
    step that fans out.
    """

    __slots__ = (
        "_branch",
        "_definition",
        "_key",
        "_results",
        "_state",
        "attempt",
        "deadline",
        "operation",
    )

    def __init__(
        self,
        definition: Results,
        state: SagaState,
        branch: Branch,
        operation: Operation,
        attempt: int,
        deadline: float | None,
    ) -> None:
        self._definition: Results = definition
        self._state: SagaState = state
        self._branch: Branch = branch
        self._key: str = ""
        self._results: dict[str, Any] | None = None
        self.operation: Operation = operation
        self.attempt: int = attempt
        self.deadline: float | None = deadline

    @property
    def saga_id(self) -> str:
        """The instance's id."""
        return str(self._state.id)

    @property
    def key(self) -> str:
        """The key that the saga was started with."""
        return self._state.started.key

    @property
    def step(self) -> str:
        """The step's name."""
        return self._branch.step.name

    @property
    def item(self) -> int | None:
        """The item's number, counted from 0, in a step that fans out."""
        return self._branch.item

    @property
    def correlation_id(self) -> str:
        """What ties together all that one business action caused; children inherit it."""
        return self._state.started.correlation_id

    @property
    def _first_name(self) -> str:
        """The branch by the name that it had before any migration renamed its step."""
        return self._state.names.first(self._branch.id)

    @property
    def branch_key(self) -> BranchKey:
        """Names this effect for a participant's `barrier`: one key for action and compensation."""
        return BranchKey(f"{self._state.id}:{self._first_name}", self.operation)

    @property
    def idempotency_key(self) -> str:
        """Stable over attempts, crashes and restarts; an undo has one of its own."""
        if not self._key:
            suffix = ":undo" if self.operation == "compensation" else ""
            self._key = f"{self._state.id}:{self._first_name}{suffix}"
        return self._key

    def headers(self) -> dict[str, str]:
        """HTTP headers for a participant: branch key, operation, correlation id, trace context."""
        from opentelemetry import propagate

        headers = self.branch_key.headers()
        headers[CORRELATION_HEADER] = self.correlation_id
        propagate.inject(headers)
        return headers

    def result(self, step: Step[Any, R]) -> R:
        """The result of a step that is done; a list, in order, for one that fans out.

        It is what was stored, read back for this attempt: whoever changes it changes it for itself.
        Raises `ResultUnavailable` if there is none: the step was skipped or refused, or its outcome
        is unknown. `has_result` asks first. Where no later attempt would find one either, the
        attempt isn't made again. `ConfigurationError`, and the attempt isn't made again, for what
        is no step, such as its name.
        """
        name = checked_step(step, method="result").name
        try:
            return self._result(name)  # type: ignore[no-any-return]
        except ResultUnavailable as error:
            raise self._unavailable(error, name) from None

    def has_result(self, step: Step[Any, Any]) -> bool:
        """Whether `result` would answer."""
        name = checked_step(step, method="has_result").name
        try:
            self._result(name)
        except ResultUnavailable:
            return False
        return True

    def _result(self, name: str) -> Any:
        if self._results is None:
            self._results = {}
        if name not in self._results:
            self._results[name] = self._definition.result(self._state, name)
        return self._results[name]

    @property
    def item_result(self) -> Any:
        """In the compensation of one item: what that item's action returned."""
        try:
            return self._definition.branch_result(self._branch)
        except ResultUnavailable as error:
            raise self._unavailable(error, self._branch.step.name) from None

    def _unavailable(self, error: ResultUnavailable, name: str) -> ResultUnavailable:
        """`error`, which tells that step `name` has no result, for a step's code, to be raised.

        Nothing tries again where the journal has decided it.
        """
        undoing = self.operation == "compensation"
        by_key = "; an undo can go by ctx.branch_key alone" if undoing else ""
        told = ResultUnavailable(f"{error}; ask ctx.has_result(step) first{by_key}")
        branch = self._state.branches.get(name)
        # What stands beside this step may be done by its next attempt, or have begun, which nothing
        # does while a saga is undone.
        if branch is None:
            may_come = name in self._state.plan.steps and not undoing
        else:
            may_come = branch.state in ("open", "parked") and name != self._branch.step.name
        return told if may_come else do_not_retry(told)

    @property
    def log(self) -> logging.LoggerAdapter[logging.Logger]:
        """A logger whose records carry saga, key, id, step, attempt and correlation id.

        They are fields of the record, as of those that the library itself logs.
        """
        name, state, branch = self._definition.name, self._state, self._branch
        fields = log_fields(name, state, branch, self.operation, self.attempt)
        return _Log(_logger, fields)


def log_fields(
    saga: str, state: SagaState, branch: Branch | None, operation: str, attempt: int
) -> dict[str, Any]:
    """What a log record of an instance carries; of a branch "" and 0 where it is about none."""
    return {
        "saga": saga,
        "saga_id": str(state.id),
        "key": state.started.key,
        "step": "" if branch is None else branch.id,
        "operation": operation,
        "attempt": attempt,
        "correlation_id": state.started.correlation_id,
    }


class _Log(logging.LoggerAdapter[logging.Logger]):
    def log(self, level: int, msg: object, *args: object, **kwargs: Any) -> None:
        if not self.isEnabledFor(level):
            return
        extra = dict(self.extra or {})
        prefix = f"[{extra['saga']} {extra['saga_id']} {extra['step']}]"
        if args:  # a saga's name may have a % in it
            prefix = prefix.replace("%", "%%")
        kwargs["extra"] = {**extra, **(kwargs.get("extra") or {})}
        kwargs["stacklevel"] = kwargs.get("stacklevel", 1) + 1  # the step's own line
        text = f"{prefix} {msg}"
        self.logger.log(level, text, *args, **kwargs)


def known(branch: Branch) -> bool:
    """Whether the branch completed with a result that is at hand."""
    return branch.completed_at > 0 and (branch.value is not UNSET or branch.result is not None)
