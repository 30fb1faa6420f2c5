"""Reminders: noted in a transaction, handed out when they are due by whichever process is there."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from standfast.coordination import Duty, Service, ServiceOptions
from standfast.errors import ConfigurationError, StaleWriter
from standfast.pattern import Host
from standfast.ports import Database, Provided, SchemaLine, SchemaMigration, provide
from standfast.ports.database import Script, Statement, StoreTransaction, carry_out
from standfast.ports.leases import LeaseStore
from standfast.resilience.backoff import Exponential
from standfast.transaction import UnitOfWork

log = logging.getLogger("reminders")
BACKOFF = Exponential(initial="1s", maximum="1h", jitter="none")


@dataclass(frozen=True, slots=True)
class Reminder:
    """A `text` that is due at a time (seconds since the epoch), after so many failures."""

    key: str
    text: str
    at: float
    failures: int = 0


def after_failure(reminder: Reminder, now: float, give_up_after: int) -> Reminder | None:
    """The reminder as it is to be tried again, or None if it isn't."""
    failures = reminder.failures + 1
    if failures >= give_up_after:
        return None
    return replace(reminder, failures=failures, at=now + BACKOFF.delay(failures, 0.0, 0.0))


TABLE = """\
CREATE TABLE reminders (
    key text PRIMARY KEY,
    text text NOT NULL,
    at double precision,  -- NULL: it is over
    failures int NOT NULL DEFAULT 0,
    token bigint  -- of the lease under which a process has it in hand
);
CREATE INDEX reminders_due ON reminders (at) WHERE at IS NOT NULL;
"""
LINE = SchemaLine("reminders", (SchemaMigration(1, "reminders", TABLE),))

REMEMBER = """\
INSERT INTO reminders (key, text, at) VALUES ($1, $2, $3) ON CONFLICT DO NOTHING RETURNING key"""
CLAIM = """\
WITH due AS MATERIALIZED (
    SELECT key FROM reminders WHERE at <= $2
        AND (token IS NULL OR token = $1 OR token NOT IN (SELECT token FROM {leases}))
    ORDER BY at LIMIT $3 {lock})
UPDATE reminders SET token = $1 WHERE key IN (SELECT key FROM due)
RETURNING key, text, at, failures"""
SETTLE = """\
UPDATE reminders SET at = $3, failures = $4, token = NULL WHERE key = $1 AND token = $2
RETURNING key"""


class ReminderStore:
    """The port: it keeps reminders in a database that speaks SQL."""

    def __init__(self, database: Database) -> None:
        if database.dialect == "postgresql":
            self.holds = "SELECT 1 FROM standfast.leases WHERE token = $1 FOR KEY SHARE"
            self.claim = CLAIM.format(leases="standfast.leases", lock="FOR UPDATE SKIP LOCKED")
        else:
            self.holds = "SELECT 1 FROM standfast_leases WHERE token = $1"
            self.claim = CLAIM.format(leases="standfast_leases", lock="")

    def within(self, tx: StoreTransaction) -> ReminderWriter:
        """Reminders as part of `tx`, whoever opened it."""
        return ReminderWriter(self, tx)


class ReminderWriter:
    """Reminders inside one transaction: what is written becomes true when that commits."""

    def __init__(self, store: ReminderStore, tx: StoreTransaction) -> None:
        self._store, self._tx = store, tx

    async def remember(self, one: Reminder) -> bool:
        """Note one; False if its key is known, then nothing is changed."""
        return await carry_out(self._tx, self._remember(one))

    async def claim(self, token: int, *, now: float, limit: int) -> list[Reminder]:
        """Take up to `limit` that are due, unless a living process has them in hand."""
        return await carry_out(self._tx, self._claim(token, now, limit))

    async def settle(self, token: int, key: str, again: Reminder | None) -> None:
        """One in hand is over, or due as `again` says. Raises `StaleWriter`."""
        await carry_out(self._tx, self._settle(token, key, again))

    def _remember(self, one: Reminder) -> Script[bool]:
        return bool((yield Statement(REMEMBER, (one.key, one.text, one.at))))

    def _claim(self, token: int, now: float, limit: int) -> Script[list[Reminder]]:
        yield from self._hold(token)
        rows = yield Statement(self._store.claim, (token, now, limit))
        return [Reminder(row[0], row[1], row[2], row[3]) for row in rows]

    def _settle(self, token: int, key: str, again: Reminder | None) -> Script[None]:
        yield from self._hold(token)
        at, failures = (again.at, again.failures) if again else (None, 0)
        if not (yield Statement(SETTLE, (key, token, at, failures))):
            raise StaleWriter(f"reminder {key!r} is in other hands")

    def _hold(self, token: int) -> Script[None]:
        """The fence: as long as this transaction is open, nobody can end the lease."""
        if not (yield Statement(self._store.holds, (token,))):
            raise StaleWriter(f"the lease {token} was ended")


