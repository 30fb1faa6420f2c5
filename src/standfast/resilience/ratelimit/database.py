"""Rate limits counted in an app's own database."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

from standfast.errors import ConfigurationError
from standfast.ports.database import Database
from standfast.ports.rate_limit import RateLimitStore, RateRequest
from standfast.rates import Decision


class HasDatabase(Protocol):
    """An app, as far as this needs one."""

    @property
    def database(self) -> Database:
        """Its database."""
        ...


class DatabaseRateLimits:
    """A `RateLimitStore` in the database of the app that it is added to.

    ::

        limits = DatabaseRateLimits()
        app = Standfast("postgresql://…").add(PlaceOrder(…), limits)
        limiter = RateLimiter(100, "1s", store=limits, name="api", on_store_failure="allow")

    Its table is made by ``standfast migrate``. It counts while the app is open. Adding it raises
    `Unsupported` for a database that can't count rates; PostgreSQL can.
    """

    ports: Sequence[type] = (RateLimitStore,)

    def __init__(self) -> None:
        self._store: RateLimitStore | None = None

    def attach(self, host: HasDatabase) -> None:
        """See `Pattern.attach`."""
        self._store = host.database.port(RateLimitStore)

    def add(self, part: Any) -> None:
        """Nothing can be added to it."""
        raise ConfigurationError(f"add({part!r}): rate limits take no parts")

    async def open(self) -> None:
        """See `Pattern.open`."""

    async def close(self) -> None:
        """See `Pattern.close`."""

    def services(self, options: object) -> Sequence[Any]:
        """None."""
        return ()

    async def check(self, requests: Sequence[RateRequest]) -> list[Decision]:
        """See `RateLimitStore.check`. Raises `ConfigurationError` before it is added to an app."""
        if self._store is None:
            raise ConfigurationError("these rate limits belong to no app: app.add(limits) first")
        return await self._store.check(requests)
