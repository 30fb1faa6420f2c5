"""The test kit: your own sagas, tested without a database and without waiting.

`simulate` runs a saga thousands of times in virtual time, each time with other faults, and checks
what must hold. `run_saga` runs it once, for a unit test. `Ledger` is a participant to test against.
Scenarios are stories of a saga in text form, and what the machine decided in them. `AppClock` lets
days pass for an app with the real engine and a real database, and `assert_completed` and its like
wait for a saga's end, and tell its story where that is another. `ManualClock` is time that you
move, and `FaultyFunction` fails as you say: for tests of resilience policies. With pytest, the
fixtures of `standfast.testing.pytest_plugin` are at hand.

Names are loaded when they are first used.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from standfast.lazy import exports

if TYPE_CHECKING:
    from standfast.testing.app_clock import AppClock, AppTime
    from standfast.testing.assertions import (
        assert_compensated,
        assert_completed,
        assert_parked,
    )
    from standfast.testing.faulty import FaultyFunction
    from standfast.testing.ledger import Entry, Ledger
    from standfast.testing.manual_clock import ManualClock
    from standfast.testing.run import SagaRun, run_saga
    from standfast.testing.scenario import ScenarioMismatch, check_scenario, play_scenario
    from standfast.testing.simulation.call import Call
    from standfast.testing.simulation.chance import Faults
    from standfast.testing.simulation.invariants import World
    from standfast.testing.simulation.report import SimulationReport
    from standfast.testing.simulation.simulate import InvariantViolated, simulate, split_seeds

_HOMES = {
    "app_clock": ("AppClock", "AppTime"),
    "assertions": ("assert_compensated", "assert_completed", "assert_parked"),
    "faulty": ("FaultyFunction",),
    "ledger": ("Entry", "Ledger"),
    "manual_clock": ("ManualClock",),
    "run": ("SagaRun", "run_saga"),
    "scenario": ("ScenarioMismatch", "check_scenario", "play_scenario"),
    "simulation.call": ("Call",),
    "simulation.chance": ("Faults",),
    "simulation.invariants": ("World",),
    "simulation.report": ("SimulationReport",),
    "simulation.simulate": ("InvariantViolated", "simulate", "split_seeds"),
}

__all__ = [
    "AppClock",
    "AppTime",
    "Call",
    "Entry",
    "Faults",
    "FaultyFunction",
    "InvariantViolated",
    "Ledger",
    "ManualClock",
    "SagaRun",
    "ScenarioMismatch",
    "SimulationReport",
    "World",
    "assert_compensated",
    "assert_completed",
    "assert_parked",
    "check_scenario",
    "play_scenario",
    "run_saga",
    "simulate",
    "split_seeds",
]

if not TYPE_CHECKING:  # to type checkers, every name would be there
    __getattr__, __dir__ = exports(__name__, _HOMES)
