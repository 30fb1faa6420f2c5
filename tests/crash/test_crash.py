"""A process is killed with SIGKILL at every write of a saga, and so is the one that recovers.

What is checked stands in the participant's own tables.
"""

import asyncio
import json
import shutil
import sqlite3
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import asdict
from typing import Any

import asyncpg
import pytest

from standfast import Barrier, Standfast
from tests.crash.victims import Job
from tests.crash.voyage import ACTIONS, TABLES, Participant, sagas

pytestmark = [pytest.mark.crash, pytest.mark.slow]

WHENS = ("before", "after")
# Just after the first write of each kind, in the first life and in the second.
EACH_KIND = [
    *("1-acquire.1-claim", "1-annotate.1-acquire", "1-claim.1-give_back", "1-renew.1-annotate"),
    *("1-start.1-send", "1-send.1-start", "1-append.1-transaction", "1-transaction.1-append"),
    *("1-give_back.1-release", "1-release.1-renew"),
]
KINDS = {tag.partition(".")[0].partition("-")[2] for tag in EACH_KIND}
# Of what others leave, which only the second life finds. On SQLite a lease that ran out is nearly
# always ended by who asks for the only worker's.
TAKEOVERS = {
    "sqlite": ["1-start.1-reclaim"],
    "postgres": ["1-start.1-reclaim", "1-start.1-expire"],
}
SECOND = 31  # how many writes of second lives are tried, in turn; most have more
Rows = list[tuple[Any, ...]]
EFFECTS = "SELECT saga, branch, op FROM effects WHERE tag = $1 ORDER BY n"
STAMPS = "SELECT saga FROM stamps WHERE tag = $1"


def run(act: str, job: Job) -> list[dict[str, Any]]:
    """Run the processes of `tests.crash.victims`; what they said."""
    done = subprocess.run(
        [sys.executable, "-m", "tests.crash.victims", act],
        input=json.dumps(asdict(job)).encode(),
        capture_output=True,
        timeout=150,
        check=False,
    )
    assert done.returncode == 0, done.stderr.decode()[-4000:]
    sys.stderr.write(done.stderr.decode())
    return [json.loads(line) for line in done.stdout.splitlines()]


async def prepare(url: str, tables: Iterable[str] = ()) -> None:
    app = Standfast(url, migrate=True).add(Barrier())
    app.add(*sagas("nobody", Participant(app, "nobody")))
    async with app, app.transaction() as tx:
        for table in tables:
            await tx.execute(table)


@pytest.fixture
def on_sqlite(tmp_path):
    """Files of its own for each victim, since one worker at a time has one."""
    for name in ("app", "shop"):
        asyncio.run(prepare(f"sqlite:///{tmp_path}/{name}.db", TABLES["sqlite"]))
    job = Job(f"sqlite:///{tmp_path}/{{tag}}-app.db", f"sqlite:///{tmp_path}/{{tag}}-shop.db")

    def begin(tags: Iterable[str]) -> None:
        for tag in tags:
            for name in ("app", "shop"):
                shutil.copy(tmp_path / f"{name}.db", tmp_path / f"{tag}-{name}.db")

    def ask(name: str, sql: str, tag: str) -> Rows:
        with sqlite3.connect(tmp_path / f"{tag}-{name}.db") as connection:
            return connection.execute(sql.replace("$1", "?"), (tag,)).fetchall()

    return job, begin, ask


@pytest.fixture
def on_postgres(postgres_dsn):
    """One database for all, where each has sagas of its own name."""
    asyncio.run(prepare(postgres_dsn, TABLES["postgres"]))

    def ask(name: str, sql: str, tag: str) -> Rows:
        async def fetch() -> Rows:
            connection = await asyncpg.connect(postgres_dsn)
            try:
                return [tuple(row) for row in await connection.fetch(sql, tag)]
            finally:
                await connection.close()

        return asyncio.run(fetch())

    url = f"{postgres_dsn}?min_size=1&max_size=4"
    return Job(url, url), lambda tags: None, ask


