"""A policy around every unary call of a gRPC client, synchronous and asyncio.

::

    channel = grpc.intercept_channel(grpc.insecure_channel(address), PolicyInterceptor(policy))
    channel = grpc.aio.insecure_channel(address, interceptors=[AioPolicyInterceptor(policy)])

Streaming calls pass untouched: they have no single outcome to judge.

What is repeated, and when, follows gRFC A6 (client retries): a server's pushback is obeyed, and the
caller's ``timeout`` bounds all attempts together.
"""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Callable, Collection, Hashable
from contextlib import AbstractContextManager, nullcontext, suppress
from copy import copy
from hashlib import sha256
from itertools import count
from math import inf
from typing import Any, TypeAlias

from standfast.errors import ConfigurationError, TimedOut
from standfast.lazy import extra
from standfast.resilience.budget import let_pass
from standfast.resilience.deadline import remaining, within
from standfast.resilience.functions import plain
from standfast.resilience.in_progress import IN_PROGRESS
from standfast.resilience.policy import Policy

with extra("grpc", distribution="grpcio"):
    import grpc
    import grpc.aio

Idempotent: TypeAlias = Collection[str] | Callable[[str], bool]

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

# By these a server says that it did nothing. But gRPC itself says UNAVAILABLE too, when a
# connection is lost in the midst of a call, and RESOURCE_EXHAUSTED for an answer that is too large;
# only the text tells. What sounds like it isn't taken for the server's word.
_NOT_DONE = (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.RESOURCE_EXHAUSTED)
_LOST = re.compile(
    r"stream removed|socket|connection|reset|closed|broken pipe|goaway|cancell?ing all calls"
    r"|transport|keepalive|ping|recvmsg|sendmsg|endpoint|\beof\b|larger than max|shut ?down",
    re.IGNORECASE,
)
# So gRPC begins when the call was never sent.
_UNSENT = ("failed to connect", "errors resolving", "dns resolution", "empty address list")
# A call gets this much more than is left until a policy's deadline, so that it is the policy that
# tells of it.
_GRACE = 0.1
# These differ from call to call, and no answer depends on them.
_PASSING = ("traceparent", "tracestate", "grpc-trace-bin", "x-request-id")

_numbers = count()


class FailedCall(Exception):
    """A call that ended with a failure code, as policies see it; callers get the call itself.

    `call` is gRPC's, `code` its status, and `retry_after` seconds, if the server told them by
    ``retry-after`` or ``grpc-retry-pushback-ms`` in its trailing metadata. `pushed_back` tells that
    by the latter it asked not to be called again.
    """

    def __init__(self, call: Any, code: grpc.StatusCode, metadata: Any) -> None:
        super().__init__(code.name)
        self.call = call
        self.code = code
        self.retry_after: float | None = None
        self.pushed_back = False
        for name, value in metadata or ():
            if name == "grpc-retry-pushback-ms":
                # gRFC A6: negative, or not to be understood, says no.
                milliseconds = _number(value)
                self.pushed_back = milliseconds is None
                self.retry_after = None if milliseconds is None else milliseconds / 1000
                break
            if name == "retry-after":
                self.retry_after = _number(value)


def _number(text: Any) -> float | None:
    try:
        number = float(text)
    except ValueError:
        return None
    return number if 0 <= number < inf else None


class _Judge:
    """What the two interceptors share."""

    def __init__(
        self,
        policy: Policy,
        failures: Collection[grpc.StatusCode] = FAILURES,
        idempotent: Idempotent = (),
    ) -> None:
        self.policy = policy
        self._failures = frozenset(failures)
        self._number = next(_numbers)
        self._idempotent = _predicate(idempotent)
        wrong = [code for code in self._failures if not isinstance(code, grpc.StatusCode)]
        if wrong:
            raise ConfigurationError(f"failures: {wrong[0]!r} is no grpc.StatusCode")

    def _exchange(self, details: Any, request: Any) -> _Exchange:
        method = details.method
        name = method.decode() if isinstance(method, bytes) else method
        return _Exchange(
            details, request, name, self._idempotent(name), self._failures, self._number
        )


def _predicate(idempotent: Idempotent) -> Callable[[str], bool]:
    if callable(idempotent):
        return plain(
            idempotent,
            name="idempotent",
            wanted="a list of methods, or a function of the method that answers a bool",
        )
    if isinstance(idempotent, str) or not all(isinstance(one, str) for one in idempotent):
        raise ConfigurationError(
            f"idempotent={idempotent!r}: give a list of methods, such as ['/shop.Stock/Look'], or "
            "a function of the method"
        )
    return frozenset(idempotent).__contains__


