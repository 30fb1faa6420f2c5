"""A policy around every unary call of a gRPC client, synchronous and asyncio.

::

    channel = grpc.intercept_channel(grpc.insecure_channel(address), PolicyInterceptor(policy))
    channel = grpc.aio.insecure_channel(address, interceptors=[AioPolicyInterceptor(policy)])

Streaming calls pass untouched: they have no single outcome to judge.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Any

import grpc
import grpc.aio

from standfast.resilience.budget import let_pass
from standfast.resilience.policy import Policy

FAILURES: Collection[grpc.StatusCode] = frozenset(
    (
        grpc.StatusCode.UNAVAILABLE,
        grpc.StatusCode.RESOURCE_EXHAUSTED,
        grpc.StatusCode.DEADLINE_EXCEEDED,
        grpc.StatusCode.INTERNAL,
        grpc.StatusCode.UNKNOWN,
        grpc.StatusCode.ABORTED,
    )
)
"""Codes that count as failures of the server; the others are answers."""

# By these the server says that it did nothing.
_NOT_DONE = (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.RESOURCE_EXHAUSTED)


class FailedCall(Exception):
    """A call that ended with a failure code, as policies see it; callers get the call itself.

    `call` is gRPC's, `code` its status, and `retry_after` seconds, if the server told them by
    ``retry-after`` or ``grpc-retry-pushback-ms`` in its trailing metadata.
    """

    def __init__(self, call: Any, code: grpc.StatusCode, metadata: Any) -> None:
        super().__init__(code.name)
        self.call = call
        self.code = code
        self.retry_after = _retry_after(metadata)


def _retry_after(metadata: Any) -> float | None:
    for name, value in metadata or ():
        try:
            if name == "retry-after":
                return float(value)
            if name == "grpc-retry-pushback-ms":
                return float(value) / 1000
        except ValueError:
            continue  # What can't be read counts as not said.
    return None


class _Judge:
    """What the two interceptors share."""

    def __init__(
        self,
        policy: Policy,
        failures: Collection[grpc.StatusCode] = FAILURES,
        idempotent: Callable[[str], bool] = lambda method: False,
    ) -> None:
        self.policy = policy
        self._failures = failures
        self._idempotent = idempotent

    def failed(self, details: Any, call: Any, code: grpc.StatusCode | None, metadata: Any) -> None:
        """Raise if `code` is a failure."""
        if code is None or code not in self._failures:
            return
        failure = FailedCall(call, code, metadata)
        method = details.method
        name = method.decode() if isinstance(method, bytes) else method
        raise failure if code in _NOT_DONE or self._idempotent(name) else let_pass(failure)


class PolicyInterceptor(_Judge, grpc.UnaryUnaryClientInterceptor):  # type: ignore[misc]
    """Makes each unary call of a synchronous channel under `policy`, and waits for its end.

    A call that ends with one of `failures` (`FAILURES` by default) counts as a failure of the
    attempt. When the policy gives up on it, the caller gets the last call as it ended: its
    ``result()`` raises gRPC's own error. What the policy raises by itself (`CircuitOpen`,
    `RateLimited` …) comes through.

    A call is made again only if the server says that it did nothing (UNAVAILABLE,
    RESOURCE_EXHAUSTED) or if `idempotent` says True for its method (``"/package.Service/Method"``).
    Any other failure is marked, so that no `Retry` around tries again.
    """

    def intercept_unary_unary(
        self, continuation: Any, client_call_details: Any, request: Any
    ) -> Any:
        """Make one call under the policy."""

        def attempt() -> Any:
            call = continuation(client_call_details, request)
            call.exception()  # Waits for the end.
            self.failed(client_call_details, call, call.code(), call.trailing_metadata())
            return call

        try:
            return self.policy.call(attempt)
        except FailedCall as failure:
            return failure.call


class AioPolicyInterceptor(_Judge, grpc.aio.UnaryUnaryClientInterceptor):  # type: ignore[misc]
    """As `PolicyInterceptor`, for ``grpc.aio`` channels."""

    async def intercept_unary_unary(
        self, continuation: Any, client_call_details: Any, request: Any
    ) -> Any:
        """Make one call under the policy."""

        async def attempt() -> Any:
            call = await continuation(client_call_details, request)
            code, metadata = await call.code(), await call.trailing_metadata()
            self.failed(client_call_details, call, code, metadata)
            return call

        try:
            return await self.policy.call(attempt)
        except FailedCall as failure:
            return failure.call
