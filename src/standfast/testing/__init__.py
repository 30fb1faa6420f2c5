"""The test kit: your own sagas, tested without a database and without waiting.

`simulate` runs a saga thousands of times in virtual time, each time with other faults, and checks
what must hold. `run_saga` runs it once, for a unit test. `Ledger` is a participant to test against.
Scenarios are stories of a saga in text form, and what the machine decided in them. `ManualClock` is
time that you move, and `FaultyFunction` fails as you say: for tests of resilience policies.

Names are loaded when they are first used.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from standfast.testing.faulty import FaultyFunction
    from standfast.testing.ledger import Entry, Ledger
    from standfast.testing.manual_clock import ManualClock
    from standfast.testing.run import SagaRun, run_saga
    from standfast.testing.scenario import ScenarioMismatch, check_scenario, play_scenario
    from standfast.testing.simulation.calls import Call
    from standfast.testing.simulation.chance import Faults
    from standfast.testing.simulation.invariants import World
    from standfast.testing.simulation.report import SimulationReport
    from standfast.testing.simulation.simulate import InvariantViolated, simulate, split_seeds

_HOMES = {
    "standfast.testing.faulty": ("FaultyFunction",),
    "standfast.testing.ledger": ("Entry", "Ledger"),
    "standfast.testing.manual_clock": ("ManualClock",),
    "standfast.testing.run": ("SagaRun", "run_saga"),
    "standfast.testing.scenario": ("ScenarioMismatch", "check_scenario", "play_scenario"),
    "standfast.testing.simulation.calls": ("Call",),
    "standfast.testing.simulation.chance": ("Faults",),
    "standfast.testing.simulation.invariants": ("World",),
    "standfast.testing.simulation.report": ("SimulationReport",),
    "standfast.testing.simulation.simulate": ("InvariantViolated", "simulate", "split_seeds"),
}
_HOME_OF = {name: home for home, names in _HOMES.items() for name in names}

__all__ = [
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
    "check_scenario",
    "play_scenario",
    "run_saga",
    "simulate",
    "split_seeds",
]


def __getattr__(name: str) -> Any:
    home = _HOME_OF.get(name)
    if home is None:
        raise AttributeError(f"module 'standfast.testing' has no attribute {name!r}")
    value = getattr(import_module(home), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return __all__
