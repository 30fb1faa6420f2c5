"""What a circuit breaker costs: a success, and a rejection while it is open, in all."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import hyx.circuitbreaker
import purgatory
import pybreaker

from benchmarks.resilience.overhead import Contenders, bare, bare_async, compare
from standfast.resilience.breaker import CircuitBreaker


async def _fails(x: int) -> int:
    raise OSError


def _failing(x: int) -> int:
    raise OSError


def _quiet(call: Callable[[int], Any]) -> Callable[[int], Any]:
    def run(x: int) -> None:
        try:
            call(x)
        except Exception:  # noqa: BLE001 - the rejection is what is measured
            pass

    return run


def _quiet_async(call: Callable[[int], Awaitable[Any]]) -> Callable[[int], Awaitable[Any]]:
    async def run(x: int) -> None:
        try:
            await call(x)
        except Exception:  # noqa: BLE001 - the rejection is what is measured
            pass

    return run


def _purgatory(call: Callable[[int], Any]) -> Callable[[int], Any]:
    return purgatory.SyncCircuitBreakerFactory(default_threshold=5)("circuit")(call)


def _purgatory_async(call: Callable[[int], Awaitable[Any]]) -> Callable[[int], Awaitable[Any]]:
    return purgatory.AsyncCircuitBreakerFactory(default_threshold=5)("circuit")(call)


def _hyx(call: Callable[[int], Awaitable[Any]]) -> Callable[[int], Awaitable[Any]]:
    return hyx.circuitbreaker.consecutive_breaker(failure_threshold=5)(call)


def _slow_watched() -> CircuitBreaker:
    return CircuitBreaker(window="60s", slow_call_rate=0.5, slow_call_duration="1s")


def _mixed() -> CircuitBreaker:
    # So wide that the failures stay in it while it is measured.
    breaker = CircuitBreaker(window=10_000_000, failure_rate=0.9, minimum_calls=100)
    for _ in range(9):
        _quiet(breaker(_failing))(1)
    return breaker


def _rejecting() -> CircuitBreaker:
    breaker = CircuitBreaker(wait="1h")
    breaker.open()
    return breaker


def _success() -> Contenders:
    return {
        "standfast": CircuitBreaker()(bare_async),
        "standfast, failures in the window": _mixed()(bare_async),
        "standfast, time window and slow calls": _slow_watched()(bare_async),
        "purgatory": _purgatory_async(bare_async),
        "hyx": _hyx(bare_async),
    }


def _rejection() -> Contenders:
    return {
        "standfast": _quiet_async(_rejecting()(bare_async)),
        "purgatory": _quiet_async(_purgatory_async(_fails)),
        "hyx": _quiet_async(_hyx(_fails)),
    }


def main() -> None:
    """Print both tables."""
    compare(
        "Circuit breaker: success",
        {
            "standfast": CircuitBreaker()(bare),
            "standfast, failures in the window": _mixed()(bare),
            "standfast, time window and slow calls": _slow_watched()(bare),
            "pybreaker": pybreaker.CircuitBreaker()(bare),
            "purgatory": _purgatory(bare),
        },
        _success,
        target={"def": 500, "async def": 500},
    )
    # Each peer has opened after its first five calls, which the first round measures too.
    compare(
        "Circuit breaker: rejection while open, in all (raised and caught)",
        {
            "standfast": _quiet(_rejecting()(bare)),
            "pybreaker": _quiet(pybreaker.CircuitBreaker()(_failing)),
            "purgatory": _quiet(_purgatory(_failing)),
        },
        _rejection,
        target={"def": 1000, "async def": 1000},
    )


if __name__ == "__main__":
    main()
