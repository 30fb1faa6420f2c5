"""Deleting what has expired, a little at a time."""

import asyncio
import logging
from unittest.mock import Mock

import pytest
from opentelemetry import metrics

from standfast.coordination.purging import REST, SHORTEST_REST, Purging
from tests.coordination.world import clock, virtually


class Duty:
    """A duty that is over after so many pauses, and notes how long they were."""

    def __init__(self, pauses: int) -> None:
        self.left = pauses
        self.pauses: list[float] = []
        self.is_ready = False

    def ready(self) -> None:
        self.is_ready = True

    async def pause(self, seconds: float) -> bool:
        self.pauses.append(seconds)
        await asyncio.sleep(seconds)
        self.left -= 1
        return self.left > 0


class Table:
    """Rows of which a batch takes so many, in so many seconds each."""

    def __init__(self, rows: int, takes: float) -> None:
        self.rows = rows
        self.takes = takes
        self.runs = 0
        self.closed = 0

    async def batches(self):
        self.runs += 1
        try:
            while self.rows:
                gone = min(10, self.rows)
                await asyncio.sleep(self.takes)
                self.rows -= gone
                yield gone
        finally:
            self.closed += 1


def purging(table: Table) -> Purging:
    return Purging("p", table.batches, what="rows", every=60.0, clock=clock())


@virtually
async def test_it_rests_longer_than_it_works_and_comes_again(caplog):
    caplog.set_level(logging.INFO, logger="standfast.retention")
    table, duty = Table(25, 0.5), Duty(5)
    await purging(table).run(duty)
    assert duty.is_ready
    assert duty.pauses == pytest.approx([0.5 * REST] * 3 + [60.0] * 2)
    assert (table.rows, table.runs, table.closed) == (0, 2, 2)
    assert [one.getMessage() for one in caplog.records] == [
        "retention: 25 rows deleted in 7.5s",
        "retention: 0 rows deleted in 0s",
    ]


@virtually
async def test_each_row_is_counted_once(monkeypatch):
    meter = Mock()
    monkeypatch.setattr(metrics, "get_meter", lambda *_: meter)
    await purging(Table(25, 0.5)).run(Duty(5))
    counted = meter.create_counter.return_value.add.call_args_list
    assert [call.args for call in counted] == [(n, {"what": "rows"}) for n in (0, 10, 10, 5)]
    (made,) = meter.create_counter.call_args_list
    assert (made.args, made.kwargs["unit"]) == (("standfast.retention.deleted",), "{row}")


@virtually
async def test_quick_batches_rest_too():
    duty = Duty(2)
    await purging(Table(20, 0.0)).run(duty)
    assert duty.pauses == [SHORTEST_REST] * 2


@virtually
async def test_it_stops_between_two_batches(caplog):
    caplog.set_level(logging.INFO, logger="standfast.retention")
    table = Table(100, 0.1)
    await purging(table).run(Duty(2))
    assert (table.rows, table.closed) == (80, 1)
    (line,) = [one.getMessage() for one in caplog.records]
    assert line.startswith("retention: 20 rows deleted in ")
    assert line.endswith(", until it was to stop")
