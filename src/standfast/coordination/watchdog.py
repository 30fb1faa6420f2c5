"""A thread that sees when the event loop is blocked, and says by what."""

from __future__ import annotations

import asyncio
import logging
import threading
import time

from standfast.coordination.stacks import where_thread

log = logging.getLogger("standfast.coordination.watchdog")


class Watchdog:
    """Watches the event loop of a worker whose lease lasts `lease` seconds.

    A loop that hasn't run for a quarter of it is told in the log, with the code that holds it up,
    and again for every `lease` that it goes on.
    """

    def __init__(self, lease: float) -> None:
        self._lease = lease
        self._stopped = threading.Event()
        self._unanswered: float | None = None
        """Since when the loop owes an answer, in monotonic seconds."""
        self._blocked: tuple[float, float] | None = None
        """When the loop was last blocked until, in monotonic seconds, and for how long."""

    @property
    def blocked_for(self) -> float:
        """For how many seconds the loop hasn't run, as far as is known. Any thread may ask.

        Up to an eighth of the lease passes before a loop that blocks is known to.
        """
        since = self._unanswered
        return 0.0 if since is None else time.monotonic() - since

    def blocked_lately(self) -> float:
        """For how many seconds the loop was blocked until just now, a quarter of a lease ago at
        most; 0 if it wasn't for so long as to be told.
        """
        if self._blocked is None:
            return 0.0
        until, lasted = self._blocked
        return lasted if time.monotonic() - until < self._lease / 4 else 0.0

    def start(self, loop: asyncio.AbstractEventLoop) -> None:
        """Begin to watch the loop of the calling thread."""
        watch = threading.Thread(
            target=self._watch,
            args=(loop, threading.get_ident()),
            name="standfast-watchdog",
            daemon=True,
        )
        watch.start()

    def stop(self) -> None:
        """Ask the thread to exit; it isn't joined."""
        self._stopped.set()

    def _watch(self, loop: asyncio.AbstractEventLoop, thread: int) -> None:
        ran = threading.Event()

        def answer() -> None:
            asked, self._unanswered = self._unanswered, None
            if asked is not None:
                now = time.monotonic()
                if now - asked >= self._lease / 4:
                    self._blocked = now, now - asked
            ran.set()

        while not self._stopped.wait(self._lease / 8):
            ran.clear()
            asked = self._unanswered = time.monotonic()
            try:
                loop.call_soon_threadsafe(answer)
            except RuntimeError:  # the loop is closed
                self._unanswered = None
                return
            patience = self._lease / 4
            while not ran.wait(patience) and not self._stopped.is_set():
                log.error(
                    "the event loop hasn't run for %.1f s; after %g s the lease may be lost. Move "
                    "blocking code to asyncio.to_thread. It is here:\n%s",
                    time.monotonic() - asked,
                    self._lease / 2,
                    where_thread(thread),
                )
                patience = self._lease
