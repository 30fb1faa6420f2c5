"""Rejections in FastAPI and Starlette: the exception handler and the dependency."""

import inspect
import subprocess
import sys

import httpx
import pytest
from fastapi import APIRouter, Depends, FastAPI, Response, WebSocket
from fastapi.responses import PlainTextResponse
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.routing import Route
from starlette.websockets import WebSocketDisconnect

from standfast.errors import BulkheadFull, CircuitOpen, ConfigurationError, RateLimited, Rejected
from standfast.integrations.asgi import by_header
from standfast.integrations.starlette import RateLimit, answer_rejection
from standfast.resilience import Bulkhead, CircuitBreaker, Pipeline, RateLimiter, Retry, Timeout


def fastapi():
    app = FastAPI()
    app.add_exception_handler(Rejected, answer_rejection)
    return app


async def test_a_limited_route_is_429(serve):
    app = fastapi()

    @app.get("/orders/{number}")
    @RateLimiter(1, "1h", name="orders")
    async def order(number: int) -> dict[str, int]:
        return {"number": number}

    async with serve(app) as url, httpx.AsyncClient() as client:
        first, second = [await client.get(f"{url}/orders/7") for _ in range(2)]
    assert (first.status_code, first.json()) == (200, {"number": 7})
    assert second.status_code == 429
    assert second.headers["Content-Type"] == "application/problem+json"
    assert 3500 < int(second.headers["Retry-After"]) <= 3600
    assert second.json() == {
        "type": "about:blank",
        "title": "Too Many Requests",
        "status": 429,
        "detail": f"Try again in {second.headers['Retry-After']} s.",
    }


async def test_a_limited_plain_route_is_429(serve):
    app = fastapi()

    @app.get("/")
    @RateLimiter(1, "1h")
    def index() -> str:
        return "hello"

    async with serve(app) as url, httpx.AsyncClient() as client:
        assert [(await client.get(url)).status_code for _ in range(2)] == [200, 429]


@pytest.mark.parametrize(
    ("error", "status", "wait"),
    [
        (CircuitOpen("breaker 'payments' of 10.0.0.7 is open", retry_after=12.2), 503, "13"),
        (BulkheadFull("full"), 503, "1"),
        (RateLimited("of key 'sk-secret'", retry_after=0.01), 429, "1"),
        (RateLimited("never", retry_after=float("inf")), 429, "1"),
    ],
)
async def test_rejections_by_kind_tell_nothing_of_their_text(serve, error, status, wait):
    async def index(request: Request) -> None:
        raise error

    app = Starlette(routes=[Route("/", index)], exception_handlers={Rejected: answer_rejection})
    async with serve(app) as url, httpx.AsyncClient() as client:
        answer = await client.get(url)
    assert (answer.status_code, answer.headers["Retry-After"]) == (status, wait)
    assert answer.json()["status"] == status
    assert not any(word in answer.text for word in ("10.0.0.7", "payments", "secret"))


async def test_an_open_breaker_is_503(serve):
    app = fastapi()
    breaker = CircuitBreaker(consecutive_failures=1, wait="1h")

    @app.get("/")
    @breaker
    async def index() -> str:
        raise OSError("down")

    transport = httpx.ASGITransport(app, raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport, base_url="http://shop") as client:
        assert [(await client.get("/")).status_code for _ in range(2)] == [500, 503]


async def test_what_is_no_rejection_is_not_answered():
    with pytest.raises(KeyError):
        await answer_rejection(Request({"type": "http"}), KeyError("x"))


@pytest.mark.parametrize("handler", [True, False], ids=["with the handler", "without"])
async def test_the_dependency(serve, handler):
    app = fastapi() if handler else FastAPI()
    limit = RateLimit(RateLimiter(2, "1h", name="search"), key=by_header("X-API-Key"))

    @app.get("/search", dependencies=[Depends(limit)])
    async def search() -> str:
        return "found"

    async with serve(app) as url, httpx.AsyncClient() as client:
        keys = ["ann", "ann", "ann", "bob"]
        answers = [await client.get(f"{url}/search", headers={"X-API-Key": key}) for key in keys]
    assert [answer.status_code for answer in answers] == [200, 200, 429, 200]
    assert answers[0].headers["RateLimit-Policy"] == '"search";q=2;w=3600'
    assert answers[0].headers["RateLimit"] == '"search";r=1;t=1800'
    denied = answers[2]
    assert denied.headers["RateLimit"].startswith('"search";r=0;t=')
    assert 1700 < int(denied.headers["Retry-After"]) <= 1800
    assert (denied.headers["Content-Type"] == "application/problem+json") == handler
    assert denied.headers.get_list("Retry-After") == [denied.headers["Retry-After"]]


async def test_the_dependency_of_a_router_and_its_decision(serve):
    app = fastapi()
    limit = RateLimit(RateLimiter(3, "1h"), cost=2, key=lambda scope: "all")
    router = APIRouter(dependencies=[Depends(limit)])

    @router.get("/own")
    async def own() -> Response:
        return PlainTextResponse("own")

    @app.get("/left")
    async def left(decision=Depends(RateLimit(RateLimiter(5, "1h")))) -> int:  # noqa: B008
        return decision.remaining

    app.include_router(router)
    async with serve(app) as url, httpx.AsyncClient() as client:
        assert [(await client.get(f"{url}/own")).status_code for _ in range(2)] == [200, 429]
        assert (await client.get(f"{url}/left")).json() == 4


