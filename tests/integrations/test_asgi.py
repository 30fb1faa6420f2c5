"""The ASGI middlewares in FastAPI and Starlette, on a real server, asked by a real client."""

import asyncio
from contextlib import asynccontextmanager

import httpx
import pytest
from fastapi import BackgroundTasks, FastAPI
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.responses import PlainTextResponse
from starlette.routing import Route

from standfast.backends.redis import RedisRateLimits
from standfast.errors import BulkheadFull, ConfigurationError, StoreUnavailable
from standfast.integrations.asgi import (
    BulkheadMiddleware,
    RateLimitMiddleware,
    by_header,
    client_address,
)
from standfast.integrations.problems import later
from standfast.integrations.rejections import Check
from standfast.resilience import Bulkhead, RateLimiter


def fastapi(middleware, *args, **options):
    app = FastAPI()

    @app.get("/")
    async def index() -> str:
        return "hello"

    app.add_middleware(middleware, *args, **options)
    return app


def starlette(middleware, *args, **options):
    async def index(request):
        return PlainTextResponse("hello")

    return Starlette(
        routes=[Route("/", index)], middleware=[Middleware(middleware, *args, **options)]
    )


FRAMEWORKS = pytest.mark.parametrize("framework", [fastapi, starlette])


@FRAMEWORKS
async def test_429_with_retry_after_and_the_ietf_fields(serve, framework):
    limiter = RateLimiter(2, "1h", name="api")
    async with serve(framework(RateLimitMiddleware, limiter)) as url, httpx.AsyncClient() as client:
        first, second, third = [await client.get(url) for _ in range(3)]
    assert [first.status_code, second.status_code, third.status_code] == [200, 200, 429]
    assert first.headers["RateLimit-Policy"] == '"api";q=2;w=3600'
    assert first.headers["RateLimit"] == '"api";r=1;t=1800'
    assert "Retry-After" not in first.headers
    assert third.headers["RateLimit"].startswith('"api";r=0;t=')
    assert 1700 < int(third.headers["Retry-After"]) <= 1800
    assert third.headers["Content-Type"] == "application/problem+json"
    wait = int(third.headers["Retry-After"])
    assert third.json() == {
        "type": "about:blank",
        "title": "Too Many Requests",
        "status": 429,
        "detail": f"Try again in {wait} s.",
    }


@pytest.mark.parametrize(
    ("version", "fields"),
    [
        (
            "draft-10",
            {"ratelimit-policy": '"default";q=2;w=3600', "ratelimit": '"default";r=1;t=1800'},
        ),
        (
            "draft-07",
            {"ratelimit-policy": "2;w=3600", "ratelimit": "limit=2, remaining=1, reset=1800"},
        ),
        (
            "draft-06",
            {
                "ratelimit-policy": "2;w=3600",
                "ratelimit-limit": "2",
                "ratelimit-remaining": "1",
                "ratelimit-reset": "1800",
            },
        ),
        ("none", {}),
    ],
)
async def test_versions_of_the_fields(serve, version, fields):
    app = starlette(RateLimitMiddleware, RateLimiter(2, "1h"), headers=version)
    async with serve(app) as url, httpx.AsyncClient() as client:
        headers = (await client.get(url)).headers
    assert {name: value for name, value in headers.items() if "ratelimit" in name} == fields


async def test_the_fields_hold_what_of_a_name_they_can():
    limiter = RateLimiter(2, "1h", name='a "b"\\ é\n~')
    check = Check(limiter, key=client_address, headers="draft-10", cost=1)
    _, fields = await check.ask({"client": ("192.0.2.1", 1)})
    assert dict(fields)[b"ratelimit"] == b'"a b ~";r=1;t=1800'
    assert await check.ask({"client": None}) is None


def test_an_unknown_version_is_refused():
    with pytest.raises(ConfigurationError, match="headers='rfc': choose one of draft-10"):
        RateLimitMiddleware(None, RateLimiter(1), headers="rfc")


class Away:
    """A store that is."""

    async def check(self, requests):
        raise StoreUnavailable("gone")


@pytest.mark.parametrize(
    ("version", "fields"),
    [
        ("draft-10", {"ratelimit-policy": '"api";q=2;w=3600'}),
        ("draft-07", {"ratelimit-policy": "2;w=3600"}),
        ("draft-06", {"ratelimit-policy": "2;w=3600", "ratelimit-limit": "2"}),
        ("none", {}),
    ],
)
@pytest.mark.parametrize(("policy", "status"), [("allow", 200), ("deny", 429)])
async def test_while_the_store_is_away_the_fields_tell_only_what_is_known(
    serve, policy, status, version, fields
):
    limiter = RateLimiter(2, "1h", store=Away(), name="api", on_store_failure=policy)
    app = starlette(RateLimitMiddleware, limiter, headers=version)
    async with serve(app) as url, httpx.AsyncClient() as client:
        answer = await client.get(url)
    assert answer.status_code == status
    told = {name: value for name, value in answer.headers.items() if "ratelimit" in name}
    assert told == fields


