"""The journal on SQLite: its tables, what is written and read, and the store itself."""

from standfast.backends.sqlite.database import SqliteDatabase
from standfast.backends.sqlite.journal.store import SqliteJournal
from standfast.backends.sqlite.journal.tables import LINE
from standfast.ports.journal import JournalStore
from standfast.ports.leases import LeaseStore
from standfast.ports.providing import Provided


def _make(database: SqliteDatabase) -> SqliteJournal:
    return SqliteJournal(database.file)


PROVIDES: dict[type, Provided] = {JournalStore: Provided(_make, LINE, needs=(LeaseStore,))}