PROVIDED = Provided(ReminderStore, LINE, needs=(LeaseStore,))
provide("sqlite", ReminderStore, PROVIDED)
provide("postgresql", ReminderStore, PROVIDED)


class Reminders:
    """A pattern, and its service: ``app.add(Reminders(handler))``, ``reminders.remember(tx, …)``.

    ``handler(reminder, tx)`` is called at least once for each. What it writes through `tx` commits
    together with the note that the reminder is over: once. If it raises, the reminder is due again
    after a growing pause, until it failed `give_up_after` times.
    """

    name = "reminders"
    ports: Sequence[type] = (ReminderStore, LeaseStore)

    def __init__(
        self, handler: Callable[[Reminder, Any], Awaitable[None]], *, give_up_after: int = 10
    ) -> None:
        self.handler = handler
        self.give_up_after = give_up_after
        self.hint = asyncio.Event()

    async def remember(self, tx: UnitOfWork, text: str, *, at: float, key: str) -> bool:
        """Note a reminder as part of a transaction; False if the key is known."""
        new = await tx.within(ReminderStore).remember(Reminder(key, text, at))
        tx.on_commit(self.hint.set)
        return new

    def attach(self, host: Host) -> None:
        """See `Pattern.attach`. Raises `Unsupported` for a database without SQL."""
        self.host = host
        self.exclusive = not host.database.capabilities.many_workers
        host.database.port(ReminderStore)

    def add(self, part: Any) -> None:
        """Nothing can be added to it."""
        raise ConfigurationError(f"add({part!r}): reminders take no parts")

    async def open(self) -> None:
        """See `Pattern.open`."""

    async def close(self) -> None:
        """See `Pattern.close`."""

    def services(self, options: ServiceOptions) -> Sequence[Service]:
        """Itself."""
        self.options = options
        return [self]

    async def run(self, duty: Duty) -> None:
        """See `Service.run`: hand out what is due, and look again at every hint."""
        duty.ready()
        while not duty.stopping.is_set():
            self.hint.clear()
            limit = min(20, self.options.max_in_flight)
            async with self.host.transaction() as tx:
                due = tx.within(ReminderStore)
                found = await due.claim(duty.token, now=self.host.clock.now(), limit=limit)
            for one in found:
                if not duty.stopping.is_set():
                    await self._hand_out(one, duty.token)
            if not found:
                await _first_of(duty.stopping, self.hint, within=self.options.poll_seconds)

    async def _hand_out(self, one: Reminder, token: int) -> None:
        try:
            async with self.host.transaction() as tx:
                await self.handler(one, tx)
                await tx.within(ReminderStore).settle(token, one.key, None)
        except StaleWriter:
            raise  # the lease was lost: this turn ends, and another begins under the next lease
        except Exception:  # whatever the handler raises: others are due too
            log.exception("reminder %r failed", one.key)
            again = after_failure(one, self.host.clock.now(), self.give_up_after)
            async with self.host.transaction() as tx:
                await tx.within(ReminderStore).settle(token, one.key, again)


async def _first_of(*events: asyncio.Event, within: float) -> None:
    waits = [asyncio.ensure_future(event.wait()) for event in events]
    try:
        await asyncio.wait(waits, timeout=within, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for wait in waits:
            wait.cancel()
