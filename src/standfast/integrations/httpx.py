"""A policy around every request that an httpx client makes, or around those to one host.

::

    payments = Pipeline(Timeout("2s"), Retry(attempts=4), CircuitBreaker())
    client = httpx.AsyncClient(
        mounts={"https://payments.example": AsyncPolicyTransport(payments)}
    )
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

import httpx

from standfast.resilience.budget import let_pass
from standfast.resilience.policy import Policy

IsFailure: TypeAlias = Callable[[httpx.Response], bool]

# RFC 9110, 9.2.2.
_IDEMPOTENT = frozenset(("GET", "HEAD", "OPTIONS", "TRACE", "PUT", "DELETE"))
# The request was certainly not sent.
_UNSENT = (httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout)


def server_failed(response: httpx.Response) -> bool:
    """Whether the answer is a failure of the server: 429, or 5xx but 501 (never implemented)."""
    status = response.status_code
    return status == 429 or (status >= 500 and status != 501)


class FailedResponse(Exception):
    """An answer that counts as a failure, as policies see it; callers get the response itself.

    `response` is the answer; a `Retry` reads ``Retry-After`` from it.
    """

    def __init__(self, response: httpx.Response) -> None:
        super().__init__(f"{response.status_code} {response.reason_phrase}".strip())
        self.response = response


class _Judge:
    """What the two transports share: which outcome is a failure, and what may be sent again."""

    def __init__(self, policy: Policy, is_failure: IsFailure) -> None:
        self.policy = policy
        self.is_failure = is_failure

    def refuse(self, request: httpx.Request, response: httpx.Response) -> FailedResponse:
        failure = FailedResponse(response)
        if response.status_code == 429:  # Nothing was done, whatever the method.
            return failure if _can_be_read_again(request) else let_pass(failure)
        return failure if _may_repeat(request) else let_pass(failure)

    def mark(self, request: httpx.Request, error: httpx.TransportError) -> None:
        if not (_may_repeat(request) or isinstance(error, _UNSENT)):
            let_pass(error)


def _may_repeat(request: httpx.Request) -> bool:
    safe = request.method.upper() in _IDEMPOTENT or "Idempotency-Key" in request.headers
    return safe and _can_be_read_again(request)


def _can_be_read_again(request: httpx.Request) -> bool:
    return isinstance(request.stream, httpx.ByteStream)


class PolicyTransport(httpx.BaseTransport):
    """A transport for ``httpx.Client`` that makes every request under `policy`.

    A response for which `is_failure` says True (`server_failed` by default) counts as a failure of
    the attempt, with its ``Retry-After``; so do httpx's transport errors. When the policy gives up
    on such a response, the last one is returned, not raised; those before it are closed. What the
    policy raises by itself (`CircuitOpen`, `TimedOut` …) comes through.

    A request is sent again only if its method is idempotent or it has an ``Idempotency-Key``, if
    the answer was 429, or if it can't have been sent; and never if its body was a stream. Any other
    failure is marked, so that no `Retry` around tries again.

    An attempt ends with the response's headers: its body is read outside of the policy.
    """

    def __init__(
        self,
        policy: Policy,
        transport: httpx.BaseTransport | None = None,
        *,
        is_failure: IsFailure = server_failed,
    ) -> None:
        self._judge = _Judge(policy, is_failure)
        self._transport = transport or httpx.HTTPTransport()

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        """Make one request under the policy."""
        failed: list[httpx.Response] = []

        def attempt() -> httpx.Response:
            while failed:
                failed.pop().close()
            try:
                response = self._transport.handle_request(request)
            except httpx.TransportError as error:
                self._judge.mark(request, error)
                raise
            if self._judge.is_failure(response):
                failed.append(response)
                raise self._judge.refuse(request, response)
            return response

        try:
            return self._judge.policy.call(attempt)
        except FailedResponse as failure:
            return failure.response
        except BaseException:
            while failed:
                failed.pop().close()
            raise

    def close(self) -> None:
        """Close the transport inside."""
        self._transport.close()


class AsyncPolicyTransport(httpx.AsyncBaseTransport):
    """As `PolicyTransport`, for ``httpx.AsyncClient``."""

    def __init__(
        self,
        policy: Policy,
        transport: httpx.AsyncBaseTransport | None = None,
        *,
        is_failure: IsFailure = server_failed,
    ) -> None:
        self._judge = _Judge(policy, is_failure)
        self._transport = transport or httpx.AsyncHTTPTransport()

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """Make one request under the policy."""
        failed: list[httpx.Response] = []

        async def attempt() -> httpx.Response:
            while failed:
                await failed.pop().aclose()
            try:
                response = await self._transport.handle_async_request(request)
            except httpx.TransportError as error:
                self._judge.mark(request, error)
                raise
            if self._judge.is_failure(response):
                failed.append(response)
                raise self._judge.refuse(request, response)
            return response

        try:
            return await self._judge.policy.call(attempt)
        except FailedResponse as failure:
            return failure.response
        except BaseException:
            while failed:
                await failed.pop().aclose()
            raise

    async def aclose(self) -> None:
        """Close the transport inside."""
        await self._transport.aclose()
