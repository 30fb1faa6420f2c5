"""The coordination journal: what a store of long-running instances must do.

An *instance* (of a saga, say) is an append-only list of facts, numbered 0, 1, 2 …, of which fact 0
is its start. Its state is a fold of those facts; the instance's own row holds only what must be
searched or claimed. *Mail* is how anyone but the owner speaks to an instance: the owner folds it
into the journal, so that a journal has one writer at a time.

Ownership: an instance is *active* while a worker owns it (`owner` is the token of its process's
lease, its membership) and *passive* otherwise. A passive instance is due when its `wake_at` has
passed; None means that only mail wakes it. All times are wall-clock seconds since the Unix epoch.

One instance may be part of another, its *parent*, as a child saga is: then its key begins with the
parent's id (`child_key`), and it stays in the store for as long as its parent does.
"""

from __future__ import annotations

import random
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Final, Protocol
from uuid import UUID

import msgspec

from standfast.errors import StandfastError
from standfast.ids import parse_id
from standfast.ports.database import StoreTransaction

STUCK: Final = ("parked", "compensation_failed")
"""Statuses, of whatever pattern, in which nothing goes on until an operator acts.

Stores find such instances without a look at the others, of which there are far more.
"""

_ID_LENGTH = 36


@dataclass(slots=True)
class Instance:
    """The searchable row of one instance.

    `status` is a word of the pattern's own ("running", "waiting", "completed" …); `finished_at` is
    set exactly when the instance has ended. `step` and `cause` tell where and why it failed or
    parked ("" otherwise). `input_hash` tells two starts with the same key apart. `updated_at` is
    when these columns were changed last, whoever has had the instance since.
    """

    id: UUID
    pattern: str
    name: str
    version: int
    key: str
    correlation_id: str
    input_hash: str
    status: str
    step: str
    cause: str
    owner: int | None
    wake_at: float | None
    deadline_at: float | None
    created_at: float
    updated_at: float
    finished_at: float | None


class Start(msgspec.Struct):
    """A new instance: its row, which says that it hasn't ended, and fact 0 as JSON text."""

    instance: Instance
    fact: str


def due_at_once(start: Start) -> Start:
    """A start that is part of an append: due when it was made, unless it says when."""
    row = start.instance
    if row.wake_at is not None:
        return start
    return Start(replace(row, wake_at=row.created_at), start.fact)


class StartAnswer(msgspec.Struct):
    """What became of a `Start`: `created`, or the instance that already has the key.

    `id` and `input_hash` are of the instance that now holds the key.
    """

    id: UUID
    created: bool
    input_hash: str


@dataclass(slots=True)
class Mail:
    """A message to an instance. `id` makes sending idempotent: a second one with it is dropped,
    also when the first has been consumed.

    `subject` says what `body`, JSON text, is about. `number` is given by the store, in the order of
    arrival at the instance.
    """

    to: UUID
    id: str
    subject: str
    body: str
    at: float
    number: int = 0


class RowChange(msgspec.Struct):
    """New values for an instance's searchable row."""

    status: str
    step: str = ""
    cause: str = ""
    version: int | None = None
    finished_at: float | None = None


class Append(msgspec.Struct):
    """Facts to add to one instance, with all that must become true at the same moment.

    `after` is the number of the last fact known to the writer; the new ones get the numbers after
    it. `change` replaces the searchable columns. `release` makes the instance passive, due at
    `wake_at`, or at once if mail has arrived that isn't in `consumed`. `consumed` are the numbers
    of the mail folded into `facts`, which isn't given out again. `starts` begins other instances
    (one whose key is taken is left alone), due as `due_at_once` says, and `mails` are sent, which
    makes theirs due.
    """

    id: UUID
    after: int
    facts: Sequence[str]
    change: RowChange | None = None
    release: bool = False
    wake_at: float | None = None
    consumed: Sequence[int] = ()
    starts: Sequence[Start] = ()
    mails: Sequence[Mail] = ()


@dataclass(slots=True)
class Loaded:
    """An instance with its whole journal in order, and the mail that waits for it in order.

    `recoveries`: how often in a row it was reclaimed without a fact since.
    """

    instance: Instance
    facts: list[str]
    mails: list[Mail] = field(default_factory=list)
    recoveries: int = 0


