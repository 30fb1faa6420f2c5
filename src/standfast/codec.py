"""Payloads to JSON and back.

The default codec takes dataclasses, msgspec Structs, attrs classes, TypedDicts, named tuples, the
standard types (datetime, UUID, Decimal, Enum, bytes, set …) and Pydantic models. Decoding checks
the data against the type asked for. Nothing is ever pickled or evaluated.
"""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Iterable, Iterator
from decimal import Decimal
from functools import lru_cache
from typing import Any, Protocol, TypeVar, get_origin

import msgspec
import msgspec.inspect

from standfast.errors import CodecError
from standfast.text import class_of

T = TypeVar("T")


class Codec(Protocol):
    """Turns values into JSON bytes and back. Stored data outlives code: keep old data readable.

    A codec may also have ``check(type)``, which raises `CodecError` for a type that it can't decode
    to. `app.add` then refuses a saga that needs it; without it, that is found when it is decoded.
    """

    def encode(self, value: Any) -> bytes:
        """JSON. Raises `CodecError`."""
        ...

    def decode(self, data: bytes | msgspec.Raw, type: Any) -> Any:
        """A value of `type` (``Any`` for plain JSON values). Raises `CodecError`."""
        ...


class JsonCodec:
    """The default, on msgspec."""

    __slots__ = ("_decoders", "_encoder")

    def __init__(self) -> None:
        self._encoder = msgspec.json.Encoder(enc_hook=_encode_foreign)
        self._decoders: dict[Any, msgspec.json.Decoder[Any]] = {}

    def encode(self, value: Any) -> bytes:
        """JSON. Raises `CodecError`."""
        try:
            return self._encoder.encode(value)
        except (TypeError, ValueError, OverflowError, RecursionError) as error:
            raise CodecError(
                f"{class_of(value)} can't be encoded as JSON ({error}): use a "
                "dataclass, a msgspec Struct, a Pydantic model or plain values"
            ) from error

    def decode(self, data: bytes | msgspec.Raw, type: Any) -> Any:
        """A value of `type` (``Any`` for plain JSON values). Raises `CodecError`."""
        try:
            decoder = self._decoders.get(type)
            if decoder is None:
                decoder = msgspec.json.Decoder(type, dec_hook=_decode_foreign)
                self._decoders[type] = decoder
            return decoder.decode(data)
        except (TypeError, ValueError, msgspec.MsgspecError, RecursionError) as error:
            raise CodecError(f"the JSON doesn't decode to {_name(type)} ({error})") from error

    def check(self, type: Any) -> None:
        """Raise `CodecError` for a type whose values can't be encoded and decoded again."""
        if type is Any:
            return
        try:
            msgspec.json.Decoder(type, dec_hook=_decode_foreign)
            shape = msgspec.inspect.type_info(type)
        except Exception as error:  # names that can't be found, and whatever annotations raise
            raise CodecError(f"{_name(type)} can't be decoded ({error})") from error
        for part in parts(shape):
            if isinstance(part, msgspec.inspect.CustomType) and not _validates(part.cls):
                raise CodecError(
                    f"{_name(part.cls)} can't be decoded: use a dataclass, a msgspec Struct, a "
                    "Pydantic model or plain values"
                )
            if isinstance(part, msgspec.inspect.DictType) and not _can_be_key(part.key_type):
                raise CodecError(
                    f"{_shown(type)} can't be encoded: the keys of a dict must be text, or what "
                    "JSON can make text of, as of numbers and dates: use a list of pairs instead"
                )
            hidden = _hidden_field(part)
            if hidden:
                raise CodecError(
                    f"{_shown(getattr(part, 'cls', type))} can't be encoded: of an attrs class, "
                    f"fields with a leading underscore aren't: rename {hidden}, or use a dataclass"
                )


def parts(shape: Any) -> Iterator[msgspec.inspect.Type]:
    """A type, as `msgspec.inspect` tells of it, and all that it is made of; each once."""
    rest, seen = [shape], set()
    while rest:
        one = rest.pop()
        if isinstance(one, (list, tuple)):
            rest.extend(one)
        elif isinstance(one, (msgspec.inspect.Type, msgspec.inspect.Field)) and id(one) not in seen:
            seen.add(id(one))
            rest.extend(getattr(one, name) for name in one.__struct_fields__)
            if isinstance(one, msgspec.inspect.Type):
                yield one


LOOSE = (
    msgspec.inspect.AnyType,
    msgspec.inspect.CustomType,
    msgspec.inspect.DecimalType,
    msgspec.inspect.DictType,
    msgspec.inspect.FloatType,
    msgspec.inspect.FrozenSetType,
    msgspec.inspect.SetType,
    msgspec.inspect.TypedDictType,
)
"""The types that encode equal values as unequal text, as sets do."""


def is_loose(type: Any) -> bool:
    """Whether equal values of the type may be encoded as different text."""
    try:
        shape = msgspec.inspect.type_info(type)
    except Exception:  # noqa: BLE001 — of a codec that knows it, as `app.add` has seen
        return True
    return any(isinstance(part, LOOSE) for part in parts(shape))


