"""The journal inside one transaction."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any
from uuid import UUID

from standfast.backends.postgres.journal import scripts
from standfast.backends.postgres.journal import statements as sql
from standfast.errors import ConstraintViolated
from standfast.ports.database import Script, Statement, StoreTransaction, carry_out, of_dialect
from standfast.ports.journal import Append, Instance, Mail, Start, StartAnswer


class PostgresJournalWriter:
    """`JournalWriter` on any transaction that speaks PostgreSQL's SQL."""

    def __init__(self, tx: StoreTransaction) -> None:
        self._tx = of_dialect(tx, "postgresql")

    async def start(self, starts: Sequence[Start]) -> list[StartAnswer]:
        """See `JournalWriter.start`."""
        return await carry_out(self._tx, scripts.start(starts, None))

    async def append(self, owner: int, append: Append) -> None:
        """See `JournalWriter.append`."""
        one = (append,)
        if scripts.is_plain(append):
            script = scripts.append(owner, one)
        else:
            script = scripts.append_with_mail(owner, one)
        try:
            refused = await carry_out(self._tx, script)
        except ConstraintViolated as error:
            # The server names the constraint in whatever language it speaks.
            if "journal_pkey" in str(error):
                raise scripts.overtaken(append) from error
            raise
        if refused:
            raise scripts.not_owned(owner, append.id)

    async def send(self, mails: Sequence[Mail]) -> list[bool]:
        """See `JournalWriter.send`."""
        return await carry_out(self._tx, scripts.send(mails))

    async def instance(self, id: UUID) -> Instance | None:
        """See `JournalWriter.instance`."""
        return await carry_out(self._tx, _instance(sql.BY_ID, id))

    async def by_key(self, pattern: str, name: str, key: str) -> Instance | None:
        """See `JournalWriter.by_key`."""
        return await carry_out(self._tx, _instance(sql.BY_KEY, pattern, name, key))


def _instance(text: str, *args: object) -> Script[Instance | None]:
    rows = yield Statement(text, args)
    return instance_of(rows[0]) if rows else None


def instance_of(row: Any) -> Instance:
    """The `Instance` of a row of `COLUMNS`."""
    return Instance(
        scripts.plain(row[0]),
        row[1],
        row[2],
        row[3],
        row[4],
        row[5],
        row[6],
        row[7],
        row[8],
        row[9],
        row[10],
        row[11],
        row[12],
        row[13],
        row[14],
        row[15],
    )
