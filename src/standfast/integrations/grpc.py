"""A policy around every unary call of a gRPC client, synchronous and asyncio.

::

    channel = grpc.intercept_channel(grpc.insecure_channel(address), PolicyInterceptor(policy))
    channel = grpc.aio.insecure_channel(address, interceptors=[AioPolicyInterceptor(policy)])

Streaming calls pass untouched: they have no single outcome to judge.

What is repeated, and when, follows gRFC A6 (client retries): a server's pushback is obeyed, and the
caller's ``timeout`` bounds all attempts together.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from contextlib import suppress
from itertools import count
from typing import Any, ClassVar, TypeAlias

from standfast.checks import texts
from standfast.errors import ConfigurationError
from standfast.integrations.grpc_exchange import FAILURES, Exchange, FailedCall
from standfast.lazy import extra
from standfast.resilience.functions import plain
from standfast.resilience.in_progress import IN_PROGRESS
from standfast.resilience.policy import Call, Policy, a_policy

with extra("grpc", distribution="grpcio"):
    import grpc
    import grpc.aio

__all__ = [
    "FAILURES",
    "AioPolicyInterceptor",
    "FailedCall",
    "Idempotent",
    "PolicyInterceptor",
]

Idempotent: TypeAlias = Collection[str] | Callable[[str], bool]

_numbers = count()


class _Judge:
    """What the two interceptors share."""

    _around: ClassVar[Call]
    """Such calls as the policy stands around."""

    def __init__(
        self,
        policy: Policy,
        failures: Collection[grpc.StatusCode] = FAILURES,
        idempotent: Idempotent = (),
    ) -> None:
        self.policy: Policy = a_policy(policy, around=self._around)
        if isinstance(failures, (str, bytes)) or not isinstance(failures, Collection):
            raise ConfigurationError(
                f"failures={failures!r}: give a list of grpc.StatusCode, such as "
                "[grpc.StatusCode.UNAVAILABLE]"
            )
        self._failures = frozenset(failures)
        self._number = next(_numbers)
        self._idempotent = _predicate(idempotent)
        wrong = [code for code in self._failures if not isinstance(code, grpc.StatusCode)]
        if wrong:
            raise ConfigurationError(f"failures: {wrong[0]!r} is no grpc.StatusCode")

    def _exchange(self, details: Any, request: Any) -> Exchange:
        method = details.method
        name = method.decode() if isinstance(method, bytes) else method
        return Exchange(
            details, request, name, self._idempotent(name), self._failures, self._number
        )


def _predicate(idempotent: Idempotent) -> Callable[[str], bool]:
    if callable(idempotent):
        return plain(
            idempotent,
            name="idempotent",
            wanted="a list of methods, or a function of the method that answers a bool",
        )
    wanted = "a list of methods, such as ['/shop.Stock/Look'], or a function of the method"
    return frozenset(texts(idempotent, name="idempotent", wanted=wanted)).__contains__


def _call(request: Any) -> Any:
    """What a policy stands around in a synchronous channel."""


async def _aio_call(request: Any) -> Any:
    """What a policy stands around in a channel of ``grpc.aio``."""


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

    Raises `ConfigurationError` for what is no policy, or one that can't stand around plain calls,
    and for bad options.
    """

    _around = staticmethod(_call)

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
                with suppress(grpc.FutureCancelledError):  # By us, or the caller: its code tells.
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

    _around = staticmethod(_aio_call)

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
