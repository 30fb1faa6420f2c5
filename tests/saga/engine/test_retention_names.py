"""Retention deletes nothing by a misspelt name, nor by a number that may be meant in days."""

import logging
from datetime import timedelta

import pytest

from standfast import Barrier, Retention, Standfast
from standfast.errors import ConfigurationError
from tests.saga.engine.test_retention import Kept
from tests.saga.engine.world import Order, Trip, World


@pytest.mark.parametrize("named", ["Kept", "kepd"])
async def test_a_misspelt_saga_is_refused(app_url, named):
    app = Standfast(app_url, migrate=True).add(Kept(), Retention("0s", by_saga={named: None}))
    with pytest.raises(ConfigurationError, match=rf"by_saga\['{named}'\].*did you mean kept\?"):
        async with app.running():
            pass
    app = Standfast(app_url, migrate=True).add(Kept(), Retention("1d", by_saga={"xyz": "1d"}))
    with pytest.raises(ConfigurationError, match=r"no saga is named so.*This app has kept"):
        async with app:
            pass


def test_a_saga_that_is_named_twice_is_refused():
    with pytest.raises(ConfigurationError, match="by_saga names one saga twice"):
        Retention("1d", by_saga={Kept: None, "kept": "1d"})


async def test_a_class_that_was_not_added_is_refused(app_url):
    app = Standfast(app_url, migrate=True).add(Retention("1d", by_saga={Trip: None}), Kept())
    with pytest.raises(ConfigurationError, match="Trip isn't known here"):
        async with app:
            pass


async def test_a_saga_whose_code_is_gone_is_known_by_its_rows(durable_url, caplog):
    caplog.set_level(logging.WARNING, logger="standfast.retention")
    async with Standfast(durable_url, migrate=True).add(Kept()) as app:
        await app.start(Kept, Order("1"))
    world = World()
    async with Standfast(durable_url).add(Trip(world), Retention("1d", by_saga={"kept": None})):
        pass
    assert not caplog.records
    async with Standfast(durable_url).add(Retention("1d", by_saga={"kepd": None})):
        pass  # without sagas of its own it can't know
    (record,) = caplog.records
    assert "by_saga['kepd']: no saga is named so" in record.getMessage()


@pytest.mark.parametrize(
    ("made", "said"),
    [
        (lambda: Retention(30), r"finished_for=30: give 30 a unit, such as '30d'"),
        (lambda: Retention("30"), r"finished_for='30': give 30 a unit, such as '30d'"),
        (lambda: Retention("1d", by_saga={"trip": 1.5}), r"by_saga\['trip'\]=1.5: give 1.5 a unit"),
        (lambda: Retention("1d", by_saga=[Trip]), "by_saga=.*give a dict"),
        (lambda: Retention("40000d"), r"finished_for='40000d': .* Give None to keep for ever"),
        (lambda: Barrier(kept_for="40000d"), r"kept_for='40000d': .* Give None to keep for ever"),
        (lambda: Barrier(kept_for=90), "kept_for=90: give 90 a unit"),
        (lambda: Barrier(kept_for="0s"), "kept_for='0s'"),
    ],
)
def test_a_number_without_a_unit_is_refused(made, said):
    with pytest.raises(ConfigurationError, match=said):
        made()


def test_a_timedelta_has_a_unit():
    Retention(timedelta(days=30), by_saga={Trip: timedelta(days=1)})
    Barrier(kept_for=timedelta(days=90))


async def test_purges_and_filters_refuse_it_too():
    barrier = Barrier()
    async with Standfast("memory://").add(Kept(), barrier) as app:
        for act in (
            lambda: anext(app.operations.purge(finished_for=1)),
            lambda: app.operations.count_finished(finished_for=1),
            lambda: anext(barrier.purge(older_than=1)),
            lambda: barrier.count(older_than=1),
        ):
            with pytest.raises(ConfigurationError, match="give 1 a unit"):
                await act()
        select = app.operations.select
        for made, option in (
            (lambda: select(older_than=3), "older_than=3"),  # type: ignore[arg-type]
            (lambda: select(newer_than="3"), "newer_than='3'"),
        ):
            with pytest.raises(ConfigurationError, match=f"{option}: give 3 a unit, such as '3d'"):
                made()
        assert select(older_than=timedelta(days=3)).created_before is not None
