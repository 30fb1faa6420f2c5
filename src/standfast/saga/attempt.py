"""Runs the user's code for one command, and says what came of it as an event."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Mapping
from typing import Any

import msgspec

from standfast.checks import plain_answer
from standfast.clock import Clock
from standfast.durations import epoch, human, seconds
from standfast.errors import CodecError, ConfigurationError, Refused
from standfast.ports.journal import child_key
from standfast.resilience.budget import is_final
from standfast.resilience.retry_after import retry_after
from standfast.saga import events as ev
from standfast.saga.active import Active
from standfast.saga.branch import Branch
from standfast.saga.context import Context
from standfast.saga.machine import Command, Resolve, Run, Undo
from standfast.saga.move import Unreadable
from standfast.saga.prepared import Parent, Prepared, prepare
from standfast.saga.registry import Definitions
from standfast.saga.telemetry import SagaTelemetry
from standfast.text import told

ERROR_LENGTH = 2000


class AttemptRunner:
    """Carries out commands. What the user's code raises becomes an event, never an exception."""

    def __init__(self, definitions: Definitions, telemetry: SagaTelemetry, clock: Clock) -> None:
        self.definitions: Definitions = definitions
        self.clock: Clock = clock
        self.telemetry: SagaTelemetry = telemetry

    def _context(self, active: Active, command: Run | Undo) -> tuple[Context, float | None]:
        machine, step = active.machine, command.branch.step
        now = self.clock.now()
        forward = type(command) is Run
        timeout = step.timeout if forward else step.undo_timeout
        due_by = machine.due_by if forward and not step.pivot else None
        if due_by is not None:
            left = max(0.0, due_by - now)
            timeout = left if timeout is None else min(timeout, left)
        deadline = None if timeout is None else now + timeout
        operation = "action" if forward else "compensation"
        return (
            Context(
                active.definition,
                machine,
                command.branch,
                operation,  # type: ignore[arg-type]
                command.attempt,
                deadline,
            ),
            timeout,
        )

    async def carry_out(self, active: Active, command: Command) -> ev.Event:
        """Run one attempt, or ask the definition, and answer with what came of it."""
        if isinstance(command, Resolve):
            return self._answer(active, command.branch)
        try:
            return self.success(active, command, await self.call(active, command, None))
        except Exception as error:  # noqa: BLE001 — becomes a fact: the machine decides on it
            return self.failure(command, error)

    async def call(self, active: Active, command: Run | Undo, tx: Any) -> Any:
        """Run the user's method for one attempt, with the transaction if there is one."""
        definition, branch = active.definition, command.branch
        step = definition.steps[branch.step.name]
        function = step.function if isinstance(command, Run) else step.undo_function
        assert function is not None
        ctx, timeout = self._context(active, command)
        args: list[Any] = [definition.saga, _input(active), ctx]
        if branch.item_value is not None:
            args.append(self._item(active, branch))
        if tx is not None:
            args.append(tx)
        spans = self.telemetry.spans
        if spans is None:
            return await _within(timeout, function, args)
        with spans.attempt(active.machine, ctx, branch):
            return await _within(timeout, function, args)

    def _item(self, active: Active, branch: Branch) -> Any:
        assert branch.item_value is not None
        item_type = active.definition.item_types[branch.step.name]
        try:
            return active.definition.codec.decode(branch.item_value, item_type)
        except CodecError as error:
            raise Unreadable(f"item {branch.id} can't be read: {error}") from error

    def success(self, active: Active, command: Run | Undo, value: Any) -> ev.Event:
        """What it means that the user's code returned. Raises `CodecError`."""
        branch = command.branch
        if isinstance(command, Undo):
            return ev.Undone(branch.id)
        raw = active.definition.codec.encode(value)
        branch.value = value
        return ev.Succeeded(branch.id, msgspec.Raw(raw))

    def failure(self, command: Run | Undo, error: Exception) -> ev.Failed | ev.UndoFailed:
        """What an exception from the user's code means."""
        branch = command.branch
        undo = isinstance(command, Undo)
        policy = branch.step.undo_retry if undo else branch.step.retry
        message, text = told(error), describe(error)
        if isinstance(error, Unreadable):
            if undo:
                return ev.UndoFailed(branch.id, message, retriable=False)
            return ev.Failed(branch.id, message, park=True)
        if isinstance(error, Refused) and not undo:
            return ev.Failed(branch.id, message[:ERROR_LENGTH] or "refused", refused=True)
        if isinstance(error, TimeoutError) and not message:
            text = "timed out: the outcome is unknown"
        # What a `Retry` inside gave up on is one attempt of this one.
        again = not is_final(error) and policy.is_retriable(error)
        if isinstance(error, CodecError) and not undo:
            again = False
        after = retry_after(error, self.clock.now()) or 0.0
        longest = seconds(policy.max_retry_after, name="max_retry_after", positive=False)
        if undo:  # it goes on all the same, rather than to wait for an operator
            return ev.UndoFailed(branch.id, text, again, min(after, longest))
        if again and after > longest:
            text += f" (asked to wait {human(after)}, max_retry_after={human(longest)})"
            again = False
        return ev.Failed(branch.id, text, retriable=again, retry_after=after)

    def _answer(self, active: Active, branch: Branch) -> ev.Event:
        """Ask the definition's own functions about a branch."""
        definition, machine = active.definition, active.machine
        step = definition.steps[branch.step.name]
        saga = definition.saga
        ctx = Context(definition, machine, branch, "action", 1, None)
        try:
            input = _input(active)
            if branch.item is None:
                if step.when is not None:
                    goes = plain_answer(step.when(saga, input, ctx), name="when=")
                    if not goes:
                        return ev.Answered(branch.id, skip=True)
                if step.each is not None:
                    items = _listed(plain_answer(step.each(saga, input, ctx), name="each="))
                    raws = [msgspec.Raw(definition.codec.encode(item)) for item in items]
                    return ev.Answered(branch.id, items=raws)
                if step.until is not None:
                    moment = plain_answer(step.until(saga, input, ctx), name="until=")
                    return ev.Answered(branch.id, until=epoch(moment, name="until"))
            if step.child is not None and step.child_input is not None:
                item = () if branch.item is None else (self._item(active, branch),)
                its_input = plain_answer(
                    step.child_input(saga, input, ctx, *item), name="a child's input"
                )
                active.child_starts[branch.id] = self._child_start(
                    active, branch, step.child, its_input
                )
        except Unreadable as error:
            return ev.Failed(branch.id, told(error), park=True)
        except Exception as error:  # noqa: BLE001 — becomes a fact: the machine decides on it
            return ev.Failed(branch.id, describe(error), retriable=False)
        return ev.Answered(branch.id)

    def _child_start(self, active: Active, branch: Branch, saga: Any, input: Any) -> Prepared:
        machine = active.machine
        return prepare(
            self.definitions.of(saga),
            input,
            clock=self.clock,
            key=child_key(machine.id, branch.id + (f"#{branch.attempt}" if branch.attempt else "")),
            correlation_id=machine.started.correlation_id,
            trace=self.telemetry.trace_of_child(machine, branch),
            id=machine.child_id(branch),
            parent=Parent(machine.id, branch.id),
        )


