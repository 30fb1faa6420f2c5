"""Ending an instance by hand that no code can run: its code is gone, or its journal unreadable.

`resolve` runs nothing, so it needs neither: an instance as it is stored makes an `Append`, which a
worker writes that has taken it, or, where no worker has its code, whoever resolves it.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from uuid import UUID

from standfast.clock import Clock
from standfast.errors import CorruptRecord
from standfast.ids import new_id
from standfast.ports.journal import Append, JournalStore, Loaded, Mail, RowChange, parent_of
from standfast.ports.leases import LeaseStore
from standfast.saga import events as ev
from standfast.saga import facts as fx
from standfast.saga.acts import APPLIES_TO
from standfast.saga.appending import report
from standfast.saga.prepared import Parent
from standfast.shielding import shielded

LEASE = 60.0
"""Seconds for which a process may have instances whose code is gone, to end them."""


async def settle(
    journal: JournalStore, leases: LeaseStore, ids: Sequence[UUID], clock: Clock
) -> list[Mail]:
    """End instances, as their mail asks for, in this process; the mails that this sent.

    Those that a worker has, or that aren't at rest, stay as they are.
    """
    told: list[Mail] = []
    (token,) = await leases.acquire([f"resolve:{new_id()}"], "an operator", ttl=LEASE)
    assert token is not None  # nobody else can have one of that name
    try:
        for id in ids:
            loaded = await journal.take(token, id)
            append = None if loaded is None else settled(loaded, clock.now())
            if append is not None:
                (refused,) = await journal.append(token, [append])
                if refused is not None:
                    raise refused
                told += append.mails
    finally:
        await shielded(_let_go(journal, leases, token))
    return told


async def _let_go(journal: JournalStore, leases: LeaseStore, token: int) -> None:
    await journal.release(token)
    await leases.release([token])


def settled(loaded: Loaded, now: float) -> Append | None:
    """What ends an instance as its mail asks for; None if none asks, or it isn't at rest.

    One that had ended stays as it is, whatever it is asked for. Its parent, if it has one, is told
    how it ended, and that it can't be undone any more.
    """
    row, number = loaded.instance, len(loaded.facts)
    append = Append(row.id, number - 1, [])
    append.release = True
    append.consumed = [mail.number for mail in loaded.mails]
    if row.finished_at is not None:
        if any(isinstance(event, ev.UndoAsked) for event in _events(loaded)):
            append.mails = _report(loaded, row.status, row.cause, now)
        return append
    asked = next((one for one in _events(loaded) if isinstance(one, ev.ResolveAsked)), None)
    if asked is None or row.status not in APPLIES_TO[ev.ResolveAsked]:
        return None
    fact = fx.Resolved(at=now, outcome=asked.outcome, reason=asked.reason, by=asked.by)
    cause = fx.by_hand(asked.reason)
    append.facts = [fx.encode(fact)]
    append.change = RowChange(asked.outcome, "", cause, row.version, now)
    append.mails = _report(loaded, asked.outcome, cause, now)
    return append


def _events(loaded: Loaded) -> Iterator[ev.Mailed]:
    """What its mail says, as far as that can be read."""
    for mail in loaded.mails:
        with contextlib.suppress(CorruptRecord):  # of a newer release, say
            yield ev.from_mail(mail.subject, mail.body)


def _report(loaded: Loaded, outcome: str, cause: str, now: float) -> list[Mail]:
    """The mail that tells its parent."""
    parent = _parent(loaded)
    if parent is None:
        return []
    id = f"end:{loaded.instance.id}:{new_id()}"
    told = report(parent, id, outcome=outcome, result=b"null", cause=cause, undoable=False, at=now)
    return [told]


def _parent(loaded: Loaded) -> Parent | None:
    """Whose child it is: as it was started, or by its key where that can't be read."""
    try:
        started = fx.decode(loaded.facts[0], 0)
    except (CorruptRecord, IndexError):
        id = parent_of(loaded.instance.key)
        branch = loaded.instance.key.partition(":")[2].partition("#")[0]
        return None if id is None else Parent(id, branch)
    if not isinstance(started, fx.Started) or started.parent is None:
        return None
    return Parent(started.parent, started.parent_branch)
