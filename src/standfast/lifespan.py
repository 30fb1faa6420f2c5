"""An app for as long as an ASGI server lives: what Starlette, FastAPI and others call a lifespan.

Nothing of them is needed for that. A lifespan is a function that takes the ASGI application and
answers with an async context manager, whose value, a mapping or None, is the state that the server
gives to each request.
"""

from __future__ import annotations

import inspect
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager, contextmanager
from typing import Any, TypeAlias

from standfast.errors import ConfigurationError

Lifespan: TypeAlias = Callable[[Any], AbstractAsyncContextManager[Any]]

PLACE = "standfast"
"""The attribute of an ASGI application's ``state`` by which its dependencies find the app."""


def lifespan_of(
    app: Any, opened: Callable[[], AbstractAsyncContextManager[Any]], inner: Lifespan | None
) -> Lifespan:
    """A lifespan that enters what `opened` answers, then `inner`.

    `app` is what is to be found meanwhile. Raises `ConfigurationError` for what is no lifespan.
    """
    given: object = inner
    if given is not None and (not callable(given) or inspect.isasyncgenfunction(given)):
        raise ConfigurationError(
            f"inner={inner!r}: give a function of the ASGI application that is decorated with "
            "@contextlib.asynccontextmanager"
        )

    @asynccontextmanager
    async def lifespan(asgi: Any) -> AsyncIterator[Mapping[str, Any] | None]:
        async with opened():
            with _found(asgi, app):
                if inner is None:
                    yield None
                else:
                    async with inner(asgi) as state:
                        yield state

    return lifespan


@contextmanager
def _found(asgi: Any, app: Any) -> Iterator[None]:
    """Let `app` be found at its place of the application's ``state``, if that is free."""
    state = getattr(asgi, "state", None)
    if state is None or getattr(state, PLACE, None) is not None:
        yield
        return
    setattr(state, PLACE, app)
    try:
        yield
    finally:
        delattr(state, PLACE)
