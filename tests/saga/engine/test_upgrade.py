"""Sagas that an older version left behind, by its worker's death: they go on where they were.

`old/sagas_1.sql` is what it had in its file: one saga that has ended, one that waits for a signal,
and one in the middle of its last step, owned by a worker that was killed.
"""

import sqlite3
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import pytest

from standfast import Context, Saga, SagaConflict, Standfast, step, wait
from standfast.errors import MigrationNeeded


@dataclass(frozen=True)
class Parcel:
    id: str
    weight: int = 1


class SendParcel(Saga[Parcel]):
    name = "send-parcel"

    @step(no_compensation="only a label")
    async def label(self, parcel: Parcel, ctx: Context) -> str:
        return f"label of {parcel.id}"

    collected = wait("collected", timeout="3650d")

    @step(no_compensation="it is gone")
    async def deliver(self, parcel: Parcel, ctx: Context) -> str:
        return f"{ctx.result(self.label)}, {ctx.result(self.collected)}"


@pytest.fixture
def url(tmp_path):
    path = tmp_path / "old.db"
    with closing(sqlite3.connect(path)) as connection:
        connection.executescript((Path(__file__).parent / "old/sagas_1.sql").read_text())
    return f"sqlite:///{path}"


async def test_an_older_versions_sagas_go_on(url):
    app = Standfast(url).add(SendParcel())
    async with app.running(drain=2):
        done = await app.saga(SendParcel, "done")
        assert (await done.result(timeout=10))["deliver"] == "label of done, by ann"
        held = await app.saga(SendParcel, "held")
        assert (await held.result(timeout=10))["deliver"] == "label of held, by bob"
        waits = await app.saga(SendParcel, "waits")
        assert await waits.status() == "waiting"
        await waits.signal("collected", "by cid")
        assert (await waits.result(timeout=10))["deliver"] == "label of waits, by cid"
        again = await app.start(SendParcel, Parcel("done"), key="done")
        assert (again.created, again.id) == (False, done.id), "keys are still taken"
        with pytest.raises(SagaConflict):
            await app.start(SendParcel, Parcel("done", weight=2), key="done")
        new = await app.start(SendParcel, Parcel("new"), key="new")
        await new.signal("collected", "by dan")
        assert (await new.result(timeout=10))["deliver"] == "label of new, by dan"


async def test_where_it_isnt_migrated_by_itself_the_remedy_is_told(url):
    with pytest.raises(MigrationNeeded, match="standfast migrate"):
        async with Standfast(url, migrate=False).add(SendParcel()):
            pass
