"""One request of an httpx client under a policy: what failed, may be sent again, must be closed.

Both transports share it: nothing here waits for the network but `aclose`.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Collection, Hashable, Iterable
from hashlib import sha256
from itertools import count
from typing import TypeAlias

from standfast.checks import texts
from standfast.errors import ConfigurationError, TimedOut
from standfast.lazy import extra
from standfast.resilience.budget import let_pass
from standfast.resilience.functions import plain
from standfast.resilience.policy import Call, Policy, a_policy

with extra("httpx"):
    import httpx

IsFailure: TypeAlias = Callable[[httpx.Response], bool]

_log = logging.getLogger("standfast.integrations.httpx")

IDEMPOTENT: Collection[str] = frozenset(("GET", "HEAD", "OPTIONS", "TRACE", "PUT", "DELETE"))
"""The methods that may be repeated whatever became of the first request (RFC 9110, 9.2.2)."""

# The request was certainly not sent.
_UNSENT = (httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout)
# These differ from request to request, and no answer depends on them.
_PASSING = (b"traceparent", b"tracestate", b"x-request-id")

# Of a response's extensions, those that outlive its connection.
_LASTING = ("http_version", "reason_phrase")

_numbers = count()


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


class Judge:
    """What the two transports share: which answer is a failure, and which method is idempotent."""

    def __init__(
        self, policy: Policy, is_failure: IsFailure, idempotent: Collection[str], *, around: Call
    ) -> None:
        swapped = isinstance(policy, (httpx.BaseTransport, httpx.AsyncBaseTransport))
        note = ": it is a transport, which comes second" if swapped else ""
        self.policy: Policy = a_policy(policy, around=around, note=note)
        plain(
            is_failure,
            name="is_failure",
            wanted="a function of the response that answers a bool",
        )
        texts(idempotent, name="idempotent", wanted="a list of methods, such as ['GET', 'POST']")
        self.is_failure = is_failure
        self.idempotent = frozenset(method.upper() for method in idempotent)
        self.number = next(_numbers)


class Exchange:
    """One request of a client under the policy: its attempts, and the responses that they got.

    Attempts may run in threads and end after the exchange: it is told of each response, and of
    each that nobody gets it says that it must be closed.
    """

    def __init__(self, judge: Judge, request: httpx.Request) -> None:
        self._judge = judge
        self._request = request
        self._lock = threading.Lock()
        self._open: list[httpx.Response] = []
        self._failed: list[httpx.Response] = []
        self._maybe_sent = False
        self._over = False
        self.flaw: Exception | None = None
        """What `is_failure` raised, if it did."""
        self.kept = False
        """Whether an answer may be kept for later, and must therefore be read whole."""

    def may_repeat(self) -> bool:
        """See `CallInProgress.may_repeat`."""
        if not self._maybe_sent:
            return True
        request = self._request
        if not isinstance(request.stream, httpx.ByteStream):
            return False  # The body is gone.
        return request.method.upper() in self._judge.idempotent or (
            "Idempotency-Key" in request.headers
        )

    def identity(self) -> Hashable:
        """See `CallInProgress.identity`: the transport, method, URL, header fields and body."""
        self.kept = True
        request = self._request
        if not isinstance(request.stream, httpx.ByteStream):
            return object()  # What will be sent isn't known.
        fields = sorted(
            (name.lower(), value)
            for name, value in request.headers.raw
            if name.lower() not in _PASSING
        )
        parts = (self._judge.number, request.method, str(request.url), fields, request.read())
        # Not the parts themselves: they hold passwords.
        return sha256(repr(parts).encode("utf-8", "surrogatepass")).digest()

    def begin(self) -> list[httpx.Response]:
        """An attempt begins; which failed responses of earlier ones nobody needs any more.

        Raises `TimedOut` where the policy may not make another.
        """
        request = self._request
        with self._lock:
            if not self.may_repeat():
                # Only a policy that doesn't ask `may_repeat` comes here.
                raise let_pass(
                    TimedOut(
                        f"{request.method} to {request.url.host!r} was not sent again: it may have "
                        "been received, and isn't idempotent. Send an Idempotency-Key that the "
                        "server honours, or name the method in idempotent=[…]"
                    )
                )
            self._maybe_sent = True
            before, self._failed = self._failed, []
            return before

    def broke(self, error: BaseException) -> None:
        """An attempt ended without a response."""
        if isinstance(error, _UNSENT):
            self._maybe_sent = False

    def got(self, response: httpx.Response) -> bool:
        """An attempt got `response`; whether anybody waits for it."""
        with self._lock:
            if not self._over:
                self._open.append(response)
            return not self._over

    def judge(self, response: httpx.Response) -> None:
        """Raise `FailedResponse` if it is a failure.

        An `is_failure` that raises says nothing of the server: its error is kept as the `flaw`, to
        be raised past the policy.
        """
        try:
            failed = self._judge.is_failure(response)
        except Exception as error:  # noqa: BLE001 - raised to the caller, once the policy is done
            error.add_note(
                f"standfast: is_failure={self._judge.is_failure!r} raised this. It is given the "
                "response before its body is read: go by status and header fields"
            )
            self.flaw = error
            return
        if failed:
            with self._lock:
                if response in self._open:
                    self._open.remove(response)
                    self._failed.append(response)
            if response.status_code == 429 and isinstance(self._request.stream, httpx.ByteStream):
                self._maybe_sent = False  # Nothing was done, whatever the method.
            raise FailedResponse(response)

    def end(self) -> list[httpx.Response]:
        """The policy is done; the responses that are still open."""
        with self._lock:
            self._over = True
            return [*self._failed, *self._open]

    def answered(self, answer: object) -> tuple[httpx.Response, list[httpx.Response]]:
        """The policy is done, with `answer`: what the caller gets, and what must be closed."""
        left = self.end()
        for response in left:
            if response is answer:
                return response, [one for one in left if one is not response]
        return substitute(answer), left

    def gave_up(self, response: httpx.Response) -> tuple[httpx.Response, list[httpx.Response]]:
        """The policy gave up on a failed `response`: as `answered`."""
        left = self.end()
        if not any(one is response for one in left):
            # A later attempt has closed it, and its response says the same.
            response = next(reversed(left), response)
        return response, [one for one in left if one is not response]

    def mark(self, error: BaseException) -> None:
        """What comes out of the policy tells retries around the client what this one knows."""
        if not self.may_repeat():
            let_pass(error)


def substitute(answer: object) -> httpx.Response:
    """What a policy answered by itself, for one more caller: httpx writes into what it is given."""
    if not isinstance(answer, httpx.Response):
        raise ConfigurationError(
            f"the policy answered {answer!r} for an HTTP request: a Fallback in a transport gives "
            "an httpx.Response"
        )
    try:
        content = answer.content
    except httpx.ResponseNotRead:
        return answer  # Of another request, on its way: only one can have it.
    # The content is decoded already.
    fields = [
        (name, value)
        for name, value in answer.headers.raw
        if name.lower() not in (b"content-encoding", b"content-length", b"transfer-encoding")
    ]
    extensions = {name: kept for name, kept in answer.extensions.items() if name in _LASTING}
    return httpx.Response(
        answer.status_code, headers=fields, content=content, extensions=extensions
    )


def close(responses: Iterable[httpx.Response]) -> None:
    """Close each, whatever becomes of the others."""
    stopped: BaseException | None = None
    for response in responses:
        try:
            response.close()
        except Exception:  # noqa: BLE001 - nobody gets it, so it mustn't fail what somebody gets
            _log.debug("a response that nobody gets didn't close", exc_info=True)
        except BaseException as error:  # noqa: BLE001 - raised below, once all had their turn
            stopped = error
    if stopped is not None:
        raise stopped


async def aclose(responses: Iterable[httpx.Response]) -> None:
    """Close each, whatever becomes of the others; also when cancelled meanwhile."""
    stopped: BaseException | None = None
    for response in responses:
        try:
            await response.aclose()
        except Exception:  # noqa: BLE001 - as above
            _log.debug("a response that nobody gets didn't close", exc_info=True)
        except BaseException as error:  # noqa: BLE001 - raised below, once all had their turn
            stopped = error
    if stopped is not None:
        raise stopped
