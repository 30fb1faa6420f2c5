"""A database in this process's memory: for tests and simulation. Nothing survives the process."""

from standfast.backends.memory.database import MemoryDatabase

__all__ = ["MemoryDatabase"]
