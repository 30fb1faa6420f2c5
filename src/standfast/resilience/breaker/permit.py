"""A circuit breaker's leave for one call, to be settled by hand or by the end of a block."""

from __future__ import annotations

from types import TracebackType
from typing import Any, Protocol

from standfast.resilience.breaker.machine import REJECTED
from standfast.resilience.breaker.options import Verdict


class Breaker(Protocol):
    """The breaker of a permit, as far as that needs it."""

    name: str

    def acquire(self) -> Permit:
        """A permit for one call."""
        ...

    def _settle(self, ticket: int, started: float, verdict: Verdict, outcome: Any) -> None: ...

    def _raised(self, ticket: int, started: float, error: BaseException) -> None: ...


class Permit:
    """Leave for one call. Settle it exactly once; a second time raises ``RuntimeError``.

    As a block it is settled by how the block ends, unless that was done by hand inside.
    """

    __slots__ = ("_started", "_ticket", "breaker", "settled")

    def __init__(self, breaker: Breaker, ticket: int, started: float) -> None:
        self.breaker: Breaker = breaker
        self._ticket = ticket
        self._started = started
        self.settled: bool = False

    @property
    def begun(self) -> tuple[int, float]:
        """Its ticket of the breaker's machine, and when it was given (monotonic seconds)."""
        return self._ticket, self._started

    def success(self) -> None:
        """The call worked."""
        self._settle("success")

    def failure(self, error: BaseException | None = None) -> None:
        """The call failed; an `error` is judged as the breaker judges exceptions."""
        if error is None:
            self._settle("failure")
        else:
            self._once()
            self.breaker._raised(self._ticket, self._started, error)  # noqa: SLF001 - its own

    def ignore(self) -> None:
        """The call says nothing about the other side."""
        self._settle("ignored")

    def _settle(self, verdict: Verdict) -> None:
        self._once()
        self.breaker._settle(self._ticket, self._started, verdict, None)  # noqa: SLF001 - its own

    def _once(self) -> None:
        if self.settled:
            raise RuntimeError("this permit is settled already: settle each exactly once")
        self.settled = True

    def __enter__(self) -> Permit:
        if self._ticket == REJECTED:
            self._ticket, self._started = self.breaker.acquire().begun
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if not self.settled:
            self.success() if error is None else self.failure(error)

    async def __aenter__(self) -> Permit:
        return self.__enter__()

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.__exit__(kind, error, traceback)
