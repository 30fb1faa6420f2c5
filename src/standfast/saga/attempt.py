"""Runs the user's code for one command, and says what came of it as an event.

It is foreign code: it may raise anything, cancel the task that it runs in, or do something else
than end when it is cancelled. All of that is a failed attempt. Only what ends the worker is not.
"""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Mapping
from contextlib import AbstractContextManager
from contextvars import copy_context
from typing import Any

import msgspec

from standfast.branch_key import Operation
from standfast.checks import is_unawaited, plain_answer
from standfast.clock import Clock
from standfast.clock import timeout as bounded
from standfast.durations import epoch
from standfast.errors import (
    CodecError,
    ConfigurationError,
    Refused,
    Rejected,
    TransactionConflict,
    Unreadable,
)
from standfast.groups import every, leaves, some
from standfast.ports.journal import child_key
from standfast.resilience.marks import SCOPE, Scope, do_not_retry, is_final
from standfast.resilience.retry_after import retry_after
from standfast.saga import events as ev
from standfast.saga.active import Active
from standfast.saga.blocking import no_thread, not_begun
from standfast.saga.branch import UNSET, Branch
from standfast.saga.context import Context
from standfast.saga.isolation import look
from standfast.saga.machine import Command, Machine, Resolve, Run, Undo
from standfast.saga.prepared import Parent, Prepared, prepare
from standfast.saga.registry import Definitions
from standfast.saga.saga_log import SagaLog
from standfast.saga.step import Step
from standfast.saga.telemetry import SagaTelemetry
from standfast.saga.tracebacks import traceback_of
from standfast.text import class_name, class_of, named, told

ERROR_LENGTH = 2000
_UNFORESEEN = Exception()
"""What a retry policy is asked about where the error isn't even an `Exception`."""