@pytest.mark.parametrize("backend", ["sqlite", "postgres"])
@pytest.mark.timeout(300)
def test_killed_at_every_write(backend, request):
    job, begin, ask = request.getfixturevalue(f"on_{backend}")
    ends: dict[str, dict[str, str]] = {}
    survived: dict[str, int] = {}  # how many writes each had
    died: tuple[Counter[str], Counter[str]] = (Counter(), Counter())

    def live(tags: list[str], life: int) -> list[str]:
        """Those of `tags` that were killed."""
        codes: dict[str, int] = {}
        for said in run("kill", Job(job.app, job.shop, tuple(tags), life)):
            if "code" in said:
                codes[said["tag"]] = said["code"]
            elif "died" in said:
                died[life][said["died"]] += 1
            else:
                ends[said["tag"]] = said["ends"]
                survived[said["tag"]] = said["writes"]
        assert set(codes.values()) <= {0, -9}
        assert set(codes) == set(tags)
        return [tag for tag in tags if codes[tag]]

    # One after the other, so that no other victim takes over what it left.
    alone = TAKEOVERS[backend]
    for tag in alone:
        begin([tag])
        assert live([tag], 0) == live([tag], 1) == [tag]
    assert set(died[1]) == {tag.rpartition("-")[2] for tag in alone}

    # Without a kill: how many writes are there?
    begin(["0-never", *EACH_KIND])
    once = live(["0-never", *EACH_KIND], 0)
    assert once == EACH_KIND
    first = survived["0-never"]
    assert first > 25
    last, alive = 0, False
    while not alive:  # until past the last write of all
        end = max(*survived.values(), last) + 2
        tags = [_tag(number, when) for number in range(last + 1, end + 1) for when in WHENS]
        begin(tags)
        killed = live(tags, 0)
        once += killed
        last, alive = end, set(killed).isdisjoint(tags[-2:])
    # Who survived had fewer writes in its own life than the one at which it was to be killed: what
    # shares a commit differs a little from one life to the next.
    for tag, made in survived.items():
        assert tag == "0-never" or made < int(tag.split("-")[0])
    assert {_tag(number, when) for number in range(1, 26) for when in WHENS} <= set(once)

    twice = live(once, 1)
    assert set(EACH_KIND) <= set(twice)
    assert set(died[0]) >= KINDS
    assert set(died[1]) >= KINDS
    assert len(twice) > len(once) // 2
    for said in run("recover", Job(job.app, job.shop, (*alone, *twice))):
        assert said["tag"] not in ends
        ends[said["tag"]] = said["ends"]
    for tag in (*alone, *once, *survived):
        audit(tag, ends[tag], ask)
    print(f"{backend}: {first} writes, {len(once)} killed, {len(twice)} of these killed again")
    print(f"at {dict(died[0])}, then {dict(died[1])}")


def _tag(number: int, when: str) -> str:
    """When a victim is killed: in its second life at some other write, in turn at all of them."""
    second = (2 * number + (when == "after")) % SECOND + 1
    return f"{number}-{when}.{second}-{WHENS[number % 2]}"


def audit(tag: str, ends: dict[str, str], ask: Callable[[str, str, str], Rows]) -> None:
    """Each effect at most once, each undo at most once and only after it, and all of it whole."""
    assert ends == {"good": "completed", "bad": "compensated"}, tag
    stamps = Counter(saga for (saga,) in ask("app", STAMPS, tag))
    assert stamps == {"good": 1, "bad": 1}, f"{tag}: the transactional step isn't exactly once"
    seen: dict[tuple[str, str], list[str]] = {}
    for saga, branch, operation in ask("shop", EFFECTS, tag):
        seen.setdefault((saga, branch), []).append(operation)
    for (saga, branch), operations in seen.items():
        if saga == "good":
            assert operations == ["action"], (tag, branch)
        else:
            assert operations == ["action", "compensation"], (tag, branch)
    assert {branch for saga, branch in seen if saga == "good"} == ACTIONS | {"end"}, tag
    # Those that came to be done in "bad" are undone, and nothing it does is missing.
    assert {branch for saga, branch in seen if saga == "bad"} == ACTIONS, tag
