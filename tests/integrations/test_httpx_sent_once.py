"""What isn't idempotent is sent once, whatever ended the wait; and every response finds its end."""

import asyncio
import gzip
import threading
import time

import httpx
import pytest

from standfast.errors import CircuitOpen, ConfigurationError, TimedOut
from standfast.integrations.http_exchange import (
    IDEMPOTENT,
    Exchange,
    FailedResponse,
    Judge,
    server_failed,
)
from standfast.integrations.httpx import AsyncPolicyTransport, PolicyTransport
from standfast.resilience import (
    CircuitBreaker,
    Fallback,
    Hedge,
    LastGood,
    Pipeline,
    RateLimiter,
    Retry,
    RetryBudget,
    Timeout,
)
from standfast.resilience.backoff import Constant
from standfast.resilience.policy import Policy

PATIENCE = 10.0


class Body(httpx.SyncByteStream, httpx.AsyncByteStream):
    """Counts how often it is closed."""

    def __init__(self, content=b"hello"):
        self.content = content
        self.closed = 0

    def __iter__(self):
        yield self.content

    async def __aiter__(self):
        yield self.content

    def close(self):
        self.closed += 1

    async def aclose(self):
        self.closed += 1


class Server(httpx.BaseTransport, httpx.AsyncBaseTransport):
    """A transport that counts what is sent, and answers each request as `plan` says.

    A number is a status, an exception is raised, and `HANGS` answers 200 once `release` is called.
    """

    HANGS = object()

    def __init__(self, *plan):
        self.plan = list(plan)
        self.sent = 0
        self.bodies = []
        self.released = threading.Event()
        self.cancelled = 0

    def _next(self):
        self.sent += 1
        return self.plan.pop(0) if len(self.plan) > 1 else self.plan[0]

    def _answer(self, what):
        if isinstance(what, Exception):
            raise what
        self.bodies.append(Body())
        return httpx.Response(200 if what is self.HANGS else what, stream=self.bodies[-1])

    def handle_request(self, request):
        what = self._next()
        if what is self.HANGS:
            assert self.released.wait(PATIENCE), "nobody released it"
        return self._answer(what)

    async def handle_async_request(self, request):
        what = self._next()
        try:
            async with asyncio.timeout(PATIENCE):
                while what is self.HANGS and not self.released.is_set():
                    await asyncio.sleep(0.001)
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        return self._answer(what)

    def leaks(self):
        """Responses that were never closed."""
        return sum(not body.closed for body in self.bodies)


@pytest.fixture(params=["sync", "async"])
def ask(request):
    """Make one request through a policy, with either kind of client; its response, or its error."""

    async def ask(policy, server, method="POST", *, options=None, **given):
        async def asynchronous():
            transport = AsyncPolicyTransport(policy, server, **(options or {}))
            async with httpx.AsyncClient(transport=transport) as client:
                return await client.request(method, "http://shop/charge", **given)

        def blocking():
            transport = PolicyTransport(policy, server, **(options or {}))
            with httpx.Client(transport=transport) as client:
                return client.request(method, "http://shop/charge", **given)

        async with asyncio.timeout(PATIENCE):
            try:
                if request.param == "async":
                    return await asynchronous()
                return await asyncio.to_thread(blocking)
            except Exception as error:
                return error
            finally:
                server.released.set()

    ask.kind = request.param
    return ask


def retry(attempts=3, **options):
    return Retry(attempts=attempts, backoff=Constant(0), **options)


def hedge(delay=0.02):
    return Hedge(delay, budget=RetryBudget(1))


KEY = {"Idempotency-Key": "order-7"}


class Stubborn(Policy):
    """Somebody's own: makes each call twice, and asks nobody."""

    def around(self, call):
        def twice(*args, **kwargs):
            try:
                return call(*args, **kwargs)
            except Exception:
                return call(*args, **kwargs)

        return twice

    def around_async(self, call):
        async def twice(*args, **kwargs):
            try:
                return await call(*args, **kwargs)
            except Exception:
                return await call(*args, **kwargs)

        return twice


