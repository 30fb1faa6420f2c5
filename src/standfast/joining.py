"""What can be added to an app, and the pattern that takes it: a new pattern gets its line here."""

from __future__ import annotations

from collections.abc import AsyncIterator, Collection, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from importlib import import_module
from typing import Any, TypeVar

from standfast.coordination.service import Service, ServiceOptions, checked_services
from standfast.errors import ConfigurationError
from standfast.pattern import Host, Pattern
from standfast.shielding import shielded
from standfast.text import class_of

P = TypeVar("P", bound=Pattern)

PATTERNS: Mapping[str, str] = {
    "standfast.saga.saga.Saga": "standfast.saga.sagas.Sagas",
}
"""By the class of what is added. As names, so that an app imports only the patterns that it uses.
A pattern that is added itself, as it is, needs no line.
"""


MEMBERS = ("ports", "attach", "add", "open", "close", "services")
"""What a pattern has, whether it subclasses `Pattern` or not."""


class Joined:
    """The registry of an app's patterns, one of each class."""

    def __init__(self, host: Host) -> None:
        self._host = host
        self._patterns: dict[type, Pattern] = {}
        self._open: list[Pattern] | None = None

    @property
    def all(self) -> list[Pattern]:
        """All that were added, in that order."""
        return list(self._patterns.values())

    @asynccontextmanager
    async def opened(self) -> AsyncIterator[None]:
        """Open the patterns, and close them in reverse: each that was opened, whatever happens."""
        stack = AsyncExitStack()
        self._open = []
        stack.callback(setattr, self, "_open", None)
        try:
            for pattern in self.all:
                try:
                    await pattern.open()
                except Exception as error:
                    name = type(pattern).__name__
                    error.add_note(f"standfast: pattern {name!r} failed at its start")
                    raise
                stack.push_async_callback(pattern.close)
                self._open.append(pattern)
            yield
        finally:
            await shielded(stack.aclose())

    @property
    def ports(self) -> list[type]:
        """The ports that they store with."""
        return list(dict.fromkeys(kind for one in self.all for kind in one.ports))

    def add(self, part: Any) -> None:
        """Add a pattern, or hand a part to its pattern. Raises `ConfigurationError`."""
        for ancestor in type(part).__mro__:
            home = PATTERNS.get(f"{ancestor.__module__}.{ancestor.__qualname__}")
            if home is not None:
                module, _, name = home.rpartition(".")
                kind: type[Pattern] = getattr(import_module(module), name)
                self._refuse_while_open(part, kind)
                self.get(kind).add(part)
                return
        missing = [name for name in MEMBERS if not hasattr(part, name)]
        if isinstance(part, type) or missing == list(MEMBERS):
            raise ConfigurationError(
                f"add({part!r}): give an instance of a Saga subclass, or a pattern"
            )
        if missing:
            raise ConfigurationError(
                f"add({part!r}): a pattern has {', '.join(MEMBERS)}, and this has no "
                f"{', '.join(missing)}: subclass standfast.pattern.Pattern"
            )
        self._refuse_while_open(part, type(part))
        if type(part) in self._patterns:
            raise ConfigurationError(f"add({part!r}): this app has {class_of(part)} already")
        part.attach(self._host)
        self._patterns[type(part)] = part

    def _refuse_while_open(self, part: Any, kind: type) -> None:
        if self._open is not None and not any(isinstance(one, kind) for one in self._open):
            raise ConfigurationError(
                f"add({part!r}): the app is open, and what it needs isn't there: add it before"
            )

    def find(self, kind: type[P]) -> P | None:
        """The app's pattern of that class, None if there is none."""
        return next((one for one in self._patterns.values() if isinstance(one, kind)), None)

    def get(self, kind: type[P]) -> P:
        """The app's pattern of that class; one that isn't there joins now, to look and to ask.

        It is opened with the app. In one that is open already, it can't begin anything.
        """
        pattern = self.find(kind)
        if pattern is not None:
            return pattern
        pattern = kind()
        pattern.attach(self._host)
        self._patterns[kind] = pattern
        return pattern

    def attach_anew(self) -> object:
        """Attach all, in a forked process, to the app that has begun anew; what they had before."""
        before = [dict(vars(pattern)) for pattern in self.all]
        self._open = None
        for pattern in self.all:
            pattern.attach(self._host)
        return before

    def services(self, options: ServiceOptions, only: Collection[str]) -> list[Service]:
        """All services, or those named in `only`. Raises `ConfigurationError` if there are none."""
        if isinstance(only, str) or not all(isinstance(name, str) for name in only):
            raise ConfigurationError(f"only={only!r}: give a list of names, such as ['sagas']")
        every = [
            service
            for pattern in self.all
            for service in checked_services(pattern.services(options), type(pattern).__name__)
        ]
        names = [service.name for service in every]
        if not every:
            raise ConfigurationError(
                "this app has nothing to run: "
                + ("what was added has no services" if self.all else "nothing was added")
                + ": add something, as in app.add(PlaceOrder(…))"
            )
        unknown = sorted(set(only) - set(names))
        if unknown:
            raise ConfigurationError(
                f"only={', '.join(unknown)}: there is no such service; this app has "
                f"{', '.join(names)}"
            )
        return [service for service in every if not only or service.name in only]
