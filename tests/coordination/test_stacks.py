"""Where threads and tasks stand, for the log."""

import asyncio
import threading
from collections.abc import Callable

import pytest

from standfast.coordination.stacks import where, where_thread

PATIENCE = 20.0


def run(act: Callable[[], None]) -> None:
    act()


class Standing:
    """A thread that stands still, `depth` calls below its function."""

    def __init__(self, depth: int) -> None:
        self.entered, self.gate = threading.Event(), threading.Event()
        self.thread = threading.Thread(target=run, args=(lambda: self.users_function(depth),))

    def users_function(self, depth: int) -> None:
        self.library(depth)

    def library(self, depth: int) -> None:
        if depth:
            self.deeper(depth)
        else:
            self.stand()

    def deeper(self, depth: int) -> None:
        self.library(depth - 1)  # two in turn, for Python tells one that calls itself in short

    def stand(self) -> None:
        self.entered.set()
        assert self.gate.wait(PATIENCE)

    def told(self, **options: object) -> list[str]:
        self.thread.start()
        assert self.entered.wait(PATIENCE)
        try:
            text = where_thread(self.thread.ident, **options)
        finally:
            self.gate.set()
            self.thread.join()
        return [line.split(" in ")[-1] for line in text.splitlines() if not line.startswith("    ")]


@pytest.mark.parametrize("depth", [0, 3, 7])
def test_all_below_a_function_is_told(depth):
    lines = Standing(depth).told(below=run.__code__)
    assert lines[:2] == ["<lambda>", "users_function"]
    assert lines[2 : 2 * depth + 4] == [*["library", "deeper"] * depth, "library", "stand"]


def test_the_middle_is_left_out_where_there_is_much():
    lines = Standing(100).told(below=run.__code__)
    assert lines[:2] == ["<lambda>", "users_function"]
    assert len(lines) == 21
    assert "more …" in lines[10]
    assert "stand" in lines


def test_without_it_the_innermost_are_told():
    assert len(Standing(100).told()) == 4
    assert len(Standing(3).told(below=test_without_it_the_innermost_are_told.__code__)) == 4


def test_nothing_is_told_of_a_thread_that_hasnt_begun():
    assert where_thread(None) == where_thread(0) == ""


async def test_of_a_task_the_innermost_are_told():
    gate = asyncio.Event()

    async def outermost() -> None:
        await further(30)

    async def further(depth: int) -> None:
        await (deeper(depth) if depth else innermost())

    async def deeper(depth: int) -> None:
        await further(depth - 1)

    async def innermost() -> None:
        await gate.wait()

    task = asyncio.create_task(outermost())
    await asyncio.sleep(0)
    told = where(task)
    gate.set()
    await task
    assert "innermost" in told
    assert "outermost" not in told
    assert where(task) == ""