def canonical(value: Any) -> Any:
    """A `value` in plain parts that are equal for all values that mean the same.

    Sets are ordered, the order of dicts is forgotten, decimals have no zeros at their end. Unlike
    JSON, a float that is no number stays one. Raises `TypeError` for what can't be told.
    """
    plain = msgspec.to_builtins(
        with_defaults(value),
        order="deterministic",
        builtin_types=(Decimal,),
        enc_hook=_canonical_foreign,
    )
    return _without_zeros(plain)


def _without_zeros(plain: Any) -> Any:
    if isinstance(plain, dict):
        return {_without_zeros(key): _without_zeros(part) for key, part in plain.items()}
    if isinstance(plain, (list, tuple)):
        return [_without_zeros(part) for part in plain]
    if not isinstance(plain, Decimal) or not plain.is_finite():
        return plain
    sign, digits, exponent = plain.as_tuple()
    assert isinstance(exponent, int)  # of a finite one it is
    text = "".join(map(str, digits)).lstrip("0")
    bare = text.rstrip("0")
    return f"{'-' * sign}{bare}e{exponent + len(text) - len(bare)}" if bare else "0"


def with_defaults(value: T) -> T:
    """The same `value`, a decoded one, so that it encodes as one that was made in code does.

    msgspec leaves a dataclass's field to the class where its default was taken, and encoding would
    then leave it out: two equal values with two encodings, that no comparison of inputs would take
    for the same.
    """
    parts: Iterable[Any]
    its_type: type = type(value)
    if its_type in _ATOMS:
        return value
    if names := _fields(its_type):
        state = vars(value)
        if tuple(state) != names:
            filled = {name: getattr(value, name) for name in names}
            rest = {name: state[name] for name in state if name not in filled}
            state.clear()
            state.update(filled, **rest)
        parts = map(state.__getitem__, names)
    elif isinstance(value, msgspec.Struct):
        parts = [getattr(value, name) for name in value.__struct_fields__]
    elif isinstance(value, dict):
        parts = value.values()
    elif isinstance(value, (list, tuple, set, frozenset)):
        parts = value
    else:
        return value
    for part in parts:
        with_defaults(part)
    return value


_ATOMS = frozenset({str, int, float, bool, bytes, type(None)})


@lru_cache(maxsize=1024)
def _fields(type: type) -> tuple[str, ...]:
    """The fields of a dataclass whose instances keep them in ``__dict__``."""
    if not dataclasses.is_dataclass(type) or not type.__dictoffset__:
        return ()
    return tuple(field.name for field in dataclasses.fields(type))


_KEYS = (
    msgspec.inspect.AnyType,
    msgspec.inspect.BytesType,
    msgspec.inspect.DateTimeType,
    msgspec.inspect.DateType,
    msgspec.inspect.DecimalType,
    msgspec.inspect.EnumType,
    msgspec.inspect.FloatType,
    msgspec.inspect.IntType,
    msgspec.inspect.StrType,
    msgspec.inspect.TimeDeltaType,
    msgspec.inspect.TimeType,
    msgspec.inspect.UUIDType,
)
"""The types that can key a dict in JSON."""


def _can_be_key(shape: msgspec.inspect.Type) -> bool:
    if isinstance(shape, msgspec.inspect.Metadata):
        return _can_be_key(shape.type)
    if isinstance(shape, msgspec.inspect.UnionType):
        return all(_can_be_key(one) for one in shape.types)
    if isinstance(shape, msgspec.inspect.LiteralType):
        return not any(isinstance(one, bool) or one is None for one in shape.values)
    return isinstance(shape, _KEYS)


def _hidden_field(shape: msgspec.inspect.Type) -> str:
    """The field of an attrs class that isn't encoded; "" if all are."""
    if not isinstance(shape, msgspec.inspect.DataclassType):
        return ""
    if not hasattr(get_origin(shape.cls) or shape.cls, "__attrs_attrs__"):
        return ""
    return next((field.name for field in shape.fields if field.name.startswith("_")), "")


def _shown(type: Any) -> str:
    return str(type) if get_origin(type) else _name(type)


def _name(type: Any) -> str:
    return getattr(type, "__qualname__", None) or str(type)


def _encode_foreign(value: Any) -> Any:
    dump = getattr(value, "model_dump", None)  # Pydantic, without importing it
    if dump is not None:
        return dump(mode="json")
    raise TypeError(f"no JSON form for {type(value).__qualname__}")


def _canonical_foreign(value: Any) -> Any:
    dump = getattr(value, "model_dump", None)
    if dump is not None:
        return dump()  # as Python values: of sets it keeps that they are some
    raise TypeError(f"no plain form for {type(value).__qualname__}")


def _validates(type: Any) -> bool:
    return hasattr(type, "model_validate")  # as Pydantic's do


@lru_cache(maxsize=1024)
def _by_name(type: Any) -> dict[str, bool]:
    """What lets a Pydantic model take its fields by their names too, as they are encoded.

    Before Pydantic 2.11 a model with aliases must say ``populate_by_name`` itself.
    """
    known = inspect.signature(type.model_validate).parameters
    return {"by_alias": True, "by_name": True} if "by_name" in known else {}


def _decode_foreign(type: Any, data: Any) -> Any:
    validate = getattr(type, "model_validate", None)
    if validate is not None:
        return validate(data, **_by_name(type))
    raise TypeError(f"no way to build {_name(type)} from JSON")


JSON = JsonCodec()
