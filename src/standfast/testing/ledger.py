"""A participant kept in memory, which honours the barrier: for sagas under test."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from standfast.branch_key import BranchKey
from standfast.errors import Refused
from standfast.idempotency.barrier import HasBranchKey

_watches: list[Callable[[Ledger], None]] = []


@contextmanager
def watching(watch: Callable[[Ledger], None]) -> Iterator[None]:
    """While the block runs, each ledger shows itself to `watch` whenever it is used."""
    _watches.append(watch)
    try:
        yield
    finally:
        _watches.remove(watch)


@dataclass(slots=True)
class Entry:
    """What one branch did: `amount`, how often it was `posted`, and how often it was `reversed`."""

    key: str
    amount: int
    posted: int = 0
    reversed: int = 0

    @property
    def in_force(self) -> int:
        """The amount that stands."""
        return self.amount * (self.posted - self.reversed)


class Ledger:
    """A book of entries, one a branch: a stand-in for a stock, an account, a courier.

    ::

        payments = Ledger("payments")
        await payments.post(ctx, order.total_cents)  # in a step
        await payments.reverse(ctx)  # in its compensation

    `limit` is what all amounts in force may come to, beyond which `post` raises `Refused`: a stock
    of ten is ``Ledger("stock", limit=10)``. Like a participant that uses `standfast.barrier`, it
    takes each action once for each branch, ignores an undo of what never happened, and refuses an
    action that comes after its undo. With ``barrier=False`` it does what it is told each time, as a
    careless participant would: `simulate` shows what comes of it.
    """

    def __init__(
        self, name: str = "ledger", *, limit: int | None = None, barrier: bool = True
    ) -> None:
        self.name: str = name
        self.limit: int | None = limit
        self.barrier: bool = barrier
        self.entries: dict[str, Entry] = {}
        self._closed: set[str] = set()

    def __repr__(self) -> str:
        return f"Ledger({self.name!r}, total={self.total})"

    @property
    def total(self) -> int:
        """The sum of all amounts in force."""
        return sum(entry.in_force for entry in self.entries.values())

    async def post(self, branch: HasBranchKey | BranchKey, amount: int = 1) -> str:
        """Take `amount`, once for each branch; answers with a reference to the entry.

        Raises `Refused` beyond `limit`, and when the branch has been undone already.
        """
        self._show()
        key = _key(branch)
        entry = self.entries.get(key)
        if self.barrier:
            if key in self._closed:
                raise Refused(f"{self.name}: {key} has been undone already")
            if entry is not None:
                return self._reference(key)
        if self.limit is not None and self.total + amount > self.limit:
            left = self.limit - self.total
            raise Refused(f"{self.name}: {amount} asked, {left} left")
        if entry is None:
            entry = self.entries[key] = Entry(key, amount)
        entry.posted += 1
        return self._reference(key)

    async def reverse(self, branch: HasBranchKey | BranchKey) -> None:
        """Give back what the branch took, if it did. It can't take anything from then on."""
        self._show()
        key = _key(branch)
        entry = self.entries.get(key)
        if self.barrier:
            if key in self._closed:
                return
            self._closed.add(key)
        if entry is not None:
            entry.reversed += 1

    def _show(self) -> None:
        for watch in _watches:
            watch(self)

    def _reference(self, key: str) -> str:
        return f"{self.name}-{list(self.entries).index(key) + 1}"


def _key(branch: HasBranchKey | BranchKey) -> str:
    return branch.key if isinstance(branch, BranchKey) else branch.branch_key.key
