"""What commands remark beside their answers: that no worker is there, that a name is misspelt."""

import asyncio
import importlib
import json
import sys

import pytest

from standfast.errors import SagaParked


async def parks(app):
    import shop

    parked = await app.start(shop.PlaceOrder, shop.Order("3", 1, "charge"), key="parked")
    with pytest.raises(SagaParked):
        await parked.result(timeout=30)


@pytest.fixture
def sagas(played, standfast):
    played(parks)

    def run(command, *arguments, **options):
        return standfast("sagas", command, "--app", "shop:app", *arguments, **options)

    return run


NOBODY = "no live worker has place-order v1"


def test_what_lies_unread_without_a_worker_is_told(sagas):
    told = sagas("list")
    assert NOBODY not in told.stderr, "an operator must act first"
    assert "waits for an operator" in sagas("show", "place-order/parked").stdout
    assert "wait" not in sagas("list", "--stuck").stderr

    assert f"{NOBODY}: they are acted on when one runs" in sagas("retry", "--all", "-y").stderr
    told = sagas("list")
    assert "retry asked" in told.stdout
    assert "not acted on yet" in told.stdout
    assert f"{NOBODY}, and 1 of these waits for one" in told.stderr
    told = sagas("show", "place-order/parked")
    assert "waits for an operator" not in told.stdout
    assert "charge: retry asked" in told.stdout
    assert f"{NOBODY}: it goes on when one runs" in told.stderr
    told = sagas("list", "--stuck")
    assert "1 of these waits for a worker, not for an operator" in told.stderr
    (group,) = json.loads(sagas("list", "--stuck", "--json").stdout)
    assert (group["count"], group["due"]) == (1, 1)

    order = json.dumps({"id": "4"})
    told = sagas("start", "place-order", "--input", order, "--key", "4")
    assert f"{NOBODY}: it begins when one runs" in told.stderr
    assert f"{NOBODY}, and 2 of these wait for one" in sagas("list").stderr
    told = sagas("start", "place-order", "--input", order, "--key", "5", "--after", "1d")
    assert f"{NOBODY}: when its time has come, it waits until one runs" in told.stderr
    for key, due in (("6", ("--at", "2020-12-01T09:00+01:00")), ("7", ("--after", "0s"))):
        told = sagas("start", "place-order", "--input", order, "--key", key, *due)
        assert f"{NOBODY}: it begins when one runs" in told.stderr


def test_of_a_move_is_told_whether_a_worker_has_the_version_that_it_leads_to(sagas, standfast):
    target = ("--app", "sqlite:///shop.db")  # without code that knows which versions there are
    told = standfast("sagas", "migrate", *target, "place-order/parked", "--to", "2").stderr
    assert "no live worker has place-order v2: they are acted on when one runs" in told
    assert NOBODY not in told


def test_what_is_resolved_at_once_waits_for_no_worker(sagas, standfast):
    how = ("resolve", "place-order/parked", "--as", "completed", "--reason", "by hand")
    told = standfast("sagas", *how, "--app", "sqlite:///shop.db")
    assert told.stdout == "resolve: asked 1 saga; it was done at once\n"
    assert NOBODY not in told.stderr


def test_of_what_a_worker_resolves_is_told_that_there_is_none(sagas):
    told = sagas("resolve", "place-order/parked", "--as", "completed", "--reason", "by hand")
    assert told.stdout == "resolve: asked 1 saga; a worker acts on it\n"
    assert f"{NOBODY}: they are acted on when one runs" in told.stderr


def test_a_name_that_nothing_has_is_told_with_near_ones(sagas, standfast):
    said = "note: no saga is named 'place-ordr' in this app or its database (did you mean"
    for command in (
        ["list"],
        ["list", "--stuck"],
        ["retry", "--yes"],
        ["export"],
        ["check-compat"],
    ):
        assert said in sagas(*command, "--name", "place-ordr").stderr, command
    told = standfast("sagas", "list", "--app", "sqlite:///shop.db", "--name", "place-ordr").stderr
    assert "no saga is named 'place-ordr' in this database (did you mean place-order?)" in told
    told = sagas("list", "--name", "place-order", "--step", "chargee").stderr
    assert "note: saga 'place-order' has no step 'chargee' (did you mean charge?)" in told
    told = sagas("list", "--step", "chargee").stderr
    assert "note: no saga of this app has a step 'chargee' (did you mean charge?)" in told
    assert "note" not in sagas("list", "--name", "place-order", "--status", "running").stderr
    for step in ("ship", "ship[2]"):  # an item of it
        assert "note" not in sagas("list", "--step", step).stderr
    told = sagas("show", "place-ordr/parked", code=1).stderr
    assert told == (
        "error: no saga 'place-ordr' has the key 'parked' (did you mean place-order?)\n"
    )


PARCELS = """
import os

from standfast import Saga, Standfast, child, wait


class Parcel(Saga[int]):
    signature = wait("signed")


class Batch(Saga[int]):
    parcels = child(
        Parcel,
        lambda self, input, ctx, item: item,
        each=lambda self, input, ctx: list(range(input)),
    )


def make():
    return Standfast(os.environ["SHOP_DATABASE"], migrate=True).add(Batch(), Parcel())
"""


def test_children_that_go_on_after_their_parent_is_resolved_are_told(folder, standfast):
    (folder / "parcels.py").write_text(PARCELS)
    sys.path.insert(0, str(folder))
    parcels = importlib.import_module("parcels")

    async def work():
        app = parcels.make()
        async with app.running(drain=2):
            for key, number in (("one", 1), ("five", 5)):
                handle = await app.start(parcels.Batch, number, key=key)
                while len((await handle.timeline()).pending) < number:
                    await asyncio.sleep(0.01)

    asyncio.run(work())
    options = ["--app", "parcels:make", "--as", "completed", "--reason", "x"]
    told = standfast("sagas", "resolve", "batch/one", *options)
    assert "1 child saga goes on all the same: " in told.stderr
    assert "; cancel or resolve it as well" in told.stderr
    assert told.stdout == "resolve: asked 1 saga; a worker acts on it\n"
    told = standfast("sagas", "resolve", "batch/five", *options, "--dry-run")
    assert "5 child sagas go on all the same: " in told.stderr
    assert ", …; cancel or resolve them as well" in told.stderr
