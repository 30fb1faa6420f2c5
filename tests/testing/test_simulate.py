"""`simulate` has no complaint about right sagas, covers what it says, and runs alike each time."""

from __future__ import annotations

import asyncio
import functools
import random
import socket
import subprocess
import time
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from standfast import ConfigurationError, Context, Saga, step
from standfast.testing import Faults, InvariantViolated, Ledger, World, simulate, split_seeds
from standfast.testing.simulation.calls import BACKWARD, FORWARD
from standfast.testing.simulation.simulate import Simulation
from standfast.testing.virtual import RealIO
from tests.testing.shop import Order, PlaceOrder
from tests.testing.trip import SCHEMA, Approval, Trip, trip


def all_or_nothing(world: World) -> None:
    """A paid order is shipped, and one that isn't shipped isn't paid."""
    saga, order = world.saga, world.input
    if world.completed:
        assert saga.stock.total == order.quantity
        assert saga.payments.total == order.total_cents
        assert saga.courier.total == 1
    elif world.compensated:
        assert saga.stock.total == saga.payments.total == saga.courier.total == 0


def never_too_much(world: World) -> None:
    assert 0 <= world.saga.stock.total <= 10
    assert world.saga.payments.total in (0, world.input.total_cents)


@pytest.mark.slow
@pytest.mark.parametrize("seeds", split_seeds(10_000, 4), ids=str)
def test_the_shop_holds_for_ten_thousand_seeds(seeds):
    report = simulate(
        PlaceOrder, Order(), seeds=seeds, invariants=all_or_nothing, always=never_too_much
    )
    assert report.seeds == len(seeds)
    assert report.paths > 500
    assert report.missed == []
    assert report.outcomes["completed"] > 100
    assert report.outcomes["compensated"] > 100
    # Every fault struck every step that it can strike.
    untimed = {"timeout before", "timeout after"}
    for name in ("reserve", "charge", "ship", "notify"):
        for _, fault in FORWARD:
            if name != "notify" or fault not in untimed:
                assert report.coverage[name, fault], (name, fault)
        for fault in ("before the call", "after the call", "before its commit", "after its commit"):
            assert report.coverage[name, f"crash {fault}"], (name, fault)
    for name in ("undo reserve", "undo charge"):
        for _, fault in BACKWARD:
            if name != "undo charge" or fault not in untimed:
                assert report.coverage[name, fault], (name, fault)
    assert report.coverage["the saga itself", "cancel"]
    assert report.coverage["the saga itself", "deadline passed"]
    assert report.coverage["undo reserve", "outage"]


@pytest.mark.slow
def test_a_saga_with_everything_holds():
    def paid(world: World) -> None:
        count = len(world.rows("SELECT * FROM payments WHERE amount = $1", 100))
        assert count == 1 if world.completed else count <= 1
        if world.compensated:
            assert count == 0
            assert world.saga.hotels.total == world.saga.insurer.total == 0
        if world.completed:
            assert world.results["thank"] == "ann: 3 hotels"

    report = simulate(
        trip,
        Trip(),
        seeds=1_500,
        schema=SCHEMA,
        signals={"approved": Approval("ann")},
        invariants=paid,
    )
    for mood in ("in time", "early", "late", "twice", "never"):
        assert report.coverage["signal approved", mood], mood
    for step_ in ("hotel", "flight", "pay", "insurance/insure", "undo insurance/insure"):
        assert any(name == step_ for name, _ in report.coverage), step_
    assert report.faults["operator: retry"]
    assert report.missed == []


@pytest.mark.slow
def test_the_same_seed_is_the_same_run():
    one, other = Simulation(PlaceOrder, Order()), Simulation(PlaceOrder, Order())
    for seed in range(40):
        first = one.play(seed, tell=True)
        again = other.play(seed, tell=True)
        assert first.story == again.story
        assert first.struck == again.struck
    assert len({one.play(seed).path for seed in range(40)}) > 10


