"""Dependencies for FastAPI: the app, a transaction for each request, or your session's as one.

::

    shop = Standfast("postgresql://…").add(PlaceOrder())
    api = FastAPI(lifespan=shop.lifespan)


    @api.post("/orders")
    async def place(order: Order, tx: TransactionDep) -> None:
        await tx.execute("INSERT INTO orders …")
        await tx.start(PlaceOrder, order, key=order.id)

What is Starlette's (`standfast.integrations.starlette`) is FastAPI's too.
"""

# No `from __future__ import annotations`: FastAPI reads those of a dependency as they are.

import inspect
from collections.abc import AsyncIterator, Iterator
from typing import Annotated, Any, Never, get_args

from standfast.affinity import running_loop
from standfast.app import Standfast
from standfast.blocking import BlockingClient
from standfast.checks import is_async
from standfast.doors import Transaction
from standfast.errors import ConfigurationError
from standfast.lazy import extra
from standfast.lifespan import PLACE

with extra("fastapi"):
    from fastapi import Depends, params
    from fastapi.requests import HTTPConnection


def current_app(connection: HTTPConnection) -> Standfast:
    """The app that is open in this server: that of ``FastAPI(lifespan=app.lifespan)``.

    To be overridden in tests: ``api.dependency_overrides[current_app] = lambda: other``. Raises
    `ConfigurationError` where there is none.

    A ``def`` that takes it works through ``app.blocking``. What is to be awaited raises
    `ConfigurationError` there, for it would do nothing.
    """
    found = getattr(connection.app.state, PLACE, None)
    if found is None:
        raise ConfigurationError(
            "this application has no app: write FastAPI(lifespan=app.lifespan), and let the server "
            "run the lifespan. For an application that is mounted in another, and has no lifespan "
            f"of its own: mounted.state.{PLACE} = app"
        )
    app: Standfast = found
    by_def = not all(map(is_async, _takers(_dependant(connection), current_app)))
    return _ForDef(app) if by_def else app


class _Itself:
    """A parameter by which FastAPI refuses `Depends` around what is a dependency already."""

    def __init__(self, name: str) -> None:
        self._name = name

    def __get_pydantic_core_schema__(self, *_: Any) -> Never:
        raise ConfigurationError(
            f"Depends({self._name}): {self._name} is a dependency already, of whose type FastAPI "
            f"would make a new object: write `name: {self._name}`, without a default"
        )


def _refuse_depends(alias: object, name: str) -> None:
    """Let FastAPI raise `ConfigurationError` where it is to call `alias`, which is no function."""
    annotation = Annotated[Any, _Itself(name)]
    kind = inspect.Parameter.KEYWORD_ONLY
    alias.__signature__ = inspect.Signature(  # type: ignore[attr-defined]
        [inspect.Parameter("itself", kind, annotation=annotation)]
    )


class _ForDef(Standfast):
    """An app as a `def` is given it: outside of an event loop it refuses what is to be awaited."""

    def __init__(self, app: Standfast) -> None:
        object.__setattr__(self, "_app", app)

    def __getattribute__(self, name: str) -> Any:
        found = getattr(object.__getattribute__(self, "_app"), name)
        to_await = not name.startswith("_") and hasattr(BlockingClient, name)
        if to_await and running_loop() is None:  # there is one where a def has handed the app on
            raise ConfigurationError(
                f"app.{name} in a def: what it gives is to be awaited, and what isn't awaited "
                f"isn't done. Write app.blocking.{name}, or make the function async def"
            )
        return found

    def __setattr__(self, name: str, value: object) -> None:
        setattr(object.__getattribute__(self, "_app"), name, value)


AppDep = Annotated[Standfast, Depends(current_app)]
"""The app, for the parameter of an endpoint or of another dependency; see `current_app`."""
_refuse_depends(AppDep, "AppDep")


async def _transaction(app: AppDep, connection: HTTPConnection) -> AsyncIterator[Transaction]:
    _refuse_socket(connection, "TransactionDep", "async with app.transaction()")
    _refuse_sync(connection, _transaction, "TransactionDep", "app.blocking.transaction() in it")
    async with app.transaction() as tx:
        yield tx


def _refuse_socket(connection: HTTPConnection, name: str, instead: str) -> None:
    """Raise `ConfigurationError` where the request lasts for as long as a WebSocket is open."""
    if connection.scope["type"] == "websocket":
        raise ConfigurationError(
            f"{name} in the WebSocket endpoint {connection.scope['path']}: it would be one "
            "transaction for as long as the socket is open, and hold up others that write. Take "
            f"AppDep, and `{instead}` for each message"
        )


