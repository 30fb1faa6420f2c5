"""The gRPC interceptors against a real server."""

import asyncio
import threading
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import grpc
import grpc.aio
import pytest

from standfast.errors import RateLimited, TimedOut
from standfast.integrations.grpc import AioPolicyInterceptor, PolicyInterceptor
from standfast.resilience.backoff import Constant
from standfast.resilience.ratelimit import RateLimiter
from standfast.resilience.retry import Retry
from standfast.resilience.timeout import Timeout
from standfast.testing.manual_clock import ManualClock

METHOD = "/shop.Stock/Reserve"


class Stock:
    """A server that ends its calls with the codes it is told, in turn; then answers."""

    def __init__(self, *codes, metadata=()):
        self.codes = list(codes)
        self.metadata = metadata
        self.calls = 0

    def reserve(self, request, context):
        self.calls += 1
        if self.codes:
            context.set_trailing_metadata(self.metadata)
            context.abort(self.codes.pop(0), "told so")
        return request + b"!"

    def __enter__(self):
        handler = grpc.method_handlers_generic_handler(
            "shop.Stock", {"Reserve": grpc.unary_unary_rpc_method_handler(self.reserve)}
        )
        self.threads = ThreadPoolExecutor(2)
        self.server = grpc.server(self.threads)
        self.server.add_generic_rpc_handlers((handler,))
        self.address = f"127.0.0.1:{self.server.add_insecure_port('127.0.0.1:0')}"
        self.server.start()
        return self

    def __exit__(self, *args):
        self.server.stop(None).wait()
        self.threads.shutdown()


@pytest.fixture(params=["sync", "aio"])
def ask(request):
    """Make calls through a policy, with either kind of channel."""

    async def ask(stock, policy, times=1, **options):
        if request.param == "aio":
            interceptor = AioPolicyInterceptor(policy, **options)
            async with grpc.aio.insecure_channel(
                stock.address, interceptors=[interceptor]
            ) as channel:
                call = channel.unary_unary(METHOD)
                return [await call(b"tea", timeout=60) for _ in range(times)]

        def blocking():
            with grpc.insecure_channel(stock.address) as bare:
                channel = grpc.intercept_channel(bare, PolicyInterceptor(policy, **options))
                call = channel.unary_unary(METHOD)
                return [call(b"tea", timeout=60) for _ in range(times)]

        return await asyncio.to_thread(blocking)

    return ask


def retry(attempts=4, **options):
    return Retry(attempts=attempts, backoff=Constant(0), **options)


async def test_failures_are_retried_until_it_works(ask):
    with Stock(grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.RESOURCE_EXHAUSTED) as stock:
        assert await ask(stock, retry()) == [b"tea!"]
        assert stock.calls == 3


async def test_the_last_error_is_grpcs_own(ask):
    with Stock(*[grpc.StatusCode.UNAVAILABLE] * 9) as stock:
        with pytest.raises(grpc.RpcError) as caught:
            await ask(stock, retry(3))
        assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
        assert caught.value.details() == "told so"
        assert stock.calls == 3


async def test_an_answer_is_not_retried(ask):
    with Stock(grpc.StatusCode.NOT_FOUND) as stock:
        with pytest.raises(grpc.RpcError) as caught:
            await ask(stock, retry())
        assert caught.value.code() is grpc.StatusCode.NOT_FOUND
        assert stock.calls == 1


@pytest.mark.parametrize("idempotent", [True, False])
async def test_only_what_may_be_repeated_is(ask, idempotent):
    with Stock(*[grpc.StatusCode.INTERNAL] * 9) as stock:
        with pytest.raises(grpc.RpcError):
            await ask(stock, retry(), idempotent=lambda method: idempotent and method == METHOD)
        assert stock.calls == (4 if idempotent else 1)


@pytest.mark.parametrize("told", [("retry-after", "7"), ("grpc-retry-pushback-ms", "7000")])
async def test_retry_after_is_honoured(ask, told):
    clock = ManualClock(auto=True)
    with Stock(grpc.StatusCode.UNAVAILABLE, metadata=(told,)) as stock:
        assert await ask(stock, retry(clock=clock)) == [b"tea!"]
    assert clock.slept == [7.0]


async def test_a_rejection_comes_through(ask):
    with Stock() as stock:
        with pytest.raises(RateLimited):
            await ask(stock, RateLimiter(2, "1h"), times=3)
        assert stock.calls == 2


def test_a_call_that_is_sent_when_nobody_waits_any_more_is_cancelled():
    """Its thread was held up until the policy had given up."""
    given_up, cancelled = threading.Event(), threading.Event()
    details = SimpleNamespace(method=METHOD, timeout=None, metadata=None)

    class Late:
        def cancel(self):
            cancelled.set()

        def exception(self):
            return None

        code = details = trailing_metadata = exception

    def send(details, request):
        given_up.wait(10)
        return Late()

    interceptor = PolicyInterceptor(Timeout("50ms"))
    with pytest.raises(TimedOut):
        interceptor.intercept_unary_unary(send, details, b"x")
    given_up.set()
    assert cancelled.wait(10)
