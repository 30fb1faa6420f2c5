"""How the ``def`` functions of sagas are run, such that the engine can await them as all others."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any, Protocol, TypeAlias

from standfast.errors import Rejected
from standfast.stepping import Complete, step

AsyncFunction: TypeAlias = Callable[..., Coroutine[Any, Any, Any]]
MakeBlocking: TypeAlias = Callable[[Any, Complete], Any]
"""Makes, of an open transaction, the one that ``def`` code is given: see `Host`."""
RunInThread: TypeAlias = Callable[[Callable[[], None]], None]
MakeForThread: TypeAlias = Callable[[Any, Complete, RunInThread], Any]
"""As `MakeBlocking`, for code that runs in a thread."""


class Awaitables(Protocol):
    """What turns the ``def`` functions of one saga into such that are awaited."""

    def awaited(self, function: Callable[..., Any], *, transactional: bool) -> AsyncFunction:
        """What calls `function`, on the same arguments, when it is awaited.

        One that is `transactional` is given the blocking form of its last, the transaction.
        """
        ...


class Blocking(Protocol):
    """Where ``def`` functions run."""

    def share(self, saga: str, limit: int | None) -> Awaitables:
        """What the saga of that name has of it: `limit` calls at once, or any number."""
        ...


class InLine:
    """Runs ``def`` functions where they are awaited, so that nothing else goes on meanwhile.

    For simulations, where all that happens must happen in the same order each time.
    """

    def __init__(self, blocking: MakeBlocking) -> None:
        self._blocking = blocking

    def share(self, saga: str, limit: int | None) -> Awaitables:
        """See `Blocking.share`: one at a time runs anyway."""
        return self

    def awaited(self, function: Callable[..., Any], *, transactional: bool) -> AsyncFunction:
        """See `Awaitables.awaited`."""

        async def in_line(*args: Any) -> Any:
            if transactional:
                args = (*args[:-1], self._blocking(args[-1], step))
            return function(*args)

        return in_line


class NotBegun(asyncio.CancelledError):
    """A call was cancelled while it waited for a thread, so that it had no effect."""


def not_begun(error: BaseException) -> bool:
    """Whether a timeout struck while its call waited for a thread."""
    # As it is on Python 3.11, or with a `TimeoutError` around it.
    return isinstance(error, NotBegun) or isinstance(error.__cause__, NotBegun)


def no_thread(timeout: float) -> Rejected:
    """The error for a call that no thread was free for within `timeout` seconds, to be raised."""
    return Rejected(
        f"no thread was free for it within {timeout:g} s: raise threads= of app.running(…), or of "
        "the saga"
    )
