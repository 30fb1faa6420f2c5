"""What is given to an integration by mistake is refused when it is built, with what to give."""

import grpc
import httpx
import pytest

from standfast.errors import ConfigurationError
from standfast.integrations.asgi import BulkheadMiddleware, RateLimitMiddleware, by_header
from standfast.integrations.grpc import AioPolicyInterceptor, PolicyInterceptor
from standfast.integrations.httpx import AsyncPolicyTransport, PolicyTransport
from standfast.integrations.starlette import RateLimit
from standfast.resilience import Bulkhead, Fallback, Pipeline, RateLimiter, Retry, Timeout

TRANSPORTS = (PolicyTransport, AsyncPolicyTransport)
INTERCEPTORS = (PolicyInterceptor, AioPolicyInterceptor)
OK = httpx.MockTransport(lambda request: httpx.Response(200))


async def app(scope, receive, send): ...


async def later(error, *args):
    return httpx.Response(200)


@pytest.mark.parametrize("kind", [*TRANSPORTS, *INTERCEPTORS])
@pytest.mark.parametrize(
    ("policy", "message"),
    [
        (5, "policy=5 is no policy: give Retry"),
        (Retry, r"is no policy: give an instance, Retry\(…\)"),
        ([Retry(), Timeout(1)], r"is no policy: for several policies give Pipeline\(…\)"),
        (lambda call: call, "is no policy"),
        (ValueError, "is no policy: give Retry"),
    ],
)
def test_what_is_no_policy(kind, policy, message):
    with pytest.raises(ConfigurationError, match=message):
        kind(policy)


@pytest.mark.parametrize("kind", [PolicyTransport, PolicyInterceptor])
def test_a_policy_that_can_only_stand_around_what_is_awaited(kind):
    for policy in (RateLimiter(1, max_wait=1), Fallback(function=later)):
        with pytest.raises(ConfigurationError, match="can't stand around these calls: "):
            kind(Pipeline(policy))


@pytest.mark.parametrize("kind", TRANSPORTS)
def test_a_transport_in_the_place_of_its_policy(kind):
    with pytest.raises(ConfigurationError, match="it is a transport, which comes second"):
        kind(OK, Retry())


@pytest.mark.parametrize("kind", TRANSPORTS)
@pytest.mark.parametrize(
    "inner", [httpx.Client(), httpx.AsyncClient(), httpx.HTTPTransport, 5, False]
)
def test_what_is_no_transport(kind, inner):
    with pytest.raises(ConfigurationError, match=r"transport=.*: give an? a?synchronous "):
        kind(Retry(), inner)


def test_a_transport_of_the_other_kind():
    with pytest.raises(ConfigurationError, match="give an asynchronous transport"):
        AsyncPolicyTransport(Retry(), httpx.HTTPTransport())
    with pytest.raises(ConfigurationError, match="give a synchronous transport"):
        PolicyTransport(Retry(), httpx.AsyncHTTPTransport())


async def test_a_client_of_the_other_kind():
    client = httpx.Client(transport=AsyncPolicyTransport(Retry(), OK))
    with pytest.raises(ConfigurationError, match=r"httpx.Client was given .* PolicyTransport\(…\)"):
        client.get("http://x")
    client = httpx.Client(transport=AsyncPolicyTransport(Retry(), OK))
    with pytest.raises(ConfigurationError, match=r"give it PolicyTransport\(…\)"), client:
        pass
    awaited = httpx.AsyncClient(transport=PolicyTransport(Retry(), OK))
    with pytest.raises(ConfigurationError, match=r"give it AsyncPolicyTransport\(…\)"):
        await awaited.get("http://x")
    awaited = httpx.AsyncClient(transport=PolicyTransport(Retry(), OK))
    with pytest.raises(ConfigurationError, match=r"give it AsyncPolicyTransport\(…\)"):
        async with awaited:
            pass


@pytest.mark.parametrize("kind", TRANSPORTS)
def test_other_options_of_a_transport(kind):
    with pytest.raises(ConfigurationError, match="is_failure=503: give a function of the response"):
        kind(Retry(), is_failure=503)
    for methods in (5, "GET", b"GET", None, [httpx.codes.OK]):
        with pytest.raises(ConfigurationError, match=r"idempotent=.*: give a list of methods"):
            kind(Retry(), idempotent=methods)


@pytest.mark.parametrize("kind", INTERCEPTORS)
def test_other_options_of_an_interceptor(kind):
    for failures in (503, "UNAVAILABLE", grpc.StatusCode.UNAVAILABLE, None):
        with pytest.raises(ConfigurationError, match=r"failures=.*: give a list of grpc"):
            kind(Retry(), failures=failures)
    for methods in (5, "/a.B/C", b"/a.B/C", None, [5]):
        with pytest.raises(ConfigurationError, match=r"idempotent=.*: give a list of methods"):
            kind(Retry(), idempotent=methods)


@pytest.mark.parametrize("limiter", [Retry(), 5, RateLimiter, "10/s", None])
def test_what_is_no_limiter(limiter):
    with pytest.raises(ConfigurationError, match=r"limiter=.*: give a RateLimiter\(…\)"):
        RateLimitMiddleware(app, limiter)
    with pytest.raises(ConfigurationError, match=r"limiter=.*: give a RateLimiter\(…\)"):
        RateLimit(limiter)


def test_a_rate_in_the_place_of_its_limiter():
    with pytest.raises(ConfigurationError, match=r"RateLimit\(2, '1h'\): .*RateLimit\(RateLimiter"):
        RateLimit(2, "1h")


@pytest.mark.parametrize("bulkhead", [5, Bulkhead, Retry(), Pipeline(Bulkhead(1), Retry()), None])
def test_what_is_no_bulkhead(bulkhead):
    with pytest.raises(ConfigurationError, match=r"bulkhead=.*: give Bulkhead\(…\), or"):
        BulkheadMiddleware(app, bulkhead)


def test_other_options_of_the_middleware():
    for wait in (-1, "soon", None):
        with pytest.raises(ConfigurationError, match="retry_after="):
            BulkheadMiddleware(app, Bulkhead(1), retry_after=wait)
    with pytest.raises(ConfigurationError, match="name=5: must be a text"):
        by_header(5)
    BulkheadMiddleware(app, Pipeline(Timeout(1), Bulkhead(1)))