@pytest.mark.parametrize("cost", [0, -1, 3, "1", True])
def test_a_cost_that_can_never_pass_is_refused_when_built(cost):
    with pytest.raises(ConfigurationError, match=f"cost={cost!r}: must be "):
        RateLimitMiddleware(None, RateLimiter(2), cost=cost)


def test_a_key_that_is_no_function_is_refused_when_built():
    with pytest.raises(ConfigurationError, match="key='X-API-Key': give a function of the scope"):
        RateLimitMiddleware(None, RateLimiter(2), key="X-API-Key")


@pytest.mark.parametrize("answer", [7, b"ann", ("a", "b")])
async def test_a_key_that_is_no_text(answer):
    async def key(scope):
        return answer

    middleware = RateLimitMiddleware(None, RateLimiter(2), key=key)
    with pytest.raises(ConfigurationError, match=r"its key function answered .*, or None for no"):
        await middleware({"type": "http"}, None, None)


async def test_any_header_value_is_a_key(serve, redis_url):
    """Long ones and odd ones too, in a store on a server."""
    async with RedisRateLimits(redis_url) as store, httpx.AsyncClient() as client:
        limiter = RateLimiter(1, "1h", store=store, name="api", on_store_failure="deny")
        app = fastapi(RateLimitMiddleware, limiter, key=by_header("X-API-Key"))
        async with serve(app) as url:
            for key in (b"x" * 8000, b"\xff\xfe", b"ann"):
                answers = [await client.get(url, headers=[(b"x-api-key", key)]) for _ in range(2)]
                assert [answer.status_code for answer in answers] == [200, 429]


async def test_clients_by_header(serve):
    app = fastapi(RateLimitMiddleware, RateLimiter(1, "1h"), key=by_header("X-API-Key"))
    async with serve(app) as url, httpx.AsyncClient() as client:
        keys = ["a", "a", "b", None, None]
        answers = [await client.get(url, headers={"x-api-key": key} if key else {}) for key in keys]
    assert [answer.status_code for answer in answers] == [200, 429, 200, 200, 429]


async def test_clients_by_a_function(serve):
    async def tenant(scope):
        return None if scope["path"] == "/health" else "all"

    app = starlette(RateLimitMiddleware, RateLimiter(1, "1h"), key=tenant)
    async with serve(app) as url, httpx.AsyncClient() as client:
        paths = ["/", "/", "/health", "/health"]
        answers = [await client.get(url + path) for path in paths]
    assert [answer.status_code for answer in answers] == [200, 429, 404, 404]
    assert "RateLimit" not in answers[2].headers


async def test_two_servers_share_a_limit_through_redis(serve, redis_url):
    async with RedisRateLimits(redis_url) as store, httpx.AsyncClient() as client:
        apps = [
            fastapi(
                RateLimitMiddleware,
                RateLimiter(10, "1h", store=store, name="api", on_store_failure="allow"),
            )
            for _ in range(2)
        ]
        async with serve(apps[0]) as one, serve(apps[1]) as two:
            answers = await asyncio.gather(*(client.get(url) for url in [one, two] * 10))
    assert sorted(answer.status_code for answer in answers) == [200] * 10 + [429] * 10


def full(retry_after):
    @asynccontextmanager
    async def never():
        raise BulkheadFull("full", retry_after=retry_after)
        yield

    class Full:
        """Any number of entries, all refused."""

        async def __aenter__(self):
            return await never().__aenter__()

        async def __aexit__(self, *args):
            raise AssertionError("was never entered")

    return Full()


@FRAMEWORKS
@pytest.mark.parametrize(("retry_after", "told"), [(None, "1"), (2.2, "3")])
async def test_503_when_the_bulkhead_is_full(serve, framework, retry_after, told):
    app = framework(BulkheadMiddleware, full(retry_after))
    async with serve(app) as url, httpx.AsyncClient() as client:
        answer = await client.get(url)
    assert answer.status_code == 503
    assert answer.headers["Content-Type"] == "application/problem+json"
    assert (answer.json()["title"], answer.json()["status"]) == ("Service Unavailable", 503)
    assert answer.headers["Retry-After"] == told


def test_a_retry_after_that_is_no_duration_is_refused_when_built():
    with pytest.raises(ConfigurationError, match="retry_after='soon'"):
        BulkheadMiddleware(None, Bulkhead(1), retry_after="soon")


