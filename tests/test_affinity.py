"""An app is used where it was opened; anywhere else that is refused, and harms nobody."""

import asyncio
import json
import subprocess
import sys
import threading
from contextlib import AsyncExitStack

import pytest

from standfast import ConfigurationError, Context, Saga, Standfast, step, wait
from standfast.affinity import Affinity


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
