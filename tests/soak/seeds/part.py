"""Spreads the seeds over processes, and keeps what they find."""

from __future__ import annotations

import asyncio
import json
import os
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from itertools import cycle
from pathlib import Path
from typing import Any

from tests.soak.machine import CACHE, log_folder
from tests.soak.part import Findings, Setting
from tests.soak.processes import Leash, started
from tests.soak.seeds.campaigns import CAMPAIGNS
from tests.soak.seeds.resume import Block, Progress

STATE = CACHE / "seeds.json"
BLOCK = 200
SAVED_EVERY = 2.0
ENOUGH = 5
"""Violations of one campaign after which it isn't run further."""


async def play(setting: Setting) -> Findings:
    """Run seeds for the time of the setting, or as many as it says."""
    progress = Progress.load(STATE)
    run = Run(setting, progress)
    where = ", ".join(f"{name} from {progress.done.get(name, 0):,}" for name in CAMPAIGNS)
    setting.show.say(f"  {where} (kept in {STATE.relative_to(CACHE.parents[1])})")
    try:
        await run.play()
    finally:
        progress.save(STATE)
    return run.findings()


class Run:
    """One run: players take blocks until time or number are used up."""

    def __init__(self, setting: Setting, progress: Progress) -> None:
        self.setting = setting
        self.progress = progress
        self.begun = time.monotonic()
        self.seconds = 0.0
        self.seeds: Counter[str] = Counter()
        self.outcomes: Counter[str] = Counter()
        self.violations: dict[str, list[str]] = {name: [] for name in CAMPAIGNS}
        self._saved = self.begun
        self._left = setting.seeds
        self._blocks = self._hand_out()

    async def play(self) -> None:
        """Let a player run in each processor until all blocks are done."""
        logs = log_folder("seeds")
        total = self.setting.seeds or self.setting.seconds
        with Leash() as leash, self.setting.show.bar(total, "seeds") as bar:
            async with asyncio.TaskGroup() as group:
                for number in range(len(os.sched_getaffinity(0))):
                    group.create_task(self._player(leash, logs / f"player-{number}.log", bar.at))
        self.seconds = time.monotonic() - self.begun

    def _hand_out(self) -> Iterator[Block]:
        yield from (block for block in self.progress.again() if block.campaign in CAMPAIGNS)
        for name in cycle(CAMPAIGNS):
            if all(len(each) >= ENOUGH for each in self.violations.values()):
                return
            if len(self.violations[name]) >= ENOUGH:
                continue
            if self._left is None:
                if time.monotonic() - self.begun >= self.setting.seconds:
                    return
                yield self.progress.take(name, BLOCK)
            elif self._left <= 0:
                return
            else:
                size = min(BLOCK, self._left)
                self._left -= size
                yield self.progress.take(name, size)

    async def _player(self, leash: Leash, log: Path, tell: Callable[[float, str], None]) -> None:
        pipe = asyncio.subprocess.PIPE
        command = [sys.executable, "-m", "tests.soak.seeds.player"]
        async with started(leash, command, log=log, output=pipe, input=pipe) as player:
            assert player.stdin is not None
            assert player.stdout is not None
            for block in self._blocks:
                order = f"{block.campaign} {block.first} {block.end}\n"
                player.stdin.write(order.encode())
                said = await player.stdout.readline()
                if not said:
                    raise RuntimeError(f"a player ended at {order}: see {log}")
                self._take(block, json.loads(said))
                tell(self._so_far(), f"{sum(self.seeds.values()):,} seeds, {self._speed():,.0f}/s")

    def _take(self, block: Block, said: dict[str, Any]) -> None:
        failed = [seed for seed, _ in said["failed"]]
        for seed, text in said["failed"]:
            call = f"CAMPAIGNS[{block.campaign!r}]([{seed}])"
            again = f"from tests.soak.seeds.campaigns import CAMPAIGNS; {call}"
            self.violations[block.campaign].append(
                f'{block.campaign}, seed {seed}; again: python -c "{again}"\n{text}'
            )
            self.setting.show.say(f"  violation: {block.campaign}, seed {seed}", "red")
        self.seeds[block.campaign] += len(block.seeds)
        self.outcomes.update(said["outcomes"])
        self.progress.finish(block, failed)
        if time.monotonic() - self._saved > SAVED_EVERY:
            self._saved = time.monotonic()
            self.progress.save(STATE)

    def _so_far(self) -> float:
        if self.setting.seeds is not None:
            return sum(self.seeds.values())
        return time.monotonic() - self.begun

    def _speed(self) -> float:
        return sum(self.seeds.values()) / max(time.monotonic() - self.begun, 0.001)

    def findings(self) -> Findings:
        """The counts and the violations."""
        faults = [text for each in self.violations.values() for text in each]
        counts: dict[str, int | float] = {"seeds": sum(self.seeds.values())}
        counts |= {f"seeds of {name}": self.seeds[name] for name in CAMPAIGNS}
        counts |= {f"ended {name}": count for name, count in self.outcomes.most_common()}
        speed = counts["seeds"] / max(self.seconds, 0.001)
        counts |= {"seeds/s": round(speed), "violations": len(faults)}
        short = f"{counts['seeds']:,} seeds, {speed:,.0f}/s, {len(faults)} violations"
        return Findings(counts, faults, short)
