"""Leave for one call, to be settled by hand."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from standfast.resilience.breaker.breaker import CircuitBreaker


class Permit:
    """Leave for one call. Settle it exactly once; a second time raises ``RuntimeError``."""

    __slots__ = ("_started", "_ticket", "breaker", "settled")

    def __init__(self, breaker: CircuitBreaker, ticket: int, started: float) -> None:
        self.breaker: CircuitBreaker = breaker
        self._ticket = ticket
        self._started = started
        self.settled: bool = False

    def success(self) -> None:
        """The call worked."""
        self._once()
        self.breaker._settle(self._ticket, self._started, "success", None)  # noqa: SLF001

    def failure(self, error: BaseException | None = None) -> None:
        """The call failed; an `error` is judged as the breaker judges exceptions."""
        self._once()
        if error is None:
            self.breaker._settle(self._ticket, self._started, "failure", None)  # noqa: SLF001
        else:
            self.breaker._raised(self._ticket, self._started, error)  # noqa: SLF001

    def ignore(self) -> None:
        """The call says nothing about the other side."""
        self._once()
        self.breaker._settle(self._ticket, self._started, "ignored", None)  # noqa: SLF001

    def _once(self) -> None:
        if self.settled:
            raise RuntimeError("this permit is settled already: settle each exactly once")
        self.settled = True
