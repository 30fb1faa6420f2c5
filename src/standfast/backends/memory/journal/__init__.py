"""The journal in memory."""

from standfast.backends.memory.journal.state import JournalState
from standfast.backends.memory.journal.store import MemoryJournal, MemoryJournalWriter
from standfast.ports.journal import JournalStore
from standfast.ports.leases import LeaseStore
from standfast.ports.providing import Provided

__all__ = ["PROVIDES", "JournalState", "MemoryJournal", "MemoryJournalWriter"]

PROVIDES = {JournalStore: Provided(make=MemoryJournal, needs=(LeaseStore,))}
