"""The httpx transports against a real server."""

import asyncio

import httpx
import pytest
from starlette.applications import Starlette
from starlette.responses import PlainTextResponse
from starlette.routing import Route

from standfast.errors import CircuitOpen, RateLimited, TimedOut
from standfast.integrations.httpx import AsyncPolicyTransport, PolicyTransport
from standfast.resilience import Bulkhead, CircuitBreaker, Pipeline, Timeout
from standfast.resilience.backoff import Constant
from standfast.resilience.ratelimit import RateLimiter
from standfast.resilience.retry import Retry
from standfast.testing.manual_clock import ManualClock


class Flaky:
    """Answers what it is told to, in turn; the last for ever."""

    def __init__(self, *answers):
        self.answers = list(answers)
        self.bodies = []
        self.app = Starlette(routes=[Route("/", self.index, methods=["GET", "POST", "PUT"])])

    async def index(self, request):
        self.bodies.append((await request.body()).decode())
        status = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        status, headers = status if isinstance(status, tuple) else (status, {})
        return PlainTextResponse(f"call {len(self.bodies)}", status, headers)


def retry(attempts=4, **options):
    return Retry(attempts=attempts, backoff=Constant(0), **options)


@pytest.fixture(params=["sync", "async"])
def ask(request):
    """Make one request through a policy, with either kind of client."""

    async def ask(policy, method, url, **options):
        kind = {name: options.pop(name) for name in ("is_failure",) if name in options}
        if request.param == "async":
            transport = AsyncPolicyTransport(policy, **kind)
            async with httpx.AsyncClient(mounts={"http://127.0.0.1": transport}) as client:
                return await client.request(method, url, **options)

        def blocking():
            transport = PolicyTransport(policy, **kind)
            with httpx.Client(mounts={"http://127.0.0.1": transport}) as client:
                return client.request(method, url, **options)

        return await asyncio.to_thread(blocking)

    return ask


async def test_failures_are_retried_until_it_works(serve, ask):
    flaky = Flaky(500, 429, 503, 200)
    async with serve(flaky.app) as url:
        answer = await ask(retry(), "GET", url)
    assert (answer.status_code, answer.text) == (200, "call 4")


async def test_the_last_response_is_returned_not_lost(serve, ask):
    flaky = Flaky(500, 502, 503)
    async with serve(flaky.app) as url:
        answer = await ask(retry(3), "GET", url)
    assert (answer.status_code, answer.text) == (503, "call 3")


async def test_retry_after_is_honoured(serve, ask):
    clock = ManualClock(auto=True)
    flaky = Flaky((429, {"Retry-After": "7"}), 200)
    async with serve(flaky.app) as url:
        answer = await ask(retry(clock=clock), "GET", url)
    assert answer.status_code == 200
    assert clock.slept == [7.0]


@pytest.mark.parametrize("status", [400, 404, 501])
async def test_what_is_no_failure_of_the_server_is_not_retried(serve, ask, status):
    flaky = Flaky(status)
    async with serve(flaky.app) as url:
        assert (await ask(retry(), "GET", url)).status_code == status
    assert len(flaky.bodies) == 1


async def test_another_predicate(serve, ask):
    flaky = Flaky(404, 200)
    async with serve(flaky.app) as url:
        answer = await ask(retry(), "GET", url, is_failure=lambda r: r.status_code == 404)
    assert answer.status_code == 200


@pytest.mark.parametrize(
    ("method", "status", "headers", "calls"),
    [
        ("POST", 503, {}, 1),
        ("POST", 503, {"Idempotency-Key": "x"}, 4),
        ("POST", 429, {}, 4),
        ("PUT", 503, {}, 4),
    ],
)
async def test_only_what_may_be_repeated_is(serve, ask, method, status, headers, calls):
    flaky = Flaky(status)
    async with serve(flaky.app) as url:
        answer = await ask(retry(), method, url, content="body", headers=headers)
    assert answer.status_code == status
    assert flaky.bodies == ["body"] * calls


async def test_a_streamed_body_is_sent_once(serve):
    async def body():
        yield b"once"

    flaky = Flaky(503)
    async with (
        serve(flaky.app) as url,
        httpx.AsyncClient(transport=AsyncPolicyTransport(retry())) as client,
    ):
        answer = await client.put(url, content=body())
    assert (answer.status_code, flaky.bodies) == (503, ["once"])


