"""Whether what is read back from the journal says the same as what was given to be stored.

It looks at the values themselves. What has lost a part while it was encoded, such as a field, loses
it once more when it is encoded to be compared: two such texts are equal.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from datetime import datetime, time
from enum import Enum
from typing import Any, NamedTuple, get_origin

import msgspec
import msgspec.inspect

from standfast.codec import canonical, parts

MISSING: Any = object()
"""What stands for a value that wasn't read back at all."""

_ATOMS = frozenset({str, int, bool, bytes, type(None)})
_MAY_LOSE = (
    msgspec.inspect.AnyType,
    msgspec.inspect.CustomType,
    msgspec.inspect.DataclassType,
    msgspec.inspect.DateTimeType,
    msgspec.inspect.StructType,
    msgspec.inspect.TimeType,
    msgspec.inspect.TypedDictType,
)
"""The types of which a value may say more than is stored of it.

A subclass has more fields, a dict more keys, an offset from UTC more than hours and minutes; and
what has no type may be any of these, or NaN.
"""


class Difference(NamedTuple):
    """Where, at `path`, something else is read `back` than was `given`.

    `known`: of a field that isn't read back, those that are.
    """

    path: str
    back: Any
    given: Any
    known: tuple[str, ...] = ()

    def __str__(self) -> str:
        if self.back is MISSING:
            return f"has no field {self.path!r}: choose from {', '.join(self.known) or 'none'}"
        at = f", at {self.path!r}" if self.path else ""
        return (
            f"would be read back as {_short(self.back)}, not as {_short(self.given)}{at}: JSON "
            "can't keep it, so give it in another form"
        )


def difference(back: Any, given: Any, *, plain: bool = False) -> Difference | None:
    """The first place where `back`, read back, says something else than `given`; None without one.

    Two that aren't equal to Python may say the same, as a list and a tuple do. `plain`: what has
    become a plain JSON value, where the type said nothing, has lost nothing by that. May raise
    `RecursionError`.
    """
    return next(_differences(back, given, "", plain), None)


def may_lose(annotation: Any) -> bool:
    """Whether values of the type may say more than is read back, so that both are compared."""
    try:
        found = list(parts(msgspec.inspect.type_info(annotation)))
    except Exception:  # noqa: BLE001 — of a codec that knows it, as `app.add` has seen
        return True
    return any(isinstance(part, _MAY_LOSE) for part in found)


def equality_tells(annotation: Any) -> bool:
    """Whether values of the type that are equal to Python surely say the same.

    Those with a comparison of their own, or that leaves out fields, may not.
    """
    try:
        found = list(parts(msgspec.inspect.type_info(annotation)))
    except Exception:  # noqa: BLE001 — as above
        return True
    classes = (getattr(part, "cls", None) for part in found)
    return all(_compares_all(get_origin(one) or one) for one in classes if one is not None)


def _compares_all(cls: Any) -> bool:
    equal = cls.__eq__
    if equal in (object.__eq__, msgspec.Struct.__eq__) or issubclass(cls, (tuple, dict, Enum)):
        return True
    if getattr(equal, "__module__", "") == "pydantic.main":
        return True
    code = getattr(equal, "__code__", None)
    if code is None or not code.co_filename.startswith("<"):  # it isn't a generated one
        return False
    if dataclasses.is_dataclass(cls):
        return all(field.compare for field in dataclasses.fields(cls))
    return all(field.eq for field in getattr(cls, "__attrs_attrs__", ()))


def exact_class(annotation: Any) -> type | None:
    """The class whose very instances lose nothing, though those of its subclasses might."""
    if not isinstance(annotation, type) or get_origin(annotation) is not None:
        return None
    try:
        shape = msgspec.inspect.type_info(annotation)
    except Exception:  # noqa: BLE001 — as above
        return None
    if not isinstance(shape, (msgspec.inspect.DataclassType, msgspec.inspect.StructType)):
        return None
    held = parts(shape.fields)  # among them itself, where it holds others of its kind
    return None if any(isinstance(part, _MAY_LOSE) for part in held) else annotation


