"""`standfast workers` and `services`: who has other code under one name, and since when."""

from __future__ import annotations

import asyncio
import json
import time

import pytest

from standfast import Standfast
from standfast.backends.sqlite import SqliteDatabase
from standfast.cli.processes import services
from standfast.coordination.membership import MEMBER
from standfast.ports.leases import LeaseStore
from standfast.saga.sagas import Sagas


def note(*kinds: tuple[str, int, str]) -> str:
    return json.dumps(
        {
            "kinds": [["saga", name, version] for name, version, _ in kinds],
            "fingerprints": [["saga", *kind] for kind in kinds],
        }
    )


@pytest.fixture
def url(tmp_path):
    """A database that three processes share."""
    url = f"sqlite:///{tmp_path}/x.db"

    async def join() -> None:
        app = Standfast(url)
        app.patterns.get(Sagas)
        async with app:
            for name, its_note in (
                ("old:1", note(("order", 1, "aaaa"), ("pay", 1, "bbbb"))),
                ("new:2", note(("order", 1, "cccc"), ("pay", 1, "bbbb"))),
                ("older:3", '{"kinds": [["saga", "order", 1]]}'),
            ):
                leases = app.database.port(LeaseStore)
                await leases.acquire([f"{MEMBER}{name}"], name, ttl=600, note=its_note)

    asyncio.run(join())
    return url


def test_other_code_under_one_name_is_told(url, standfast):
    run = standfast("workers", url)
    told = run.stdout + run.stderr
    assert "order v1 isn't the same in all: its steps differ in old:1 / new:2" in told
    assert "pay v1 isn't" not in told
    found = {
        one["name"]: one["sagas"] for one in json.loads(standfast("workers", url, "--json").stdout)
    }
    assert found["old:1"] == [
        {"name": "order", "version": 1, "fingerprint": "aaaa", "differs": True},
        {"name": "pay", "version": 1, "fingerprint": "bbbb", "differs": False},
    ]
    assert found["older:3"] == [
        {"name": "order", "version": 1, "fingerprint": None, "differs": True}
    ]


def test_since_when_a_service_stands_is_told_by_the_clock_of_the_database(url, monkeypatch, capsys):
    async def ahead(self: SqliteDatabase, clock: object) -> float:
        return 5 * 3600.0

    async def look() -> None:
        app = Standfast(url)
        async with app:
            leases = app.database.port(LeaseStore)
            service = {"name": "sagas", "state": "running", "since": time.time() + 2 * 3600}
            told = json.dumps({"services": [service]})
            await leases.acquire([f"{MEMBER}x"], "x:4", ttl=600, note=told)
        await services(app, False)

    monkeypatch.setattr(SqliteDatabase, "clock_offset", ahead)
    asyncio.run(look())
    (line,) = [line for line in capsys.readouterr().out.splitlines() if line.startswith("x:4")]
    assert line.split()[3].startswith("3h")


def test_why_a_service_was_begun_again_is_told(url, capsys):
    stood = (
        {"name": "calm", "state": "running"},
        {"name": "lost", "state": "running", "restarts": 1},
        {"name": "weak", "state": "running", "restarts": 1, "error": "OSError: away"},
    )

    async def look() -> None:
        app = Standfast(url)
        async with app:
            leases = app.database.port(LeaseStore)
            told = json.dumps({"services": stood})
            await leases.acquire([f"{MEMBER}x"], "x:4", ttl=600, note=told)
        await services(app, False)

    asyncio.run(look())
    told = capsys.readouterr().out.splitlines()
    calm, lost, weak = [line for line in told if line.startswith("x:4")]
    assert not calm.endswith("lost its lease")
    assert lost.endswith("lost its lease")
    assert weak.endswith("OSError: away")
