"""A misspelt option of a saga is refused, and one's own constants aren't."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest

from standfast import Context, Retry, Saga, step
from standfast.errors import DefinitionError
from standfast.saga.definition import Definition


class Pay(Saga[str]):
    @step(no_compensation="reads only")
    async def look(self, order: str, ctx: Context) -> str:
        return order


@pytest.mark.parametrize(
    ("name", "value", "remedy"),
    [
        ("dead_line", "1s", "write deadline = …"),
        ("max_inflight", 1, "write max_in_flight = …"),
        ("maxInFlight", 1, "write max_in_flight = …"),
        ("verison", 2, "write version = …"),
        ("Version", 2, "write version = …"),
        ("migration", {}, "write migrations = …"),
        ("max_recovery", 3, "write max_recoveries = …"),
        ("deadline_end_parked", True, "write deadline_ends_parked = …"),
        ("timeout", "5s", r"as in @step\(timeout=…\)"),
        ("time_out", "5s", r"as in @step\(timeout=…\)"),
        ("retry", Retry(attempts=7), r"as in @step\(retry=…\)"),
        ("on_exhausted", "park", r"as in @step\(on_exhausted=…\)"),
        ("pivot", True, r"as in @step\(pivot=…\)"),
    ],
)
def test_a_misspelt_option_is_refused(name: str, value: Any, remedy: str) -> None:
    bad = type(Pay)("Bad", (Pay,), {name: value})
    for cls in (bad, type(Pay)("Sub", (bad,), {})):
        with pytest.raises(DefinitionError, match=rf"{name}=.*{remedy}"):
            Definition(cls())


class HttpClient:
    timeout = 5.0


@dataclass
class Configured(Saga[str]):
    timeout: float = 5.0

    @step(no_compensation="reads only")
    async def look(self, order: str, ctx: Context) -> str:
        return order


class Own(HttpClient, Pay):
    VERSION = 3
    TIMEOUT = 9
    _retry = Retry()
    names = ("a", "b")
    deadlines = ("1d", "2d")
    version_of_api = 2
    currency = "EUR"
    fee = 7
    retries = 3
    session = object()
    retry = Retry(attempts=2)
    limit = 100
    each = "item"

    def after(self) -> int:
        return self.limit + len(getattr(self, "each", ""))

    @step(no_compensation="reads only", retry=retry)
    async def pay(self, order: str, ctx: Context) -> str:
        return order


def test_constants_of_ones_own_stay() -> None:
    assert list(Definition(Own()).steps) == ["look", "pay"]
    assert list(Definition(Configured()).steps) == ["look"]


def test_a_step_may_be_called_like_an_option_of_steps() -> None:
    class Named(Pay):
        @step(no_compensation="reads only")
        async def retry(self, order: str, ctx: Context) -> str:
            return order

    assert list(Definition(Named()).steps) == ["look", "retry"]
