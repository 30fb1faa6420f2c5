"""`standfast workers` tells of processes that have other code under one name."""

from __future__ import annotations

import asyncio
import json

import pytest

from standfast import Standfast
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
