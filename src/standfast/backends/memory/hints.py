"""Callbacks that are told soon, on the event loop, of what was committed."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Generic, ParamSpec

log = logging.getLogger("standfast.memory")
P = ParamSpec("P")


class Hints(Generic[P]):
    """Those who asked to be told of one kind of thing."""

    def __init__(self) -> None:
        self._callbacks: list[Callable[P, None]] = []

    def subscribe(self, callback: Callable[P, None]) -> Callable[[], None]:
        """Tell `callback` from now on. Returns a function that ends it."""
        self._callbacks.append(callback)

        def unsubscribe() -> None:
            if callback in self._callbacks:
                self._callbacks.remove(callback)

        return unsubscribe

    def clear(self) -> None:
        """End all subscriptions."""
        self._callbacks.clear()

    def tell(self, *args: P.args, **kwargs: P.kwargs) -> None:
        """Call back, soon."""
        if self._callbacks:
            asyncio.get_running_loop().call_soon(lambda: self._call(*args, **kwargs))

    def _call(self, *args: P.args, **kwargs: P.kwargs) -> None:
        for callback in tuple(self._callbacks):
            try:
                callback(*args, **kwargs)
            except Exception:
                # Its own fault, and no reason to leave the others without hints.
                log.exception("a callback for hints failed")
