"""A process is killed while a `def` step stands in its thread; another runs the step again."""

import asyncio
import sys
from pathlib import Path

import pytest

from standfast import Standfast
from tests.crash.digger import LEASE, Dig

pytestmark = [pytest.mark.crash]

PATIENCE = 60.0


@pytest.mark.parametrize("backend", ["sqlite", "postgres"])
@pytest.mark.parametrize("word", ["plain", "tx"])
async def test_killed_in_the_middle_of_a_def_step(backend, word, request, tmp_path: Path):
    url = f"sqlite:///{tmp_path}/app.db"
    if backend == "postgres":
        url = request.getfixturevalue("postgres_dsn")
    app = Standfast(url, migrate=True).add(Dig(tmp_path, hangs=False))
    async with app:
        async with app.transaction() as tx:
            await tx.execute("CREATE TABLE holes (word TEXT)")
        handle = await app.start(Dig, word)
        victim = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "tests.crash.digger", url, str(tmp_path)),
            stdout=asyncio.subprocess.PIPE,
        )
        try:
            assert victim.stdout is not None
            async with asyncio.timeout(PATIENCE):
                assert await victim.stdout.readline() == b"begun\n"
        finally:
            victim.kill()
            await victim.wait()
        async with app.running(lease=LEASE):
            result = await handle.result(PATIENCE)
    assert result.as_dict() == {"dig": f"{word} dug", "fill": 1}
    calls = [line.split() for line in (tmp_path / "calls").read_text().splitlines()]
    assert [name for name, _ in calls] == ["dig" if word == "plain" else "fill"] * 2
    assert calls[0][1] == str(victim.pid) != calls[1][1]
