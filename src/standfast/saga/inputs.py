"""What a start asks of its input: that it can be read back as it is, and has one hash.

Steps are given what is read back, from the first attempt on: so they see the same before and after
a restart, and nothing that the caller does to its object later.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from hashlib import blake2b
from typing import Any, get_type_hints

import msgspec
import msgspec.inspect

from standfast.codec import canonical
from standfast.errors import CodecError, ConfigurationError
from standfast.saga.annotations import told
from standfast.saga.definition import Definition


DICT = msgspec.inspect.DictType


def check_class(definition: Definition, input: Any, expected: type) -> None:
    """Raise `ConfigurationError` for an input that isn't an `expected`, unless it counts as one."""
    if not (expected is float and type(input) is int):  # as type checkers have it
        raise ConfigurationError(
            f"saga {definition.name!r} takes a {expected.__name__}, not a {type(input).__name__}"
        )


def unreadable(definition: Definition, error: CodecError) -> ConfigurationError:
    """The error for an input that was encoded, and couldn't be decoded again."""
    return ConfigurationError(
        f"the input of saga {definition.name!r} couldn't be read back: {error}. Give a "
        f"{told(definition.input_type)} whose fields are what their annotations say"
    )


def check_read_back(definition: Definition, data: bytes, input: Any, value: Any) -> None:
    """Raise `ConfigurationError` where `value`, read back, says something else than the input.

    Two that aren't equal to Python may mean the same, as a list and a tuple do.
    """
    if not _means(definition, value, input):
        raise ConfigurationError(_lost(definition, data, input, value))


def in_order(data: bytes, value: Any) -> bytes:
    """What to hash of a value instead of its `data`, which is equal for all that mean the same."""
    try:
        return msgspec.json.encode(canonical(value))
    except (TypeError, ValueError):  # of a codec, or a Pydantic type, with a form of its own
        return data


def hashed(data: bytes | msgspec.Raw) -> str:
    """The hash by which a second start is compared with the first."""
    return blake2b(data, digest_size=12).hexdigest()


def _means(definition: Definition, value: Any, input: Any) -> bool:
    """Whether what was read back says the same as the input, which it isn't equal to."""
    if definition.input_type is Any and not isinstance(input, (type(value), tuple)):
        return False
    try:
        return bool(canonical(value) == canonical(input))
    except (TypeError, ValueError):
        dump = getattr(input, "model_dump", None)
        return dump is None or bool(dump() == value.model_dump())


def _lost(definition: Definition, data: bytes, input: Any, value: Any) -> str:
    """Why an input is refused that is read back as something else."""
    name, type_of_input = definition.name, type(input).__qualname__
    back = type(value).__qualname__
    if type(value) is type(input):
        unknown = unknown_field(definition, data)
        if unknown:
            return unknown
    else:
        text = f"saga {name!r} would be given a {back} where it was started with a {type_of_input}"
        if definition.input_type is Any:
            return f"{text}: say what it takes, as in class …(Saga[{type_of_input}])"
        return f"{text}, which says more than a {back} can: give one that says all"
    return (
        f"the input of saga {name!r} would be read back as {_short(value)}, not as "
        f"{_short(input)}: JSON can't keep it, so give it in another form"
    )


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:79]}…"


# -- fields that there aren't --------------------------------------------------------------------


def unknown_field(definition: Definition, data: bytes | msgspec.Raw) -> str:
    """What is wrong with a field that the input's type doesn't have, or "" where all are known.

    Decoding lets it pass, so that stored data may outlive a field; but a person made a slip.
    """
    try:
        shape = msgspec.inspect.type_info(definition.input_type)
        given = msgspec.json.decode(data)
    except (TypeError, msgspec.DecodeError):  # what is wrong with it, decoding to the type tells
        return ""
    for path, known in _unknown(shape, given, ""):
        return (
            f"the input of saga {definition.name!r} has no field {path!r}: choose from "
            f"{', '.join(known)}"
        )
    return ""


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
