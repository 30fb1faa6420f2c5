"""A saga's progress as server-sent events, for Starlette and FastAPI.

::

    @api.get("/orders/{key}/progress")
    async def progress(key: str, shop: AppDep) -> ProgressResponse:
        return ProgressResponse(shop, await shop.saga(PlaceOrder, key))
"""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import AsyncGenerator, Callable
from contextlib import AbstractAsyncContextManager, aclosing, nullcontext, suppress
from typing import Any
from uuid import UUID

from standfast.app import Standfast
from standfast.checks import is_async, is_unawaited, provides
from standfast.durations import Duration, seconds, time_limit
from standfast.errors import ConfigurationError, StoreUnavailable
from standfast.lazy import extra
from standfast.saga import FINISHED, Change, SagaHandle
from standfast.text import class_of

with extra("starlette", of="asgi"):
    from starlette.responses import Response
    from starlette.types import Receive, Scope, Send

log = logging.getLogger("standfast.integrations")

_HEARTBEAT = b": still here\n\n"


def brief(change: Change) -> dict[str, Any]:
    """What is told of a change by default: what may be told to anybody.

    That is how the saga stands, and of each entry when it was, its kind, its step, its attempt and
    its mood. Not told are inputs, results, errors, names of people and what they wrote.
    """
    return {
        "status": change.status,
        "at_rest": change.at_rest,
        "entries": [
            {
                "at": entry.at,
                "kind": entry.kind,
                "branch": entry.branch,
                "attempt": entry.attempt,
                "mood": entry.mood,
            }
            for entry in change.entries
        ],
    }


class ProgressResponse(Response):
    """Streams a saga's progress as server-sent events, until it is at rest.

    Each event is a `Change`: its data is what `tell` makes of it, which must be plain JSON values
    (an id is told as text), and its id the number of facts. A browser's ``EventSource`` that lost
    its connection sends the last id it has seen (``Last-Event-ID``), and goes on from there: no
    entry is missed or told twice. One that the saga hasn't come to counts as none. The data of the
    last event has ``"at_rest": true``: close the ``EventSource`` then. One that comes back when the
    saga has ended and nothing is left to tell is answered with 204, and asks no more.

    A comment each `heartbeat` keeps the connection alive through proxies. It ends when the client
    goes away, after `timeout` (by default never), and when the database goes away: then the
    client comes back, and goes on. `bulkhead`, a `Bulkhead` say, is held for as long as it
    lasts, and bounds how many there are: its `Rejected` is answered by `answer_error`.

    Before anything is sent it raises what `Standfast.progress` raises, `SagaNotFound` say, and
    `ConfigurationError` for what `tell` makes that isn't JSON. Wrong options raise
    `ConfigurationError` at once.
    """

    media_type = "text/event-stream"

    def __init__(
        self,
        app: Standfast,
        saga: SagaHandle[Any] | UUID | str,
        *,
        tell: Callable[[Change], Any] = brief,
        heartbeat: Duration = "15s",
        timeout: Duration | None = None,
        bulkhead: AbstractAsyncContextManager[Any] | None = None,
    ) -> None:
        super().__init__(headers={"Cache-Control": "no-store", "X-Accel-Buffering": "no"})
        del self.headers["content-length"]
        if bulkhead is not None:
            provides(bulkhead, "__aenter__", "__aexit__", name="bulkhead", instead="Bulkhead(…), ")
        self._app = app
        self._saga = app.sagas.handle(saga)
        given: object = tell
        if not callable(given) or is_async(given):
            raise ConfigurationError(
                f"tell={tell!r}: give a plain function of a Change, such as Change.as_json"
            )
        self._tell = tell
        self._heartbeat = seconds(heartbeat, name="heartbeat")
        self._timeout = time_limit(timeout, name="timeout")
        self._bulkhead = bulkhead

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one client."""
        after = _last_event_id(scope)
        async with self._bulkhead or nullcontext():
            changes = self._app.progress(self._saga, after=after, timeout=self._timeout)
            async with aclosing(changes):
                first = await anext(changes)
                if after and first.status in FINISHED and not first.entries:
                    await Response(status_code=204)(scope, receive, send)
                    return
                told = self._event(first)  # while an error can still be answered
                start = {"status": self.status_code, "headers": self.raw_headers}
                await send({"type": "http.response.start", **start})
                with suppress(_Gone):
                    if scope["method"] != "HEAD":
                        await self._stream(told, changes, receive, send)
                    await _send(send, b"", more=False)

    async def _stream(
        self,
        event: bytes,
        changes: AsyncGenerator[Change, None],
        receive: Receive,
        send: Send,
    ) -> None:
        gone = asyncio.ensure_future(_leaves(receive))
        coming: asyncio.Future[Change | None] | None = None
        try:
            while True:
                await _send(send, event)
                coming = asyncio.ensure_future(_next(changes))
                while not coming.done():
                    await asyncio.wait(
                        (gone, coming),
                        timeout=self._heartbeat,
                        return_when=asyncio.FIRST_COMPLETED,
                    )
                    if gone.done():
                        return
                    if not coming.done():
                        await _send(send, _HEARTBEAT)
                if (change := coming.result()) is None:
                    return
                event = self._event(change)
        except StoreUnavailable as error:
            log.warning("the progress of saga %s can't be told further: %s", self._saga.id, error)
        finally:
            ending: list[asyncio.Future[Any]] = [gone] if coming is None else [gone, coming]
            for one in ending:
                one.cancel()
            # The generator can't be closed while somebody is still in it.
            await asyncio.gather(*ending, return_exceptions=True)

    def _event(self, change: Change) -> bytes:
        told = self._tell(change)
        try:
            data = json.dumps(told, separators=(",", ":"), default=_plain, allow_nan=False)
        except (TypeError, ValueError) as error:
            raise ConfigurationError(
                f"tell={self._tell!r} answered with {class_of(told)} that isn't JSON ({error}): "
                "answer with plain values of what may be told, as `brief` does, or give "
                "Change.as_json, which tells all"
            ) from error
        return f"id: {change.number}\ndata: {data}\n\n".encode()


def _plain(value: object) -> str:
    """An id as text. All else isn't told: the text of an object may hold what is nobody's business.

    Raises `TypeError`.
    """
    if isinstance(value, UUID):
        return str(value)
    is_unawaited(value)  # or Python warns of a coroutine
    raise TypeError(f"{class_of(value)} in it")


class _Gone(Exception):
    """The client went away."""


async def _send(send: Send, body: bytes, *, more: bool = True) -> None:
    try:
        await send({"type": "http.response.body", "body": body, "more_body": more})
    except OSError as error:  # so newer servers tell; others send it nowhere
        raise _Gone from error


async def _leaves(receive: Receive) -> None:
    """Return once the client has gone away."""
    while (await receive())["type"] != "http.disconnect":
        pass


async def _next(changes: AsyncGenerator[Change, None]) -> Change | None:
    return await anext(changes, None)


def _last_event_id(scope: Scope) -> int:
    """How many facts the client knows; 0 where it says nothing that could be so."""
    for name, value in scope["headers"]:
        if name == b"last-event-id" and value.isdigit() and len(value) < 18:
            return int(value)
    return 0
