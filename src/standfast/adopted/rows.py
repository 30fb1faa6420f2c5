"""Rows of any driver, readable by column name or position."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import lru_cache
from typing import Any


class NamedRow(tuple[Any, ...]):
    """A row that also knows the names of its columns."""

    __slots__ = ()
    names: Sequence[str] = ()

    def __getitem__(self, key: Any, /) -> Any:
        if isinstance(key, str):
            try:
                key = self.names.index(key)
            except ValueError:
                raise KeyError(key) from None
        return super().__getitem__(key)

    def keys(self) -> Sequence[str]:
        """The column names."""
        return self.names


def named_rows(names: Sequence[str], rows: Iterable[Iterable[Any]]) -> list[NamedRow]:
    """Rows with these names."""
    kind = _kind(tuple(names))
    return [kind(row) for row in rows]


@lru_cache(maxsize=256)
def _kind(names: tuple[str, ...]) -> type[NamedRow]:
    return type("NamedRow", (NamedRow,), {"names": names, "__slots__": ()})
