"""A concurrency limit for the instances in a worker's memory, in total and by name."""

from __future__ import annotations

from collections import Counter


class Slots:
    """A concurrency limit, in total and by name.

    A slot is taken before an instance is loaded, and given back when it was unloaded. `limit`: how
    many there are in total. `starved`: somebody was refused a slot, so one that becomes free is
    worth telling.
    """

    __slots__ = ("by_name", "limit", "starved", "taken")

    def __init__(self, limit: int) -> None:
        self.limit: int = limit
        self.taken: int = 0
        self.by_name: Counter[str] = Counter()
        self.starved: bool = False

    def room(self, name: str, own: int | None) -> int:
        """How many more instances of that name fit. `own`: the name's own limit, None for none."""
        left = self.limit - self.taken
        return left if own is None else min(left, own - self.by_name[name])

    def take_if_free(self, name: str, own: int | None) -> bool:
        """Take a slot if there is one, as `room` says; whether it was taken."""
        if self.taken >= self.limit or (own is not None and self.by_name[name] >= own):
            return False
        self.taken += 1
        self.by_name[name] += 1
        return True

    def take(self, name: str) -> None:
        """Take a slot unconditionally; the limit may be exceeded."""
        self.taken += 1
        self.by_name[name] += 1

    def give_back(self, name: str) -> bool:
        """Give a slot back; whether somebody was refused one before."""
        self.taken -= 1
        self.by_name[name] -= 1
        return self.starved
