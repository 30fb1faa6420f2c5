"""How far it is from `app.start` to the commit: each function of ours on the way is a hop.

Every pattern that is added hangs on this way or lies beside it. So it stays short, and it goes
through the app once.
"""

import sys
import threading
from pathlib import Path
from types import FrameType
from typing import Any

import standfast
from standfast import Context, Saga, Standfast, step

ROOT = str(Path(standfast.__file__).parent)
LONGEST = 18
AFTER_THE_COMMIT = ("post", "ConnectionThreads._done", "Starter._answered")


class Short(Saga[int]):
    @step(no_compensation="nothing to undo")
    async def go(self, number: int, ctx: Context) -> int:
        return number


class Way:
    """The functions of ours that were entered, each once, until the commit was done."""

    def __init__(self) -> None:
        self.hops: list[tuple[str, str]] = []
        self.watching = False

    def note(self, frame: FrameType, event: str, arg: Any) -> None:
        code = frame.f_code
        if not self.watching or event != "call" or not code.co_filename.startswith(ROOT):
            return
        if "reader" in threading.current_thread().name:  # a look for work, that may run beside
            return
        if code.co_qualname in AFTER_THE_COMMIT:
            self.watching = False
            return
        if code.co_name == "<listcomp>":  # no function any more from Python 3.12 on
            return
        hop = (code.co_filename.removeprefix(ROOT), code.co_qualname)
        if hop not in self.hops:
            self.hops.append(hop)


async def test_a_start_takes_few_hops_and_enters_the_app_once(tmp_path):
    way = Way()
    threading.setprofile(way.note)  # before the writer's thread is there
    try:
        app = Standfast(f"sqlite:///{tmp_path}/app.db").add(Short())
        async with app.running():
            # The first loads what is loaded once.
            await (await app.start(Short, 0)).result(timeout=10)
            way.watching = True
            sys.setprofile(way.note)
            try:
                handle = await app.start(Short, 1)
            finally:
                sys.setprofile(None)
            assert not way.watching, "it was committed"
            await handle.result(timeout=10)
    finally:
        threading.setprofile(None)
    # The poll for hints may run beside; it writes by a lambda of the file's.
    polled = "SqliteFile.__init__.<locals>.<lambda>"
    hops = [hop for hop in way.hops if "hints" not in hop[0] and hop[1] != polled]
    told = "\n".join(f"{file} {name}" for file, name in hops)
    assert ("/backends/sqlite/driver.py", "commit") in hops, told
    assert len(hops) <= LONGEST, f"{len(hops)} hops:\n{told}"
    assert [name for file, name in hops if file in ("/app.py", "/doors/app.py")] == [
        "AppDoors.start"
    ]
