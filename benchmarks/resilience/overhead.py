"""Nanoseconds over the bare call: medians of interleaved rounds."""

from __future__ import annotations

import asyncio
import gc
import platform
import statistics
import time
from collections.abc import Awaitable, Callable
from typing import Any, TypeAlias

Contenders: TypeAlias = dict[str, Callable[[int], Awaitable[Any]]]

ROUNDS = 101
# Short, so that on a busy machine most rounds run undisturbed.
ROUND_S = 0.002


async def bare_async(x: int) -> int:
    """What all async contenders wrap."""
    return x


def bare(x: int) -> int:
    """What all plain contenders wrap."""
    return x


def compare(
    title: str,
    plain: dict[str, Callable[[int], Any]],
    awaited: Callable[[], Contenders],
    *,
    target: dict[str, float],
) -> None:
    """Print the cost of each contender, and its ratio to the first, which is ours.

    `awaited` makes its contenders inside the event loop, which some libraries need.
    """
    print(f"\n{title} (Python {platform.python_version()}, medians of {ROUNDS} rounds)")
    if plain:
        _table("def", _rounds({"bare call": bare, **plain}), target.get("def"))
    _table("async def", asyncio.run(_rounds_async(awaited)), target.get("async def"))


def _rounds(contenders: dict[str, Callable[[int], Any]]) -> dict[str, float]:
    """Each round measures every contender once, so that a slow moment hits all alike."""
    samples: dict[str, list[float]] = {name: [] for name in contenders}
    counts = {name: _how_many(_plain(call, 20)) for name, call in contenders.items()}
    gc.disable()
    for _ in range(ROUNDS):
        for name, call in contenders.items():
            samples[name].append(_plain(call, counts[name]))
        gc.collect()
    gc.enable()
    return {name: statistics.median(times) for name, times in samples.items()}


async def _rounds_async(make: Callable[[], Contenders]) -> dict[str, float]:
    contenders: Contenders = {"bare call": bare_async, **make()}
    samples: dict[str, list[float]] = {name: [] for name in contenders}
    counts = {name: _how_many(await _async(call, 20)) for name, call in contenders.items()}
    gc.disable()
    for _ in range(ROUNDS):
        for name, call in contenders.items():
            samples[name].append(await _async(call, counts[name]))
        gc.collect()
        await asyncio.sleep(0)  # let timers be cleaned up, as a real loop does
    gc.enable()
    return {name: statistics.median(times) for name, times in samples.items()}


def _how_many(cost: float) -> int:
    return max(20, min(50_000, int(ROUND_S * 1e9 / max(cost, 1))))


def _plain(call: Callable[[int], Any], count: int) -> float:
    began = time.perf_counter_ns()
    for _ in range(count):
        call(1)
    return (time.perf_counter_ns() - began) / count


async def _async(call: Callable[[int], Awaitable[Any]], count: int) -> float:
    began = time.perf_counter_ns()
    for _ in range(count):
        await call(1)
    return (time.perf_counter_ns() - began) / count


def _table(kind: str, costs: dict[str, float], target: float | None) -> None:
    floor = costs.pop("bare call")
    told = "" if target is None else f"; target {target:,.0f} ns"
    print(f"  {kind}: bare call {floor:,.0f} ns{told}")
    ours = next(iter(costs.values())) - floor
    for name, cost in costs.items():
        over = cost - floor
        print(f"    {name:42} {over:>9,.0f} ns over it   {over / ours:>6.1f} x")
