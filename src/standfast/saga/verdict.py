"""What a waiter makes of what it finds stored: the saga has ended, or it goes on waiting.

Pure: a `Sight` of the instance makes a `Verdict`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, NamedTuple, TypeAlias

from standfast.durations import human, moment
from standfast.saga.active import Active

Verdict: TypeAlias = Literal["ended", "stuck", "unreadable", "wait"]
"""``ended``: its outcome is what the journal says. ``stuck``: an operator must decide.
``unreadable``: it is at rest, and this process can't read its journal. ``wait``: it moves, or will.
"""


class Sight(NamedTuple):
    """The inputs of `judge`: what a waiter read from the store, of an instance at rest by its row.

    `finished`: by its row, it has ended. `readable`: this process can fold its journal. `by_fact`:
    the journal says the same as the row; otherwise it was put aside, since it couldn't be run, and
    no fact tells of it. `runnable_here`: it was put aside, is due, and there is a worker here that
    has its version. `spoken_to`: a worker has it, or there is mail that makes one take it.
    """

    finished: bool
    readable: bool
    by_fact: bool = True
    runnable_here: bool = False
    spoken_to: bool = False


def judge(sight: Sight) -> Verdict:
    """The verdict on what was seen."""
    if sight.finished:
        return "ended" if sight.readable else "unreadable"
    if sight.spoken_to or sight.runnable_here:
        return "wait"
    return "stuck" if sight.readable else "unreadable"


@dataclass(slots=True)
class Seen:
    """What somebody who waits for a result has seen so far, for the case that it takes too long.

    `status` is "" before the first look. `here`: the instance, if it is run in this very
    process. `lacks_worker`: no live worker has its saga in its version. `full`: why those that have
    it don't take it, "" where they do. `away`: what the database said, if it doesn't answer.
    """

    name: str = ""
    version: int = 0
    key: str = ""
    status: str = ""
    here: Active | None = None
    lacks_worker: bool = False
    full: str = ""
    away: str = ""

    def too_long(self, id: object, limit: float, still_at: float | None = None) -> str:
        """Why there is no result after `limit` seconds, and what to do.

        `still_at`: the time, where it stands still until a test moves it.
        """
        what = f"saga {self.name!r} with key {self.key!r}" if self.name else f"saga {id}"
        if self.here is not None:
            what = f"saga {self.here.definition.name!r} with key {self.here.machine.started.key!r}"
            stands = f"it is {self.here.machine.status} in this process"
            if running := ", ".join(sorted(self.here.machine.running)):
                stands += f", in step {running}"
        else:
            unknown = "the database didn't answer" if limit else "no time was left to ask"
            stands = f"it is {self.status}" if self.status else unknown
            if self.lacks_worker:
                stands += f", and {self.nobody}"
            elif self.full:
                stands += f", and waits for a slot: {self.full}"
        if self.away:
            stands += f", and the database doesn't answer: {self.away}"
        if still_at is not None:
            stands += (
                f", and time stands still at {moment(still_at)} until the test moves it, by "
                "`await standfast_clock.advance(…)`"
            )
        return (
            f"{what} didn't end within {human(limit)}: {stands} (see `standfast sagas show {id}`)"
        )

    @property
    def nobody(self) -> str:
        """That nobody runs it, and the remedy."""
        return (
            f"no live worker has version {self.version} of saga {self.name!r}: `standfast run` an "
            "app that has it"
        )
