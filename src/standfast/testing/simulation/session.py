"""What a test runner asks of every `simulate` in its session: other seeds, and to be told how far
they came.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sized
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from standfast.testing.simulation.report import SimulationReport

Progress = Callable[["SimulationReport"], None]


@dataclass(frozen=True, slots=True)
class SeedSession:
    """`count`: how many seeds instead of those that a test asks for; `alone`: this one instead.

    `progress` is called with the report so far and the number of seeds, None where nobody knows it.
    """

    count: int | None = None
    alone: int | None = None
    progress: Callable[[SimulationReport, int | None], None] | None = None

    def seeds(self, asked: int | Iterable[int]) -> Iterable[int]:
        """The seeds to run. Those that a test lists itself stay: `split_seeds` has seen to them."""
        if self.alone is not None:
            return [self.alone]
        if not isinstance(asked, int):
            return asked
        return range(asked if self.count is None else self.count)

    def told_of(self, seeds: Iterable[int], progress: Progress | None) -> Progress | None:
        """The progress to call for these seeds: the test's own, or this one's."""
        tell = self.progress
        if progress is not None or tell is None:
            return progress
        total = len(seeds) if isinstance(seeds, Sized) else None
        return lambda report: tell(report, total)


_sessions: list[SeedSession] = [SeedSession()]


def session() -> SeedSession:
    """The session that goes on."""
    return _sessions[-1]


@contextmanager
def seed_session(session: SeedSession) -> Iterator[None]:
    """While the block runs, each `simulate` and `split_seeds` does as `session` asks."""
    _sessions.append(session)
    try:
        yield
    finally:
        _sessions.remove(session)
