"""The journal on PostgreSQL.

`tables` makes the tables. `statements` holds the SQL and why it is safe, but for that of who runs
an instance (`claiming`) and of what is deleted (`purging`). `scripts` decides what is written,
`writer` writes inside a transaction and `store` by itself.
"""

from standfast.backends.postgres.database import PostgresDatabase
from standfast.backends.postgres.journal.store import PostgresJournal
from standfast.backends.postgres.journal.tables import LINE
from standfast.ports.journal import JournalStore
from standfast.ports.leases import LeaseStore
from standfast.ports.providing import Provided

__all__ = ["LINE", "PROVIDES", "PostgresJournal"]


def _make(database: PostgresDatabase) -> PostgresJournal:
    return PostgresJournal(database.pool, database.listener)


PROVIDES: dict[type, Provided] = {JournalStore: Provided(_make, LINE, needs=(LeaseStore,))}
