"""The sagas that are simulated, with their invariants: those of the tests of `simulate`."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from standfast.testing import SimulationReport, World, simulate
from tests.testing import test_demo_saga, test_simulate, trip
from tests.testing.shop import Order, PlaceOrder


def _all_or_nothing(world: World) -> None:
    """A trip is paid once when it is booked; nothing is left of one that isn't."""
    paid = len(world.rows("SELECT * FROM payments"))
    assert paid == 1 if world.completed else paid <= 1
    if world.compensated:
        assert paid == world.saga.hotels.total == world.saga.flights.total == 0
        assert world.saga.insurer.total == 0


def ledger_shop(seeds: Iterable[int]) -> SimulationReport:
    """Reserve, charge, ship, notify; on ledgers."""
    return simulate(
        PlaceOrder,
        Order(),
        seeds=seeds,
        invariants=test_simulate.all_or_nothing,
        always=test_simulate.never_too_much,
    )


def book_trip(seeds: Iterable[int]) -> SimulationReport:
    """All that a saga can have: items, a condition, a wait, a child, a transaction."""
    return simulate(
        trip.trip,
        trip.Trip(),
        seeds=seeds,
        schema=trip.SCHEMA,
        signals={"approved": trip.Approval("ann")},
        invariants=_all_or_nothing,
    )


def demo_shop(seeds: Iterable[int]) -> SimulationReport:
    """The saga of the demo: its end is transactional."""
    return simulate(
        test_demo_saga.place_order,
        test_demo_saga.ORDER,
        seeds=seeds,
        schema=test_demo_saga.SCHEMA,
        invariants=test_demo_saga.is_all_or_nothing,
        always=test_demo_saga.is_told_once_and_only_when_shipped,
    )


CAMPAIGNS: dict[str, Callable[[Iterable[int]], Any]] = {
    "place-order": ledger_shop,
    "book-trip": book_trip,
    "demo": demo_shop,
}