class AttemptRunner:
    """Carries out commands. What the user's code raises becomes an event, never an exception.

    It is made by the task that runs the worker's turn: when that is cancelled, attempts end.
    """

    def __init__(
        self, definitions: Definitions, telemetry: SagaTelemetry, clock: Clock, log: SagaLog
    ) -> None:
        self.definitions: Definitions = definitions
        self.clock: Clock = clock
        self.telemetry: SagaTelemetry = telemetry
        self.log: SagaLog = log
        self._turn = turn = asyncio.current_task()
        self._requests = 0 if turn is None else turn.cancelling()  # that are over

    def _time_limit(self, machine: Machine, command: Run | Undo) -> float | None:
        """How many seconds an attempt may take: its step's, and no longer than the saga's."""
        step = command.branch.step
        if type(command) is Undo:
            return step.undo_timeout
        if machine.deadline_at is None or step.pivot or (due_by := machine.due_by) is None:
            return step.timeout
        left = max(0.0, due_by - self.clock.now())
        return left if step.timeout is None else min(step.timeout, left)

    async def carry_out(self, active: Active, command: Command) -> ev.Event:
        """Run one attempt, or ask the definition, and answer with what came of it."""
        scope = Scope()
        try:
            if isinstance(command, Resolve):
                SCOPE.set(scope)
                isolation = active.isolation
                context = copy_context() if isolation is None else isolation.context()
                return context.run(self._answer, active, command.branch)
            return self.success(active, command, await self.call(active, command, None, scope))
        except BaseException as error:  # noqa: BLE001 — becomes a fact: the machine decides on it
            self.raise_if_ended(active, error)
            return self.failure(active, command, error, scope)

    async def call(self, active: Active, command: Run | Undo, tx: Any, scope: Scope) -> Any:
        """Run the user's method for one attempt, with the transaction if there is one.

        It sees the worker's context, with the attempt's span and `scope`, and nothing of others.
        """
        definition, machine, branch = active.definition, active.machine, command.branch
        forward, attempt = type(command) is Run, command.attempt
        function = (definition.actions if forward else definition.undos)[branch.step.name]
        timeout = self._time_limit(machine, command)
        deadline = None if timeout is None else self.clock.now() + timeout
        operation: Operation = "action" if forward else "compensation"
        ctx = Context(definition, machine, branch, operation, attempt, deadline)
        args: list[Any] = [definition.saga, _input(active, branch, attempt), ctx]
        if branch.item_value is not None:
            args.append(self._item(active, branch))
        if tx is not None:
            args.append(tx)
        spans, isolation = self.telemetry.spans, active.isolation
        SCOPE.set(scope)
        before = copy_context()
        try:
            if timeout is None and spans is None and isolation is None:
                value = await function(*args)
            else:
                running = self._within(active, timeout, function, args)
                if spans is not None:
                    running = _in_span(spans.attempt(machine, ctx, branch), running)
                value = await (running if isolation is None else isolation.enclosed(running))
        finally:
            driver = active.task
            assert driver is not None
            if active.isolation is None:
                active.isolation = look(before, driver)
            if driver.cancelling() and not self._has_ended(active):
                await self.take_back(active)
        if active.is_cut_off:
            raise asyncio.CancelledError  # it didn't heed it: what it answers comes too late
        return value

    async def _within(
        self,
        active: Active,
        timeout: float | None,
        function: Callable[..., Awaitable[Any]],
        args: list[Any],
    ) -> Any:
        if timeout is None:
            return await function(*args)
        limit = bounded(self.clock, timeout)
        try:
            async with limit:
                return await function(*args)
        except (TimeoutError, asyncio.CancelledError) as error:
            if limit.expired() and not self._has_ended(active):
                if not_begun(error):
                    raise no_thread(timeout) from None
                # Before Python 3.13 a `TaskGroup` that failed inside, and was answered for, makes
                # it take its own request for another's.
                if isinstance(error, asyncio.CancelledError):
                    raise TimeoutError from error
            raise

    def _item(self, active: Active, branch: Branch) -> Any:
        assert branch.item_value is not None
        item_type = active.definition.item_types[branch.step.name]
        try:
            return active.definition.codec.decode(branch.item_value, item_type)
        except CodecError as error:
            raise Unreadable(f"item {branch.id} can't be read: {error}") from error

    # -- what ends an attempt from outside ---------------------------------------------------

    def raise_if_ended(self, active: Active, error: BaseException) -> None:
        """Raise what ends this task, if `error` isn't the attempt's own failure."""
        if isinstance(error, KeyboardInterrupt) and (
            signal.getsignal(signal.SIGINT) is signal.default_int_handler
        ):
            raise error  # a real one: asyncio's runner and `standfast run` have handlers of theirs
        is_cancelled = isinstance(error, asyncio.CancelledError)
        if (
            active.is_cut_off
            or (is_cancelled and self._has_ended(active))
            or not self._is_attempts_task(active)
        ):
            if is_cancelled or isinstance(error, GeneratorExit):
                raise error
            raise asyncio.CancelledError from error  # it didn't heed it, and is done for

    def _is_attempts_task(self, active: Active) -> bool:
        """Whether this task is one of the instance's, and not given up or closed with its loop."""
        try:
            task = asyncio.current_task()
        except RuntimeError:
            return False
        return task is active.task or task in active.tasks

    def _has_ended(self, active: Active) -> bool:
        """Whether the worker ended the instance's tasks, or is itself being ended."""
        turn = self._turn
        return active.is_cut_off or (
            turn is not None and (turn.done() or turn.cancelling() > self._requests)
        )

    async def take_back(self, active: Active) -> None:
        """Withdraw what an attempt asked of the task that drives its saga: to be cancelled."""
        task = asyncio.current_task()
        if task is None or task is not active.task:
            return  # the driver itself sees to it
        while task.uncancel():
            pass
        try:
            await asyncio.sleep(0)  # one that is still to be delivered comes out here
        except asyncio.CancelledError:
            if self._has_ended(active):
                raise

    # -- what came of it ---------------------------------------------------------------------

    def success(self, active: Active, command: Run | Undo, value: Any) -> ev.Event:
        """What it means that the user's code returned. Raises `CodecError`."""
        branch, definition = command.branch, active.definition
        if isinstance(command, Undo):
            if value is not None:  # it would be dropped
                _check_awaited(f"the compensation of step {branch.id!r}", value)
            return ev.Undone(branch.id)
        results = definition.results_of[branch.step.name]
        try:
            raw, value, is_kept = results.stored(definition.codec, value)
        except CodecError as error:
            _check_awaited(f"step {branch.id!r}", value)
            raise CodecError(
                f"what step {branch.id!r} returned can't be stored and read back by its "
                f"annotation: {error}"
            ) from error
        branch.value = value if is_kept else UNSET
        return ev.Succeeded(branch.id, msgspec.Raw(raw))

    def failure(
        self, active: Active, command: Command, error: BaseException, scope: Scope
    ) -> ev.Failed | ev.UndoFailed:
        """What it means that the user's code raised, in `scope`. It is logged, too."""
        branch, undo = command.branch, isinstance(command, Undo)
        event: ev.Failed | ev.UndoFailed
        event = (ev.UndoFailed if undo else ev.Failed)(branch.id, class_name(error))
        try:
            self._judge(command, error, event, scope)
            if not branch.attempt or event.error != branch.error:
                event.traceback = traceback_of(error)
            self.log.failed(active, command, error, event)
        except Exception:  # noqa: BLE001 — the user's policy or log handler: it failed all the same
            self.log.misjudged(active, command)
        return event

    def _judge(
        self,
        command: Command,
        error: BaseException,
        event: ev.Failed | ev.UndoFailed,
        scope: Scope,
    ) -> None:
        message, event.error = told(error), describe(error)
        if isinstance(error, Unreadable):
            event.error, event.retriable = message, False
            if isinstance(event, ev.Failed):
                event.park = True
            return
        if isinstance(event, ev.Failed) and is_refusal(error):
            said = [told(one) for one in leaves(error) if isinstance(one, Refused)]
            event.error = "; ".join(said)[:ERROR_LENGTH] or "refused"
            event.refused = True
            return
        if isinstance(error, TimeoutError) and not message:
            event.error = "timed out: the outcome is unknown"
        elif isinstance(error, asyncio.CancelledError):
            event.error = f"{event.error} (it was cancelled from within, not by its worker)"
        event.retry_after = retry_after(error, self.clock.now()) or 0.0
        if isinstance(command, Resolve):
            event.retriable = False
            return
        # What a transactional one wrote before a conflict is rolled back: it had no effect.
        free = (Rejected, TransactionConflict) if command.transactional else Rejected
        event.rejected = every(error, free)
        step, undo = command.branch.step, isinstance(command, Undo)
        policy = step.undo_retry if undo else step.retry
        judged = error if isinstance(error, Exception) else _UNFORESEEN
        # What a `Retry` inside gave up on is one attempt of this one.
        event.retriable = (
            not is_final(error, scope)
            and not some(error, Refused)
            and policy.is_retriable(judged)
            and (undo or not isinstance(error, CodecError))
        )

    # -- what the definition answers ---------------------------------------------------------

    def _answer(self, active: Active, branch: Branch) -> ev.Event:
        """Ask the definition's own functions about a branch."""
        definition, machine = active.definition, active.machine
        step = definition.steps[branch.step.name]
        saga, input = definition.saga, _input(active, branch, 0)
        ctx = Context(definition, machine, branch, "action", 1, None)
        if branch.item is None:
            if step.when is not None:
                goes = plain_answer(step.when(saga, input, ctx), name="when=")
                if not goes:
                    return ev.Answered(branch.id, skip=True)
            if step.each is not None:
                items = _listed(plain_answer(step.each(saga, input, ctx), name="each="))
                values = definition.items_of[branch.id]
                return ev.Answered(branch.id, items=values.all_stored(definition.codec, items))
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


