"""The port through which operators hold circuit breakers everywhere, and instances warn each other.

Orders last: whoever joins later sees them. Hints are said once, to those who listen. Neither is
needed by any call: a store that is away changes nothing for breakers but that orders wait.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping
from dataclasses import dataclass
from typing import Literal, Protocol, TypeAlias

Order: TypeAlias = Literal["open", "close"]

EVERY = "*"
"""The name that stands for every breaker. An order for one name goes before it."""


@dataclass(frozen=True, slots=True)
class Hint:
    """What an instance found out by itself: the breaker `name` opened, or closed after probes."""

    name: str
    state: Literal["open", "closed"]
    instance: str


class CircuitControl(Protocol):
    """Every method raises `StoreUnavailable` when the store is away."""

    async def order(self, name: str, order: Order | None) -> None:
        """Hold the breakers called `name` (`EVERY`: all) open or closed; None ends that order.

        Durable as the store is. All who `follow` hear of it.
        """
        ...

    async def orders(self) -> Mapping[str, Order]:
        """All orders, by name."""
        ...

    async def hint(self, hint: Hint) -> None:
        """Tell those who listen now. At most once: it may be lost."""
        ...

    def follow(self) -> AsyncGenerator[Hint | None, None]:
        """Hints as they come, and None whenever `orders` may have changed.

        The first is None, as soon as nothing can be missed; further ones come at least every few
        seconds, so that a lost message does no lasting harm.
        """
        ...

    async def close(self) -> None:
        """Let go of connections."""
        ...