# -- once ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "policy",
    [
        lambda: Pipeline(retry(), Timeout(0.05)),
        lambda: Pipeline(retry(), hedge(5), Timeout(0.05)),
        lambda: Pipeline(Stubborn(), Timeout(0.05)),
    ],
    ids=["retry", "retry and hedge", "another's"],
)
async def test_a_post_that_timed_out_is_not_sent_again(ask, policy):
    server = Server(Server.HANGS)
    error = await ask(policy(), server)
    assert isinstance(error, TimedOut)
    assert server.sent == 1


async def test_a_hedge_makes_no_second_call_of_a_post(ask):
    server = Server(Server.HANGS)
    policy = hedge()
    threading.Timer(0.2, server.released.set).start()
    assert (await ask(policy, server)).status_code == 200
    assert (server.sent, policy.launched) == (1, 0)


async def test_a_retry_by_result_sends_no_post_again(ask):
    server = Server(202)
    policy = retry(on_result=lambda response: response.status_code == 202)
    assert (await ask(policy, server)).status_code == 202
    assert server.sent == 1


@pytest.mark.parametrize(
    "error", [httpx.ReadTimeout("slow"), httpx.ReadError("gone"), OSError("a foreign transport's")]
)
async def test_a_post_whose_answer_was_lost_is_not_sent_again(ask, error):
    server = Server(error)
    assert await ask(retry(), server) is error
    assert server.sent == 1


async def test_no_retry_around_the_client_sends_it_again():
    server = Server(Server.HANGS)
    transport = AsyncPolicyTransport(Timeout(0.05), server)
    async with asyncio.timeout(PATIENCE), httpx.AsyncClient(transport=transport) as client:
        with pytest.raises(TimedOut):
            await retry().call(client.post, "http://shop/charge")
        server.plan = [Server.HANGS]
        with pytest.raises(TimedOut):  # by a timeout outside, which cancels what is inside
            await Pipeline(retry(), Timeout(0.02)).call(client.post, "http://shop/charge")
    assert server.sent == 2


@pytest.mark.parametrize(
    ("method", "given", "options"),
    [
        ("GET", {}, {}),
        ("POST", {"headers": KEY}, {}),
        ("POST", {}, {"idempotent": ["post"]}),
    ],
)
async def test_what_may_be_repeated_is(ask, method, given, options):
    server = Server(Server.HANGS, Server.HANGS, 200)
    policy = Pipeline(retry(), Timeout(0.05))
    answer = await ask(policy, server, method, options=options, **given)
    assert answer.status_code == 200
    assert server.sent == 3


async def test_a_method_that_is_not_listed_is_sent_once(ask):
    server = Server(503)
    assert (await ask(retry(), server, "GET", options={"idempotent": []})).status_code == 503
    assert server.sent == 1


@pytest.mark.parametrize("error", [httpx.ConnectError("no"), httpx.PoolTimeout("full")])
async def test_what_was_not_sent_is_tried_again(ask, error):
    server = Server(error, error, 201)
    assert (await ask(retry(), server)).status_code == 201


async def test_after_429_it_may_be_sent_again_but_only_until_it_may_have_been_received(ask):
    server = Server(429, httpx.ReadError("gone"), 200)
    assert isinstance(await ask(retry(5), server), httpx.ReadError)
    assert server.sent == 2


@pytest.mark.parametrize("status", [429, 503])
async def test_a_streamed_body_is_sent_once(ask, status):
    def chunks():
        yield b"once"

    async def chunks_async():
        yield b"once"

    body = chunks() if ask.kind == "sync" else chunks_async()
    server = Server(status)
    assert (await ask(retry(), server, "PUT", content=body)).status_code == status
    assert server.sent == 1


async def test_a_streamed_body_is_not_hedged(ask):
    def chunks():
        yield b"once"

    async def chunks_async():
        yield b"once"

    body = chunks() if ask.kind == "sync" else chunks_async()
    server = Server(Server.HANGS)
    threading.Timer(0.1, server.released.set).start()
    assert (await ask(hedge(), server, "PUT", content=body)).status_code == 200
    assert server.sent == 1


