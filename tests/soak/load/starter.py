"""The process that starts sagas, and waits for each end: `python -m tests.soak.load.starter`.

Arguments: the database, the file in which it tells (`told`), how many at once. It tries again
whatever the database may or may not have got, and goes on where a killed one left off. At SIGTERM
it starts no more, and ends once all have ended.
"""

from __future__ import annotations

import asyncio
import random
import signal
import sys
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

from standfast import SagaCompensated, Standfast
from standfast.errors import StoreUnavailable
from tests.crash.voyage import Participant, Plan, sagas
from tests.soak.load.told import Teller, Told, cancelled, fails
from tests.soak.load.worker import TAG

T = TypeVar("T")
AGAIN_AFTER = 0.2


async def patiently(act: Callable[[], Awaitable[T]]) -> T:
    """Do it, as often as it takes until the database has answered."""
    while True:
        try:
            return await act()
        except StoreUnavailable:
            await asyncio.sleep(AGAIN_AFTER)


async def life(app: Standfast, number: int, teller: Teller) -> None:
    """One saga, from its start to its end; all that is told to it is idempotent."""
    plan = Plan(str(number), fails(number))
    teller.tell("begun", number)
    handle = await patiently(lambda: app.start(f"voyage-{TAG}", plan, key=plan.name))
    teller.tell("started", number)
    await patiently(lambda: handle.signal("go", id="the word"))
    if cancelled(number):
        await asyncio.sleep(random.uniform(0, 1))
        await patiently(lambda: handle.cancel("changed my mind"))
    try:
        await patiently(handle.result)
    except SagaCompensated:
        teller.tell("ended", number, "compensated")
    else:
        teller.tell("ended", number, "completed")


async def main(url: str, file: str, at_once: int) -> None:
    told = Told.read_file(Path(file))
    teller = Teller(Path(file))
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    nobody: Any = None  # nothing runs here, so no participant is called
    app = Standfast(url).add(*sagas(TAG, Participant(nobody, TAG)))
    await patiently(app.__aenter__)
    numbers = _numbers(told, stop)

    async def one_after_another() -> None:
        for number in numbers:
            try:
                await life(app, number, teller)
            except Exception as error:  # it is told, and the audit finds that the saga never ended
                teller.tell("fault", number, f"{type(error).__name__}: {error}")

    async with asyncio.TaskGroup() as group:
        for _ in range(at_once):
            group.create_task(one_after_another())
    await app.__aexit__(None, None, None)


def _numbers(told: Told, stop: asyncio.Event) -> Iterator[int]:
    """Which sagas to see to their end: those that were begun before, then new ones until `stop`."""
    yield from told.unfinished
    number = told.next
    while not stop.is_set():
        yield number
        number += 1


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], sys.argv[2], int(sys.argv[3])))
