"""Pipeline: policies around one call, the outermost first."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Hashable, Iterable
from contextlib import AsyncExitStack, ExitStack
from types import TracebackType
from typing import Any, ClassVar

from standfast.errors import ConfigurationError, Rejected
from standfast.resilience.order import check
from standfast.resilience.policy import AsyncCall, Call, Measure, Policy
from standfast.resilience.telemetry import CALLS, watch


class Pipeline(Policy):
    """Policies around a call, the outermost first. An immutable value; share it freely.

    ::

        payments = Pipeline(
            Timeout("2s"), Retry(attempts=4), CircuitBreaker(...), Bulkhead(20), name="payments"
        )


        @payments
        async def charge(order: Order) -> Receipt: ...


        receipt = await payments.call(charge, order)

    The order is checked when it is built: `ConfigurationError` tells what is wrong with it and why.
    A pipeline may be part of another. ``async with payments:`` and ``with payments:`` work if every
    policy stands around blocks; those that make calls again (retry, hedge) or answer for them
    (fallback) can't, and `ConfigurationError` says so.

    It counts calls by outcome: success, failure, rejected (`Rejected`), timeout (``TimeoutError``)
    and cancelled.
    """

    label: ClassVar[str] = "pipeline"

    def __init__(self, *policies: Policy, name: str = "") -> None:
        for policy in policies:
            if not isinstance(policy, Policy):
                raise ConfigurationError(
                    f"{policy!r} is no policy: give instances such as Timeout('2s'), Retry()"
                )
        self._policies = policies
        self._name = name
        self._counts: dict[str, int] = dict.fromkeys(
            ("success", "failure", "rejected", "timeout", "cancelled"), 0
        )
        self._open: dict[Hashable, list[Any]] = {}
        self._watched = False
        check(self.flat())

    @property
    def name(self) -> str:
        """Its name in telemetry."""
        return self._name

    @property
    def policies(self) -> tuple[Policy, ...]:
        """The policies, the outermost first."""
        return self._policies

    def flat(self) -> tuple[Policy, ...]:
        """The policies, those of pipelines inside in their place."""
        flat: list[Policy] = []
        for policy in self._policies:
            flat.extend(policy.flat() if isinstance(policy, Pipeline) else (policy,))
        return tuple(flat)

    def __repr__(self) -> str:
        return f"Pipeline({', '.join(map(repr, self._policies))}, name={self._name!r})"

    def measures(self) -> Iterable[Measure]:
        """Calls by outcome."""
        for outcome, count in self._counts.items():
            attributes = {"policy": self.label, "name": self._name, "outcome": outcome}
            yield "standfast.resilience.calls", count, attributes

    def around(self, call: Call) -> Call:
        """`call` inside all policies."""
        self._watch()
        for policy in reversed(self._policies):
            call = policy.around(call)
        counts = self._counts

        def piped(*args: Any, **kwargs: Any) -> Any:
            try:
                result = call(*args, **kwargs)
            except BaseException as error:
                counts[_outcome(error)] += 1
                raise
            counts["success"] += 1
            return result

        return piped

    def around_async(self, call: AsyncCall) -> AsyncCall:
        """`call` inside all policies."""
        self._watch()
        for policy in reversed(self._policies):
            call = policy.around_async(call)
        counts = self._counts

        async def piped(*args: Any, **kwargs: Any) -> Any:
            try:
                result = await call(*args, **kwargs)
            except BaseException as error:
                counts[_outcome(error)] += 1
                raise
            counts["success"] += 1
            return result

        return piped

    # -- around blocks -----------------------------------------------------------------------

    async def __aenter__(self) -> None:
        """Enter all policies; if one refuses, those around it are left again."""
        self._check_blocks("__aenter__", "async with")
        async with AsyncExitStack() as stack:
            for policy in self._policies:
                await stack.enter_async_context(policy)  # type: ignore[arg-type]
            self._open.setdefault(asyncio.current_task(), []).append(stack.pop_all())

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> bool:
        """Leave all policies, the innermost first."""
        stack: AsyncExitStack = self._leave(asyncio.current_task())
        try:
            swallowed = await stack.__aexit__(kind, error, traceback)
        except BaseException as replaced:
            self._counts[_outcome(replaced)] += 1
            raise
        self._counts["success" if error is None else _outcome(error)] += 1
        return bool(swallowed)

    def __enter__(self) -> None:
        """Enter all policies; if one refuses, those around it are left again."""
        self._check_blocks("__enter__", "with")
        with ExitStack() as stack:
            for policy in self._policies:
                stack.enter_context(policy)  # type: ignore[arg-type]
            self._open.setdefault(threading.get_ident(), []).append(stack.pop_all())

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> bool:
        """Leave all policies, the innermost first."""
        stack: ExitStack = self._leave(threading.get_ident())
        try:
            swallowed = stack.__exit__(kind, error, traceback)
        except BaseException as replaced:
            self._counts[_outcome(replaced)] += 1
            raise
        self._counts["success" if error is None else _outcome(error)] += 1
        return bool(swallowed)

    def _check_blocks(self, method: str, words: str) -> None:
        self._watch()
        for policy in self._policies:
            if not hasattr(type(policy), method):
                raise ConfigurationError(
                    f"{policy!r} can't stand around a block (`{words}`), for it couldn't make the "
                    "call again, answer for it, or interrupt it: decorate a function, or use call()"
                )

    def _leave(self, who: Hashable) -> Any:
        """The stack that `who` entered last."""
        stacks = self._open[who]
        stack = stacks.pop()
        if not stacks:
            del self._open[who]
        return stack

    def _watch(self) -> None:
        if not self._watched:
            self._watched = True
            watch(self, CALLS)


def _outcome(error: BaseException) -> str:
    if isinstance(error, Rejected):
        return "rejected"
    if isinstance(error, TimeoutError):
        return "timeout"
    return "cancelled" if isinstance(error, asyncio.CancelledError) else "failure"
