"""RPCs that aren't idempotent are made once, and those that nobody waits for are cancelled."""

import asyncio
import math
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import grpc
import grpc.aio
import pytest

from standfast.errors import ConfigurationError, TimedOut
from standfast.integrations.grpc import AioPolicyInterceptor, FailedCall, PolicyInterceptor
from standfast.resilience import (
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
from standfast.resilience.deadline import remaining
from standfast.resilience.policy import Policy

METHOD = "/shop.Stock/Reserve"
PATIENCE = 20.0
HANGS = object()


class Stock:
    """A server that does what it is told with each call, in turn, and the last for ever.

    A code ends the call with it, `HANGS` holds it until the client has gone or `release` is set,
    anything else is the answer.
    """

    def __init__(self, *plan, metadata=(), delay=0.0):
        self.plan = list(plan)
        self.metadata = metadata
        self.delay = delay
        self.calls = 0
        self.heard = []
        """The values of ``x`` in the metadata of each call."""
        self.left = []
        """The time that each call had left when it came."""
        self.cancelled = 0
        self.release = threading.Event()
        self.lock = threading.Lock()

    def reserve(self, request, context):
        with self.lock:
            self.calls += 1
            self.heard.append([v for n, v in context.invocation_metadata() if n == "x"])
            self.left.append(context.time_remaining())
            what = self.plan.pop(0) if len(self.plan) > 1 else self.plan[0]
        time.sleep(self.delay)
        if what is HANGS:
            deadline = time.monotonic() + PATIENCE
            while not self.release.is_set() and time.monotonic() < deadline:
                if not context.is_active():
                    with self.lock:
                        self.cancelled += 1
                    return b""
                time.sleep(0.005)
            return b"late"
        if isinstance(what, grpc.StatusCode):
            context.set_trailing_metadata(self.metadata)
            context.abort(what, "told so")
        return what

    def __enter__(self):
        handler = grpc.method_handlers_generic_handler(
            "shop.Stock", {"Reserve": grpc.unary_unary_rpc_method_handler(self.reserve)}
        )
        self.threads = ThreadPoolExecutor(4)
        self.server = grpc.server(self.threads)
        self.server.add_generic_rpc_handlers((handler,))
        self.address = f"127.0.0.1:{self.server.add_insecure_port('127.0.0.1:0')}"
        self.server.start()
        return self

    def __exit__(self, *args):
        self.release.set()
        self.server.stop(None).wait()
        self.threads.shutdown()


async def ask_aio(address, policy, timeout=PATIENCE, request=b"tea", metadata=None, **options):
    interceptor = AioPolicyInterceptor(policy, **options)
    async with grpc.aio.insecure_channel(address, interceptors=[interceptor]) as channel:
        return await channel.unary_unary(METHOD)(request, timeout=timeout, metadata=metadata)


def ask_sync(address, policy, timeout=PATIENCE, request=b"tea", metadata=None, **options):
    with grpc.insecure_channel(address) as bare:
        channel = grpc.intercept_channel(bare, PolicyInterceptor(policy, **options))
        return channel.unary_unary(METHOD)(request, timeout=timeout, metadata=metadata)


@pytest.fixture(params=["sync", "aio"])
def ask(request):
    """Make a call through a policy with either kind of channel; its answer, or its error."""

    async def ask(address, policy, **options):
        async with asyncio.timeout(PATIENCE):
            try:
                if request.param == "aio":
                    return await ask_aio(address, policy, **options)
                return await asyncio.to_thread(ask_sync, address, policy, **options)
            except Exception as error:
                return error

    ask.kind = request.param
    return ask


def retry(attempts=3, **options):
    return Retry(attempts=attempts, backoff=Constant(0), **options)


def hedge(delay=0.05):
    return Hedge(delay, budget=RetryBudget(1))


# -- once ---------------------------------------------------------------------------------------


async def test_a_call_that_timed_out_is_not_made_again(ask):
    with Stock(HANGS) as stock:
        error = await ask(stock.address, Pipeline(retry(), Timeout(0.2)))
        assert isinstance(error, TimedOut)
        assert stock.calls == 1


async def test_a_hedge_makes_no_second_call(ask):
    with Stock(HANGS) as stock:
        policy = hedge()
        threading.Timer(0.3, stock.release.set).start()
        assert await ask(stock.address, policy) == b"late"
        assert (stock.calls, policy.launched) == (1, 0)


@pytest.mark.parametrize("idempotent", [[METHOD], lambda method: method == METHOD])
async def test_what_is_idempotent_may_be_made_again(ask, idempotent):
    with Stock(HANGS, HANGS, b"done") as stock:
        policy = Pipeline(retry(), Timeout(0.3))
        assert await ask(stock.address, policy, idempotent=idempotent) == b"done"
        assert stock.calls == 3


async def test_a_connection_that_is_lost_in_the_midst_of_a_call(ask, tcp_proxy):
    """UNAVAILABLE as well, but the server may have carried it out."""
    with Stock(HANGS) as stock:
        proxy = await tcp_proxy(f"http://{stock.address}")
        asking = asyncio.create_task(ask(f"127.0.0.1:{proxy.port}", retry()))
        await eventually(lambda: stock.calls == 1)
        await proxy.cut()
        await proxy.restore()
        error = await asking
        assert error.code() is grpc.StatusCode.UNAVAILABLE
        assert stock.calls == 1


async def test_a_server_that_stops_in_the_midst_of_a_call(ask):
    with Stock(HANGS) as stock:
        policy = retry()
        asking = asyncio.create_task(ask(stock.address, policy))
        await eventually(lambda: stock.calls == 1)
        stock.server.stop(0)
        error = await asking
        assert error.code() is grpc.StatusCode.UNAVAILABLE
        assert policy.counts.retries == 0


async def test_an_answer_that_is_too_large_was_an_answer(ask):
    with Stock(b"x" * 5_000_000) as stock:
        error = await ask(stock.address, retry())
        assert error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert stock.calls == 1


async def test_a_server_that_is_not_there_is_tried_again(ask):
    policy = retry(3)
    error = await ask("127.0.0.1:9", policy)
    assert error.code() is grpc.StatusCode.UNAVAILABLE
    assert policy.counts.retries == 2


async def test_no_retry_around_makes_it_again():
    with Stock(HANGS) as stock:
        around = retry()
        with pytest.raises(TimedOut):
            await around.call(ask_aio, stock.address, Timeout(0.6))
        assert stock.calls == 1
        with pytest.raises(TimedOut):
            await asyncio.to_thread(around.call, ask_sync, stock.address, Timeout(0.6))
        assert stock.calls == 2


# -- gRFC A6 ------------------------------------------------------------------------------------


class Fetching(grpc.UnaryUnaryClientInterceptor):
    """Makes a call of its own before each, which works at the third attempt."""

    def __init__(self):
        self.fetched = 0

    def fetch(self):
        self.fetched += 1
        if self.fetched % 3:
            raise OSError("not yet")

    async def fetch_async(self):
        self.fetch()

    def intercept_unary_unary(self, continuation, client_call_details, request):
        retry().call(self.fetch)
        return continuation(client_call_details, request)


class AioFetching(Fetching, grpc.aio.UnaryUnaryClientInterceptor):
    async def intercept_unary_unary(self, continuation, client_call_details, request):
        await retry().call(self.fetch_async)
        return await continuation(client_call_details, request)


@pytest.mark.parametrize(("what", "calls"), [(b"ok", 1), (grpc.StatusCode.UNAVAILABLE, 3)])
@pytest.mark.parametrize("kind", ["sync", "aio"])
async def test_a_call_says_nothing_of_those_inside_it_and_after_it(kind, what, calls):
    code = grpc.StatusCode.OK if what == b"ok" else what
    with Stock(what) as stock:
        if kind == "sync":
            inside = Fetching()
            with grpc.insecure_channel(stock.address) as bare:
                channel = grpc.intercept_channel(bare, PolicyInterceptor(retry()), inside)
                call = channel.unary_unary(METHOD).future(b"tea", timeout=PATIENCE)
                assert call.code() is code
                retry().call(inside.fetch)
        else:
            inside = AioFetching()
            both = [AioPolicyInterceptor(retry()), inside]
            async with grpc.aio.insecure_channel(stock.address, interceptors=both) as channel:
                assert await channel.unary_unary(METHOD)(b"tea", timeout=PATIENCE).code() is code
                await retry().call(inside.fetch_async)
        assert (inside.fetched, stock.calls) == (3 * calls + 3, calls)


async def test_an_attempt_that_is_given_up_is_cancelled_before_the_next():
    cancelled = []

    class Hanging:
        async def code(self):
            await asyncio.sleep(PATIENCE)

        def cancel(self):
            cancelled.append(self)

        def done(self):
            return True

    async def continuation(details, request):
        return Hanging()

    class Twice(Policy):
        def around_async(self, call):
            async def twice(request):
                first = asyncio.ensure_future(call(request))
                await asyncio.sleep(0)
                first.cancel()
                await asyncio.wait((first,))
                assert len(cancelled) == 1
                return "the next"

            return twice

    details = grpc.aio.ClientCallDetails(METHOD, None, None, None, None)
    interceptor = AioPolicyInterceptor(Twice())
    assert await interceptor.intercept_unary_unary(continuation, details, b"tea") == "the next"


@pytest.mark.parametrize("pushback", ["-1", "soon", "nan"])
async def test_a_server_that_says_no_is_left_alone(ask, pushback):
    """Also for what is idempotent; and what can't be understood says no."""
    told = (("grpc-retry-pushback-ms", pushback),)
    with Stock(grpc.StatusCode.UNAVAILABLE, metadata=told) as stock:
        error = await ask(stock.address, retry(), idempotent=[METHOD])
        assert error.code() is grpc.StatusCode.UNAVAILABLE
        assert stock.calls == 1


@pytest.mark.parametrize("order", [1, -1])
def test_the_pushback_counts_more_than_retry_after(order):
    told = (("retry-after", "3"), ("grpc-retry-pushback-ms", "7000"))[::order]
    failure = FailedCall(None, grpc.StatusCode.UNAVAILABLE, told)
    assert (failure.retry_after, failure.pushed_back) == (7.0, False)
    assert str(failure) == "UNAVAILABLE"


@pytest.mark.parametrize("value", ["inf", "9" * 400])
def test_a_retry_after_that_no_float_can_hold_is_too_long(value):
    failure = FailedCall(None, grpc.StatusCode.UNAVAILABLE, (("retry-after", value),))
    assert (failure.retry_after, failure.pushed_back) == (math.inf, False)


@pytest.mark.parametrize("value", ["nan", "-3", "tomorrow"])
def test_a_retry_after_that_can_not_be_read_says_nothing(value):
    failure = FailedCall(None, grpc.StatusCode.UNAVAILABLE, (("retry-after", value),))
    assert (failure.retry_after, failure.pushed_back) == (None, False)


async def test_the_timeout_of_the_call_bounds_all_attempts(ask):
    with Stock(grpc.StatusCode.UNAVAILABLE, delay=0.2) as stock:
        began = time.monotonic()
        error = await ask(stock.address, retry(50), timeout=0.7)
        assert time.monotonic() - began < 5
        assert error.code() in (grpc.StatusCode.DEADLINE_EXCEEDED, grpc.StatusCode.UNAVAILABLE)
        assert 1 < stock.calls <= 4
        assert stock.left == sorted(stock.left, reverse=True)
        assert stock.left[1] < 0.65


async def test_no_attempt_begins_after_the_timeout_of_the_call(ask):
    with Stock(grpc.StatusCode.UNAVAILABLE) as stock:
        policy = Retry(attempts=5, backoff=Constant(30))
        error = await ask(stock.address, policy, timeout=1)
        assert error.code() is grpc.StatusCode.UNAVAILABLE
        assert stock.calls == 1


async def test_the_deadline_around_bounds_the_call(ask):
    """So that the server of a call in a thread, which can't be cancelled, learns of it."""
    with Stock(HANGS) as stock:
        assert isinstance(await ask(stock.address, Timeout(0.3), timeout=None), TimedOut)
        assert stock.left[0] < 1
        await eventually(lambda: stock.cancelled == 1)


async def test_policies_see_the_timeout_of_the_call(ask):
    """So that a hedge, a limiter or a step inside asks for no more time than there is."""
    seen = []

    class Looks(Timeout):
        def around(self, function):
            inner = super().around(function)

            def look(*args, **kwargs):
                seen.append(remaining())
                return inner(*args, **kwargs)

            return look

        def around_async(self, function):
            inner = super().around_async(function)

            async def look(*args, **kwargs):
                seen.append(remaining())
                return await inner(*args, **kwargs)

            return look

    with Stock(b"done") as stock:
        assert await ask(stock.address, Looks(100), timeout=15) == b"done"
    assert seen[0] is not None
    assert 5 < seen[0] < 20


async def test_details_of_another_make_are_bounded_too():
    class Details(grpc.aio.ClientCallDetails):
        """Not gRPC's own, as interceptors may make them."""

    class Other(grpc.aio.UnaryUnaryClientInterceptor):
        async def intercept_unary_unary(self, continuation, details, request):
            return await continuation(Details(*details), request)

    with Stock(b"done") as stock:
        interceptors = [Other(), AioPolicyInterceptor(Timeout(3))]
        async with grpc.aio.insecure_channel(stock.address, interceptors=interceptors) as channel:
            assert await channel.unary_unary(METHOD)(b"tea") == b"done"
        assert stock.left[0] < 4


# -- nobody waits any more ----------------------------------------------------------------------


async def test_the_server_learns_of_a_timeout():
    with Stock(HANGS) as stock:
        with pytest.raises(TimedOut):
            await ask_aio(stock.address, Timeout(0.2))
        await eventually(lambda: stock.cancelled == 1)


async def test_the_server_learns_of_a_cancellation():
    with Stock(HANGS) as stock:
        asking = asyncio.create_task(ask_aio(stock.address, Pipeline(retry(), hedge(60))))
        await eventually(lambda: stock.calls == 1)
        asking.cancel()
        await asyncio.wait((asking,), timeout=PATIENCE)
        assert asking.cancelled()
        await eventually(lambda: stock.cancelled == 1)


async def test_the_loser_of_a_hedge_is_cancelled():
    with Stock(HANGS, b"quick") as stock:
        interceptor = AioPolicyInterceptor(hedge(), idempotent=[METHOD])
        async with grpc.aio.insecure_channel(stock.address, interceptors=[interceptor]) as channel:
            assert await channel.unary_unary(METHOD)(b"tea", timeout=PATIENCE) == b"quick"
            await eventually(lambda: stock.cancelled == 1)


def test_the_loser_of_a_hedge_of_futures_is_cancelled():
    with Stock(HANGS, b"quick") as stock, grpc.insecure_channel(stock.address) as bare:
        interceptor = PolicyInterceptor(hedge(), idempotent=[METHOD])
        channel = grpc.intercept_channel(bare, interceptor)
        assert channel.unary_unary(METHOD).future(b"tea", timeout=PATIENCE).result() == b"quick"
        deadline = time.monotonic() + PATIENCE
        while stock.cancelled != 1:
            assert time.monotonic() < deadline, "the loser was not cancelled"
            time.sleep(0.005)


# -- what policies answer, and see --------------------------------------------------------------


async def test_a_fallbacks_value_is_the_response(ask):
    with Stock(grpc.StatusCode.INTERNAL) as stock:
        assert await ask(stock.address, Fallback(b"for now")) == b"for now"
        assert await ask(stock.address, Fallback(None)) is None
        policy = Fallback(function=lambda error, request: request + b"?")
        assert await ask(stock.address, policy) == b"tea?"


def test_a_fallbacks_value_has_the_form_of_a_call():
    with Stock(grpc.StatusCode.INTERNAL) as stock, grpc.insecure_channel(stock.address) as bare:
        interceptor = PolicyInterceptor(Fallback(b"for now"))
        method = grpc.intercept_channel(bare, interceptor).unary_unary(METHOD)
        response, call = method.with_call(b"tea")
        assert (response, call.code(), call.trailing_metadata()) == (
            b"for now",
            grpc.StatusCode.OK,
            (),
        )
        future = method.future(b"tea")
        told = []
        future.add_done_callback(told.append)
        assert (future.result(), future.exception(), future.done(), told) == (
            b"for now",
            None,
            True,
            [future],
        )


async def test_keys_come_from_the_request(ask):
    with Stock(b"done") as stock:
        limiter = RateLimiter(1, "1h", key=lambda request: request.decode())
        assert await ask(stock.address, limiter) == b"done"
        assert "of 'tea'" in str(await ask(stock.address, limiter))
        assert await ask(stock.address, limiter, request=b"salt") == b"done"


async def test_each_call_has_its_own_last_good_answer(ask):
    interceptor = PolicyInterceptor if ask.kind == "sync" else AioPolicyInterceptor
    shared = interceptor(Pipeline(Fallback(last_good=LastGood()), retry(2)))

    def blocking(address, request, metadata):
        with grpc.insecure_channel(address) as bare:
            method = grpc.intercept_channel(bare, shared).unary_unary(METHOD)
            return method(request, metadata=metadata, timeout=PATIENCE)

    async def asynchronous(address, request, metadata):
        async with grpc.aio.insecure_channel(address, interceptors=[shared]) as channel:
            return await channel.unary_unary(METHOD)(request, metadata=metadata, timeout=PATIENCE)

    async def call(request, user):
        metadata = (("authorization", user), ("traceparent", str(time.monotonic())))
        if ask.kind == "sync":
            return await asyncio.to_thread(blocking, stock.address, request, metadata)
        return await asynchronous(stock.address, request, metadata)

    with Stock(b"1", b"2", b"3", grpc.StatusCode.INTERNAL) as stock:
        asked = [(b"tea", "ann"), (b"tea", "bob"), (b"salt", "ann")]
        fresh = [await call(*one) for one in asked]
        assert fresh == [b"1", b"2", b"3"]
        assert [await call(*one) for one in asked] == fresh
        with pytest.raises(grpc.RpcError):
            await call(b"salt", "bob")


def test_bad_options_are_refused():
    async def idempotent(method):
        return True

    for kind in (PolicyInterceptor, AioPolicyInterceptor):
        for wrong in (idempotent, METHOD, [b"x"]):
            with pytest.raises(ConfigurationError, match=r"idempotent=.*: give a list of methods"):
                kind(retry(), idempotent=wrong)
        with pytest.raises(ConfigurationError, match=r"14 is no grpc\.StatusCode"):
            kind(retry(), failures=[14])


async def eventually(holds):
    async with asyncio.timeout(PATIENCE):
        while not holds():
            await asyncio.sleep(0.005)


@pytest.mark.parametrize(
    "metadata",
    [
        lambda: [("x", "1")],
        lambda: (pair for pair in [("x", "1")]),
        lambda: map(tuple, [["x", "1"]]),
    ],
    ids=["list", "generator", "map"],
)
async def test_every_attempt_sends_the_metadata(ask, metadata):
    with Stock(grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.UNAVAILABLE, b"ok") as stock:
        answer = await ask(stock.address, retry(), idempotent=[METHOD], metadata=metadata())
    assert answer == b"ok"
    assert stock.heard == [["1"]] * 3


async def test_an_answer_is_kept_under_metadata_that_is_read_once(ask):
    policy = Fallback(last_good=LastGood())
    with Stock(b"ok", grpc.StatusCode.INTERNAL) as stock:
        for user in ("ann", "bob"):
            metadata = (pair for pair in [("x", user)])
            answer = await ask(stock.address, policy, metadata=metadata)
            assert (answer == b"ok") == (user == "ann")
    assert stock.heard == [["ann"], ["bob"]]
