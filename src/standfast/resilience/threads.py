"""A plain call in a thread of its own, for who must be able to stop waiting for it."""

from __future__ import annotations

import contextvars
import logging
import queue
import threading
from collections.abc import Callable, Mapping
from typing import Any

from standfast.clock import SYSTEM_CLOCK, Clock
from standfast.resilience.policy import Call

_log = logging.getLogger("standfast.resilience")

# How often another clock than the system's is looked at, in real seconds.
_POLL = 0.001


class RunningCall:
    """A call that runs in its thread until it is done, whoever waits."""

    __slots__ = ("_done", "_error", "_lock", "_on_end", "_value")

    def __init__(self) -> None:
        self._done = threading.Event()
        self._value: Any = None
        self._error: BaseException | None = None
        self._lock = threading.Lock()
        self._on_end: list[Callable[[RunningCall], None]] = []

    def run(self, call: Call, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
        """Make the call and keep its outcome. Runs in the thread."""
        try:
            self._value = call(*args, **kwargs)
        except BaseException as error:  # noqa: BLE001 - raised again by result(), or logged
            self._error = error
        with self._lock:
            self._done.set()
            waiting = tuple(self._on_end)
        for callback in waiting:
            callback(self)

    @property
    def done(self) -> bool:
        """Whether it has ended."""
        return self._done.is_set()

    @property
    def error(self) -> BaseException | None:
        """What it raised, if it is done and did."""
        return self._error

    def wait_until(self, deadline: float, clock: Clock) -> bool:
        """Wait until it is done or `clock` reaches `deadline`; True if it was done in time."""
        if clock is SYSTEM_CLOCK:
            return self._done.wait(max(0.0, deadline - clock.monotonic())) or self.done
        while not self._done.wait(_POLL):
            if clock.monotonic() >= deadline:
                return False
        return clock.monotonic() < deadline

    def result(self) -> Any:
        """What the call returned; raises what it raised."""
        if self._error is not None:
            try:
                raise self._error
            finally:
                self._error = None  # or the traceback and this object would hold each other
        return self._value

    def when_done(self, callback: Callable[[RunningCall], None]) -> None:
        """Call `callback` when it ends: at once if it has ended, else in its thread."""
        with self._lock:
            if not self.done:
                self._on_end.append(callback)
                return
        callback(self)


class Abandoned:
    """Counts the calls that still run though nobody waits for them any more."""

    __slots__ = ("_lock", "count")

    def __init__(self) -> None:
        self.count: int = 0
        self._lock = threading.Lock()

    def note(self, running: RunningCall) -> None:
        """Count `running` until it ends, unless it has."""
        if not running.done:
            with self._lock:
                self.count += 1
            running.when_done(self._ended)

    def _ended(self, running: RunningCall) -> None:
        with self._lock:
            self.count -= 1
        if running.error is not None:
            _log.info("a call that nobody waited for any more failed", exc_info=running.error)


def start(
    call: Call, args: tuple[Any, ...], kwargs: Mapping[str, Any], *, name: str
) -> RunningCall:
    """Make `call` in a daemon thread with a copy of this context."""
    running = RunningCall()
    context = contextvars.copy_context()
    threading.Thread(
        target=context.run, args=(running.run, call, args, kwargs), name=name, daemon=True
    ).start()
    return running


def next_ended(
    ended: queue.SimpleQueue[RunningCall], deadline: float | None, clock: Clock
) -> RunningCall | None:
    """The next call that has ended, or None when `clock` reaches `deadline`."""
    while True:
        left = None if deadline is None else max(0.0, deadline - clock.monotonic())
        if left is not None and clock is not SYSTEM_CLOCK:
            left = min(left, _POLL)
        try:
            return ended.get(timeout=left)
        except queue.Empty:
            if deadline is not None and clock.monotonic() >= deadline:
                return None