async def test_a_server_that_is_away(ask):
    with pytest.raises(httpx.ConnectError):
        await ask(retry(2), "POST", "http://127.0.0.1:9")


async def test_a_rejection_comes_through(serve):
    flaky = Flaky(200)
    transport = AsyncPolicyTransport(RateLimiter(1, "1h"))
    async with serve(flaky.app) as url, httpx.AsyncClient(transport=transport) as client:
        assert (await client.get(url)).status_code == 200
        with pytest.raises(RateLimited):
            await client.get(url)
    assert len(flaky.bodies) == 1


async def test_responses_before_the_last_are_closed():
    """So that their connections go back to the pool: here one connection is all there is."""
    flaky = Flaky(500, 500, 500, 200)
    closed = []

    class Body(httpx.AsyncByteStream):
        async def __aiter__(self):
            yield b""

        async def aclose(self):
            closed.append(True)

    class Inner(httpx.AsyncBaseTransport):
        async def handle_async_request(self, request):
            return httpx.Response(flaky.answers.pop(0), stream=Body())

    transport = AsyncPolicyTransport(retry(), Inner())
    answer = await transport.handle_async_request(httpx.Request("GET", "http://x"))
    assert answer.status_code == 200
    assert closed == [True] * 3


async def test_a_pipeline_opens_its_breaker_and_the_server_is_left_alone(serve, ask):
    flaky = Flaky(503)
    breaker = CircuitBreaker(consecutive_failures=3, wait="1h")
    client = Pipeline(Timeout("30s"), retry(5, never_on=(CircuitOpen,)), breaker, Bulkhead(5))
    async with serve(flaky.app) as url:
        with pytest.raises(CircuitOpen):
            await ask(client, "GET", url)
        with pytest.raises(CircuitOpen) as caught:
            await ask(client, "GET", url)
    assert len(flaky.bodies) == 3
    assert 3500 < caught.value.retry_after <= 3600


async def test_a_pipeline_bounds_the_time_of_a_request(serve, ask):
    released = asyncio.Event()

    async def stuck(request):
        await released.wait()
        return PlainTextResponse("late")

    async with serve(Starlette(routes=[Route("/", stuck)])) as url:
        try:
            with pytest.raises(TimedOut):
                await ask(Pipeline(Timeout("200ms"), retry(5)), "GET", url)
        finally:
            released.set()


async def test_a_judge_that_fails_says_nothing_of_the_server(serve, ask):
    """It comes out as it is, once, and opens no breaker; the bodies of answers aren't there yet."""
    flaky = Flaky(200)
    breaker = CircuitBreaker(failure_rate=None, consecutive_failures=1)
    async with serve(flaky.app) as url:
        for _ in range(2):
            with pytest.raises(httpx.ResponseNotRead) as raised:
                await ask(
                    Pipeline(retry(), breaker), "GET", url, is_failure=lambda answer: answer.json()
                )
            assert "before its body is read" in "".join(raised.value.__notes__)
    assert len(flaky.bodies) == 2
    assert (breaker.failures, breaker.state.value) == (0, "closed")


class Noting(httpx.MockTransport):
    """Notes how it is entered, used, left and closed."""

    def __init__(self):
        super().__init__(self.answer)
        self.log = []

    def answer(self, request):
        self.log.append("request")
        return httpx.Response(200)

    def __enter__(self):
        self.log.append("enter")
        return self

    def __exit__(self, *raised):
        self.log.append("exit")

    async def __aenter__(self):
        return self.__enter__()

    async def __aexit__(self, *raised):
        self.__exit__()


async def test_the_transport_inside_is_entered_and_left():
    inner = Noting()
    with httpx.Client(transport=PolicyTransport(retry(), inner)) as client:
        client.get("http://shop")
    assert inner.log == ["enter", "request", "exit"]
    inner = Noting()
    async with httpx.AsyncClient(transport=AsyncPolicyTransport(retry(), inner)) as client:
        await client.get("http://shop")
    assert inner.log == ["enter", "request", "exit"]