async def test_the_breaker_inside_counts_one_failure_of_one_request(ask):
    breaker = CircuitBreaker(consecutive_failures=2)
    server = Server(Server.HANGS)
    await ask(Pipeline(retry(), breaker, Timeout(0.05)), server)
    assert breaker.state.value == "closed"


async def test_what_is_called_inside_the_transport_may_be_repeated(ask):
    """Another call, of which this request's fate says nothing: a token that is fetched, say."""
    fetched = []

    def fetch():
        fetched.append(1)
        if len(fetched) < 3:
            raise OSError("not yet")
        return "token"

    async def fetch_async():
        return fetch()

    class Authorising(Server):
        def handle_request(self, request):
            retry().call(fetch)
            return httpx.Response(200)

        async def handle_async_request(self, request):
            await retry().call(fetch_async)
            return httpx.Response(200)

    assert (await ask(retry(), Authorising())).status_code == 200
    assert len(fetched) == 3


def test_bad_options_are_refused():
    async def failed(response):
        return True

    for kind in (PolicyTransport, AsyncPolicyTransport):
        with pytest.raises(ConfigurationError, match=r"is_failure=.* is async.*: give a function"):
            kind(retry(), Server(200), is_failure=failed)
        with pytest.raises(ConfigurationError, match="idempotent='GET': give a list of methods"):
            kind(retry(), Server(200), idempotent="GET")


# -- every response is closed that the caller doesn't get ---------------------------------------


async def test_failures_before_the_last_answer_are_closed(ask):
    server = Server(503, 500, 200)
    assert (await ask(retry(), server, "GET")).status_code == 200
    assert (server.sent, server.leaks()) == (3, 0)


async def test_a_failure_is_closed_when_an_error_comes_out_instead(ask):
    server = Server(503)
    policy = Pipeline(retry(never_on=(CircuitOpen,)), CircuitBreaker(consecutive_failures=1))
    error = await ask(policy, server, "GET")
    assert isinstance(error, CircuitOpen)
    assert (server.sent, server.leaks()) == (1, 0)


async def test_a_failure_is_closed_when_a_substitute_comes_out(ask):
    server = Server(503)
    answer = await ask(Fallback(httpx.Response(200, text="for now")), server, "GET")
    assert answer.text == "for now"
    assert (server.sent, server.leaks()) == (1, 0)


async def test_an_answer_is_closed_when_it_can_not_be_judged(ask):
    def judge(response):
        raise KeyError("a mistake")

    server = Server(200)
    assert isinstance(await ask(retry(1), server, options={"is_failure": judge}), KeyError)
    assert server.leaks() == 0


async def test_an_answer_that_a_policy_refuses_is_closed(ask):
    class Picky(Policy):
        def around(self, call):
            def picky(*args):
                call(*args)
                raise ValueError("not good enough")

            return picky

        def around_async(self, call):
            async def picky(*args):
                await call(*args)
                raise ValueError("not good enough")

            return picky

    server = Server(200)
    assert isinstance(await ask(Picky(), server), ValueError)
    assert server.leaks() == 0


async def test_the_answer_of_a_hedges_loser_is_closed(ask):
    server = Server(Server.HANGS, 200)
    assert (await ask(hedge(), server, "GET")).status_code == 200
    assert server.sent == 2
    await eventually(lambda: server.cancelled == 1 or len(server.bodies) == 2)
    await eventually(lambda: server.leaks() == 0)


async def test_two_answers_in_the_same_moment_one_is_closed():
    """Both tasks of a hedge are done before it looks."""
    both = asyncio.Event()
    bodies = []

    class Inner(httpx.AsyncBaseTransport):
        async def handle_async_request(self, request):
            bodies.append(Body())
            mine = bodies[-1]
            if len(bodies) == 2:
                both.set()
            async with asyncio.timeout(PATIENCE):
                await both.wait()
            return httpx.Response(200, stream=mine)

    async with httpx.AsyncClient(transport=AsyncPolicyTransport(hedge(), Inner())) as client:
        answer = await client.get("http://shop")
        assert answer.text == "hello"
    assert [body.closed > 0 for body in bodies] == [True, True]