def _check_awaited(what: str, value: Any) -> None:
    """Raise `ConfigurationError`, not to be retried, for an answer that nobody awaited."""
    if is_unawaited(value):
        shown = value.shown() if isinstance(value, Step) else class_of(value)
        raise do_not_retry(
            ConfigurationError(
                f"{what} returned {shown} that nobody awaits, so that its work isn't done: write "
                "`return await …`, in an `async def`"
            )
        ) from None


def _listed(items: Any) -> list[Any]:
    """What `each` answered, as a list. Raises `ConfigurationError` for what is rather one thing."""
    if isinstance(items, (str, bytes, Mapping)) or not isinstance(items, Iterable):
        raise ConfigurationError(
            f"each= answered with {class_of(items)}: give a list of items (of a dict, for "
            "one, list(….items()))"
        )
    return list(items)


def _input(active: Active, branch: Branch, attempt: int) -> Any:
    """The saga's input for one attempt, as nobody else has changed it.

    The first attempts of one step's items share it: it may hold all of the items. Raises
    `Unreadable`.
    """
    if type(active.input) is Unreadable:
        raise Unreadable(str(active.input))
    definition = active.definition
    if definition.shares_input:
        return active.input
    reader = (branch.step.name, attempt) if branch.item is not None and attempt <= 1 else None
    if reader is None or reader != active.input_reader:
        active.input = definition.input(active.machine)
        active.input_reader = reader
    return active.input


async def _in_span(span: AbstractContextManager[None], attempt: Coroutine[Any, Any, Any]) -> Any:
    with span:
        return await attempt


def is_refusal(error: BaseException) -> bool:
    """Whether business said no, and all else that `error` tells of wasn't even tried."""
    return isinstance(error, Refused) or (
        isinstance(error, BaseExceptionGroup)
        and some(error, Refused)
        and every(error, (Refused, Rejected))
    )


def describe(error: BaseException) -> str:
    """What went wrong, in one storable text of bounded length."""
    return named(error)[:ERROR_LENGTH]
