"""How a caller learns that an answer is a substitute.

::

    with collect_degraded() as degraded:
        page = await render(user)
    if degraded:
        response.headers["Warning"] = '110 - "Response is Stale"'

Tasks and threads that copy the context write to the same list.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, slots=True)
class Degraded:
    """One answer that was a substitute.

    `policy` is the name of the `Fallback`, `source` tells where the answer came from, `age` is how
    old it is in seconds (0 unless it is a last good one), `error` is why it was needed.
    """

    policy: str
    source: Literal["value", "function", "last good"]
    age: float
    error: Exception


_COLLECTED: ContextVar[tuple[list[Degraded], ...]] = ContextVar("standfast_degraded", default=())


@contextmanager
def collect_degraded() -> Iterator[list[Degraded]]:
    """A list of every substitute answer given inside, also to collectors around this one."""
    collected: list[Degraded] = []
    around = _COLLECTED.get()
    _COLLECTED.set((*around, collected))
    try:
        yield collected
    finally:
        _COLLECTED.set(around)


def note(degraded: Degraded) -> None:
    """Tell all collectors."""
    for collected in _COLLECTED.get():
        collected.append(degraded)