def test_the_answer_of_an_abandoned_thread_is_closed():
    server = Server(Server.HANGS)
    with httpx.Client(transport=PolicyTransport(Timeout(0.05), server)) as client:
        with pytest.raises(TimedOut):
            client.get("http://shop")
        server.released.set()
        deadline = time.monotonic() + PATIENCE
        while not server.bodies or server.leaks():
            assert time.monotonic() < deadline, "the late answer was never closed"
            time.sleep(0.001)


async def test_the_answer_of_one_that_resists_cancellation_is_closed():
    bodies = []

    class Resists(httpx.AsyncBaseTransport):
        async def handle_async_request(self, request):
            try:
                await asyncio.sleep(PATIENCE)
            except asyncio.CancelledError:
                pass
            bodies.append(Body())
            return httpx.Response(200, stream=bodies[-1])

    async with httpx.AsyncClient(transport=AsyncPolicyTransport(hedge(), Resists())) as client:
        asking = asyncio.create_task(client.get("http://shop"))
        await asyncio.sleep(0.05)
        asking.cancel()
        await asyncio.wait((asking,), timeout=PATIENCE)
        await eventually(lambda: len(bodies) == 2)
        await eventually(lambda: all(body.closed for body in bodies))


async def test_cancelled_while_losers_are_closed_everything_is_closed():
    """Also the answer, which the caller doesn't get then."""
    closing = asyncio.Event()
    bodies = []

    class Slow(Body):
        async def aclose(self):
            closing.set()
            await asyncio.sleep(0 if self.closed else 0.05)
            self.closed += 1

    class Twice(Policy):
        """Makes two calls, and answers with the second."""

        def around_async(self, call):
            async def twice(request):
                await call(request)
                await call(request)
                return await call(request)

            return twice

    class Inner(httpx.AsyncBaseTransport):
        async def handle_async_request(self, request):
            bodies.append(Slow() if len(bodies) == 0 else Body())
            return httpx.Response(200, stream=bodies[-1])

    async with httpx.AsyncClient(transport=AsyncPolicyTransport(Twice(), Inner())) as client:
        asking = asyncio.create_task(client.get("http://shop"))
        async with asyncio.timeout(PATIENCE):
            await closing.wait()
        asking.cancel()
        await asyncio.wait((asking,), timeout=PATIENCE)
    assert asking.cancelled()
    assert len(bodies) == 3
    assert all(body.closed for body in bodies[1:])


async def test_a_response_that_does_not_close_fails_nothing(ask):
    class Broken(Body):
        def close(self):
            raise OSError("broken")

        async def aclose(self):
            raise OSError("broken")

    server = Server(503, 200)
    good = server._answer

    def answer(what):
        if what != 503:
            return good(what)
        return httpx.Response(503, stream=Broken())

    server._answer = answer
    assert (await ask(retry(2), server, "GET")).status_code == 200
    assert server.sent == 2


async def test_when_all_of_a_hedge_fail_the_response_can_be_read(ask):
    """The third call closes the failure of the first, whose error it is that comes out."""
    server = Server(503, Server.HANGS, 502)
    policy = Hedge(0.02, most=2, budget=RetryBudget(1))
    slow = server._answer
    server._answer = lambda what: slow(500 if what is Server.HANGS else what)
    threading.Timer(0.3, server.released.set).start()
    answer = await ask(policy, server, "GET")
    assert answer.status_code in (500, 502, 503)
    assert answer.text == "hello"


def test_who_gets_a_failure_gets_one_that_is_open_still():
    exchange = Exchange(
        Judge(retry(), server_failed, IDEMPOTENT, around=len), httpx.Request("GET", "http://shop")
    )
    closed, last = httpx.Response(503), httpx.Response(502)
    for response in (closed, last):
        exchange.begin()
        assert exchange.got(response)
        with pytest.raises(FailedResponse, match=f"^{response.status_code} "):
            exchange.judge(response)
    assert exchange.gave_up(closed) == (last, [])
    assert not exchange.got(httpx.Response(200)), "nobody waits for it"


