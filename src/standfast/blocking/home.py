"""The thread of its own in which an app is open for the sync code of its process."""

from __future__ import annotations

import threading
from contextlib import AbstractAsyncContextManager, ExitStack
from contextvars import Context
from typing import Any

from standfast.affinity import BLOCKING_THREAD, Affinity
from standfast.blocking.blocks import Block
from standfast.blocking.calls import carry_out


class Home:
    """A thread with an event loop, in which `app` is open until `close`.

    Raises what opening the app raises.
    """

    def __init__(self, app: AbstractAsyncContextManager[Any]) -> None:
        from anyio.from_thread import start_blocking_portal

        self._app = Block(app)
        with ExitStack() as stack:
            portal = stack.enter_context(start_blocking_portal("asyncio"))
            self._place = portal.call(_named_place)
            # It lives for longer than the call that happens to be the first, with its deadline.
            Context().run(carry_out, self._place, self._app.enter())
            self._closing = stack.pop_all()

    def close(self) -> None:
        """Close the app, and end the thread."""
        with self._closing:
            carry_out(self._place, self._app.leave(None))


def _named_place() -> Affinity:
    threading.current_thread().name = BLOCKING_THREAD
    return Affinity("app.blocking")


def keep_for_ever(*things: object) -> None:
    """Never finalize these, and what they hold, in a process that has them from its parent.

    Their finalizers would speak to what both have: take a socket out of the one epoll, or wake up
    a loop, that the parent works with.
    """
    import ctypes

    for thing in things:
        ctypes.pythonapi.Py_IncRef(ctypes.py_object(thing))
