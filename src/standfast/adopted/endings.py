"""The end of a transaction of which the driver tells nobody."""

from __future__ import annotations

from collections.abc import Callable


class Unknown:
    """An `Ending` that nobody here learns of: workers learn of the commit from the database."""

    known = False
    over = False

    def add(self, act: Callable[[], None], /) -> None:
        """See `Ending.add`: never called."""
