"""What a start asks of its input: that it can be read back as it is, and has one hash.

Steps are given what is read back, from the first attempt on: so they see the same before and after
a restart, and nothing that the caller does to its object later.
"""

from __future__ import annotations

from hashlib import blake2b
from typing import Any

import msgspec

from standfast.codec import canonical
from standfast.errors import CodecError, ConfigurationError
from standfast.saga.annotations import told
from standfast.saga.definition import Definition
from standfast.saga.unknown_fields import unknown_field
from standfast.text import checked, class_of, on_one_line, with_article


def check_class(definition: Definition, input: Any, expected: type) -> None:
    """Raise `ConfigurationError` for an input that isn't an `expected`, unless it counts as one."""
    if input is None:
        raise missing(definition)
    if not (expected is float and type(input) is int):  # as type checkers have it
        raise ConfigurationError(
            f"saga {definition.name!r} takes {with_article(expected.__name__)}, not "
            f"{class_of(input)}"
        )


def missing(definition: Definition) -> ConfigurationError:
    """The error for a start without an input, of a saga that needs one."""
    return ConfigurationError(
        f"saga {definition.name!r} was started without an input: give "
        f"{with_article(told(definition.input_type))} (on the command line as JSON, with --input)"
    )


def unreadable(definition: Definition, input: Any, error: CodecError) -> ConfigurationError:
    """The error for an input that was encoded, and couldn't be decoded again."""
    if input is None:
        return missing(definition)
    expected = definition.input_type
    plain = getattr(expected, "__module__", "") == "builtins"
    fields = "" if plain else " whose fields are what their annotations say"
    return ConfigurationError(
        f"the input of saga {definition.name!r} couldn't be read back: {error}. Give "
        f"{with_article(told(expected))}{fields}"
    )


def as_json(given: object, name: str, instead: str) -> bytes | msgspec.Raw:
    """JSON that somebody gave as `name`, in whatever form it has. Raises `ConfigurationError`.

    `instead`: what takes the value itself, for those who gave that.
    """
    if isinstance(given, str):
        return checked(given, name=name).encode()
    if not isinstance(given, (bytes, msgspec.Raw)):
        raise ConfigurationError(
            f"{name}={given!r}: give JSON, as bytes or text; {instead} takes the value itself"
        )
    return given


def from_json(definition: Definition, data: bytes | msgspec.Raw) -> Any:
    """An input that comes as JSON. Raises `ConfigurationError`."""
    what = f"the input of saga {definition.name!r}"
    plain = parsed(data, what)
    try:
        return definition.codec.decode(data, definition.input_type)
    except CodecError as error:
        if plain is None:
            raise missing(definition) from error
        raise ConfigurationError(f"{what}, {_shown(data)}: {error}") from error


def parsed(data: bytes | msgspec.Raw, what: str) -> Any:
    """JSON that somebody gave as `what`. Raises `ConfigurationError` if it is none."""
    try:
        return msgspec.json.decode(data)
    except msgspec.DecodeError as error:
        raise ConfigurationError(
            f"{what}, {_shown(data)}, isn't JSON ({error}): text needs quotes, as in "
            """'"ann"'"""
        ) from error


def _shown(data: bytes | msgspec.Raw) -> str:
    return on_one_line(bytes(data).decode(errors="replace"), 80) or "which is empty"


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
        unknown = unknown_field(definition.input_type, data)
        if unknown:
            return f"the input of saga {name!r} {unknown}"
    else:
        text = (
            f"saga {name!r} would be given {with_article(back)} where it was started with "
            f"{with_article(type_of_input)}"
        )
        if definition.input_type is Any:
            return f"{text}: say what it takes, as in class …(Saga[{type_of_input}])"
        return f"{text}, which says more than {with_article(back)} can: give one that says all"
    return (
        f"the input of saga {name!r} would be read back as {_short(value)}, not as "
        f"{_short(input)}: JSON can't keep it, so give it in another form"
    )


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:79]}…"
