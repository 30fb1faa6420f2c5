"""A saga that kills its process is tried a bounded number of times; its neighbours get through."""

import asyncio
import os
import sys
from pathlib import Path

import pytest

from standfast import SagaCompensated
from standfast.saga import events as ev
from standfast.saga import facts as fx
from tests.crash.poison import BOUND, WAYS, Innocent, Poison, make

pytestmark = [pytest.mark.crash, pytest.mark.slow]

LIVES = 12
CAUSE = f"its process died {BOUND + 1} times in a row while it ran"


async def life(url: str, way: str, runs: Path) -> int:
    """Run a process until it dies, or has nothing left that kills it."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "tests.crash.poison", url, way),
        env={**os.environ, "RUNS": str(runs)},
        stderr=asyncio.subprocess.PIPE,
    )
    async with asyncio.timeout(60):
        _, errors = await process.communicate()
    assert process.returncode in (0, 9), errors.decode()[-4000:]
    return process.returncode


@pytest.mark.timeout(180)
@pytest.mark.parametrize(
    ("backend", "way"), [*(("sqlite", way) for way in WAYS), ("postgres", "step")]
)
async def test_what_kills_its_process_is_parked_and_its_neighbours_complete(
    backend, way, tmp_path, request
):
    url = f"sqlite:///{tmp_path}/app.db"
    if backend == "postgres":
        url = request.getfixturevalue("postgres_dsn")
    runs = tmp_path / "runs"
    app = make(url)
    async with app:
        poison = await app.start(Poison, way, key="p")
        innocent = [await app.start(Innocent, n, key=f"{n}") for n in range(3)]
        for _ in range(LIVES):
            if is_parked(await row(app)):
                break
            await life(url, way, runs)
        assert runs.read_text() == "x" * (BOUND + 1)
        parked = await row(app)
        assert parked.status == ("compensation_failed" if way == "undo" else "parked")
        assert CAUSE in parked.cause
        for handle in innocent:
            assert await handle.status() == "completed"

        # An operator's retry begins anew, also where nothing was mended.
        runs.write_text("")
        await app.sagas.send(poison.id, retry())
        while not is_parked(await row(app)) or not runs.read_text():
            await life(url, way, runs)
        assert runs.read_text() == "x" * (BOUND + 1)
        await app.sagas.send(poison.id, retry())
        assert await life(url, "nothing", runs) == 0
        if way == "undo":
            with pytest.raises(SagaCompensated):
                await poison.result(timeout=5)
        else:
            await poison.result(timeout=5)
        facts = (await poison.story()).facts
        assert sum(isinstance(f, (fx.StepParked, fx.CompensationFailed)) for f in facts) == 2


def retry() -> ev.RetryAsked:
    return ev.RetryAsked(by="test")


def is_parked(row) -> bool:
    return row.status in ("parked", "compensation_failed")


async def row(app):
    return await app.sagas.instance((await app.saga(Poison, "p")).id)
