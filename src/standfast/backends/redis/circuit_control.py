"""Circuit control through Redis: a hash of orders, and a channel on which changes are told."""

from __future__ import annotations

import json
import logging
from collections.abc import AsyncGenerator, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, cast

from redis import asyncio as redis

from standfast.backends.redis.errors import ERRORS, is_demoted, place_of, unavailable
from standfast.checks import text
from standfast.durations import Duration, seconds
from standfast.ports.circuit_control import Hint, Order

logger = logging.getLogger(__name__)


class RedisCircuitControl:
    """`CircuitControl` at `url` (``"redis://…"``).

    Orders stand in the hash ``<prefix>:circuits`` (field: name, value: ``open`` or ``close``), so
    that ``redis-cli HSET standfast:circuits payments open`` works too, at the next `refresh`. The
    channel of the same name tells changes at once, and carries hints. Orders live as long as the
    hash: a Redis that forgets them gives the breakers free.
    """

    def __init__(
        self,
        url: str,
        *,
        prefix: str = "standfast",
        refresh: Duration = "5s",
        timeout: Duration = "5s",
    ) -> None:
        self.place = place_of(url)
        self._refresh = seconds(refresh, name="refresh")
        limit = seconds(timeout, name="timeout")
        self._redis: Any = redis.Redis.from_url(
            url,
            decode_responses=True,
            # What others wrote there, whatever it is, is told and left out; it ends nothing.
            encoding_errors="backslashreplace",
            socket_timeout=limit,
            socket_connect_timeout=limit,
        )
        text(prefix, name="prefix")
        self._key = f"{prefix}:circuits"

    async def order(self, name: str, order: Order | None) -> None:
        """As `CircuitControl.order`; the change and the message are one transaction."""
        with self._errors():
            try:
                await self._write(name, order)
            except ERRORS as error:
                if not is_demoted(error):
                    raise
                # The address may lead to the new master by now; what follows the old one, too.
                await self._redis.connection_pool.disconnect()
                await self._write(name, order)

    async def _write(self, name: str, order: Order | None) -> None:
        async with self._redis.pipeline(transaction=True) as pipe:
            if order is None:
                pipe.hdel(self._key, name)
            else:
                pipe.hset(self._key, name, order)
            pipe.publish(self._key, "orders")
            await pipe.execute()

    async def orders(self) -> Mapping[str, Order]:
        """As `CircuitControl.orders`. A value that is no order is left out, with a warning."""
        with self._errors():
            found: dict[str, str] = await self._redis.hgetall(self._key)
        orders: dict[str, Order] = {}
        for name, value in found.items():
            if value in ("open", "close"):
                orders[name] = cast(Order, value)
            else:
                logger.warning("%s: %r for %r is no order", self._key, value, name)
        return orders

    async def hint(self, hint: Hint) -> None:
        """As `CircuitControl.hint`."""
        message = {"name": hint.name, "state": hint.state, "instance": hint.instance}
        with self._errors():
            await self._redis.publish(self._key, json.dumps(message))

    async def follow(self) -> AsyncGenerator[Hint | None, None]:
        """As `CircuitControl.follow`."""
        with self._errors():
            async with self._redis.pubsub(ignore_subscribe_messages=True) as channel:
                await channel.subscribe(self._key)
                yield None
                while True:
                    message = await channel.get_message(timeout=self._refresh)
                    yield None if message is None else _hint(message["data"])

    async def close(self) -> None:
        """Close the connections."""
        await self._redis.aclose()

    @contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except ERRORS as error:
            raise unavailable(
                self.place, "doesn't answer; calls go on without it", error
            ) from error


def _hint(text: str) -> Hint | None:
    if text == "orders":
        return None
    try:
        told = json.loads(text)
        if told["state"] not in ("open", "closed"):
            raise ValueError(told["state"])
        return Hint(str(told["name"]), told["state"], str(told["instance"]))
    except (ValueError, KeyError, TypeError):
        logger.warning("%r is no hint", text)
        return None