def test_without_faults_everything_goes_well_and_in_no_time():
    class Slow(PlaceOrder):
        @step
        async def wait_a_day(self, order: Order, ctx: Context) -> None:
            await asyncio.sleep(86_400)

    begun = time.monotonic()
    report = simulate(Slow, Order(), seeds=5, faults=Faults.none())
    assert report.outcomes == {"completed": 5}
    assert report.paths == 1
    assert not report.coverage
    assert time.monotonic() - begun < 60


@pytest.mark.slow
def test_the_report_reads_well_and_adds_up():
    first = simulate(PlaceOrder, Order(), seeds=range(60))
    second = simulate(PlaceOrder, Order(), seeds=range(60, 120))
    whole = simulate(PlaceOrder, Order(), seeds=120)
    total = first + second
    assert total.seeds == 120
    assert total.outcomes == whole.outcomes
    assert total.coverage == whole.coverage
    assert total.paths == whole.paths
    text = str(whole)
    assert text.startswith("place-order: 120 seeds in ")
    assert "crash after its commit" in text
    assert "ended: completed" in text


def test_what_is_never_called_is_told():
    class Never(PlaceOrder):
        @step(when=lambda self, order, ctx: False)
        async def gift(self, order: Order, ctx: Context) -> None: ...

    report = simulate(Never, Order(), seeds=30, faults=Faults.none())
    assert report.missed == ["undo reserve", "undo charge", "gift"]
    assert "never called: undo reserve, undo charge, gift" in str(report)


def test_an_instance_is_copied_for_each_run():
    saga = PlaceOrder()
    simulate(saga, Order(), seeds=50, invariants=all_or_nothing)
    assert saga.stock.total == 0


def test_a_factory_may_make_its_class_anew():
    def make() -> Saga:
        ledger = Ledger()

        class Local(Saga[Order]):
            @step(no_compensation="a note")
            async def only(self, order: Order, ctx: Context) -> str:
                return await ledger.post(ctx)

        return Local()

    assert simulate(make, Order(), seeds=30).seeds == 30


def test_the_input_may_be_drawn():
    seen = set()

    def draw(chance: random.Random) -> Order:
        return Order(quantity=chance.randint(1, 12))

    def note(world: World) -> None:
        seen.add(world.input.quantity)
        if world.input.quantity > 10:
            assert not world.completed

    simulate(PlaceOrder, draw, seeds=200, invariants=note)
    assert {1, 11} <= seen


def test_progress_is_told_and_random_is_left_as_it_was():
    told = []
    random.seed(5)
    expected = random.Random(5).random()
    slow = iter([None])

    def check(world: World) -> None:
        for _ in slow:
            time.sleep(1.1)

    simulate(
        PlaceOrder, Order(), seeds=3, invariants=lambda w: check(w) is None, progress=told.append
    )
    assert told
    assert random.random() == expected


class Real(Saga[str]):
    def __init__(self, act: Callable[[], Awaitable[object]]) -> None:
        self.act = act

    @step(no_compensation="it never works")
    async def touch(self, input: str, ctx: Context) -> None:
        await self.act()


async def _sleep() -> None:
    time.sleep(0.01)


async def _thread() -> None:
    await asyncio.to_thread(time.time)


async def _connect() -> None:
    await asyncio.open_connection("127.0.0.1", 9)


async def _socket() -> None:
    with socket.socket() as plain:
        plain.connect(("127.0.0.1", 9))


async def _process() -> None:
    subprocess.run(["true"], check=True)


async def _async_process() -> None:
    await asyncio.create_subprocess_exec("true")


@pytest.mark.parametrize(
    "act", [_sleep, _thread, _connect, _socket, _process, _async_process], ids=lambda f: f.__name__
)
def test_real_io_is_refused_with_the_remedy(act):
    with pytest.raises(RealIO, match="give the saga a fake"):
        simulate(lambda: Real(act), "", seeds=3, faults=Faults.none())
    time.sleep(0)  # and outside it is as ever


