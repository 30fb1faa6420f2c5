"""A policy around every request that an httpx client makes, or around those to one host.

::

    payments = Pipeline(Timeout("2s"), Retry(attempts=4), CircuitBreaker())
    client = httpx.AsyncClient(
        mounts={"https://payments.example": AsyncPolicyTransport(payments)}
    )
"""

from __future__ import annotations

from collections.abc import Collection
from types import TracebackType
from typing import Any, NoReturn, Self

from standfast.errors import ConfigurationError
from standfast.integrations.http_exchange import (
    IDEMPOTENT,
    Exchange,
    FailedResponse,
    IsFailure,
    Judge,
    aclose,
    close,
    server_failed,
    substitute,
)
from standfast.lazy import extra
from standfast.resilience.in_progress import IN_PROGRESS
from standfast.resilience.policy import Policy

with extra("httpx"):
    import httpx

__all__ = [
    "IDEMPOTENT",
    "AsyncPolicyTransport",
    "FailedResponse",
    "IsFailure",
    "PolicyTransport",
    "server_failed",
]


def _request(request: httpx.Request) -> Any:
    """What a policy stands around in an ``httpx.Client``."""


async def _async_request(request: httpx.Request) -> Any:
    """What a policy stands around in an ``httpx.AsyncClient``."""


class PolicyTransport(httpx.BaseTransport):
    """A transport for ``httpx.Client`` that makes every request under `policy`.

    A response for which `is_failure` says True (`server_failed` by default) counts as a failure of
    the attempt, with its ``Retry-After``; so do httpx's transport errors. It is asked before the
    body is read, so it goes by status and header fields; what it raises comes out, and counts as no
    failure. When the policy gives up
    on such a response, the last one is returned, not raised. What the policy raises by itself
    (`CircuitOpen`, `TimedOut` …) comes through. Every response that the caller doesn't get is
    closed: failures, losers of a `Hedge`, and what comes when nobody waits any more.

    Once a request may have been sent, it is sent again only if its method is in `idempotent`
    (`IDEMPOTENT` by default), if it has an ``Idempotency-Key``, or if the answer was 429; and never
    if its body was a stream. That holds whatever ended the wait, and for every policy: no `Retry`
    tries again after a `Timeout`, and no `Hedge` makes a second call. The error that comes out is
    marked, so that no `Retry` around the client tries again either.

    Policies get the request as the argument of the call: ``RateLimiter(key=lambda request:
    request.url.host)``. A `Fallback` gives an ``httpx.Response``; ``last_good`` goes by the
    transport, the method, the URL, the header fields and the body, and reads the bodies of the
    answers that it keeps.

    An attempt ends with the response's headers: its body is read outside of the policy. A `Timeout`
    can't end a request in its thread, only stop waiting for it: set the client's own timeout too.

    Raises `ConfigurationError` for what is no policy, or one that can't stand around plain calls,
    for a transport of the other kind, for an `is_failure` that is ``async``, and for no list of
    methods; and in an ``httpx.AsyncClient``, at its first use.
    """

    def __init__(
        self,
        policy: Policy,
        transport: httpx.BaseTransport | None = None,
        *,
        is_failure: IsFailure = server_failed,
        idempotent: Collection[str] = IDEMPOTENT,
    ) -> None:
        self._judge = Judge(policy, is_failure, idempotent, around=_request)
        if transport is None:
            transport = httpx.HTTPTransport()
        if not isinstance(transport, httpx.BaseTransport):
            raise ConfigurationError(
                f"transport={transport!r}: give a synchronous transport, such as "
                "httpx.HTTPTransport(), or none"
            )
        self._transport = transport

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        """Make one request under the policy."""
        exchange = Exchange(self._judge, request)

        def attempt(request: httpx.Request) -> httpx.Response:
            close(exchange.begin())
            IN_PROGRESS.set(None)
            try:
                response = self._transport.handle_request(request)
            except BaseException as error:
                exchange.broke(error)
                raise
            finally:
                IN_PROGRESS.set(exchange)
            if not exchange.got(response):
                close([response])
                return response
            exchange.judge(response)
            if exchange.kept:
                response.read()
                return substitute(response)
            return response

        around = IN_PROGRESS.get()
        IN_PROGRESS.set(exchange)
        try:
            result, left = exchange.answered(self._judge.policy.call(attempt, request))
        except FailedResponse as failure:
            result, left = exchange.gave_up(failure.response)
        except BaseException as error:
            close(exchange.end())
            exchange.mark(error)
            raise
        finally:
            IN_PROGRESS.set(around)
        if exchange.flaw is not None:
            close([*left, result])
            raise exchange.flaw
        try:
            close(left)
        except BaseException:  # an interrupt: the caller doesn't get this one either
            close([result])
            raise
        return result

    def __enter__(self) -> Self:
        """Enter the transport inside."""
        self._transport.__enter__()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None = None,
        error: BaseException | None = None,
        traceback: TracebackType | None = None,
    ) -> None:
        """Leave the transport inside."""
        self._transport.__exit__(kind, error, traceback)

    def close(self) -> None:
        """Close the transport inside."""
        self._transport.close()

    async def handle_async_request(self, request: httpx.Request) -> NoReturn:
        """Raises `ConfigurationError`: an ``httpx.AsyncClient`` has been given this by mistake."""
        raise _wrong_client(self, "httpx.AsyncClient", "AsyncPolicyTransport")

    async def __aenter__(self) -> NoReturn:
        """As `handle_async_request`."""
        raise _wrong_client(self, "httpx.AsyncClient", "AsyncPolicyTransport")


