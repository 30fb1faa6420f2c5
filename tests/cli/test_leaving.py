"""``standfast run`` ends in bounded time, whatever the user's code does meanwhile."""

import asyncio
import json
import signal
import time

import pytest

from standfast.cli.leaving import run_and_leave
from tests.cli.test_run import running

pytestmark = pytest.mark.slow  # many processes

DEAF = '''\
import asyncio
import os
import time

from standfast import Context, Saga, Standfast, step


class Deaf(Saga[str]):
    """Goes on for ten minutes, whatever it is told."""

    @step(no_compensation="nothing to undo")
    async def go_on(self, way: str, ctx: Context) -> None:
        open("begun", "w").close()
        if way == "thread":
            await asyncio.to_thread(time.sleep, 600)
        until = time.monotonic() + 600
        while way == "task" and time.monotonic() < until:
            try:
                await asyncio.sleep(600)
            except asyncio.CancelledError:
                pass


def make() -> Standfast:
    return Standfast(os.environ["SHOP_DATABASE"]).add(Deaf())
'''


@pytest.mark.parametrize(
    ("way", "said"),
    [
        ("task", ["in step go_on", "await asyncio.sleep(600)"]),
        ("thread", ["still runs. It is here:", "the process ends without them"]),
        ("neither", []),
    ],
)
def test_it_ends_and_says_what_hangs(shop, standfast, way, said):
    (shop / "deaf.py").write_text(DEAF)
    standfast("migrate", "deaf:make")
    standfast("sagas", "start", "deaf", "--input", json.dumps(way), "-a", "deaf:make")
    with running("deaf:make", "--drain", "100ms") as (process, _):
        until = time.monotonic() + 30
        while not (shop / "begun").exists():
            assert time.monotonic() < until, "the step didn't begin in time"
            time.sleep(0.02)
        process.send_signal(signal.SIGTERM)
        _, err = process.communicate(timeout=30)
    assert process.returncode == (1 if said else 0), err
    for text in said:
        assert text in err
    # It left as one should: its leases are given up, and others may go on.
    assert json.loads(standfast("services", "deaf:make", "--json").stdout) == []


def test_a_call_in_a_thread_that_hadnt_begun_is_never_made():
    made = []

    def call(number: int) -> None:
        time.sleep(0.02)
        made.append(number)

    async def work() -> None:
        for number in range(60):  # more than there are threads
            asyncio.get_running_loop().run_in_executor(None, call, number)

    run_and_leave(work())
    assert 0 < len(made) < 60
