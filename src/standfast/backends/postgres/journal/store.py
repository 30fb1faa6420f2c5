"""The journal on PostgreSQL."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, TypeAlias
from uuid import UUID

import asyncpg

from standfast.backends.postgres.errors import DRIVER_ERRORS, TRANSIENT, translate
from standfast.backends.postgres.journal import claiming, purging, scripts
from standfast.backends.postgres.journal import statements as sql
from standfast.backends.postgres.journal.tables import STUCK as IS_STUCK
from standfast.backends.postgres.journal.writer import PostgresJournalWriter, instance_of
from standfast.backends.postgres.listener import Listener
from standfast.backends.postgres.pool import Pool, run
from standfast.errors import ConstraintViolated, StandfastError
from standfast.ids import parse_id
from standfast.ports.database import StoreTransaction
from standfast.ports.journal import (
    STUCK,
    Append,
    Filter,
    Instance,
    Loaded,
    Mail,
    Purged,
    Start,
    StartAnswer,
    Stuck,
)

Kinds: TypeAlias = Sequence[tuple[str, str, int]]

_DATA_ERRORS = (asyncpg.DataError, asyncpg.ProgramLimitExceededError)


class PostgresJournal:
    """`JournalStore` on PostgreSQL. Ask the `PostgresDatabase` for it."""

    def __init__(self, pool: Pool, listener: Listener) -> None:
        self._pool = pool
        self._listener = listener

    async def start(self, starts: Sequence[Start], *, owner: int | None) -> list[StartAnswer]:
        """See `JournalStore.start`."""
        return await self._pool.run(scripts.start(starts, owner))

    async def append(
        self, owner: int, appends: Sequence[Append]
    ) -> Sequence[StandfastError | None]:
        """See `JournalStore.append`.

        One with text that PostgreSQL can't hold (a NUL character, say) is answered with
        `StoreError`, one whose start has an id that is taken with `ConstraintViolated`, and the
        others are written.
        """
        left = list(appends)
        answers: dict[UUID, StandfastError] = {}
        attempts = 8
        while left:
            try:
                refused = await self._append_all(owner, left)
            except asyncpg.UniqueViolationError as error:
                found = await self._taken(left)
                if not found:
                    raise translate(error, self._pool.place) from error
                answers |= {one.id: scripts.overtaken(one) for one in left if one.id in found}
                left = [one for one in left if one.id not in found]
            except (*_DATA_ERRORS, ConstraintViolated) as error:
                if len(left) == 1:
                    answers[left[0].id] = translate(error, self._pool.place)
                    break
                return [answers.get(one.id) or await self._alone(owner, one) for one in appends]
            except TRANSIENT as error:
                attempts -= 1
                if not attempts:
                    raise translate(error, self._pool.place) from error
            except DRIVER_ERRORS as error:
                raise translate(error, self._pool.place) from error
            else:
                answers |= {id: scripts.not_owned(owner, id) for id in refused}
                break
        if not answers:
            return [None] * len(appends)
        return [answers.get(one.id) for one in appends]

    async def _append_all(self, owner: int, appends: Sequence[Append]) -> Collection[UUID]:
        if all(map(scripts.is_plain, appends)):
            return await run(self._pool.fetch_raw, scripts.append(owner, appends))
        async with self._pool.begin() as connection:
            return await run(connection.fetch, scripts.append_with_mail(owner, appends))

    async def _alone(self, owner: int, append: Append) -> StandfastError | None:
        return (await self.append(owner, (append,)))[0]

    async def _taken(self, appends: Sequence[Append]) -> set[UUID]:
        pairs = [
            (one.id, number) for one in appends for number, _ in enumerate(one.facts, one.after + 1)
        ]
        rows = await self._pool.fetch(
            sql.EXISTING_FACTS, [id for id, _ in pairs], [number for _, number in pairs]
        )
        return {row[0] for row in rows}

    async def claim(self, owner: int, kinds: Kinds, *, now: float, limit: int) -> list[Loaded]:
        """See `JournalStore.claim`."""
        rows = await self._pool.fetch(claiming.CLAIM, owner, *_columns(kinds), now, limit)
        if not rows[0][0]:
            raise scripts.lost(owner)
        return [one for one in await self.load(rows[0][1]) if one.instance.owner == owner]

    async def take(self, owner: int, id: UUID) -> Loaded | None:
        """See `JournalStore.take`."""
        rows = await self._pool.fetch(claiming.TAKE, owner, id)
        if not rows[0][0]:
            raise scripts.lost(owner)
        return (await self.load([id]))[0] if rows[0][1] else None

    async def next_wake(self, kinds: Kinds) -> float | None:
        """See `JournalStore.next_wake`."""
        rows = await self._pool.fetch(claiming.NEXT_WAKE, *_columns(kinds))
        found: float | None = rows[0][0]
        return found

    async def collect(self, owner: int, ids: Sequence[UUID]) -> list[Mail]:
        """See `JournalStore.collect`."""
        return list(map(_mail, await self._pool.fetch(sql.COLLECT, owner, list(ids))))

    async def send(self, mails: Sequence[Mail]) -> list[bool]:
        """See `JournalStore.send`. An id is remembered until its instance is purged."""
        return await self._pool.run(scripts.send(mails))

    async def set_aside(self, owner: int, id: UUID, *, status: str, cause: str) -> None:
        """See `JournalStore.set_aside`. Raises `StaleWriter` if `owner` doesn't own it."""
        if not await self._pool.fetch(claiming.SET_ASIDE, owner, id, status, cause):
            raise scripts.not_owned(owner, id)

    async def reassign(self, ids: Sequence[UUID], *, version: int) -> list[bool]:
        """See `JournalStore.reassign`."""
        rows = await self._pool.fetch(claiming.REASSIGN, list(ids), version)
        done = {scripts.plain(row[0]) for row in rows}
        return [id in done for id in ids]

    async def flag_unclaimable(
        self, pattern: str, *, due_before: float, status: str, cause: str
    ) -> list[Instance]:
        """See `JournalStore.flag_unclaimable`."""
        rows = await self._pool.fetch(claiming.FLAG, pattern, due_before, status, cause)
        return list(map(instance_of, rows))

    async def release(self, owner: int) -> None:
        """See `JournalStore.release`.

        What the owner was just writing alone, beside no change, may still be written.
        """
        await self._pool.fetch(claiming.RELEASE, owner)

    async def reclaim(self, *, pause: float = 0.0, longest: float = 0.0) -> int:
        """See `JournalStore.reclaim`. Mail on its way to one of them is waited for."""
        owners, freed = (await self._pool.fetch(claiming.RECLAIM_AT_ONCE, pause, longest))[0][:2]
        if owners:
            freed += (await self._pool.fetch(claiming.RECLAIM, pause, longest))[0][1]
        return int(freed)

    async def owned_by(self, owner: int) -> Sequence[UUID]:
        """See `JournalStore.owned_by`."""
        return [scripts.plain(row[0]) for row in await self._pool.fetch(claiming.OWNED_BY, owner)]

    async def owned(self) -> Mapping[int, int]:
        """See `JournalStore.owned`."""
        return {row[0]: row[1] for row in await self._pool.fetch(claiming.OWNED)}

    def within(self, tx: StoreTransaction) -> PostgresJournalWriter:
        """See `JournalStore.within`."""
        return PostgresJournalWriter(tx)

    async def load(self, ids: Sequence[UUID]) -> list[Loaded]:
        """See `JournalStore.load`. In the order of `ids`."""
        loaded: dict[UUID, Loaded] = {}
        left = list(ids)
        # An owner that folds mail in between the two statements makes what was read first old: then
        # less mail is found than was told, and the instance is read again, a few times at most.
        for _ in range(5 if ids else 0):
            rows = await self._pool.fetch(sql.LOAD, left)
            unread = {row["id"]: row["unread"] for row in rows if row["unread"]}
            loaded |= {row["id"]: _loaded(row) for row in rows}
            if unread:
                for row in await self._pool.fetch(sql.UNREAD, list(unread)):
                    loaded[row[0]].mails.append(_mail(row))
            left = [id for id, told in unread.items() if len(loaded[id].mails) < told]
            if not left:
                break
        return [loaded[id] for id in dict.fromkeys(ids) if id in loaded]

    async def find(
        self, filter: Filter, *, limit: int, after: UUID | None = None
    ) -> list[Instance]:
        """See `JournalStore.find`."""
        conditions = ["true"]
        args: list[Any] = []
        if filter.statuses and set(filter.statuses) <= set(STUCK):
            conditions.append(IS_STUCK)
        for condition, value in (
            ("pattern = ${}", filter.pattern or None),
            ("name = ${}", filter.name or None),
            ("status = ANY(${}::text[])", filter.statuses or None),
            ("key = ${}", filter.key or None),
            ("step = ${}", filter.step or None),
            ("version = ${}", filter.version),
            ("created_at < ${}", filter.created_before),
            ("created_at >= ${}", filter.created_after),
            ("id = ANY(${}::uuid[])", filter.ids or None),
            ("replace(id::text, '-', '') LIKE '%' || ${}", filter.id_end or None),
            ("id < ${}", after),
        ):
            if value is not None:
                args.append(value)
                conditions.append(condition.format(len(args)))
        args.append(limit)
        rows = await self._pool.fetch(
            f"SELECT {sql.COLUMNS} FROM standfast.instances WHERE {' AND '.join(conditions)} "  # noqa: S608 - constants only
            f"ORDER BY id DESC LIMIT ${len(args)}",
            *args,
        )
        return list(map(instance_of, rows))

    async def by_key(self, pattern: str, name: str, key: str) -> Instance | None:
        """See `JournalStore.by_key`."""
        rows = await self._pool.fetch(sql.BY_KEY, pattern, name, key)
        return instance_of(rows[0]) if rows else None

    async def count(self, pattern: str) -> Mapping[tuple[str, str], int]:
        """See `JournalStore.count`. Reads the whole table."""
        try:
            async with self._pool.begin(freely=True) as connection:
                rows = await connection.fetch(sql.COUNT, pattern)
        except DRIVER_ERRORS as error:
            raise translate(error, self._pool.place) from error
        return {(row[0], row[1]): row[2] for row in rows}

    async def stuck(self, pattern: str) -> list[Stuck]:
        """See `JournalStore.stuck`."""
        return [Stuck(*row) for row in await self._pool.fetch(sql.STUCK, pattern)]

    async def purge(
        self,
        pattern: str,
        *,
        finished_before: float,
        limit: int,
        ids: Sequence[UUID] = (),
        after: object | None = None,
    ) -> Purged:
        """See `JournalStore.purge`. Leaves those that a worker owns."""
        place = purging.BEFORE_ALL if after is None else after
        which = (list(ids),) if ids else ()
        try:
            async with self._pool.begin(freely=True) as connection:
                statement = purging.DOOMED_OF if ids else purging.DOOMED
                await connection.execute(purging.IN_PLACE)
                rows = await connection.fetch(
                    statement, pattern, finished_before, limit, place, *which
                )
                doomed = [id for id, _, is_alone in rows if is_alone]
                if doomed:
                    locked = await connection.fetch(
                        purging.LOCK_DOOMED, pattern, finished_before, doomed
                    )
                    doomed = [row[0] for row in locked]
                for deletion in purging.PURGE if doomed else ():
                    await connection.execute(deletion, doomed)
        except DRIVER_ERRORS as error:
            raise translate(error, self._pool.place) from error
        return Purged(len(doomed), rows[-1][1] if len(rows) == limit else None)

    async def count_finished(self, pattern: str, *, finished_before: float) -> int:
        """See `JournalStore.count_finished`."""
        try:
            async with self._pool.begin(freely=True) as connection:
                number: int = await connection.fetchval(
                    purging.COUNT_FINISHED, pattern, finished_before
                )
        except DRIVER_ERRORS as error:
            raise translate(error, self._pool.place) from error
        return number

    def on_due(self, callback: Callable[[UUID | None], None]) -> Callable[[], None]:
        """See `JournalStore.on_due`. After a lost connection comes a hint without an id."""

        def hear(payload: str | None) -> None:
            callback(parse_id(payload) if payload else None)

        return self._listener.subscribe(sql.CHANNEL, hear)


def _columns(kinds: Kinds) -> tuple[list[str], list[str], list[int]]:
    return [kind[0] for kind in kinds], [kind[1] for kind in kinds], [kind[2] for kind in kinds]


def _loaded(row: Any) -> Loaded:
    facts = row["facts"]
    stands = row["stood_at"] == len(facts) - 1
    return Loaded(instance_of(row), facts, recoveries=row["recoveries"] if stands else 0)


def _mail(row: Any) -> Mail:
    return Mail(scripts.plain(row[0]), row[1], row[2], row[3], row[4], row[5])
