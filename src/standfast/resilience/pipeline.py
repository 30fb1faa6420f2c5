"""Pipeline: policies around one call, the outermost first."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from contextlib import AsyncExitStack, ExitStack
from types import TracebackType
from typing import Any, ClassVar

from standfast.checks import text
from standfast.errors import ConfigurationError, Rejected
from standfast.resilience.blocks import Blocks, OpenBlocks
from standfast.resilience.functions import as_made, origin, set_origin, with_brackets
from standfast.resilience.order import check
from standfast.resilience.policy import (
    AsyncCall,
    Call,
    Measure,
    Policy,
    no_block,
    stands_around_blocks,
)
from standfast.resilience.telemetry import CALLS, watch


class Pipeline(Blocks[None]):
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
        with_brackets(self, policies[0] if policies else None)
        text(name)
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
        self._blocks: OpenBlocks[PipelineBlock] = OpenBlocks()
        self._watched = False
        flat = self.flat()
        check(flat)
        # With a deadline each block is another; without one, permits are as good as each other.
        self._any_will_do = all(policy.label != "timeout" for policy in flat)
        # Those whose caller may stop waiting for a plain call.
        self._abandonable = tuple(
            any(outer.label == "timeout" for outer in _flat(policies[:index]))
            for index in range(len(policies))
        )

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
        return _flat(self._policies)

    def __repr__(self) -> str:
        return as_made("Pipeline", *self._policies, name=self._name)

    def measures(self) -> Iterable[Measure]:
        """Calls by outcome."""
        for outcome, count in self._counts.items():
            attributes = {"policy": self.label, "name": self._name, "outcome": outcome}
            yield "standfast.resilience.calls", count, attributes

    def around(self, call: Call) -> Call:
        """`call` inside all policies."""
        return self._around(call, abandonable=False)

    def around_under_deadline(self, call: Call) -> Call:
        """`call` inside all policies, of which each must know that its caller may be gone."""
        return self._around(call, abandonable=True)

    def _around(self, call: Call, *, abandonable: bool) -> Call:
        self._watch()
        function = origin(call)
        for policy, under_deadline in zip(
            reversed(self._policies), reversed(self._abandonable), strict=True
        ):
            if call is not function:
                set_origin(call, function)
            under = abandonable or under_deadline
            call = policy.around_under_deadline(call) if under else policy.around(call)
        counts, within = self._counts, call

        def piped(*args: Any, **kwargs: Any) -> Any:
            try:
                result = within(*args, **kwargs)
            except BaseException as error:
                counts[_outcome(error)] += 1
                raise
            counts["success"] += 1
            return result

        return piped

    def around_async(self, call: AsyncCall) -> AsyncCall:
        """`call` inside all policies."""
        self._watch()
        function = origin(call)
        for policy in reversed(self._policies):
            if call is not function:
                set_origin(call, function)
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

    def block(self) -> PipelineBlock:
        """One block under all policies; it may end in any task or thread."""
        self._watch()
        return PipelineBlock(self)

    async def __aexit__(  # type: ignore[override]
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> bool:
        """Leave all policies, the innermost first; one of yours may swallow the error."""
        block = self._blocks.leave(any_will_do=self._any_will_do)
        return await block.__aexit__(kind, error, traceback)

    def __exit__(  # type: ignore[override]
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> bool:
        """Leave all policies, the innermost first; one of yours may swallow the error."""
        return self._blocks.leave(any_will_do=self._any_will_do).__exit__(kind, error, traceback)

    def _watch(self) -> None:
        if not self._watched:
            self._watched = True
            watch(self, CALLS)


class PipelineBlock:
    """One block under a `Pipeline`, with the blocks of its policies."""

    __slots__ = ("_pipeline", "_stack")

    def __init__(self, pipeline: Pipeline) -> None:
        self._pipeline = pipeline
        self._stack: Any = None

    async def __aenter__(self) -> None:
        """Enter all policies; if one refuses, those around it are left again."""
        self._check("__aenter__", "async with")
        try:
            async with AsyncExitStack() as stack:
                for policy in self._pipeline.policies:
                    await stack.enter_async_context(policy.block())
                self._stack = stack.pop_all()
        except BaseException as refused:
            self._pipeline._counts[_outcome(refused)] += 1  # noqa: SLF001 - its own
            raise

    def __enter__(self) -> None:
        """Enter all policies; if one refuses, those around it are left again."""
        self._check("__enter__", "with")
        try:
            with ExitStack() as stack:
                for policy in self._pipeline.policies:
                    stack.enter_context(policy.block())
                self._stack = stack.pop_all()
        except BaseException as refused:
            self._pipeline._counts[_outcome(refused)] += 1  # noqa: SLF001 - its own
            raise

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> bool:
        stack, self._stack = self._stack, None
        counts = self._pipeline._counts  # noqa: SLF001 - its own
        try:
            swallowed = await stack.__aexit__(kind, error, traceback)
        except BaseException as replaced:
            counts[_outcome(replaced)] += 1
            raise
        counts["success" if error is None else _outcome(error)] += 1
        return bool(swallowed)

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> bool:
        stack, self._stack = self._stack, None
        counts = self._pipeline._counts  # noqa: SLF001 - its own
        try:
            swallowed = stack.__exit__(kind, error, traceback)
        except BaseException as replaced:
            counts[_outcome(replaced)] += 1
            raise
        counts["success" if error is None else _outcome(error)] += 1
        return bool(swallowed)

    def _check(self, method: str, words: str) -> None:
        for policy in self._pipeline.policies:
            if not stands_around_blocks(policy, method):
                raise no_block(policy, words)


def _flat(policies: Iterable[Policy]) -> tuple[Policy, ...]:
    flat: list[Policy] = []
    for policy in policies:
        flat.extend(policy.flat() if isinstance(policy, Pipeline) else (policy,))
    return tuple(flat)


def _outcome(error: BaseException) -> str:
    if isinstance(error, Rejected):
        return "rejected"
    if isinstance(error, TimeoutError):
        return "timeout"
    return "cancelled" if isinstance(error, asyncio.CancelledError) else "failure"
