"""A store that doesn't answer: it is told once that it is away, and once that it is back."""

from __future__ import annotations

from standfast.clock import Clock
from standfast.durations import human


class Outage:
    """Whether one of those who ask the store gets answers.

    An outage may last for hours, and each asks again and again meanwhile: only its beginning and
    its end are news.
    """

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._since: float | None = None

    def failed(self) -> bool:
        """Note that the store didn't answer; whether that is news."""
        if self._since is not None:
            return False
        self._since = self._clock.monotonic()
        return True

    def over(self) -> str:
        """Note that it answered; for how long it hadn't, as text, "" if it had all along."""
        since, self._since = self._since, None
        return "" if since is None else human(self._clock.monotonic() - since)
