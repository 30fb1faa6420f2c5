"""A clock that moves when told."""

import pytest


class Clock:
    """Monotonic and wall time apart, both moved by hand."""

    def __init__(self) -> None:
        self.time = 1000.0
        self.wall = 1_700_000_000.0

    def monotonic(self) -> float:
        return self.time

    def now(self) -> float:
        return self.wall

    async def sleep(self, seconds: float) -> None:
        raise AssertionError("nothing here sleeps")

    def advance(self, seconds: float) -> None:
        self.time += seconds
        self.wall += seconds


@pytest.fixture
def clock() -> Clock:
    return Clock()
