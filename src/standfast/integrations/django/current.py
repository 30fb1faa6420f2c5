"""The project's app: made of the settings when it is first used, and anew for another database."""

from __future__ import annotations

import threading
from collections.abc import Callable, Coroutine, Mapping, Sequence
from functools import wraps
from inspect import iscoroutinefunction
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar, cast

from standfast.affinity import running_loop
from standfast.errors import ConfigurationError

if TYPE_CHECKING:  # so that Django starts as fast as before where nothing of it is used
    from standfast.app import Standfast
    from standfast.integrations.django.project import DjangoStandfast

P = ParamSpec("P")
T = TypeVar("T")

DEFAULT = "default"
KNOWN = ("DATABASE", "SAGAS", "OPTIONS")


def given() -> Mapping[str, Any]:
    """``settings.STANDFAST``. Raises `ConfigurationError` for what isn't known in there."""
    from django.conf import settings

    found: Any = getattr(settings, "STANDFAST", {})
    if not isinstance(found, Mapping):
        raise ConfigurationError(f"settings.STANDFAST={found!r}: must be a dictionary")
    unknown = ", ".join(sorted(map(str, set(found) - set(KNOWN))))
    if unknown:
        raise ConfigurationError(
            f"settings.STANDFAST has {unknown}: there are {', '.join(KNOWN)} only"
        )
    modules: Any = found.get("SAGAS", ())
    if not isinstance(modules, list | tuple) or not all(isinstance(one, str) for one in modules):
        raise ConfigurationError(
            f"settings.STANDFAST['SAGAS']={modules!r}: must be a list of modules, such as "
            "['lib.sagas']"
        )
    return found


def alias() -> str:
    """The alias of the database that the app keeps its data in."""
    found = given().get("DATABASE", DEFAULT)
    from django.db import connections

    if not isinstance(found, str) or found not in connections.settings:
        raise ConfigurationError(
            f"settings.STANDFAST['DATABASE']={found!r}: settings.DATABASES has "
            f"{', '.join(map(repr, connections.settings))}"
        )
    return found


def modules() -> Sequence[str]:
    """The modules that the settings name for sagas; none where `check_settings` tells of these."""
    try:
        found: Sequence[str] = given().get("SAGAS", ())
    except ConfigurationError:
        return ()
    return found


class CurrentApp:
    """Stands for the project's app, whatever database the alias leads to just now.

    Django's tests lead it to a database of theirs after the code was imported. Then an app for that
    one is made, with all that was added.
    """

    _parts: list[Any]
    _made: tuple[tuple[str, str], DjangoStandfast] | None
    _lock: threading.RLock

    def __init__(self) -> None:
        # Anything else that is set is meant for the app.
        self.__dict__.update(_parts=[], _made=None, _lock=threading.RLock())

    def add(self, *parts: Any) -> CurrentApp:
        """See `Standfast.add`. Before Django is ready, what is wrong is told at the first use."""
        with self._lock:
            if self._made is not None:
                self._made[1].add(*parts)
            self._parts.extend(parts)
        return self

    @property
    def parts(self) -> list[Any]:
        """What was added."""
        return list(self._parts)

    def current(self) -> DjangoStandfast:
        """The app itself, for the database of now. Raises `ConfigurationError`."""
        _be_ready()
        from django.db import connections

        key = (found := alias()), str(connections.settings[found]["NAME"])
        with self._lock:
            if self._made is not None and self._made[0] == key:
                return self._made[1]
            from standfast.integrations.django.project import DjangoStandfast

            made = DjangoStandfast(found, given().get("OPTIONS", {})).add(*self._parts)
            self.__dict__["_made"] = key, made
            return made

    def close_blocking(self, *, unless_held: bool = False) -> None:
        """Close ``app.blocking``, where it is open: the next call opens it anew."""
        if self._made is not None:
            self._made[1].close_blocking(unless_held=unless_held)

    def _stands_for(self) -> type:
        from standfast.app import Standfast

        return Standfast

    # As far as isinstance can tell, it is what it stands for.
    __class__ = property(_stands_for)  # pyright: ignore[reportIncompatibleMethodOverride]

    def __getattr__(self, name: str) -> Any:
        found = getattr(self.current(), name)
        if name != "run" and iscoroutinefunction(found) and running_loop() is None:
            return _awaited(name, found)
        return found

    def __setattr__(self, name: str, value: Any) -> None:
        setattr(self.current(), name, value)

    def __repr__(self) -> str:
        return "<the Standfast app of settings.STANDFAST>"

    async def __aenter__(self) -> DjangoStandfast:
        return await self.current().__aenter__()

    async def __aexit__(self, *raised: object) -> None:
        await self.current().__aexit__(*raised)


def _awaited(name: str, method: Callable[P, Coroutine[Any, Any, T]]) -> Any:
    """`method` for code that may be sync: that can't await it, so that nothing would be done.

    Its call decides, for who takes it here may call it in a loop.
    """
    from asgiref.sync import markcoroutinefunction

    @wraps(method)
    def called(*args: P.args, **kwargs: P.kwargs) -> Coroutine[Any, Any, T]:
        if running_loop() is None:
            raise ConfigurationError(
                f"app.{name}(…) in sync code, which can't await it, so that nothing would be done: "
                f"write app.blocking.{name}(…), or app.adopt().start(…) for a start that is to "
                "commit with your rows"
            )
        return method(*args, **kwargs)

    return markcoroutinefunction(called)


def _be_ready() -> None:
    """Set Django up where nobody did, as in ``standfast -a standfast.integrations.django:app``."""
    import django
    from django.apps import apps
    from django.core.exceptions import ImproperlyConfigured

    if apps.models_ready:
        return
    if apps.loading:
        raise ConfigurationError(
            "the Standfast app was used while Django loads its apps: only app.add(…) works so "
            "early; do the rest in a function that is called later"
        )
    try:
        django.setup()
    except ImproperlyConfigured as error:
        raise ConfigurationError(
            f"Django isn't set up ({error}): run `manage.py standfast …`, or set "
            "DJANGO_SETTINGS_MODULE"
        ) from error


app: Standfast = cast("Standfast", CurrentApp())
"""The project's app."""