def test_sql_without_tables_is_refused():
    with pytest.raises(RealIO, match="schema="):
        simulate(trip, Trip(), seeds=1, faults=Faults.none(), signals={"approved": Approval("x")})


def test_wrong_use_is_told():
    with pytest.raises(ConfigurationError, match="give a saga"):
        simulate(lambda: "no", Order(), seeds=1)
    with pytest.raises(ConfigurationError, match="signals="):
        simulate(trip, Trip(), seeds=1)
    with pytest.raises(ConfigurationError, match="nothing waits"):
        simulate(PlaceOrder, Order(), seeds=1, signals={"approved": 1})
    with pytest.raises(ConfigurationError, match="Insure"):
        simulate(lambda: trip()[0], Trip(), seeds=1)
    with pytest.raises(ConfigurationError, match="chance from 0 to 1"):
        Faults(crash=2)
    for total, parts in ((10, 0), (0, 1), (3, 4)):
        with pytest.raises(ConfigurationError, match=r"1 or more|3 or fewer"):
            split_seeds(total, parts)


async def never(*_: Any) -> None:
    raise AssertionError("nobody awaits it")


@pytest.mark.parametrize("option", ["invariants", "always", "progress"])
@pytest.mark.parametrize("given", [never, [never], functools.partial(never, 1), 5, "never"])
def test_a_check_that_nobody_would_make_is_refused(option, given):
    with pytest.raises(ConfigurationError, match=f"{option}=.*: give (a )?plain function"):
        simulate(PlaceOrder, Order(), seeds=1, **{option: given})


@pytest.mark.parametrize("when", ["invariants", "always"])
def test_a_check_that_answers_with_a_coroutine_is_violated(when):
    """Only its answer tells that somebody has to await it."""
    with pytest.raises(InvariantViolated, match="answered with a coroutine, which nobody awaits"):
        simulate(PlaceOrder, Order(), seeds=1, **{when: lambda world: never(world)})


@pytest.mark.parametrize("options", [
    {"seeds": 0}, {"seeds": -5}, {"seeds": []}, {"seeds": range(0)}, {"seeds": iter(())},
    {"seeds": True}, {"seeds": "12"}, {"seeds": ["1"]}, {"seeds": 1.0}, {"seed": "1"},
])  # fmt: skip
def test_where_nothing_would_run_it_is_told(options):
    with pytest.raises(ConfigurationError, match=r"^seeds?="):
        simulate(PlaceOrder, Order(), **options)


def test_what_makes_sagas_and_inputs_is_plain():
    with pytest.raises(ConfigurationError, match="a function that makes one"):
        simulate(never, Order(), seeds=1)
    with pytest.raises(ConfigurationError, match="input= answered with a coroutine"):
        simulate(PlaceOrder, never, seeds=1)


async def test_inside_a_running_loop_it_says_what_to_do():
    with pytest.raises(ConfigurationError, match="plain `def test_"):
        simulate(PlaceOrder, Order(), seeds=1)


def test_seeds_are_split_without_gaps():
    parts = split_seeds(10, 3)
    assert [seed for part in parts for seed in part] == list(range(10))


@pytest.mark.parametrize("when", ["invariants", "always"])
def test_a_check_that_breaks_is_told(when):
    def breaks(world: World) -> None:
        _ = world.results["nothing"]

    with pytest.raises(InvariantViolated, match="breaks raised KeyError: 'nothing'"):
        simulate(PlaceOrder, Order(), seeds=3, **{when: breaks})


def test_a_saga_that_is_not_the_same_each_time_is_found_out():
    runs = iter(range(10**9))

    def odd(world: World) -> None:
        assert next(runs) != 3

    with pytest.raises(InvariantViolated, match="doesn't fail again"):
        simulate(PlaceOrder, Order(), seeds=10, invariants=odd)