@pytest.mark.parametrize("kind", ["sync", "async"])
async def test_a_request_that_failed_says_nothing_of_what_follows_it(kind):
    """Nor does one that was never sent keep a retry around the client from making it again."""
    tried, server = [], Server(httpx.ReadError("lost"))

    def not_yet():
        tried.append(1)
        if len(tried) < 3:
            raise OSError("not yet")
        return "made"

    async def not_yet_async():
        return not_yet()

    with httpx.Client(transport=PolicyTransport(CircuitBreaker(), server)) as client:
        async with httpx.AsyncClient(
            transport=AsyncPolicyTransport(CircuitBreaker(), server)
        ) as other:
            for sent, error in ((3, httpx.ConnectError), (4, httpx.ReadError)):
                server.plan = [error("away")]
                with pytest.raises(error):
                    if kind == "sync":
                        retry().call(client.post, "http://shop")
                    else:
                        await retry().call(other.post, "http://shop")
                assert server.sent == sent
            if kind == "sync":
                assert retry().call(not_yet) == "made"
            else:
                assert await retry().call(not_yet_async) == "made"


# -- policies see the request --------------------------------------------------------------------


async def test_keys_come_from_the_request(ask):
    server = Server(200)
    limiter = RateLimiter(1, "1h", key=lambda request: request.url.host)
    assert (await ask(limiter, server)).status_code == 200
    error = await ask(limiter, server)
    assert "of 'shop'" in str(error)


@pytest.mark.parametrize("given", [{"function": lambda error, request: request.method}, {}])
async def test_a_fallback_gives_a_response(ask, given):
    error = await ask(Fallback(**(given or {"value": "sorry"})), Server(503))
    assert isinstance(error, ConfigurationError)
    assert "a Fallback in a transport gives an httpx.Response" in str(error)


async def test_a_substitute_that_came_compressed_can_be_read(ask):
    packed = httpx.Response(
        200, headers={"content-encoding": "gzip", "x-from": "cache"}, content=gzip.compress(b"old")
    )
    answer = await ask(Fallback(packed), Server(503))
    assert (answer.content, answer.headers["x-from"]) == (b"old", "cache")


async def test_a_substitute_can_be_read_by_each_caller(ask):
    policy = Fallback(httpx.Response(200, json={"in": "stock"}, headers={"x-from": "fallback"}))
    answers = [await ask(policy, Server(503)) for _ in range(2)]
    assert [answer.json() for answer in answers] == [{"in": "stock"}] * 2
    assert answers[0] is not answers[1]
    assert answers[0].headers["x-from"] == "fallback"


async def test_what_a_fallback_calls_instead_may_be_repeated(ask):
    """It is another call than the POST that failed."""
    made = []

    def read_the_replica():
        made.append(1)
        if len(made) < 3:
            raise OSError("not yet")
        return httpx.Response(200, text="from the replica")

    policy = Fallback(function=lambda error, request: retry().call(read_the_replica))
    assert (await ask(policy, Server(503))).text == "from the replica"
    assert len(made) == 3


# -- the last good answer ------------------------------------------------------------------------


class Shop(httpx.BaseTransport, httpx.AsyncBaseTransport):
    """Tells who asked for what, until it breaks down."""

    def __init__(self):
        self.broken = False

    def handle_request(self, request):
        if self.broken:
            raise httpx.ReadTimeout("down")
        who = request.headers.get("authorization", "nobody")
        body = request.content if isinstance(request.stream, httpx.ByteStream) else b"a stream"
        text = f"{request.method} {request.url} {body.decode()} for {who}"
        content = gzip.compress(text.encode())
        return httpx.Response(200, headers={"content-encoding": "gzip"}, stream=Body(content))

    async def handle_async_request(self, request):
        return self.handle_request(request)