class AsyncPolicyTransport(httpx.AsyncBaseTransport):
    """As `PolicyTransport`, for ``httpx.AsyncClient``; a `Timeout` does end a request here.

    In an ``httpx.Client`` it raises `ConfigurationError` at its first use.
    """

    def __init__(
        self,
        policy: Policy,
        transport: httpx.AsyncBaseTransport | None = None,
        *,
        is_failure: IsFailure = server_failed,
        idempotent: Collection[str] = IDEMPOTENT,
    ) -> None:
        self._judge = Judge(policy, is_failure, idempotent, around=_async_request)
        if transport is None:
            transport = httpx.AsyncHTTPTransport()
        if not isinstance(transport, httpx.AsyncBaseTransport):
            raise ConfigurationError(
                f"transport={transport!r}: give an asynchronous transport, such as "
                "httpx.AsyncHTTPTransport(), or none"
            )
        self._transport = transport

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """Make one request under the policy."""
        exchange = Exchange(self._judge, request)

        async def attempt(request: httpx.Request) -> httpx.Response:
            await aclose(exchange.begin())
            IN_PROGRESS.set(None)
            try:
                response = await self._transport.handle_async_request(request)
            except BaseException as error:
                exchange.broke(error)
                raise
            finally:
                IN_PROGRESS.set(exchange)
            if not exchange.got(response):
                await aclose([response])
                return response
            exchange.judge(response)
            if exchange.kept:
                await response.aread()
                return substitute(response)
            return response

        around = IN_PROGRESS.get()
        IN_PROGRESS.set(exchange)
        try:
            result, left = exchange.answered(await self._judge.policy.call(attempt, request))
        except FailedResponse as failure:
            result, left = exchange.gave_up(failure.response)
        except BaseException as error:
            await aclose(exchange.end())
            exchange.mark(error)
            raise
        finally:
            IN_PROGRESS.set(around)
        if exchange.flaw is not None:
            await aclose([*left, result])
            raise exchange.flaw
        try:
            await aclose(left)
        except BaseException:  # a cancellation: the caller doesn't get this one either
            await aclose([result])
            raise
        return result

    async def __aenter__(self) -> Self:
        """Enter the transport inside."""
        await self._transport.__aenter__()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None = None,
        error: BaseException | None = None,
        traceback: TracebackType | None = None,
    ) -> None:
        """Leave the transport inside."""
        await self._transport.__aexit__(kind, error, traceback)

    async def aclose(self) -> None:
        """Close the transport inside."""
        await self._transport.aclose()

    def handle_request(self, request: httpx.Request) -> NoReturn:
        """Raises `ConfigurationError`: an ``httpx.Client`` has been given this by mistake."""
        raise _wrong_client(self, "httpx.Client", "PolicyTransport")

    def __enter__(self) -> NoReturn:
        """As `handle_request`."""
        raise _wrong_client(self, "httpx.Client", "PolicyTransport")


def _wrong_client(transport: object, client: str, wanted: str) -> ConfigurationError:
    return ConfigurationError(
        f"an {client} was given {type(transport).__name__}(…): give it {wanted}(…)"
    )
