"""Our errors as HTTP answers in Starlette and FastAPI, and a limiter as a dependency.

::

    app = FastAPI()
    app.add_exception_handler(StandfastError, answer_error)


    @app.get("/search", dependencies=[Depends(RateLimit(RateLimiter(10, "1s", name="search")))])
    async def search() -> list[str]: ...
"""

# No `from __future__ import annotations`: FastAPI reads those of a dependency as they are.

import inspect
import sys
from collections.abc import Callable, Coroutine
from typing import Annotated, Any, Never, TypeVar, overload

from standfast.errors import ConfigurationError, RateLimited, Rejected
from standfast.integrations.asgi import client_address
from standfast.integrations.problems import Headers, Problem, later, problem_of, rejected
from standfast.integrations.rejections import (
    POLICY_VIOLATION,
    TRY_AGAIN_LATER,
    Check,
    HeaderVersion,
    KeyOf,
)
from standfast.lazy import extra
from standfast.resilience.functions import NoDependency
from standfast.resilience.ratelimit import RateLimiter

with extra("starlette", of="asgi"):
    from starlette.exceptions import HTTPException
    from starlette.requests import HTTPConnection, Request
    from starlette.responses import Response
    from starlette.websockets import WebSocket, WebSocketState


@overload
async def answer_error(connection: Request, error: Exception) -> Response: ...
@overload
async def answer_error(connection: WebSocket, error: Exception) -> None: ...
async def answer_error(connection: HTTPConnection, error: Exception) -> Response | None:
    """An exception handler: our errors as problem details (RFC 9457), where a client can use them.

    Register it by ``app.add_exception_handler(StandfastError, answer_error)``:

    | error | status |
    |---|---|
    | `RateLimited` | 429, with ``Retry-After`` |
    | other `Rejected`: `CircuitOpen`, `BulkheadFull` | 503, with ``Retry-After`` |
    | `StoreUnavailable`, `TransactionConflict`, `StoreFull` | 503, with ``Retry-After``; logged |
    | `SagaNotFound` | 404 |
    | `SagaConflict`, `SagaCompensated`, `Refused` | 409 |
    | `CodecError`, of a signal's payload say | 422 |
    | `TimedOut` | 504 |

    All others, such as `ConfigurationError` and `SagaParked`, are the server's affair: they are
    raised again, so that the server logs them and answers 500. The text of an error is told in no
    case. A WebSocket is closed, with 1013 ("try again later") where there is a ``Retry-After``, and
    1008 otherwise.

    A `RateLimited` by which your own limiter spares *another* service isn't the client's affair:
    catch it, or let it come out as something else.
    """
    problem = problem_of(error)
    if problem is None:
        raise error
    return await _answer(connection, error, problem)


@overload
async def answer_rejection(connection: Request, error: Exception) -> Response: ...
@overload
async def answer_rejection(connection: WebSocket, error: Exception) -> None: ...
async def answer_rejection(connection: HTTPConnection, error: Exception) -> Response | None:
    """As `answer_error`, of nothing but rejections: for ``add_exception_handler(Rejected, …)``.

    What isn't a `Rejected` is raised again.
    """
    if not isinstance(error, Rejected):
        raise error
    return await _answer(connection, error, rejected(error))


async def _answer(
    connection: HTTPConnection, error: Exception, problem: Problem
) -> Response | None:
    if isinstance(connection, WebSocket):
        if WebSocketState.DISCONNECTED in (connection.client_state, connection.application_state):
            return None
        again = problem.retry_after is not None
        await connection.close(TRY_AGAIN_LATER if again else POLICY_VIOLATION)
        return None
    body = problem.body()
    response = Response(body, problem.status)
    limits = error.rate_limit_headers if isinstance(error, Denied) else []
    response.raw_headers = [*problem.headers(body), *limits]
    return response


class Denied(RateLimited, HTTPException):
    """What `RateLimit` raises: Starlette answers it with 429, also without `answer_error`."""

    def __init__(self, retry_after: float, rate_limit_headers: Headers) -> None:
        RateLimited.__init__(self, "Too Many Requests", retry_after=retry_after)
        told = [(b"retry-after", str(later(429, retry_after).retry_after).encode())]
        told += rate_limit_headers
        headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in told}
        HTTPException.__init__(self, 429, "Too Many Requests", headers)
        self.rate_limit_headers: Headers = rate_limit_headers


F = TypeVar("F", bound=Callable[..., Any])

_WRITE = "write Depends(RateLimit(RateLimiter(…)))"
_NO_CLASS = NoDependency(f"RateLimit is a class: {_WRITE}")
_MISSING: Any = None


def _marked_async(function: F) -> F:
    """`function`, a plain one that answers with a coroutine, marked so that frameworks await it."""
    if sys.version_info >= (3, 12):
        return inspect.markcoroutinefunction(function)
    import asyncio.coroutines

    function._is_coroutine = asyncio.coroutines._is_coroutine  # type: ignore[attr-defined]  # noqa: SLF001
    return function


class RateLimit:
    """A dependency for FastAPI: ``Depends(RateLimit(limiter))`` limits a route, or a router.

    It raises `Denied`, a `RateLimited`, when `limiter` says no, and adds the rate-limit fields to
    the answer otherwise (not to a ``Response`` that the route makes itself). The options, and their
    errors, are those of `RateLimitMiddleware`. It works for WebSockets as well.
    """

    def __init__(
        self,
        limiter: Annotated[RateLimiter, _NO_CLASS],
        *more: Never,
        key: KeyOf = client_address,
        headers: HeaderVersion = "draft-10",
        cost: int = 1,
    ) -> None:
        if more:
            shown = ", ".join(repr(one) for one in (limiter, *more))
            raise ConfigurationError(f"RateLimit({shown}): give one limiter: {_WRITE}")
        self._check = Check(limiter, key=key, headers=headers, cost=cost)

    # Plain, for an `async def` couldn't tell at once that it decorates a function.
    @_marked_async
    def __call__(
        self, connection: HTTPConnection, response: Response = _MISSING
    ) -> Coroutine[Any, Any, Any]:
        """Ask the limiter about one request; its `Decision`, or None where there is no limit.

        Raises `ConfigurationError` where it decorates a function.
        """
        if not isinstance(connection, HTTPConnection):
            raise ConfigurationError(
                f"RateLimit(…) is no decorator, and can't be called with {connection!r}: {_WRITE}, "
                "or decorate with the limiter itself, as in @RateLimiter(…)"
            )
        return self._ask(connection, response)

    async def _ask(self, connection: HTTPConnection, response: Response) -> Any:
        asked = await self._check.ask(connection.scope)
        if asked is None:
            return None
        decision, fields = asked
        if not decision:
            raise Denied(decision.retry_after, fields)
        response.raw_headers.extend(fields)
        return decision
