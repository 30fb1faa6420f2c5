"""How much a worker may have in memory: in all, and of each name."""

from __future__ import annotations

from collections import Counter


class Slots:
    """Places for instances. One is taken before an instance comes, and given back when it left.

    `limit`: how many there are. `starved`: somebody was refused, so a place that becomes free is
    worth telling.
    """

    __slots__ = ("by_name", "limit", "starved", "taken")

    def __init__(self, limit: int) -> None:
        self.limit: int = limit
        self.taken: int = 0
        self.by_name: Counter[str] = Counter()
        self.starved: bool = False

    def room(self, name: str, own: int | None) -> int:
        """How many more of that name fit, whose own limit is `own`."""
        left = self.limit - self.taken
        return left if own is None else min(left, own - self.by_name[name])

    def take_if_free(self, name: str, own: int | None) -> bool:
        """One comes if it fits, as `room` says; whether it did."""
        if self.taken >= self.limit or (own is not None and self.by_name[name] >= own):
            return False
        self.taken += 1
        self.by_name[name] += 1
        return True

    def take(self, name: str) -> None:
        """One comes."""
        self.taken += 1
        self.by_name[name] += 1

    def give_back(self, name: str) -> bool:
        """One left; whether somebody starves for the place."""
        self.taken -= 1
        self.by_name[name] -= 1
        return self.starved
