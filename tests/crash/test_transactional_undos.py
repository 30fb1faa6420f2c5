"""A process is killed at every commit of a saga that undoes in transactions; another goes on."""

import asyncio
import json
import sqlite3
import sys
from collections import Counter

import asyncpg
import pytest

from standfast import Standfast
from standfast.saga import facts as fx
from tests.crash.returns import ACCOUNTS, MOVES, returns

pytestmark = [pytest.mark.crash, pytest.mark.slow]

AT_ONCE = 4


async def life(url: str, tag: str, at: int = 0, when: str = "before") -> dict | None:
    """What a process said at its end; None for one that was killed."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "tests.crash.returns", url, tag, str(at), when),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    async with asyncio.timeout(90):
        said, errors = await process.communicate()
    assert process.returncode in (0, -9), errors.decode()[-4000:]
    return None if process.returncode else json.loads(said)


async def prepare(url: str) -> None:
    app = Standfast(url, migrate=True).add(returns("nobody"))
    async with app, app.transaction() as tx:
        await tx.execute(MOVES)


async def rows(url: str, tag: str) -> list[tuple[str, str]]:
    """What stands in the participant's table, read with plain SQL."""
    if url.startswith("sqlite"):
        with sqlite3.connect(url.removeprefix("sqlite:///")) as connection:
            found = connection.execute("SELECT account, op FROM moves WHERE tag = ?", (tag,))
            return found.fetchall()
    connection = await asyncpg.connect(url.partition("?")[0])
    try:
        found = await connection.fetch("SELECT account, op FROM moves WHERE tag = $1", tag)
        return [tuple(row) for row in found]
    finally:
        await connection.close()


@pytest.mark.parametrize("backend", ["sqlite", "postgres"])
@pytest.mark.timeout(240)
async def test_killed_at_every_commit_each_undo_happens_once(backend, request, tmp_path):
    if backend == "postgres":
        dsn = request.getfixturevalue("postgres_dsn")
        await prepare(dsn)

    async def url_of(tag: str) -> str:
        if backend == "postgres":
            return f"{dsn}?min_size=1&max_size=4"
        url = f"sqlite:///{tmp_path}/{tag}.db"
        await prepare(url)
        return url

    async def audit(url: str, tag: str) -> None:
        moves = Counter(await rows(url, tag))
        assert moves == Counter(
            [("take", "action"), *((account, "compensation") for account in ACCOUNTS)]
        ), tag
        async with Standfast(url).add(returns(tag)) as app:
            facts = (await (await app.saga(f"returns-{tag}", "k")).story()).facts
        undone = [f.branch for f in facts if isinstance(f, fx.CompensationCompleted)]
        assert sorted(undone) == sorted(ACCOUNTS), tag

    url = await url_of("never")
    whole = await life(url, "never")
    assert whole is not None
    assert whole["cause"] == "refuse refused: no"
    await audit(url, "never")
    room, killed = asyncio.Semaphore(AT_ONCE), []

    async def one(at: int, when: str) -> None:
        async with room:
            tag = f"{at}-{when}"
            url = await url_of(tag)
            said = await life(url, tag, at, when)
            if said is None:
                killed.append(tag)
                said = await life(url, tag)
            assert said is not None
            assert said["cause"] == "refuse refused: no"
            await audit(url, tag)

    # What shares a commit differs a little from one life to the next: the last ones may survive.
    writes = whole["writes"]
    assert writes >= 7, "start, action, refusal, three undos and a failed one"
    whens = ("before", "after")
    await asyncio.gather(*(one(at, when) for at in range(1, writes + 2) for when in whens))
    assert {f"{at}-{when}" for at in range(1, writes - 1) for when in whens} <= set(killed)
    print(f"{backend}: {writes} commits, {len(killed)} killed and recovered")
