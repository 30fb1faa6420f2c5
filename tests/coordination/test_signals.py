"""Signals: what a child of ``os.fork`` inherits of their handling."""

import asyncio
import os
import signal
import time
from contextlib import asynccontextmanager

import pytest

from standfast.cli.batches import carry_out
from standfast.coordination.signals import until_signalled

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs os.fork")


def ended_by(number, *, at_once=False):
    """Fork a child that would sleep, send it a signal, and say which one ended it."""
    child = os.fork()
    if not child:
        try:
            time.sleep(5)
        finally:  # whatever a signal raises
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)
            os._exit(0)
    if not at_once:
        time.sleep(0.05)
    os.kill(child, number)
    begun = time.monotonic()
    _, status = os.waitpid(child, 0)
    return os.WTERMSIG(status) if time.monotonic() - begun < 4 else 0


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("thread", [False, True], ids=["loop", "thread"])
async def test_a_forked_child_is_ended_by_them(number, thread):
    found = []

    @asynccontextmanager
    async def working():
        for at_once in (False, True, True, True):
            if thread:
                found.append(await asyncio.to_thread(ended_by, number, at_once=at_once))
            else:
                found.append(ended_by(number, at_once=at_once))
        yield

    async def stop():
        while len(found) < 4:
            await asyncio.sleep(0.01)
        await asyncio.sleep(0.01)
        os.kill(os.getpid(), signal.SIGTERM)

    stopping = asyncio.create_task(stop())
    await until_signalled(working())
    await stopping
    assert found == [number] * 4
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
    assert signal.pthread_sigmask(signal.SIG_BLOCK, ()) == set()


async def test_a_child_that_is_interrupted_stops_no_batch_of_its_parent():
    async def counts():
        yield 1
        assert ended_by(signal.SIGINT) == signal.SIGINT
        await asyncio.sleep(0.01)
        yield 2

    assert await carry_out(counts(), "work", total=2) == 2


def test_after_it_children_have_the_handlers_of_their_parent():
    """Those of the program's own."""

    async def nothing():
        async def counts():
            yield 1

        await carry_out(counts(), "work")

    asyncio.run(nothing())
    before = signal.signal(signal.SIGINT, lambda *_: os._exit(7))
    try:
        child = os.fork()
        if not child:
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(5)
            os._exit(0)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
    finally:
        signal.signal(signal.SIGINT, before)