def _input(active: Active) -> Any:
    """The saga's input. Raises `Unreadable`."""
    if type(active.input) is Unreadable:
        raise Unreadable(str(active.input))
    return active.input


def _listed(items: Any) -> list[Any]:
    """What `each` answered, as a list. Raises `ConfigurationError` for what is rather one thing."""
    if isinstance(items, (str, bytes, Mapping)) or not isinstance(items, Iterable):
        raise ConfigurationError(
            f"each= answered with a {type(items).__name__}: give a list of items (of a dict, for "
            "one, list(….items()))"
        )
    return list(items)


async def _within(
    timeout: float | None, function: Callable[..., Awaitable[Any]], args: list[Any]
) -> Any:
    try:
        if timeout is None:
            return await function(*args)
        async with asyncio.timeout(timeout):
            return await function(*args)
    except asyncio.CancelledError:
        task = asyncio.current_task()
        if task is not None and not task.cancelling():
            # Nobody asked it of this task, so it is the attempt's own failure.
            raise RuntimeError("the step was cancelled from within") from None
        raise


def describe(error: BaseException) -> str:
    """What went wrong, in one storable text of bounded length."""
    message = told(error)
    text = f"{type(error).__name__}: {message}" if message else type(error).__name__
    return text[:ERROR_LENGTH]