class _Exchange:
    """One call of a client under the policy, and its attempts. They may run in threads."""

    def __init__(
        self,
        details: Any,
        request: Any,
        method: str,
        idempotent: bool,
        failures: Collection[grpc.StatusCode],
        number: int,
    ) -> None:
        self._details = details
        self._request = request
        self._method = method
        self._idempotent = idempotent
        self._failures = failures
        self._number = number
        self._timeout: float | None = details.timeout
        self._ends_at = None if self._timeout is None else time.monotonic() + self._timeout
        self._lock = threading.Lock()
        self._maybe_done = False
        self._pushed_back = False
        self._calls: list[Any] = []
        self._over = False

    def may_repeat(self) -> bool:
        """See `CallInProgress.may_repeat`."""
        return not self._pushed_back and (self._idempotent or not self._maybe_done)

    def identity(self) -> Hashable:
        """See `CallInProgress.identity`: the interceptor, method, request and metadata."""
        request = self._request
        if hasattr(request, "SerializeToString"):
            request = request.SerializeToString(deterministic=True)
        elif not isinstance(request, (bytes, str)):
            return object()  # What will be sent isn't known.
        metadata = sorted(
            (name, value)
            for name, value in self._details.metadata or ()
            if name.lower() not in _PASSING
        )
        # Not the parts themselves: they hold passwords.
        parts = repr((self._number, self._method, request, metadata))
        return sha256(parts.encode("utf-8", "surrogatepass")).digest()

    def bounded(self) -> AbstractContextManager[None]:
        """Lets policies see the caller's timeout, which comes first by itself."""
        return nullcontext() if self._timeout is None else within(max(0, self._timeout) + _GRACE)

    def begin(self) -> Any:
        """An attempt begins; its details. Raises `TimedOut` where the policy may make no other."""
        with self._lock:
            if not self.may_repeat():
                # Only a policy that doesn't ask `may_repeat` comes here.
                raise let_pass(
                    TimedOut(
                        f"{self._method} was not called again: it may have been carried out, and "
                        "isn't idempotent. If it is, say so by idempotent=[…]"
                    )
                )
            self._maybe_done = True
        left = inf if self._ends_at is None else self._ends_at - time.monotonic()
        until_deadline = remaining()
        if until_deadline is not None:
            left = min(left, until_deadline + _GRACE)
        return self._details if left == inf else _with_timeout(self._details, max(0.0, left))

    def under_way(self, call: Any) -> None:
        """An attempt has sent its call."""
        with self._lock:
            self._calls.append(call)
            over = self._over
        if over:
            call.cancel()

    def judge(
        self, call: Any, code: grpc.StatusCode | None, details: str | None, metadata: Any
    ) -> None:
        """Raise `FailedCall` if `code` is a failure."""
        if code is None or code not in self._failures:
            return
        failure = FailedCall(call, code, metadata)
        if failure.pushed_back:
            self._pushed_back = True
        if code in _NOT_DONE and (failure.retry_after is not None or _nothing_done(details or "")):
            self._maybe_done = False
        raise failure

    def end(self) -> None:
        """The policy is done: nobody waits for what is still under way."""
        with self._lock:
            self._over = True
            calls, self._calls = self._calls, []
        for call in calls:
            if not call.done():
                call.cancel()

    def mark(self, error: BaseException) -> None:
        """What comes out of the policy tells retries around the client what this one knows."""
        if not self.may_repeat():
            let_pass(error)


def _nothing_done(details: str) -> bool:
    if details.lower().startswith(_UNSENT):
        return True
    return bool(details) and _LOST.search(details) is None


def _with_timeout(details: Any, timeout: float) -> Any:
    if hasattr(details, "_replace"):  # gRPC's own are named tuples.
        return details._replace(timeout=timeout)
    changed = copy(details)
    changed.timeout = timeout
    return changed