async def test_the_slot_is_held_until_the_response_is_complete(serve):
    inside, leave = asyncio.Event(), asyncio.Event()
    app = FastAPI()

    @app.get("/slow")
    async def slow() -> str:
        inside.set()
        await leave.wait()
        return "done"

    app.add_middleware(BulkheadMiddleware, Bulkhead(1))
    async with serve(app) as url, httpx.AsyncClient(timeout=30) as client:
        first = asyncio.create_task(client.get(url + "/slow"))
        await inside.wait()
        assert (await client.get(url + "/slow")).status_code == 503
        leave.set()
        assert (await first).status_code == 200
        assert (await client.get(url + "/slow")).status_code == 200


async def test_the_bulkhead_is_left_when_the_response_is_complete(serve):
    """And not when what follows it is: Starlette's background tasks."""
    ended = asyncio.Event()
    app = FastAPI()

    @app.get("/")
    async def index(tasks: BackgroundTasks) -> str:
        tasks.add_task(ended.wait)
        return "done"

    app.add_middleware(BulkheadMiddleware, Bulkhead(1))
    async with serve(app) as url, httpx.AsyncClient(timeout=30) as client:
        for _ in range(3):
            assert (await client.get(url)).status_code == 200
        ended.set()


async def test_a_rejection_inside_the_application_is_its_own_affair():
    async def app(scope, receive, send):
        raise BulkheadFull("inner")

    with pytest.raises(BulkheadFull, match="inner"):
        await BulkheadMiddleware(app, Bulkhead(1))({"type": "http"}, None, None)


async def test_a_denied_websocket_is_closed_before_it_is_accepted():
    async def app(scope, receive, send):
        await receive()
        await send({"type": "websocket.accept"})

    middleware = RateLimitMiddleware(app, RateLimiter(1, "1h", name="ws"))
    scope = {"type": "websocket", "client": ("10.0.0.1", 1), "headers": []}
    sent = []

    async def receive():
        return {"type": "websocket.connect"}

    async def send(message):
        sent.append(message)

    await middleware(scope, receive, send)
    await middleware(scope, receive, send)
    assert [message["type"] for message in sent] == ["websocket.accept", "websocket.close"]
    assert sent[0]["headers"][1] == (b"ratelimit", b'"ws";r=0;t=3600')
    assert sent[1]["code"] == 1013


async def test_lifespan_passes():
    seen = []

    async def app(scope, receive, send):
        seen.append(scope["type"])

    for middleware in (
        RateLimitMiddleware(app, RateLimiter(1)),
        BulkheadMiddleware(app, Bulkhead(1)),
    ):
        await middleware({"type": "lifespan"}, None, None)
    assert seen == ["lifespan", "lifespan"]


@pytest.mark.parametrize(
    ("host", "key"),
    [
        ("192.0.2.1", "client:192.0.2.1"),
        ("2001:db8:1:2:3:4:5:6", "client:2001:db8:1:2::/64"),
        ("2001:DB8:1:2::9", "client:2001:db8:1:2::/64"),
        ("2001:db8:1:3::9", "client:2001:db8:1:3::/64"),
        ("fe80::1%eth0", "client:fe80::/64"),
        ("::ffff:192.0.2.1", "client:192.0.2.1"),
        ("unix:", "client:unix:"),
        ("testclient", "client:testclient"),
    ],
)
def test_who_has_an_ipv6_address_has_its_network(host, key):
    assert client_address({"client": (host, 1)}) == key
    assert by_header("X-API-Key")({"client": (host, 1), "headers": []}) == key


def test_how_much_of_an_ipv6_address_counts_is_an_option():
    scope = {"client": ("2001:db8:1:234::9", 1)}
    assert client_address(scope, ipv6_prefix=56) == "client:2001:db8:1:200::/56"
    assert client_address(scope, ipv6_prefix=128) == "client:2001:db8:1:234::9/128"
    assert client_address({}, ipv6_prefix=56) is None
    for wrong in (0, 129):
        with pytest.raises(ConfigurationError, match=f"ipv6_prefix={wrong}"):
            client_address({"client": ("192.0.2.1", 1)}, ipv6_prefix=wrong)


@pytest.mark.parametrize(
    ("wait", "told"), [(1800.0000000001, b"1800"), (1800.1, b"1801"), (0.0, b"1"), (None, b"1")]
)
def test_a_wait_is_told_in_whole_seconds_and_no_second_for_an_error_of_rounding(wait, told):
    fields = later(429, wait).headers(b"")
    assert dict(fields)[b"retry-after"] == told
