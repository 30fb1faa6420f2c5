"""Which stored values may be handed out more than once, and which are read anew for each reader.

What a step sees is what a reload would show it. So nobody is given an object that somebody else
could have changed: values are decoded for each attempt that asks, unless their type says that
nobody can change them.
"""

from __future__ import annotations

import dataclasses
import datetime
import decimal
import enum
import math
import types
import uuid
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

import msgspec

from standfast.codec import Codec
from standfast.errors import CodecError
from standfast.saga.read_back import difference, equality_tells, exact_class, may_lose

NONE = type(None)
_PLAIN: frozenset[type] = frozenset({str, bool, NONE, int, float})
_IMMUTABLE = _PLAIN | {
    *(bytes, decimal.Decimal, uuid.UUID),
    *(datetime.datetime, datetime.date, datetime.time, datetime.timedelta),
}
_LONG = 1 << 63


class Values:
    """How the results of one step, or its items, are stored and read back, by their annotation.

    `is_immutable`: what was decoded may be given to any number of readers.
    """

    __slots__ = ("_equality_tells", "_exact", "_may_lose", "_plain", "annotation", "is_immutable")

    def __init__(self, annotation: Any) -> None:
        self.annotation: Any = Any if annotation is object else annotation
        self.is_immutable: bool = is_immutable(annotation)
        self._plain = _plain(self.annotation)
        self._may_lose = may_lose(self.annotation)
        self._exact = exact_class(self.annotation)
        self._equality_tells = equality_tells(self.annotation)

    def stored(self, codec: Codec, value: Any) -> tuple[bytes, Any, bool]:
        """`value` as JSON, as it is read back, and whether that may be kept for all readers.

        Raises `CodecError` for what can't be stored, or not be read back as it is annotated, or
        would be read back as something that says less.
        """
        data, kind = codec.encode(value), type(value)
        if kind in self._plain:
            if kind is str or kind is NONE or kind is bool:
                return data, value, True
            if kind is float and not math.isfinite(value):
                raise CodecError(f"{value!r} has no JSON form: return None, or text, instead")
            if kind is float or -_LONG <= value < _LONG:
                return data, value, True
        back = codec.decode(data, self.annotation)
        if self._may_lose and kind is not self._exact:
            self._check_read_back(back, value)
        return data, back, self.is_immutable

    def all_stored(self, codec: Codec, items: list[Any]) -> list[msgspec.Raw]:
        """The items of a step, as JSON. Raises `CodecError` as `stored`."""
        raws: list[msgspec.Raw] = []
        for number, item in enumerate(items):
            try:
                raws.append(msgspec.Raw(self.stored(codec, item)[0]))
            except CodecError as error:
                raise CodecError(
                    f"item {number} of each= can't be stored and read back by its annotation: "
                    f"{error}"
                ) from error
        return raws

    def _check_read_back(self, back: Any, value: Any) -> None:
        try:
            if self._equality_tells and back == value:
                return
            lost = difference(back, value, plain=True)
        except RecursionError as error:
            raise CodecError("it is nested too deep: return a flatter one") from error
        if lost is not None:
            raise CodecError(f"it {lost}")


def is_immutable(annotation: Any) -> bool:
    """Whether nobody can change a value that was decoded to this type."""
    return _is_immutable(annotation, set())


def _is_immutable(annotation: Any, seen: set[int]) -> bool:
    origin, args = get_origin(annotation), get_args(annotation)
    if origin is Literal:
        return True
    if origin is Annotated:
        return _is_immutable(args[0], seen)
    if origin in (Union, types.UnionType, tuple, frozenset):
        return bool(args) and all(_is_immutable(a, seen) for a in args if a is not Ellipsis)
    if annotation is None:
        return True
    if not isinstance(annotation, type) or origin is not None:
        return False
    if annotation in _IMMUTABLE or issubclass(annotation, enum.Enum):
        return True
    if not _is_frozen(annotation):
        return False
    if id(annotation) in seen:  # it holds others of its own kind
        return True
    seen.add(id(annotation))
    try:
        hints = get_type_hints(annotation)
    except Exception:  # noqa: BLE001 — annotations may raise anything: then it isn't known to be
        return False
    return all(_is_immutable(hint, seen) for hint in hints.values())


def _is_frozen(cls: type) -> bool:
    if dataclasses.is_dataclass(cls):
        return bool(cls.__dataclass_params__.frozen)  # type: ignore[attr-defined]
    if issubclass(cls, msgspec.Struct):
        return cls.__struct_config__.frozen
    return issubclass(cls, tuple) and hasattr(cls, "_fields")


def _plain(annotation: Any) -> frozenset[type]:
    """The classes whose very values are what would be read back, without a look."""
    if annotation is Any:
        return _PLAIN
    if annotation is None:
        return frozenset({NONE})
    if get_origin(annotation) in (Union, types.UnionType):
        return frozenset[type]().union(*map(_plain, get_args(annotation)))
    return _PLAIN & {annotation} if isinstance(annotation, type) else frozenset()
