"""Leases in memory."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from standfast.backends.memory.database import MemoryDatabase
from standfast.backends.memory.hints import Hints
from standfast.errors import StaleWriter
from standfast.ports.database import Script, StoreTransaction
from standfast.ports.leases import Lease, LeaseStore, LeaseWriter
from standfast.ports.providing import Provided


@dataclass(slots=True)
class HeldLease:
    """A lease that nobody has ended: `expires_at` on the store's clock."""

    name: str
    holder: str
    note: str
    expires_at: float


class LeaseState:
    """All leases that nobody has ended, by token.

    They are changed directly, for nothing that changes them can fail half-way; taken and ended in a
    writer's turn, so that what was written under one came before its end.
    """

    def __init__(self) -> None:
        self.held: dict[int, HeldLease] = {}
        self.names: dict[str, int] = {}
        self.tokens = 0
        self.freed: Hints[[]] = Hints()

    def check(self, token: int) -> None:
        """Raise `StaleWriter` if the lease was ended."""
        if token not in self.held:
            raise StaleWriter(f"the lease {token} was ended: acquire it again for a new token")

    def end(self, tokens: Iterable[int]) -> None:
        """End those of these leases that there are."""
        for token in tokens:
            lease = self.held.pop(token, None)
            if lease is not None:
                del self.names[lease.name]
                self.freed.tell()


class MemoryLeaseWriter:
    """`LeaseWriter` in memory: whoever has the writer's turn is the only one."""

    def __init__(self, state: LeaseState) -> None:
        self._state = state

    async def hold(self, token: int) -> None:
        """See `LeaseWriter.hold`."""
        self._state.check(token)


class MemoryLeases:
    """`LeaseStore` in memory. Ask the `MemoryDatabase` for it."""

    table = ""

    def __init__(self, database: MemoryDatabase) -> None:
        self._database = database
        self._state = database.state(LeaseState)

    def within(self, tx: StoreTransaction) -> LeaseWriter:
        """See `LeaseStore.within`."""
        self._database.mine(tx)
        return MemoryLeaseWriter(self._state)

    def holding(self, token: int) -> Script[None]:
        """See `LeaseStore.holding`. There are no statements in it."""
        self._state.check(token)
        yield from ()

    async def acquire(
        self, names: Sequence[str], holder: str, *, ttl: float, note: str = "{}"
    ) -> list[int | None]:
        """See `LeaseStore.acquire`."""
        async with self._database.exclusive():
            self._expire()
            return [self._acquire(HeldLease(name, holder, note, 0.0), ttl) for name in names]

    async def renew(self, tokens: Sequence[int], *, ttl: float) -> list[bool]:
        """See `LeaseStore.renew`. It waits for no writer: none minds."""
        leases = [self._state.held.get(token) for token in tokens]
        for lease in leases:
            if lease is not None:
                lease.expires_at = self._database.now() + ttl
        return [lease is not None for lease in leases]

    async def annotate(self, token: int, note: str) -> None:
        """See `LeaseStore.annotate`. It waits for no writer, as `renew`."""
        lease = self._state.held.get(token)
        if lease is not None:
            lease.note = note

    async def release(self, tokens: Sequence[int]) -> None:
        """See `LeaseStore.release`."""
        async with self._database.exclusive():
            self._state.end(tokens)

    async def expire(self) -> list[int]:
        """See `LeaseStore.expire`."""
        async with self._database.exclusive():
            return self._expire()

    async def leases(self, prefix: str = "") -> list[Lease]:
        """See `LeaseStore.leases`."""
        now = self._database.now()
        return [
            Lease(lease.name, token, lease.holder, lease.note, lease.expires_at - now)
            for token, lease in self._state.held.items()
            if lease.name.startswith(prefix)
        ]

    def on_freed(self, callback: Callable[[], None]) -> Callable[[], None]:
        """See `LeaseStore.on_freed`."""
        return self._state.freed.subscribe(callback)

    async def close(self) -> None:
        """End all subscriptions."""
        self._state.freed.clear()

    def _acquire(self, lease: HeldLease, ttl: float) -> int | None:
        state = self._state
        if lease.name in state.names:
            return None
        state.tokens += 1
        lease.expires_at = self._database.now() + ttl
        state.held[state.tokens] = lease
        state.names[lease.name] = state.tokens
        return state.tokens

    def _expire(self) -> list[int]:
        now = self._database.now()
        ended = [token for token, lease in self._state.held.items() if lease.expires_at <= now]
        self._state.end(ended)
        return ended


PROVIDES = {LeaseStore: Provided(make=MemoryLeases)}