class _Answer(grpc.Call, grpc.Future):  # type: ignore[misc]
    """What a policy answered by itself, in the form of a call that succeeded."""

    def __init__(self, value: Any) -> None:
        self._value = value

    def initial_metadata(self) -> Any:
        return ()

    def trailing_metadata(self) -> Any:
        return ()

    def code(self) -> grpc.StatusCode:
        return grpc.StatusCode.OK

    def details(self) -> str:
        return ""

    def is_active(self) -> bool:
        return False

    def time_remaining(self) -> Any:
        return None

    def cancel(self) -> bool:
        return False

    def add_callback(self, callback: Any) -> bool:
        return False

    def cancelled(self) -> bool:
        return False

    def running(self) -> bool:
        return False

    def done(self) -> bool:
        return True

    def result(self, timeout: float | None = None) -> Any:
        return self._value

    def exception(self, timeout: float | None = None) -> None:
        return None

    def traceback(self, timeout: float | None = None) -> None:
        return None

    def add_done_callback(self, fn: Callable[[Any], Any]) -> None:
        fn(self)


class PolicyInterceptor(_Judge, grpc.UnaryUnaryClientInterceptor):  # type: ignore[misc]
    """Makes each unary call of a synchronous channel under `policy`, and waits for its end.

    A call that ends with one of `failures` (`FAILURES` by default) counts as a failure of the
    attempt. When the policy gives up on it, the caller gets the last call as it ended: its
    ``result()`` raises gRPC's own error. What the policy raises by itself (`CircuitOpen`,
    `RateLimited` …) comes through; what a `Fallback` answers is the response.

    A call is made again only if it wasn't sent, if the server says that it did nothing (UNAVAILABLE
    or RESOURCE_EXHAUSTED, but not a lost connection), or if its method
    (``"/package.Service/Method"``) is in `idempotent`, a list or a function that answers a bool;
    and never after a server's ``grpc-retry-pushback-ms: -1``. That holds whatever ended the wait,
    and for every policy. The error that comes out is marked, so that no `Retry` around tries again
    either.

    The caller's ``timeout`` bounds all attempts together, and the deadline of a `Timeout` bounds
    each attempt. Nothing else can end a call that runs in a thread: the loser of a `Hedge` runs on
    until then, but for one made by ``future()``, which is cancelled.

    Policies get the request as the argument of the call. ``Fallback(last_good=…)`` goes by the
    interceptor, the method, the request and the metadata.

    Raises `ConfigurationError` for bad options.
    """

    def intercept_unary_unary(
        self, continuation: Any, client_call_details: Any, request: Any
    ) -> Any:
        """Make one call under the policy."""
        exchange = self._exchange(client_call_details, request)

        def attempt(request: Any) -> Any:
            details = exchange.begin()
            IN_PROGRESS.set(None)
            try:
                call = continuation(details, request)
                exchange.under_way(call)
                # Cancelled by us, or by the caller who has the future: its code tells.
                with suppress(grpc.FutureCancelledError):
                    call.exception()  # Waits for the end.
            finally:
                IN_PROGRESS.set(exchange)
            exchange.judge(call, call.code(), call.details(), call.trailing_metadata())
            return call

        around = IN_PROGRESS.get()
        IN_PROGRESS.set(exchange)
        try:
            with exchange.bounded():
                answer = self.policy.call(attempt, request)
        except FailedCall as failure:
            return failure.call
        except BaseException as error:
            exchange.mark(error)
            raise
        finally:
            IN_PROGRESS.set(around)
            exchange.end()
        return answer if isinstance(answer, grpc.Future) else _Answer(answer)


class AioPolicyInterceptor(_Judge, grpc.aio.UnaryUnaryClientInterceptor):  # type: ignore[misc]
    """As `PolicyInterceptor`, for ``grpc.aio`` channels.

    Here every call that nobody waits for any more is cancelled at once, and the server told so: at
    a timeout, when the caller is cancelled, or when it lost against a hedge.
    """

    async def intercept_unary_unary(
        self, continuation: Any, client_call_details: Any, request: Any
    ) -> Any:
        """Make one call under the policy."""
        exchange = self._exchange(client_call_details, request)

        async def attempt(request: Any) -> Any:
            details = exchange.begin()
            IN_PROGRESS.set(None)
            try:
                call = await continuation(details, request)
                exchange.under_way(call)
                try:
                    code, metadata = await call.code(), await call.trailing_metadata()
                    told = await call.details()
                except BaseException:  # also a cancellation, which ends the wait only
                    call.cancel()
                    raise
            finally:
                IN_PROGRESS.set(exchange)
            exchange.judge(call, code, told, metadata)
            return call

        around = IN_PROGRESS.get()
        IN_PROGRESS.set(exchange)
        try:
            with exchange.bounded():
                return await self.policy.call(attempt, request)
        except FailedCall as failure:
            return failure.call
        except BaseException as error:
            exchange.mark(error)
            raise
        finally:
            IN_PROGRESS.set(around)
            exchange.end()
