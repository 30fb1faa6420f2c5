"""An app that reminds: its database is at REMINDERS_DATABASE, its handler writes what it says.

`standfast migrate -a examples.pattern.app:app`, `standfast run -a examples.pattern.app:app`. Any
number of processes may run it, on SQLite too.
"""

import asyncio
import os

from examples.pattern.reminders import Reminder, Reminders
from standfast import Standfast, Transaction


async def say(reminder: Reminder, tx: Transaction) -> None:
    """Say it, and write down who said it: once, for that commits with the reminder's end."""
    print(f"{os.getpid()} {reminder.key}", flush=True)
    await asyncio.sleep(float(os.environ.get("REMINDERS_TAKE", "0")))
    await tx.execute("INSERT INTO said (key, by) VALUES ($1, $2)", reminder.key, os.getpid())


reminders = Reminders(say)
app = Standfast(os.environ.get("REMINDERS_DATABASE", "sqlite:///reminders.db")).add(reminders)
