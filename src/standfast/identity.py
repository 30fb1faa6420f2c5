"""What there is once: a copy of it is itself, and it can't go into another process."""

from __future__ import annotations

from typing import Any, NoReturn, Self, SupportsIndex


class Uncopied:
    """Its copies are itself, deep ones too: so whoever copies what holds it goes on with the same.

    Pickling it raises ``TypeError`` with `_unpicklable`: that says what to pickle in its place.
    """

    __slots__ = ()
    _unpicklable: str

    def __copy__(self) -> Self:
        return self

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        return self

    def __reduce_ex__(self, protocol: SupportsIndex) -> NoReturn:
        raise TypeError(f"{type(self).__name__} can't be pickled: {self._unpicklable}")