@dataclass(frozen=True, slots=True)
class Filter:
    """Which instances to list. Empty fields don't restrict.

    `created_before` (exclusive) and `created_after` (inclusive) are seconds since the epoch.
    `id_end`: the last hexadecimal digits of the id, in lower case and without dashes; no index
    helps to find them.
    """

    pattern: str = "saga"
    name: str = ""
    statuses: tuple[str, ...] = ()
    key: str = ""
    step: str = ""
    version: int | None = None
    created_before: float | None = None
    created_after: float | None = None
    ids: tuple[UUID, ...] = ()
    id_end: str = ""


@dataclass(frozen=True, slots=True)
class Stuck:
    """How many instances of a name are stuck with a status, and since when the first of them is.

    `since` is in seconds since the epoch.
    """

    name: str
    status: str
    count: int
    since: float


@dataclass(frozen=True, slots=True)
class Purged:
    """How many instances were deleted, and where to go on; None once all were looked at.

    What `after` is only the store knows.
    """

    count: int
    after: object | None


def recovery_pause(recoveries: int, pause: float, longest: float) -> float:
    """After how many seconds an instance is due that was reclaimed for that many times in a row.

    For backends that don't compute it in SQL; see `JournalStore.reclaim`.
    """
    if recoveries < 2 or not pause:
        return 0.0
    # Doubled more often than that it is longer than anybody waits.
    whole = min(longest, pause * 2.0 ** min(recoveries - 2, 60))
    return whole * (1 + random.random()) / 2  # noqa: S311 - only jitter


def child_key(parent: UUID, name: str) -> str:
    """The key of an instance that is part of another, by a name that is its own there."""
    return f"{parent}:{name}"


def parent_of(key: str) -> UUID | None:
    """The instance that one with this key is part of, None if it stands alone."""
    id, colon, _ = key.partition(":")
    return parse_id(id) if colon and len(id) == _ID_LENGTH else None


class JournalWriter(Protocol):
    """The journal inside one transaction: what is written becomes true when that commits."""

    async def start(self, starts: Sequence[Start]) -> list[StartAnswer]:
        """Insert passive instances; answers in the order of `starts`.

        A start whose (pattern, name, key) exists changes nothing and answers with the holder.
        """
        ...

    async def append(self, owner: int, append: Append) -> None:
        """Write one `Append` under the owner's lease.

        Raises `StaleWriter` when the lease is lost, the instance isn't owned by `owner`, or a fact
        with its number exists. On any error, roll back.
        """
        ...

    async def send(self, mails: Sequence[Mail]) -> list[bool]:
        """Deliver mail; False where the instance is unknown. A second one with its `id` is dropped.

        Passive instances become due with the commit.
        """
        ...

    async def instance(self, id: UUID) -> Instance | None:
        """The searchable row as this transaction sees it, None where there is none."""
        ...

    async def by_key(self, pattern: str, name: str, key: str) -> Instance | None:
        """As `instance`, of the one that was started with this key, in here too."""
        ...