ANN, BOB = {"authorization": "ann"}, {"authorization": "bob"}


@pytest.fixture(params=["sync", "async"])
def client(request):
    """A client whose transport keeps last good answers, and its server; `get` makes a request."""

    class Client:
        def __init__(self):
            self.policy = Pipeline(Fallback(last_good=LastGood()), retry(2))
            self.shop = Shop()
            kind = PolicyTransport if request.param == "sync" else AsyncPolicyTransport
            self.transport = kind(self.policy, self.shop)

        async def ask(self, method, url, **given):
            if request.param == "sync":
                with httpx.Client(transport=self.transport) as inner:
                    return inner.request(method, url, **given)
            async with httpx.AsyncClient(transport=self.transport) as inner:
                return await inner.request(method, url, **given)

    return Client()


async def test_each_request_has_its_own_last_good_answer(client):
    asked = [
        ("GET", "http://shop/a", {"headers": ANN}),
        ("GET", "http://shop/a", {"headers": BOB}),
        ("GET", "http://shop/a?page=2", {"headers": ANN}),
        ("GET", "http://other/a", {"headers": ANN}),
        ("POST", "http://shop/a", {"headers": ANN, "content": "x"}),
        ("POST", "http://shop/a", {"headers": ANN, "content": "y"}),
    ]
    fresh = [(await client.ask(method, url, **given)).text for method, url, given in asked]
    assert len(set(fresh)) == len(asked)
    client.shop.broken = True
    for _ in range(2):
        kept = [(await client.ask(method, url, **given)).text for method, url, given in asked]
        assert kept == fresh


async def test_nobody_gets_what_another_asked_for(client):
    await client.ask("GET", "http://shop/a", headers=ANN)
    client.shop.broken = True
    for method, url, given in (
        ("GET", "http://shop/a", {"headers": BOB}),
        ("GET", "http://shop/a", {}),
        ("GET", "http://shop/b", {"headers": ANN}),
        ("HEAD", "http://shop/a", {"headers": ANN}),
    ):
        with pytest.raises(httpx.ReadTimeout):
            await client.ask(method, url, **given)


async def test_fields_that_differ_from_request_to_request_do_not_count(client):
    for number in range(2):
        client.shop.broken = bool(number)
        headers = ANN | {"traceparent": f"00-{number}", "x-request-id": str(number)}
        assert (await client.ask("GET", "http://shop/a", headers=headers)).status_code == 200


async def test_a_streamed_body_has_no_last_good_answer(client):
    def chunks():
        yield b"x"

    async def chunks_async():
        yield b"x"

    sync = isinstance(client.transport, PolicyTransport)
    for broken in (False, True):
        client.shop.broken = broken
        content = chunks() if sync else chunks_async()
        try:
            answer = await client.ask("PUT", "http://shop/a", content=content)
        except httpx.ReadTimeout:
            assert broken
        else:
            assert (broken, answer.status_code) == (False, 200)


async def test_two_transports_do_not_share_answers():
    """One may log in as another, by its certificate say, which no header tells."""
    policy = Fallback(last_good=LastGood())
    shops = [Shop(), Shop()]
    transports = [AsyncPolicyTransport(policy, shop) for shop in shops]
    async with httpx.AsyncClient(transport=transports[0]) as one:
        assert (await one.get("http://shop/a")).status_code == 200
    shops[1].broken = True
    async with httpx.AsyncClient(transport=transports[1]) as other:
        with pytest.raises(httpx.ReadTimeout):
            await other.get("http://shop/a")


async def test_a_key_of_ones_own_gets_the_request(client):
    client.policy = Fallback(last_good=LastGood(key=lambda request: request.url.path))
    client.transport._judge.policy = client.policy
    fresh = (await client.ask("GET", "http://shop/a", headers=ANN)).text
    client.shop.broken = True
    assert (await client.ask("GET", "http://shop/a", headers=BOB)).text == fresh


async def eventually(holds):
    async with asyncio.timeout(PATIENCE):
        while not holds():
            await asyncio.sleep(0.001)
