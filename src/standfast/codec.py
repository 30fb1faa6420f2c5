"""Payloads to JSON and back.

The default codec takes dataclasses, msgspec Structs, attrs classes, TypedDicts, named tuples, the
standard types (datetime, UUID, Decimal, Enum, bytes, set …) and Pydantic models. Decoding checks
the data against the type asked for. Nothing is ever pickled or evaluated.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from functools import lru_cache
from typing import Any, Protocol, TypeVar

import msgspec

from standfast.errors import CodecError

T = TypeVar("T")


class Codec(Protocol):
    """Turns values into JSON bytes and back. Stored data outlives code: keep old data readable."""

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
                f"a {type(value).__name__} can't be encoded as JSON ({error}): use a dataclass, "
                "a msgspec Struct, a Pydantic model or plain values"
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
            raise CodecError(f"stored data doesn't decode to {_name(type)} ({error})") from error


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


def _name(type: Any) -> str:
    return getattr(type, "__qualname__", None) or str(type)


def _encode_foreign(value: Any) -> Any:
    dump = getattr(value, "model_dump", None)  # Pydantic, without importing it
    if dump is not None:
        return dump(mode="json")
    raise TypeError(f"no JSON form for {type(value).__qualname__}")


def _decode_foreign(type: Any, data: Any) -> Any:
    validate = getattr(type, "model_validate", None)
    if validate is not None:
        return validate(data)
    raise TypeError(f"no way to build {_name(type)} from JSON")


JSON = JsonCodec()
