"""How far the seeds came: kept in a file, so that the next run goes on there."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path


@dataclass(frozen=True, order=True)
class Block:
    """The seeds from `first` up to, but without, `end`."""

    campaign: str
    first: int
    end: int

    @property
    def seeds(self) -> range:
        """They themselves."""
        return range(self.first, self.end)


@dataclass
class Progress:
    """Which seeds of each campaign are done, and which of them failed.

    All below ``done[campaign]`` are done, and so are the blocks in `ahead`, which other processes
    were quicker with. `failed` are seeds to be run again.
    """

    done: dict[str, int] = field(default_factory=dict)
    failed: dict[str, list[int]] = field(default_factory=dict)
    ahead: dict[str, dict[int, int]] = field(default_factory=dict)
    _given: dict[str, int] = field(default_factory=dict)

    @classmethod
    def load(cls, path: Path) -> Progress:
        """What an earlier run left; nothing is done yet if there is no file."""
        if not path.exists():
            return cls()
        kept = json.loads(path.read_text())
        return cls(dict(kept["done"]), {name: list(each) for name, each in kept["failed"].items()})

    def save(self, path: Path) -> None:
        """Keep it; a kill leaves the old file or the new one, whole."""
        path.parent.mkdir(parents=True, exist_ok=True)
        new = path.with_suffix(".new")
        new.write_text(json.dumps({"done": self.done, "failed": self.failed}, indent=1))
        os.replace(new, path)

    def again(self) -> list[Block]:
        """A block for each seed that failed."""
        return [
            Block(name, seed, seed + 1) for name, seeds in self.failed.items() for seed in seeds
        ]

    def take(self, campaign: str, size: int) -> Block:
        """The next block of a campaign that nobody has."""
        first = self._given.get(campaign, self.done.get(campaign, 0))
        self._given[campaign] = first + size
        return Block(campaign, first, first + size)

    def finish(self, block: Block, failed: Iterable[int]) -> None:
        """The block was run, and these of its seeds failed."""
        name = block.campaign
        left = [seed for seed in self.failed.get(name, []) if seed not in block.seeds]
        self.failed[name] = sorted({*left, *failed})
        if not self.failed[name]:
            del self.failed[name]
        done = self.done.get(name, 0)
        if block.first < done:
            return  # it was run again
        ahead = self.ahead.setdefault(name, {})
        ahead[block.first] = block.end
        while done in ahead:
            done = ahead.pop(done)
        self.done[name] = done