def _dependant(connection: HTTPConnection) -> Any:
    """What FastAPI knows of the endpoint and its dependencies; None where it isn't FastAPI's."""
    return getattr(connection.scope.get("route"), "dependant", None)


def _takers(dependant: Any, made_by: object) -> Iterator[object]:
    """The functions that take what the dependency `made_by` gives."""
    if dependant is None:
        return
    for one in dependant.dependencies:
        if one.call is made_by:
            yield dependant.call
        else:
            yield from _takers(one, made_by)


def _refuse_sync(connection: HTTPConnection, made_by: object, name: str, instead: str) -> None:
    """Raise `ConfigurationError` where nobody can await what the dependency `made_by` gives."""
    whole = _dependant(connection)
    if whole is None:
        return
    ways = list(_awaiting(whole, made_by))
    # An endpoint that takes it itself acts with it, whoever else can; a helper may only look.
    takes_it = any(one.call is made_by for one in whole.dependencies)
    if (takes_it and not is_async(whole.call)) or (ways and not any(ways)):
        endpoint = getattr(whole.call, "__qualname__", repr(whole.call))
        raise ConfigurationError(
            f"{name} in {endpoint}, which is def: its tx is to be awaited, and what isn't awaited "
            f"isn't done. Make the endpoint async def, or use {instead}"
        )


def _awaiting(dependant: Any, made_by: object) -> Iterator[bool]:
    """For each way from a function to the dependency: whether one that can await is on it."""
    for one in dependant.dependencies:
        ways = [False] if one.call is made_by else _awaiting(one, made_by)
        yield from (is_async(dependant.call) or way for way in ways)


# Within the request it would still be open while the body is sent, and commit after that.
TransactionDep = Annotated[Transaction, Depends(_transaction, scope="function")]
"""A transaction of the request's own.

It commits once the endpoint has returned and its value is checked, and before anything is sent: a
client that was told of success can rely on it, and a commit that fails is an error for the client.
It is rolled back when the endpoint raises, an ``HTTPException`` too; one that *returns* a response,
of whatever status, commits. While a streamed body or a background task runs, it is over.

An endpoint that is ``def`` can't await what it does, and is refused with `ConfigurationError`: it
takes `AppDep` and ``with app.blocking.transaction()``. So is a WebSocket's, which lasts for as long
as the socket is open: it takes `AppDep` and ``async with app.transaction()`` for each message.

Write ``tx: TransactionDep``; ``Depends(TransactionDep)`` is refused.
"""
_refuse_depends(TransactionDep, "TransactionDep")


def adopted(session: Any) -> Any:
    """A dependency: the transaction of your own session dependency, as one of the app's.

    ::

        SessionDep = Annotated[AsyncSession, Depends(get_session, scope="function")]
        AdoptedDep = Annotated[Transaction, adopted(SessionDep)]

    `session` is what your endpoints write: an ``Annotated[…, Depends(…)]``, or the ``Depends(…)``
    itself, so that both get one and the same session. It is adopted by `Standfast.adopt`: who
    commits it, commits all. The transaction of a session for sync code is a `BlockingTransaction`.

    Raises `ConfigurationError` for what is no dependency. A request that takes `TransactionDep` too
    raises it, for that is another transaction, and so does a WebSocket, which outlasts one: there
    it is ``app.adopt(session)`` for each message.
    """
    depends = [one for one in (session, *get_args(session)[1:]) if isinstance(one, params.Depends)]
    if not depends:
        raise ConfigurationError(
            f"adopted({session!r}): give what your endpoints have, an Annotated[Session, "
            "Depends(get_session)] or that Depends(…): of a bare function nobody knows with which "
            "options they depend on it, and with others they would get another session"
        )

    async def adopt(app: Standfast, session: Any, connection: HTTPConnection) -> Any:
        _refuse_socket(connection, "an adopted session", "app.adopt(session)")
        if any(_takers(_dependant(connection), _transaction)):
            raise ConfigurationError(
                "TransactionDep and an adopted session in one request: they would be two "
                "transactions, of which one can commit without the other, and one may wait for the "
                "other. Take the adopted one for all"
            )
        tx = app.adopt(session)
        if isinstance(tx, Transaction):
            _refuse_sync(connection, adopt, "the transaction of an async session", "a sync session")
        return tx

    kind = inspect.Parameter.POSITIONAL_OR_KEYWORD
    adopt.__signature__ = inspect.Signature(  # type: ignore[attr-defined]
        [
            inspect.Parameter("app", kind, annotation=AppDep),
            inspect.Parameter("session", kind, annotation=Annotated[Any, depends[-1]]),
            inspect.Parameter("connection", kind, annotation=HTTPConnection),
        ]
    )
    # As short-lived as the session may be.
    return Depends(adopt, scope="function")
