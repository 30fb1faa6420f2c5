"""An app is used where it was opened; anywhere else that is refused, and harms nobody."""

import asyncio
import json
import subprocess
import sys
import threading
from contextlib import AsyncExitStack

import pytest

from standfast import ConfigurationError, Context, Saga, Standfast, step, wait
from standfast.affinity import Affinity, LoopLock, running_loop


class Visit(Saga[str]):
    go = wait("go", timeout="60s")

    @step(no_compensation="nothing to undo")
    async def note(self, word: str, ctx: Context) -> str:
        return word


@pytest.fixture(params=["memory", "sqlite", "postgres"])
def url(request, tmp_path):
    if request.param == "postgres":
        return request.getfixturevalue("postgres_dsn")
    return "memory://" if request.param == "memory" else f"sqlite:///{tmp_path}/app.db"


async def elsewhere(work):
    """The error that `work()` raises in another thread's event loop, None if it ends well."""
    found = []

    def run():
        async def bounded():
            async with asyncio.timeout(10):
                await work()

        try:
            asyncio.run(bounded())
        except Exception as error:
            found.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    await asyncio.to_thread(thread.join)
    return found[0] if found else None


async def test_used_in_another_threads_loop(url):
    app = Standfast(url, migrate=True).add(Visit())
    async with AsyncExitStack() as stack:
        await stack.enter_async_context(app.running(drain=0))
        handle = await app.start(Visit, "x", key="x")

        async def transact():
            async with app.transaction():
                pass

        async def enter():
            async with app:
                pass

        works = {
            "start": lambda: app.start(Visit, "y"),
            "transaction": transact,
            "enter": enter,
            "result": lambda: handle.result(),
            "signal": lambda: handle.signal("go"),
        }
        if not url.startswith("memory"):
            works["status"] = handle.status
            works["saga"] = lambda: app.saga(Visit, "x")
        for name, work in works.items():
            error = await elsewhere(work)
            assert isinstance(error, ConfigurationError), (name, error)
            assert "was opened in another event loop (of thread 'MainThread')" in str(error), name
            assert "run_coroutine_threadsafe" in str(error)
        await handle.signal("go")
        assert (await handle.result(timeout=10))["note"] == "x"


async def test_used_where_app_blocking_has_opened_it(url):
    app = Standfast(url, migrate=True).add(Visit())
    await asyncio.to_thread(app.blocking.start, Visit, "x")
    with pytest.raises(ConfigurationError, match=r"app.blocking opened this app.*blocking.close"):
        await app.start(Visit, "y")
    await asyncio.to_thread(app.blocking.close)
    async with app:
        await app.start(Visit, "z")


async def test_opened_again_in_another_loop_once_it_was_closed(url):
    app = Standfast(url, migrate=True).add(Visit())

    async def use():
        async with app:
            await app.start(Visit, "y", key="y")

    async with app:
        pass
    assert await elsewhere(use) is None
    async with app:
        await app.start(Visit, "z")


@pytest.mark.parametrize("act", ["open", "close"])
async def test_entered_from_another_loop_while_it_is_opened_or_closed(url, act, monkeypatch):
    app = Standfast(url, migrate=True).add(Visit())
    slowly, errors = getattr(app.database, act), []

    async def enter():
        async with app:
            pass

    async def meanwhile():
        if not errors:
            errors.append(await elsewhere(enter))
        await slowly()

    monkeypatch.setattr(app.database, act, meanwhile)
    async with app:
        await app.start(Visit, "x", key="x")
    (error,) = errors
    assert isinstance(error, ConfigurationError), error
    assert "was opened in another event loop (of thread 'MainThread')" in str(error)
    assert await elsewhere(enter) is None


def test_opened_by_several_tasks_in_one_loop_after_the_other(url):
    app = Standfast(url, migrate=True).add(Visit())

    async def start(key):
        async with app:
            await app.start(Visit, key, key=key)

    async def main():
        await asyncio.gather(*[start(f"{n}") for n in range(4)])
        assert app.affinity is None

    for _ in range(2):
        asyncio.run(main())


async def test_one_that_gives_up_waiting_for_the_opening_leaves_it_to_the_others(url, monkeypatch):
    app = Standfast(url, migrate=True).add(Visit())
    opens, begun, go = app.database.open, asyncio.Event(), asyncio.Event()

    async def slowly():
        begun.set()
        await go.wait()
        await opens()

    async def enter():
        async with app:
            await app.start(Visit, "x", key="x")

    monkeypatch.setattr(app.database, "open", slowly)
    first = asyncio.create_task(enter())
    await begun.wait()
    second = asyncio.create_task(enter())
    await asyncio.sleep(0)
    second.cancel()
    go.set()
    await first
    assert second.cancelled() or second.cancelling()
    assert await elsewhere(enter) is None


def test_used_in_a_fork(url):
    done = subprocess.run(
        [sys.executable, "-m", "tests.forking", url],
        capture_output=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr.decode()[-4000:]
    said = json.loads(done.stdout)
    for way in ("new loop", "same loop"):
        kind, text = said[way]
        assert kind == "ConfigurationError", (way, text)
        assert "forked from it" in text
        assert "spawn" in text
    assert said["parent"] == ["x", "after"]


def test_the_owner_passes():
    async def main():
        Affinity("it").check()

    asyncio.run(main())


def test_what_is_handed_over_is_done_in_its_loop_and_nowhere_without_one(monkeypatch):
    done: list[object] = []

    def act() -> None:
        done.append(running_loop())

    async def main():
        affinity, loop = Affinity("it"), asyncio.get_running_loop()
        affinity.hand_over(act)
        assert done == [loop], "at once"
        await asyncio.to_thread(affinity.hand_over, act)
        assert await elsewhere(lambda: asyncio.to_thread(affinity.hand_over, act)) is None
        await asyncio.sleep(0)
        assert done == [loop] * 3
        with monkeypatch.context() as forked:
            forked.setattr("os.getpid", lambda: -1)
            await asyncio.to_thread(affinity.hand_over, act)
            assert affinity.inherited
        await asyncio.sleep(0)
        assert len(done) == 3, "in a forked process nobody hears of it"
        return affinity

    affinity = asyncio.run(main())
    affinity.hand_over(act)  # its loop is closed
    assert len(done) == 3


async def test_a_lock_of_one_loop_is_free_for_others_once_all_have_left_it():
    lock = LoopLock("it")

    async def enter():
        async with lock:
            pass

    async with lock:
        leave = lock.stay()
        waiting = asyncio.create_task(enter())
        await asyncio.sleep(0)
        waiting.cancel()
        await asyncio.wait((waiting,))
        assert "it was opened in another event loop" in str(await elsewhere(enter))
    assert isinstance(await elsewhere(enter), ConfigurationError), "it stays, though it has left"
    await enter()
    leave()
    assert await elsewhere(enter) is None
