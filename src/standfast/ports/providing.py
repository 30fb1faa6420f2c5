"""How a backend says which ports it has, and how it is asked for one.

The port in ``ports/outbox.py`` is provided by ``outbox.py`` in the folder of each backend that has
it: that module's ``PROVIDES`` says how to make it, and which tables it needs. A port of your own is
announced with `provide`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from typing import Any, Literal, TypeAlias, TypeVar, cast

from standfast.errors import ConfigurationError, Unsupported
from standfast.ports.schema import SchemaLine

P = TypeVar("P")

Dialect: TypeAlias = Literal["memory", "sqlite", "postgresql"]
"""The SQL that a database speaks; ``"memory"`` speaks none."""


@dataclass(frozen=True, slots=True)
class Provided:
    """How a backend provides a port.

    `make` is called with the `Database`, which may not be open yet, when the port is first asked
    for. `line` are the port's tables, None where it needs none.
    `needs` are other ports whose tables its statements use.
    """

    make: Callable[[Any], Any]
    line: SchemaLine | None = None
    needs: tuple[type, ...] = ()


_announced: dict[tuple[str, type], Provided] = {}


def provide(dialect: Dialect, protocol: type, provided: Provided) -> None:
    """Announce how databases of a dialect provide a port of your own. A second time replaces it."""
    _announced[dialect, protocol] = provided


class Ports:
    """The ports of one database: each is made when it is first asked for.

    `package` is the backend's, in which the modules of its ports are found.
    """

    def __init__(self, database: Any, package: str) -> None:
        self._database = database
        self._package = package
        self._made: dict[type, Any] = {}

    def get(self, protocol: type[P]) -> P:
        """The port. Raises `Unsupported` where the backend has none."""
        made = self._made.get(protocol)
        if made is None:
            made = self._made[protocol] = self._provided(protocol).make(self._database)
        return cast(P, made)

    def made(self) -> Sequence[Any]:
        """The port objects instantiated so far."""
        return list(self._made.values())

    def lines(self, protocols: Iterable[type]) -> list[SchemaLine]:
        """The tables that these ports need, and the ports that they build on: those first."""
        found: dict[str, SchemaLine] = {}

        def visit(protocol: type) -> None:
            provided = self._provided(protocol)
            for need in provided.needs:
                visit(need)
            line = provided.line
            if line is not None and found.setdefault(line.name, line) != line:
                raise ConfigurationError(
                    f"two lines of migrations are named {line.name!r}: {protocol.__name__} has "
                    "one, and another port too. Rename the line of your own"
                )

        for protocol in protocols:
            visit(protocol)
        return list(found.values())

    def _provided(self, protocol: type) -> Provided:
        announced = _announced.get((self._database.dialect, protocol))
        if announced is not None:
            return announced
        name = f"{self._package}.{protocol.__module__.rpartition('.')[2]}"
        if protocol.__module__.startswith("standfast.ports.") and find_spec(name) is not None:
            provides: dict[type, Provided] = getattr(import_module(name), "PROVIDES", {})
            if protocol in provides:
                return provides[protocol]
        raise Unsupported(
            f"{self._database.url} has no {protocol.__name__}: use a database that has one, or "
            f"announce one with standfast.ports.provide({self._database.dialect!r}, "
            f"{protocol.__name__}, …)"
        )
