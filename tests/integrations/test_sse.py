"""A saga's progress as server-sent events, over a real server."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import httpx
import pytest
from fastapi import FastAPI

from standfast import Context, Refused, Retry, Saga, Standfast, StandfastError, step
from standfast.errors import ConfigurationError, StoreUnavailable
from standfast.integrations.fastapi import AppDep
from standfast.integrations.sse import ProgressResponse
from standfast.integrations.starlette import answer_error
from standfast.resilience import Bulkhead
from standfast.saga import Change
from tests.saga.engine.world import until


class Trip(Saga[str]):
    """Waits in its second step until it is let go, then is refused and undone."""

    def __init__(self) -> None:
        self.go_on = asyncio.Event()

    @step
    async def flight(self, secret: str, ctx: Context) -> str:
        return f"ticket for {secret}"

    @flight.compensation
    async def cancel_flight(self, secret: str, ctx: Context) -> None: ...

    @step(timeout=None, retry=Retry(attempts=1))
    async def hotel(self, secret: str, ctx: Context) -> None:
        await self.go_on.wait()
        raise Refused(f"no room for {secret}")

    @hotel.compensation
    async def cancel_hotel(self, secret: str, ctx: Context) -> None: ...


class Scene:
    """A server of one saga, and its clients."""

    def __init__(self, app: Standfast, saga: Trip, web: httpx.AsyncClient) -> None:
        self.app = app
        self.saga = saga
        self.web = web

    async def start(self, key: str = "7") -> None:
        await self.app.start(Trip, "secret", key=key)

    async def end(self, key: str = "7") -> None:
        self.saga.go_on.set()
        handle = await self.app.saga(Trip, key)
        async for _ in self.app.progress(handle):
            pass

    @asynccontextmanager
    async def stream(self, key: str = "7", **headers: str) -> AsyncIterator[Any]:
        """A response, and its lines."""
        path = f"/trips/{key}/progress"
        async with self.web.stream("GET", path, headers=headers) as answer:
            answer.lines = answer.aiter_lines()
            yield answer

    async def events(self, key: str = "7", **headers: str) -> list[dict[str, Any]]:
        async with self.stream(key, **headers) as answer:
            assert answer.status_code == 200
            return [event async for event in events(answer.lines)]

    def followed(self) -> bool:
        return bool(self.app.sagas.executor.watchers._followers)


async def events(lines: AsyncIterator[str]) -> AsyncIterator[dict[str, Any]]:
    """The events of a stream, as the standard says: fields, and a blank line."""
    fields: dict[str, str] = {}
    async for line in lines:
        if line:
            name, _, value = line.partition(": ")
            fields[name] = value
        elif "data" in fields:
            yield {"id": int(fields.pop("id")), **json.loads(fields.pop("data"))}


@pytest.fixture
async def scene(serve) -> AsyncIterator[Callable[..., Any]]:
    async with AsyncExitStack() as stack:

        async def begin(**options: Any) -> Scene:
            saga = Trip()
            app = Standfast("memory://").add(saga)
            api = FastAPI(
                lifespan=app.lifespan(running=True, drain=0),
                exception_handlers={StandfastError: answer_error},
            )

            @api.get("/trips/{key}/progress")
            async def progress(key: str, app: AppDep) -> ProgressResponse:
                return ProgressResponse(app, await app.saga(Trip, key), **options)

            url = await stack.enter_async_context(serve(api))
            web = await stack.enter_async_context(httpx.AsyncClient(base_url=url, timeout=30))
            return Scene(app, saga, web)

        yield begin


async def test_it_streams_until_the_end(scene):
    here = await scene()
    await here.start()
    async with here.stream() as answer:
        assert answer.headers["Content-Type"] == "text/event-stream; charset=utf-8"
        assert answer.headers["Cache-Control"] == "no-store"
        told = events(answer.lines)
        first = await anext(told)
        here.saga.go_on.set()
        rest = [event async for event in told]
    whole = [entry for event in (first, *rest) for entry in event["entries"]]
    assert [entry["kind"] for entry in whole if entry["branch"] == "flight"] == [
        "step_completed",
        "compensation_completed",
    ]
    assert (rest[-1]["id"], rest[-1]["status"]) == (len(whole), "compensated")
    assert [event["at_rest"] for event in (first, *rest)] == [False] * len(rest) + [True]


async def test_by_default_it_tells_nothing_that_is_nobodys_business(scene):
    here = await scene()
    await here.start()
    await here.end()
    async with here.stream() as answer:
        assert "secret" not in (await answer.aread()).decode()
    operators = await scene(tell=Change.as_json)
    await operators.start()
    await operators.end()
    (event,) = await operators.events()
    assert event["cause"] == "hotel refused: no room for secret"
    assert event["entries"][0]["value"] == "secret"


async def answer_later() -> None: ...


async def respond(
    response: ProgressResponse,
    sent: list[Any],
    *,
    method: str = "GET",
    headers: tuple[tuple[bytes, bytes], ...] = (),
) -> None:
    """Answer a client that stays, by ASGI itself: what it is sent is added to `sent`."""

    async def receive() -> Any:
        await asyncio.Event().wait()

    async def send(message: Any) -> None:
        sent.append(message)

    await response({"type": "http", "method": method, "headers": [*headers]}, receive, send)


def not_json() -> dict[str, Callable[[Change], Any]]:
    return {
        "a change": lambda change: change,
        "its entries": lambda change: {"entries": change.entries},
        "an entry": lambda change: change.entries[0],
        "an error": lambda change: [ValueError("secret")],
        "bytes": lambda change: b"secret",
        "a set": lambda change: {"secret"},
        "a coroutine": lambda change: answer_later(),
        "a key": lambda change: {("secret",): 1},
        "no number": lambda change: float("nan"),
    }


@pytest.mark.parametrize("what", not_json())
async def test_what_is_not_json_is_never_told(what):
    app = Standfast("memory://").add(Trip())
    async with app:
        handle = await app.start(Trip, "secret")
        sent: list[Any] = []
        with pytest.raises(ConfigurationError, match="isn't JSON"):
            await respond(ProgressResponse(app, handle, tell=not_json()[what]), sent)
        assert sent == []  # so that the server can answer 500


async def test_an_id_is_told_as_text(scene):
    here = await scene(tell=lambda change: {"saga": change.id})
    await here.start()
    await here.end()
    (event,) = await here.events()
    assert event["saga"] == str((await here.app.saga(Trip, "7")).id)


def test_a_handle_that_was_not_awaited_is_refused():
    app = Standfast("memory://").add(Trip())
    with pytest.raises(ConfigurationError, match="write await"):
        ProgressResponse(app, app.saga(Trip, "7"))  # type: ignore[arg-type]


async def test_who_lost_the_connection_goes_on_where_he_was(scene):
    here = await scene()
    await here.start()
    async with here.stream() as answer:
        first = await anext(events(answer.lines))
    await here.end()
    rest = await here.events(**{"Last-Event-ID": str(first["id"])})
    (whole,) = await here.events()
    assert [*first["entries"], *(e for event in rest for e in event["entries"])] == whole["entries"]
    async with here.stream(**{"Last-Event-ID": str(whole["id"])}) as answer:
        assert answer.status_code == 204  # by which an EventSource asks no more
    of_another = str(whole["id"] + 1)
    for nonsense in ("x", "-1", "9" * 40, "", of_another):
        assert await here.events(**{"Last-Event-ID": nonsense}) == [whole]


async def test_an_id_that_it_has_not_come_to_counts_as_none(scene):
    here = await scene()
    await here.start()
    async with here.stream(**{"Last-Event-ID": "1000"}) as answer:
        coming = events(answer.lines)
        told = [await anext(coming)]
        await here.end()
        told += [event async for event in coming]
    (whole,) = await here.events()
    assert [entry for event in told for entry in event["entries"]] == whole["entries"]
    assert told[-1]["id"] == whole["id"]


async def test_a_comment_keeps_the_connection_alive(scene):
    here = await scene(heartbeat="10ms")
    await here.start()
    async with here.stream() as answer:
        lines = [line async for line in _until_beats(answer.lines, 2)]
    assert lines.count(": still here") == 2


async def _until_beats(lines: AsyncIterator[str], count: int) -> AsyncIterator[str]:
    async for line in lines:
        yield line
        count -= line.startswith(":")
        if not count:
            return


async def test_it_ends_when_its_client_goes_away(scene):
    here = await scene(heartbeat="1h")
    await here.start()
    async with here.stream() as answer:
        await anext(events(answer.lines))
        assert here.followed()
    await until(lambda: not here.followed())


async def test_there_are_no_more_than_are_allowed(scene):
    bulkhead = Bulkhead(1)
    here = await scene(bulkhead=bulkhead)
    await here.start()
    async with here.stream() as answer:
        await anext(events(answer.lines))
        async with here.stream() as other:
            assert (other.status_code, other.headers["Retry-After"]) == (503, "1")
    await until(lambda: not here.followed())
    await here.end()
    assert (await here.events())[-1]["at_rest"]


async def test_after_its_time_it_ends_without_an_end(scene):
    here = await scene(timeout="1ms")
    await here.start()
    assert [event["at_rest"] for event in await here.events()] == [False]


async def test_an_unknown_saga_is_not_found(scene):
    here = await scene()
    async with here.stream("8") as answer:
        assert answer.status_code == 404


async def test_while_the_database_is_away_it_ends_and_can_be_gone_on_with(scene, monkeypatch):
    here = await scene()
    await here.start()
    async with here.stream() as answer:
        told = events(answer.lines)
        first = await anext(told)
        whole = here.app.sagas.poller.whole

        async def away(id: Any) -> None:
            raise StoreUnavailable("it is away")

        monkeypatch.setattr(here.app.sagas.poller, "whole", away)
        here.saga.go_on.set()
        assert [event async for event in told] == []
        monkeypatch.setattr(here.app.sagas.poller, "whole", whole)
    await here.end()
    rest = await here.events(**{"Last-Event-ID": str(first["id"])})
    assert rest[-1]["at_rest"]


async def test_on_servers_that_raise_when_the_client_has_gone():
    saga = Trip()
    app = Standfast("memory://").add(saga)
    async with app.running(drain=0):
        handle = await app.start(Trip, "secret")
        sent: list[Any] = []

        async def receive() -> Any:
            await asyncio.Event().wait()

        async def send(message: Any) -> None:
            if message["type"] == "http.response.body":
                raise OSError("the client is gone")
            sent.append(message)

        scope = {"type": "http", "method": "GET", "headers": []}
        await ProgressResponse(app, handle)(scope, receive, send)
        assert [one["status"] for one in sent] == [200]
        assert not app.sagas.executor.watchers._followers


async def test_a_head_request_has_no_body():
    app = Standfast("memory://").add(Trip())
    async with app:
        handle = await app.start(Trip, "secret")
        sent: list[Any] = []
        await respond(ProgressResponse(app, handle), sent, method="HEAD")
        assert [one.get("body", b"") for one in sent] == [b"", b""]


async def test_one_that_waits_for_an_operator_may_be_asked_about_again():
    class Stays(Saga[str]):
        @step(retry=Retry(attempts=1), on_exhausted="park", no_compensation="nothing to undo")
        async def pay(self, secret: str, ctx: Context) -> None:
            raise RuntimeError("no answer")

    app = Standfast("memory://").add(Stays())
    async with app.running(drain=0):
        handle = await app.start(Stays, "secret")
        *_, last = [change async for change in app.progress(handle)]
        assert (last.status, last.at_rest) == ("parked", True)
        sent: list[Any] = []
        headers = ((b"last-event-id", str(last.number).encode()),)
        await respond(ProgressResponse(app, handle), sent, headers=headers)
    assert sent[0]["status"] == 200  # by 204 an EventSource would ask no more, and miss its end
    assert b'"at_rest":true' in sent[1]["body"]


@pytest.mark.parametrize(
    "options",
    [
        {"heartbeat": 0},
        {"heartbeat": "soon"},
        {"timeout": "late"},
        {"bulkhead": 7},
        {"tell": {"status": "told"}},
        {"tell": answer_later},
    ],
)
def test_wrong_options_are_refused(options):
    app = Standfast("memory://").add(Trip())
    with pytest.raises(ConfigurationError):
        ProgressResponse(app, "0190b3a0-0000-7000-8000-000000000000", **options)
