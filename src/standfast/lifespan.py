"""An app for as long as an ASGI server lives: what Starlette, FastAPI and others call a lifespan.

Nothing of them is needed for that. A lifespan is a function that takes the ASGI application and
answers with an async context manager, whose value, a mapping or None, is the state that the server
gives to each request.
"""

from __future__ import annotations

import inspect
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager, contextmanager
from functools import partial
from typing import Any, TypeAlias, overload

from standfast.checks import flag
from standfast.errors import ConfigurationError

Lifespan: TypeAlias = Callable[[Any], AbstractAsyncContextManager[Any]]

PLACE = "standfast"
"""The attribute of an ASGI application's ``state`` by which its dependencies find the app."""


class HasLifespan:
    """What an app is to an ASGI server."""

    @overload
    def lifespan(self, asgi: Any, /) -> AbstractAsyncContextManager[Any]: ...
    @overload
    def lifespan(
        self, *, inner: Lifespan | None = None, running: bool = False, **options: Any
    ) -> Lifespan: ...
    def lifespan(
        self: Any,
        *asgi: Any,
        inner: Lifespan | None = None,
        running: bool = False,
        **options: Any,
    ) -> AbstractAsyncContextManager[Any] | Lifespan:
        """The app is open for as long as an ASGI server lives: ``FastAPI(lifespan=app.lifespan)``.

        With options it answers with such a lifespan, as in
        ``FastAPI(lifespan=app.lifespan(inner=mine))``. `inner` is a lifespan of your own: it begins
        once the app is open, ends before the app closes, and its state stays what it is.
        `running`: also run the services in the server's process, with the further `options` of
        `running`, so that no other process is needed. While it lasts, the app is the
        ``state.standfast`` of the ASGI application, if that has a ``state``, where the dependencies
        of `standfast.integrations.fastapi` find it.

        Raises `ConfigurationError` for what isn't a lifespan, and for options that aren't right or
        don't go together.
        """
        if asgi and _is_lifespan(asgi[0]):
            raise ConfigurationError(f"lifespan({asgi[0]!r}): write inner=…, with its name")
        if inner is not None:
            _check_inner(inner)
        if flag(running, name="running"):
            self.running(**options)  # which checks them, and begins nothing
        elif options:
            raise ConfigurationError(
                f"lifespan({', '.join(options)}=…): options of `running` need running=True"
            )
        made = partial(
            _lifespan, self, partial(self.running, **options) if running else None, inner
        )
        return made(*asgi) if asgi else made


def _is_lifespan(given: object) -> bool:
    """Whether it is a function of one parameter: an ASGI application has three."""
    if not inspect.isfunction(given):
        return False
    try:
        inspect.signature(given).bind(None)
    except TypeError:
        return False
    return True


def _check_inner(inner: object) -> None:
    """Raise `ConfigurationError` for what isn't called, or whose answer can't be entered."""
    if isinstance(inner, AbstractAsyncContextManager):  # those of contextlib can be called too
        hint = ", and don't call it"
    elif (
        not callable(inner)
        or inspect.iscoroutinefunction(inner)
        or inspect.isasyncgenfunction(inner)
        or inspect.isgeneratorfunction(inspect.unwrap(inner))
    ):
        hint = ""
    else:
        return
    raise ConfigurationError(
        f"inner={inner!r}: give an `async def` that yields once, takes the ASGI application and is "
        f"decorated with @contextlib.asynccontextmanager{hint}"
    )


@asynccontextmanager
async def _lifespan(
    app: AbstractAsyncContextManager[Any],
    running: Callable[[], AbstractAsyncContextManager[Any]] | None,
    inner: Lifespan | None,
    asgi: Any,
) -> AsyncIterator[Mapping[str, Any] | None]:
    async with app if running is None else running():
        with _found(asgi, app):
            if inner is None:
                yield None
            else:
                async with inner(asgi) as state:
                    yield state


@contextmanager
def _found(asgi: Any, app: object) -> Iterator[None]:
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
