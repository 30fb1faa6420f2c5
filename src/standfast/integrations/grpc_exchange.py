"""One call of a gRPC client under a policy: what its end says, and whether it may be made again.

Both interceptors share it: nothing here waits for the network.
"""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Collection, Hashable, Iterator
from contextlib import AbstractContextManager, nullcontext
from copy import copy
from hashlib import sha256
from math import inf
from typing import Any

from standfast.errors import TimedOut
from standfast.lazy import extra
from standfast.resilience.budget import let_pass
from standfast.resilience.deadline import current, within

with extra("grpc", distribution="grpcio"):
    import grpc

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
                if milliseconds == inf:
                    milliseconds = None
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
    return number if number >= 0 else None


class Exchange:
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
        self._details = _with_lasting_metadata(details)
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
        deadline = current()
        if deadline is not None:
            left = min(left, deadline.at - time.monotonic() + _GRACE)
        return self._details if left == inf else _with(self._details, "timeout", max(0.0, left))

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


def _with_lasting_metadata(details: Any) -> Any:
    """`details` whose metadata every attempt can read: an iterator is gone after the first."""
    metadata = details.metadata
    if not isinstance(metadata, Iterator):
        return details
    return _with(details, "metadata", tuple(metadata))


def _with(details: Any, name: str, value: Any) -> Any:
    if hasattr(details, "_replace"):  # gRPC's own are named tuples.
        return details._replace(**{name: value})
    changed = copy(details)
    setattr(changed, name, value)
    return changed
