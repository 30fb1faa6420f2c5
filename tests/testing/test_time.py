"""Sleeps, delayed starts and many children in virtual time, and bugs planted in the machine."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from uuid import UUID

import msgspec
import pytest

from standfast import ConfigurationError, Context, Refused, Saga, child, sleep, step
from standfast.saga import facts as fx
from standfast.saga.branch import Branch
from standfast.saga.definition import Definition
from standfast.saga.machine import Machine
from standfast.testing import InvariantViolated, Ledger, World, run_saga, simulate
from standfast.testing.simulation.invariants import Observed, Violation
from standfast.testing.simulation.simulate import Simulation
from standfast.testing.virtual import EPOCH


@dataclass(frozen=True)
class Tour:
    cities: tuple[str, ...] = ("Oslo", "Rome", "Bern", "Graz")
    ends_at: datetime = datetime(2030, 5, 1, tzinfo=UTC)


class Insure(Saga[str]):
    def __init__(self, insurer: Ledger) -> None:
        self.insurer = insurer

    @step(timeout="5s")
    async def insure(self, city: str, ctx: Context) -> str:
        return f"{city}: {await self.insurer.post(ctx)}"

    @insure.compensation
    async def cancel(self, city: str, ctx: Context) -> None:
        await self.insurer.reverse(ctx)


class BookTour(Saga[Tour]):
    """Insures the stay in each city, two at a time, between a night's sleep and years of it."""

    def __init__(self, insurer: Ledger) -> None:
        self.flights = Ledger("flights")
        self.insurer = insurer

    @step(timeout="10s")
    async def flight(self, tour: Tour, ctx: Context) -> str:
        return await self.flights.post(ctx)

    @flight.compensation
    async def cancel_flight(self, tour: Tour, ctx: Context) -> None:
        await self.flights.reverse(ctx)

    night = sleep("8h")

    insured = child(
        Insure,
        lambda self, tour, ctx, city: city,
        each=lambda self, tour, ctx: tour.cities,
        limit=2,
    )

    till_then = sleep(until=lambda self, tour, ctx: tour.ends_at + timedelta(days=1))

    @step(no_compensation="a letter", on_exhausted="park")
    async def thank(self, tour: Tour, ctx: Context) -> list[str]:
        return [one["insure"] for one in ctx.result(self.insured)]


def tour() -> list[Saga]:
    insurer = Ledger("insurer")
    return [BookTour(insurer), Insure(insurer)]


def test_virtual_time_jumps_over_what_sleeps():
    begun = time.monotonic()
    run = run_saga(tour(), Tour(), after="3d")
    assert time.monotonic() - begun < 10
    assert run.status == "completed"
    assert [text.partition(":")[0] for text in run[BookTour.thank]] == list(Tour().cities)
    assert run.time >= (Tour().ends_at - datetime(2000, 1, 1, tzinfo=UTC)).total_seconds()
    assert "night sleeps" in run.story
    assert run.trace[0] == "flight"
    assert run.calls[0].at >= 3 * 86_400


def test_calls_in_one_of_many_children_are_told_to_fail_by_name():
    run = run_saga(tour(), Tour(), raises={"insured[1]/insure": Refused("no")})
    assert run.status == "compensated"
    assert "insured[1]/insure refused" in run.trace
    assert "undo flight" in run.trace
    run = run_saga(tour(), Tour(), raises={"insured/insure": Refused("no")})
    assert run.cause.startswith("insured[")
    with pytest.raises(ConfigurationError, match=r"raises='insured/nothing'"):
        run_saga(tour(), Tour(), raises={"insured/nothing": Refused("no")})


def test_whatever_goes_wrong_nothing_is_left_behind():
    def all_or_nothing(world: World) -> None:
        insured = world.saga.insurer.total
        if world.completed:
            assert insured == len(world.input.cities)
        elif world.compensated:
            assert insured == world.saga.flights.total == 0

    report = simulate(tour, Tour(), seeds=120, invariants=all_or_nothing)
    assert report.missed == []
    assert {"completed", "compensated"} <= set(report.outcomes)
    report = simulate(tour, Tour(), seeds=60, invariants=all_or_nothing, after="1d")
    assert {"completed", "compensated"} <= set(report.outcomes)


def found(machine: type[Machine], pattern: str, **options: object) -> None:
    with pytest.raises(InvariantViolated, match=pattern):
        Simulation(tour, Tour(), machine=machine, **options).run(range(50))  # type: ignore[arg-type]


def test_a_sleep_that_ends_before_its_time_is_found():
    class Early(Machine):
        def _settle_sleep(self, branch: Branch, now: float) -> bool:
            settled = super()._settle_sleep(branch, now)
            if not settled and branch.until and not self.undoing:
                self._emit(fx.StepCompleted(at=now, branch=branch.id))
                return True
            return settled

    found(Early, "ended before its time")


def test_a_start_that_begins_before_its_time_is_found():
    observed = Observed(UUID(int=1), Definition(BookTour(Ledger("insurer"))), "")
    started = fx.Started(
        at=1.0,
        input=msgspec.Raw(b"null"),
        version=1,
        key="k",
        correlation_id="k",
        begins_at=9.0,
    )
    observed.note(started)
    with pytest.raises(Violation, match="began before its time"):
        observed.note(fx.Begun(at=8.9))
    observed.note(fx.Begun(at=9.0))


def test_a_limit_that_isnt_heeded_is_found():
    class Crowded(Machine):
        def has_room(self, branch: Branch) -> bool:
            return True

    found(Crowded, "child sagas of 'insured' go on at once")


def test_a_step_ends_at_the_deadline_of_its_saga_though_its_timeout_is_longer():
    class Hurried(Saga[None]):
        deadline = "10s"

        @step(no_compensation="it only waits")
        async def first(self, input: None, ctx: Context) -> None:
            await asyncio.sleep(8)

        @step(timeout="9s", no_compensation="it only waits")
        async def second(self, input: None, ctx: Context) -> None:
            ends.append(ctx.deadline)
            await asyncio.sleep(60)

    ends: list[float | None] = []
    run = run_saga(Hurried())
    assert (run.status, run.cause) == ("compensated", "the deadline of 10s passed")
    assert ends == [pytest.approx(EPOCH + 10)]
    assert run.time == pytest.approx(10, abs=0.1)