def _differences(back: Any, given: Any, path: str, plain: bool) -> Iterator[Difference]:
    kind = type(given)
    if back is given or (kind in _ATOMS and type(back) is kind and back == given):
        return
    fields = _fields(given)
    if fields is not None:
        its = _fields(back)
        # Where the type said nothing. A Struct may have other names there, or leave out defaults.
        if isinstance(back, dict) and (
            not isinstance(given, msgspec.Struct) or back.keys() == fields.keys()
        ):
            its = back
        if its is None:
            if not _is_same(back, given, plain):
                yield Difference(path, back, given)
            return
        for name, one in fields.items():
            where = f"{path}.{name}" if path else name
            if name in its:
                yield from _differences(its[name], one, where, plain)
            elif one is not msgspec.UNSET:
                yield Difference(where, MISSING, one, tuple(its))
    elif isinstance(given, Mapping) and isinstance(back, Mapping):
        yield from _of_mapping(back, given, path, plain)
    elif isinstance(given, (list, tuple)) and isinstance(back, (list, tuple)):
        if len(back) != len(given):
            yield Difference(path, back, given)
            return
        for number, (its_own, one) in enumerate(zip(back, given, strict=True)):
            yield from _differences(its_own, one, f"{path}[{number}]", plain)
    elif isinstance(given, (set, frozenset)) and isinstance(back, (set, frozenset, list)):
        if len(back) != len(given) or not all(_is_in(one, back, plain) for one in given):
            yield Difference(path, back, given)
    elif not _is_same(back, given, plain):
        yield Difference(path, back, given)


def _of_mapping(
    back: Mapping[Any, Any], given: Mapping[Any, Any], path: str, plain: bool
) -> Iterator[Difference]:
    missing = [name for name in given if name not in back]
    if missing and plain and len(back) == len(given):  # JSON keeps their order
        for (its_name, its_own), (name, one) in zip(back.items(), given.items(), strict=True):
            yield from _differences(its_name, name, _below(path, name), plain)
            yield from _differences(its_own, one, _below(path, name), plain)
        return
    if missing and all(isinstance(name, str) for name in given):
        known = tuple(str(name) for name in back)
        yield Difference(_below(path, missing[0]), MISSING, given[missing[0]], known)
    elif missing or len(back) != len(given):
        yield Difference(path, back, given)
    else:
        for name, one in given.items():
            yield from _differences(back[name], one, _below(path, name), plain)


def _below(path: str, name: Any) -> str:
    return f"{path}.{name}" if path else str(name)


def _is_in(one: Any, back: Any, plain: bool) -> bool:
    return any(next(_differences(its, one, "", plain), None) is None for its in back)


def _is_same(back: Any, given: Any, plain: bool) -> bool:
    """Whether two single values say the same."""
    kind = type(given)
    compares: Any = kind.__eq__
    if type(back) is kind and compares is not object.__eq__:
        return bool(back == given) or (back != back and given != given)  # NaN is none of both
    if isinstance(given, (datetime, time)) and _has_odd_offset(given):
        return False
    if back == given:
        return True
    try:
        same = bool(canonical(back) == canonical(given))
    except (TypeError, ValueError):  # of a codec, or a Pydantic type, with a form of its own
        return True
    return same or (plain and back is not None and _fields(given) is None)


def _has_odd_offset(moment: datetime | time) -> bool:
    """Whether its offset from UTC has seconds, which no text of it has."""
    offset = moment.utcoffset()
    return offset is not None and bool(offset.seconds % 60 or offset.microseconds)


def _fields(value: Any) -> Mapping[str, Any] | None:
    """What a dataclass, Struct, attrs class or Pydantic model holds, by name; None of all else."""
    kind = type(value)
    if isinstance(value, msgspec.Struct):
        return {name: getattr(value, name) for name in value.__struct_fields__}
    if dataclasses.is_dataclass(kind):
        return _held(value, [field.name for field in dataclasses.fields(kind)])
    if hasattr(kind, "__attrs_attrs__"):
        return _held(value, [field.name for field in kind.__attrs_attrs__])
    if hasattr(kind, "model_dump") and hasattr(kind, "model_fields"):
        return {**_held(value, kind.model_fields), **(getattr(value, "model_extra", None) or {})}
    return None


def _held(value: Any, names: Any) -> dict[str, Any]:
    return {name: getattr(value, name, None) for name in names}


def _short(value: Any) -> str:
    text = str(value) if isinstance(value, (datetime, time)) else repr(value)
    return text if len(text) <= 80 else f"{text[:79]}…"
