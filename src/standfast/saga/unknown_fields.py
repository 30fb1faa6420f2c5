"""Fields that a type doesn't have: decoding lets them pass, but a person made a slip."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import lru_cache
from typing import Any, get_type_hints

import msgspec
import msgspec.inspect

DICT = msgspec.inspect.DictType


def unknown_field(type: Any, data: bytes | msgspec.Raw) -> str:
    """What to say of a field in JSON `data` that the type doesn't have; "" where all are known.

    Stored data may outlive a field, so this is asked of what comes in only.
    """
    try:
        shape = _shape(type)
        found = next(_unknown(shape, msgspec.json.decode(data), ""), None)
    # What is wrong with it, decoding to the type tells, or reading back what was decoded.
    except (TypeError, msgspec.DecodeError, RecursionError):
        return ""
    if found is None:
        return ""
    path, known = found
    return f"has no field {path!r}: choose from {', '.join(known)}"


_shape = lru_cache(maxsize=256)(msgspec.inspect.type_info)


def _unknown(shape: Any, given: Any, path: str) -> Iterator[tuple[str, list[str]]]:
    """The fields of `given`, plain JSON values, that its type doesn't have, and those it has."""
    if isinstance(given, list):
        inner = getattr(shape, "item_type", None)
        for number, one in enumerate(given if inner is not None else ()):
            yield from _unknown(inner, one, f"{path}[{number}]")
    if not isinstance(given, dict):
        return
    if isinstance(shape, msgspec.inspect.UnionType):
        fit = [one for one in shape.types if _fields(one) is not None or type(one) is DICT]
        shape = fit[0] if len(fit) == 1 else None  # of several, decoding finds the one meant
    if isinstance(shape, DICT):
        for name, one in given.items():
            yield from _unknown(shape.value_type, one, f"{path}.{name}" if path else str(name))
    fields = _fields(shape)
    if fields is None:
        return
    for name, one in given.items():
        where = f"{path}.{name}" if path else name
        if name in fields:
            yield from _unknown(fields[name], one, where)
        else:
            yield where, list(fields)


def _fields(shape: Any) -> Mapping[str, Any] | None:
    """The fields of a type by their names in JSON, with their types; None if it can have any."""
    if isinstance(shape, msgspec.inspect.CustomType):
        return _pydantic_fields(shape.cls)
    fields = getattr(shape, "fields", None)
    if fields is None or isinstance(shape, msgspec.inspect.NamedTupleType):
        return None
    known = {field.encode_name: field.type for field in fields}
    tag = getattr(shape, "tag_field", None)
    return known if tag is None else {**known, tag: None}


def _pydantic_fields(cls: Any) -> Mapping[str, Any] | None:
    fields = getattr(cls, "model_fields", None)
    if fields is None or (hasattr(cls, "__pydantic_root_model__") and cls.__pydantic_root_model__):
        return None
    if cls.model_config.get("extra") == "allow":
        return None
    known: dict[str, Any] = {}
    hints = get_type_hints(cls)
    for name, field in fields.items():
        try:
            shape: Any = msgspec.inspect.type_info(hints.get(name, Any))
        except TypeError:  # of Pydantic's own
            shape = None
        alias = field.validation_alias
        choices = getattr(alias, "choices", [alias])
        for one in (name, *(one for one in choices if isinstance(one, str))):
            known[one] = shape
    return known
