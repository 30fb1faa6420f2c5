"""Package exports that are loaded when they are first used, so that a part costs no import of all.

::

    if not TYPE_CHECKING:  # to type checkers, every name would be there
        __getattr__, __dir__ = exports(__name__, {"saga": ("Saga", "step")})
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from importlib import import_module
from typing import Any


def exports(
    package: str, homes: Mapping[str, Sequence[str]]
) -> tuple[Callable[[str], Any], Callable[[], list[str]]]:
    """``__getattr__`` and ``__dir__`` for `package`: `homes` are its modules, and names of each."""
    home_of = {name: home for home, names in homes.items() for name in names}

    def get(name: str) -> Any:
        home = home_of.get(name)
        if home is None:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        value = getattr(import_module(f"{package}.{home}"), name)
        vars(sys.modules[package])[name] = value
        return value

    def names() -> list[str]:
        return list(sys.modules[package].__all__)

    return get, names


class extra:  # noqa: N801 - reads as a statement: with extra("httpx"): import httpx
    """Says what to install where the module `name` is missing, of an extra (`name` too, or `of`).

    ::

        with extra("grpc", distribution="grpcio"):
            import grpc
    """

    def __init__(self, name: str, *, of: str = "", distribution: str = "") -> None:
        self._name = name
        self._of = of or name
        self._distribution = distribution or name

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: object, error: BaseException | None, traceback: object) -> None:
        missing = error.name or "" if isinstance(error, ModuleNotFoundError) else ""
        # Under another name it is there, and lacks something itself.
        if missing.partition(".")[0] == self._name:
            raise ModuleNotFoundError(
                f"{self._name!r} isn't installed: pip install {self._distribution}, or install "
                f"standfast with its extra `{self._of}`",
                name=missing,
            ) from error