async def test_no_key_is_no_limit(serve):
    app = fastapi()
    limit = RateLimit(RateLimiter(1, "1h"), key=lambda scope: None)

    @app.get("/")
    async def index(decision=Depends(limit)) -> bool:  # noqa: B008
        return decision is None

    async with serve(app) as url, httpx.AsyncClient() as client:
        answers = [await client.get(url) for _ in range(3)]
    assert [answer.json() for answer in answers] == [True] * 3


@pytest.mark.parametrize("handler", [True, False], ids=["with the handler", "without"])
async def test_a_denied_websocket(handler):
    app = fastapi() if handler else FastAPI()

    @app.websocket("/", dependencies=[Depends(RateLimit(RateLimiter(1, "1h")))])
    async def talk(socket: WebSocket) -> None:
        await socket.accept()
        await socket.close()

    async def connect():
        sent = []

        async def receive():
            return {"type": "websocket.connect"}

        async def send(message):
            sent.append(message)

        scope = {
            "type": "websocket",
            "path": "/",
            "headers": [],
            "query_string": b"",
            "client": ("10.0.0.7", 7),
            "subprotocols": [],
            "extensions": {"websocket.http.response": {}},
        }
        await app(scope, receive, send)
        return sent

    assert (await connect())[0]["type"] == "websocket.accept"
    denied = (await connect())[0]
    if handler:
        assert (denied["type"], denied["code"]) == ("websocket.close", 1013)
    else:
        assert (denied["type"], denied["status"]) == ("websocket.http.response.start", 429)


@pytest.mark.parametrize("ended", ["by the route", "by the client"])
async def test_a_websocket_that_is_closed_already_is_left_alone(ended):
    app, sent = fastapi(), []
    incoming = iter(["websocket.connect", "websocket.disconnect"])

    @app.websocket("/")
    async def talk(socket: WebSocket) -> None:
        await socket.accept()
        if ended == "by the route":
            await socket.close()
        else:
            with pytest.raises(WebSocketDisconnect):
                await socket.receive_text()
        raise BulkheadFull("late")

    async def receive():
        return {"type": next(incoming), "code": 1001}

    async def send(message):
        sent.append(message["type"])

    scope = {
        "type": "websocket",
        "path": "/",
        "headers": [],
        "query_string": b"",
        "subprotocols": [],
    }
    await app(scope, receive, send)
    assert sent == ["websocket.accept", "websocket.close"][: 2 if ended == "by the route" else 1]


@pytest.mark.parametrize(
    "policy",
    [RateLimiter(2, "1h"), Bulkhead(2), CircuitBreaker(), Timeout(1), Retry(), Pipeline(Retry())],
    ids=lambda policy: type(policy).__name__,
)
def test_a_policy_as_a_dependency_is_refused_when_the_route_is_added(policy):
    with pytest.raises(ConfigurationError, match=r"write Depends\(RateLimit\(RateLimiter\(…\)\)\)"):
        fastapi().get("/", dependencies=[Depends(policy)])(lambda: 1)


def test_the_class_as_a_dependency_is_refused_when_the_route_is_added():
    with pytest.raises(ConfigurationError, match=r"is a class: write Depends\(RateLimit\("):
        fastapi().get("/", dependencies=[Depends(RateLimit)])(lambda: 1)


def test_the_dependency_as_a_decorator_is_refused_when_it_decorates():
    with pytest.raises(ConfigurationError, match=r"is no decorator.*: write Depends\(RateLimit\("):

        @RateLimit(RateLimiter(1, "1h"))
        async def index() -> int:
            return 1


def test_a_policy_tells_its_signature_to_others():
    assert list(inspect.signature(Retry()).parameters) == ["function"]


def test_bad_options_are_refused_when_built():
    limiter = RateLimiter(2)
    with pytest.raises(ConfigurationError, match="cost=3"):
        RateLimit(limiter, cost=3)
    with pytest.raises(ConfigurationError, match="headers='rfc'"):
        RateLimit(limiter, headers="rfc")


@pytest.mark.parametrize(
    ("module", "driver", "remedy"),
    [
        ("standfast.integrations.httpx", "httpx", "pip install httpx, or install standfast with"),
        ("standfast.integrations.grpc", "grpc", "pip install grpcio, or install standfast with"),
        ("standfast.integrations.starlette", "starlette", "with its extra `asgi`"),
        ("standfast.backends.redis", "redis", "pip install redis, or install standfast with"),
        ("standfast.backends.postgres", "asyncpg", "pip install asyncpg, or install standfast"),
    ],
)
def test_a_missing_package_is_named_with_the_remedy(module, driver, remedy):
    code = (
        f"import sys; sys.modules[{driver!r}] = None\n"
        f"try:\n    import {module}\n"
        "except ModuleNotFoundError as error:\n    print(error.name, error)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.startswith(driver), done.stderr
    assert remedy in done.stdout


def test_an_integration_that_lacks_something_else_says_so():
    code = (
        "import sys; sys.modules['httpcore'] = None; sys.modules['httpx'] = None\n"
        "from standfast.lazy import extra\n"
        "try:\n"
        "    with extra('httpx'):\n"
        "        import nowhere_to_be_found\n"
        "except ModuleNotFoundError as error:\n    print(error)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "No module named 'nowhere_to_be_found'"
