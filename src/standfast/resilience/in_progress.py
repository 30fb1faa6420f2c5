"""What a transport knows about the call that policies make through it.

A policy stands around a function and can't see what that has sent. A transport (of httpx, of gRPC)
can: it says here whether the call in progress may be made once more, and what tells it from others.
`Retry` and `Hedge` ask before they make another attempt, `Fallback` before it keeps an answer.

It travels in a context variable, so that a policy in another task or thread sees it too. While the
transport itself is at work it is out of sight: what that calls is another matter.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Protocol


class CallInProgress(Protocol):
    """A call that a transport makes under a policy."""

    def may_repeat(self) -> bool:
        """Whether another attempt can't do more than the ones so far have done."""
        ...

    def identity(self) -> Hashable:
        """What its answer depends on. Who asks keeps answers: from now on they are made to last."""
        ...


IN_PROGRESS: ContextVar[CallInProgress | None] = ContextVar(
    "standfast_call_in_progress", default=None
)


def may_repeat() -> bool:
    """Whether the call in progress may be made once more, as far as its transport says."""
    call = IN_PROGRESS.get()
    return call is None or call.may_repeat()


@contextmanager
def out_of_sight() -> Iterator[None]:
    """For what is called instead of the call in progress: it is another one."""
    call = IN_PROGRESS.get()
    IN_PROGRESS.set(None)
    try:
        yield
    finally:
        IN_PROGRESS.set(call)
