"""Reminders: noted in a transaction, handed out when they are due by whichever process is there."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from standfast.coordination import Duty, Service, ServiceOptions
from standfast.errors import StaleWriter
from standfast.pattern import Host, Pattern
from standfast.ports import Database, Provided, SchemaLine, SchemaMigration, provide
from standfast.ports.database import Script, Statement
from standfast.ports.leases import LeaseStore
from standfast.resilience.backoff import Exponential
from standfast.transaction import UnitOfWork

log = logging.getLogger("reminders")
BACKOFF = Exponential(initial="1s", maximum="1h", jitter="none")
BATCH = 20


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
    """The port: what is written, as scripts for any transaction of its database."""

    def __init__(self, database: Database) -> None:
        self._leases = database.port(LeaseStore)
        lock = "FOR UPDATE SKIP LOCKED" if database.dialect == "postgresql" else ""
        self._claim = CLAIM.format(leases=self._leases.table, lock=lock)

    @staticmethod
    def remember(one: Reminder) -> Script[bool]:
        """Note one; False if its key is known, then nothing is changed."""
        return bool((yield Statement(REMEMBER, (one.key, one.text, one.at))))

    def claim(self, token: int, *, now: float, limit: int) -> Script[list[Reminder]]:
        """Take up to `limit` that are due and free. Raises `StaleWriter`."""
        yield from self._leases.holding(token)
        return [Reminder(*row) for row in (yield Statement(self._claim, (token, now, limit)))]

    def settle(self, token: int, key: str, again: Reminder | None) -> Script[None]:
        """One in hand is over, or due as `again` says. Raises `StaleWriter`."""
        yield from self._leases.holding(token)
        at, failures = (again.at, again.failures) if again else (None, 0)
        if not (yield Statement(SETTLE, (key, token, at, failures))):
            raise StaleWriter(f"reminder {key!r} is in other hands")


PROVIDED = Provided(ReminderStore, LINE, needs=(LeaseStore,))
provide("sqlite", ReminderStore, PROVIDED)
provide("postgresql", ReminderStore, PROVIDED)


class Reminders(Pattern):
    """A pattern, and its service: ``app.add(Reminders(handler))``, ``reminders.remember(tx, …)``.

    ``handler(reminder, tx)`` is called at least once for each. What it writes through `tx` commits
    together with the note that the reminder is over: once. If it raises, the reminder is due again
    after a growing pause, until it failed `give_up_after` times.
    """

    name = "reminders"
    ports = (ReminderStore, LeaseStore)

    def __init__(
        self, handler: Callable[[Reminder, Any], Awaitable[None]], *, give_up_after: int = 10
    ) -> None:
        self.handler, self.give_up_after = handler, give_up_after
        self.hint = asyncio.Event()

    async def remember(self, tx: UnitOfWork, text: str, *, at: float, key: str) -> bool:
        """Note a reminder as part of a transaction; False if the key is known."""
        new = await tx.run_script(ReminderStore.remember(Reminder(key, text, at)))
        tx.on_commit(self.hint.set)
        return new

    def attach(self, host: Host) -> None:
        """See `Pattern.attach`. Raises `Unsupported` for a database without the port."""
        super().attach(host)
        self.store = host.database.port(ReminderStore)
        self.exclusive = not host.database.capabilities.many_workers

    def services(self, options: ServiceOptions) -> Sequence[Service]:
        """Itself."""
        self.options = options
        return [self]

    async def run(self, duty: Duty) -> None:
        """See `Service.run`: hand out what is due, and look again at every hint."""
        duty.ready()
        wait = 0.0
        while await duty.pause(wait, self.hint):
            self.hint.clear()
            now = self.host.clock.now()
            async with self.host.transaction() as tx:
                found = await tx.run_script(self.store.claim(duty.token, now=now, limit=BATCH))
            for one in found:
                if not duty.stopping.is_set():
                    await self._hand_out(one, duty.token)
            wait = 0.0 if found else self.options.poll_seconds

    async def _hand_out(self, one: Reminder, token: int) -> None:
        try:
            async with self.host.transaction() as tx:
                await self.handler(one, tx)
                await tx.run_script(self.store.settle(token, one.key, None))
        except StaleWriter:
            raise  # the lease was lost: this turn ends, and another begins under the next
        except Exception:  # whatever the handler raises: others are due too
            log.exception("reminder %r failed", one.key)
            again = after_failure(one, self.host.clock.now(), self.give_up_after)
            async with self.host.transaction() as tx:
                await tx.run_script(self.store.settle(token, one.key, again))