class JournalStore(Protocol):
    """Stores instances. Safe to use from many tasks of one event loop at once.

    `start` and `append`, the hot ones, may answer with a future, also one that is done already.
    """

    def start(self, starts: Sequence[Start], *, owner: int | None) -> Awaitable[list[StartAnswer]]:
        """Insert new instances, all in one commit; answers in the order of `starts`.

        Owned by `owner` at once, or passive and due at their `wake_at` when None. A start whose
        (pattern, name, key) exists changes nothing and answers with the holder; so does the second
        of two equal keys in one batch. With an owner whose lease is lost: `StaleWriter`, nothing
        written.
        """
        ...

    def append(
        self, owner: int, appends: Sequence[Append]
    ) -> Awaitable[Sequence[StandfastError | None]]:
        """Write each `Append` whole or not at all; one answer each, None for done.

        Those that succeed share one commit. An `Append` is answered with `StaleWriter` when
        `owner`'s lease is lost, the instance isn't owned by `owner`, or a fact with its number
        exists; the others of the batch are written all the same. The check and the write are one
        atomic act: no write of a lease that another has expired ever becomes visible. At most one
        `Append` per instance in a batch, and in flight. Raises `StoreUnavailable` or `StoreFull`
        when the batch as a whole failed (for `StoreUnavailable` it may nevertheless be written:
        send it again, and take `StaleWriter` then as a reason to load the instance anew).
        """
        ...

    async def claim(
        self, owner: int, kinds: Sequence[tuple[str, str, int]], *, now: float, limit: int
    ) -> list[Loaded]:
        """Take up to `limit` passive instances that are due, the longest due first, and load them.

        Only of the given (pattern, name, version) `kinds`. Two workers never get the same one.
        With an owner whose lease is lost: `StaleWriter`. A claim that fails otherwise, or is
        cancelled, may have been carried out all the same: `owned_by` tells.
        """
        ...

    async def take(self, owner: int, id: UUID) -> Loaded | None:
        """Take one passive instance, of whatever kind, due or not, and load it.

        None where there is none, or another has it. Else as `claim`.
        """
        ...

    async def next_wake(self, kinds: Sequence[tuple[str, str, int]]) -> float | None:
        """When the next passive instance of these kinds is due, or None if there is none."""
        ...

    async def collect(self, owner: int, ids: Sequence[UUID]) -> list[Mail]:
        """Unconsumed mail of those of `ids` that `owner` owns, in order. It stays unconsumed."""
        ...

    async def send(self, mails: Sequence[Mail]) -> list[bool]:
        """Deliver mail: False where the instance is unknown. Passive instances become due at once.

        Mail for a finished instance is kept and makes it due too (it may be asked to undo itself).
        """
        ...

    async def set_aside(self, owner: int, id: UUID, *, status: str, cause: str) -> None:
        """Make an owned instance passive without a fact and never due, for it can't be run here."""
        ...

    async def reassign(self, ids: Sequence[UUID], *, version: int) -> list[bool]:
        """Give passive, unfinished instances another version: workers that have it may claim them.

        False for one that is owned, finished or unknown. Facts and due times stay as they are.
        """
        ...

    async def flag_unclaimable(
        self, pattern: str, *, due_before: float, status: str, cause: str
    ) -> list[Instance]:
        """Find passive, unfinished instances due before then whose kind no live worker has.

        What workers have stands in the notes of their leases: ``{"kinds": [[pattern, name,
        version], …]}``.

        Sets their `status` and `cause` (``{name}`` and ``{version}`` are filled in) without making
        them less due, so that a worker which has the kind can claim them. Answers those newly
        flagged.
        """
        ...

    async def release(self, owner: int) -> None:
        """Make all that `owner` owns passive and due now. Its lease stays as it is."""
        ...

    async def reclaim(self, *, pause: float = 0.0, longest: float = 0.0) -> int:
        """Make what is owned under leases that were ended passive and due; how many.

        Each is due now, unless it was reclaimed before and no fact has come since: then it may be
        what its owners died of, and is due after `pause` seconds, the double each further time, but
        `longest` at most. A random part of up to half is taken off, so that those which died
        together are apart the next time. `Loaded.recoveries` tells how often that was.
        """
        ...

    async def owned_by(self, owner: int) -> Sequence[UUID]:
        """The instances that `owner` owns, in any order."""
        ...

    async def owned(self) -> Mapping[int, int]:
        """How many instances are owned, by owner."""
        ...

    def within(self, tx: StoreTransaction) -> JournalWriter:
        """The journal as part of `tx`."""
        ...

    async def load(self, ids: Sequence[UUID]) -> list[Loaded]:
        """Read instances with journals and mail; unknown ids are left out. Changes nothing."""
        ...

    async def find(
        self, filter: Filter, *, limit: int, after: UUID | None = None
    ) -> list[Instance]:
        """Instances that match, newest first by id, beginning below `after` (for paging)."""
        ...

    async def by_key(self, pattern: str, name: str, key: str) -> Instance | None:
        """The instance that holds a key."""
        ...

    async def count(self, pattern: str) -> Mapping[tuple[str, str], int]:
        """How many instances there are, by (name, status). It reads all of them."""
        ...

    async def stuck(self, pattern: str) -> list[Stuck]:
        """How many instances have one of the statuses `STUCK`, by name and status.

        It reads those and no others.
        """
        ...

    async def purge(
        self,
        pattern: str,
        *,
        finished_before: float,
        limit: int,
        ids: Sequence[UUID] = (),
        after: object | None = None,
    ) -> Purged:
        """Delete instances that finished before then, with journals and mail.

        It looks at up to `limit` of them; with `ids` only of these. One whose parent is in the
        store is spared, for the parent may have to undo it yet. Call it with `after` from its last
        answer until that is None: so none that is spared is looked at again. What belongs together
        goes from the top, so do all that again until nothing is deleted.
        """
        ...

    async def count_finished(self, pattern: str, *, finished_before: float) -> int:
        """How many `purge` would delete in the end. It reads all that finished before then."""
        ...

    def on_due(self, callback: Callable[[UUID | None], None]) -> Callable[[], None]:
        """Call back, on the event loop, soon after another process made something due or sent mail.

        The instance's id, or None when it isn't known. Hints only: they may be late, repeated or
        lost. Returns a function that ends the subscription.
        """
        ...
