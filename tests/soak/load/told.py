"""What the process that starts sagas has told: a file of lines, which outlives its process."""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

FAILS_EVERY, CANCELLED_EVERY = 7, 11
_CUT = " cut short\n"


def fails(number: int) -> bool:
    """Whether this saga is refused at its end."""
    return number % FAILS_EVERY == 0


def cancelled(number: int) -> bool:
    """Whether this saga is cancelled soon after its start: it may end either way."""
    return number % CANCELLED_EVERY == 0


def expected(number: int) -> frozenset[str]:
    """How this saga may end."""
    if fails(number):
        return frozenset({"compensated"})
    return frozenset({"completed", "compensated"} if cancelled(number) else {"completed"})


@dataclass
class Told:
    """Which sagas were begun, which were started for certain, how they ended, what failed."""

    begun: set[int] = field(default_factory=set)
    started: set[int] = field(default_factory=set)
    ended: dict[int, str] = field(default_factory=dict)
    faults: list[str] = field(default_factory=list)

    @classmethod
    def read(cls, lines: Iterable[str]) -> Told:
        """What the lines say; a last one that was cut short by a kill says nothing."""
        told = cls()
        for line in lines:
            if not line.endswith("\n"):
                break
            if line.endswith(_CUT):
                continue
            word, number, rest = (*line.rstrip("\n").split(" ", 2), "")[:3]
            if word == "begun":
                told.begun.add(int(number))
            elif word == "started":
                told.started.add(int(number))
            elif word == "ended":
                told.ended[int(number)] = rest
            elif word == "fault":
                told.faults.append(f"saga {number}: {rest}")
        return told

    @classmethod
    def read_file(cls, path: Path) -> Told:
        """What stands in the file; nothing if there is none yet."""
        if not path.exists():
            return cls()
        with path.open(newline="\n") as file:
            return cls.read(file)

    @property
    def unfinished(self) -> list[int]:
        """Those to be seen to their end, even if it isn't known whether the start was written."""
        return sorted(self.begun - self.ended.keys())

    @property
    def next(self) -> int:
        """The first number that was never used."""
        return max(self.begun, default=-1) + 1


class Teller:
    """Appends lines to the file, each in one piece."""

    def __init__(self, path: Path) -> None:
        self._file = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT)
        size = os.lseek(self._file, 0, os.SEEK_END)
        if size and os.pread(self._file, 1, size - 1) != b"\n":
            # The one before was killed within a line, which counts for nothing.
            os.write(self._file, _CUT.encode())

    def tell(self, word: str, number: int, rest: str = "") -> None:
        """Append one line."""
        text = " ".join(rest.split())
        os.write(self._file, f"{word} {number} {text}".rstrip().encode() + b"\n")
