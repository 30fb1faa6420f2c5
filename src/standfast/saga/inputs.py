"""What a start asks of its input: that it can be read back as it is, and has one hash.

Steps are given what is read back, from the first attempt on: so they see the same before and after
a restart, and nothing that the caller does to its object later.
"""

from __future__ import annotations

from codecs import BOM_UTF8
from hashlib import blake2b
from typing import Any

import msgspec

from standfast.codec import canonical
from standfast.errors import CodecError, ConfigurationError
from standfast.saga.annotations import told
from standfast.saga.definition import Definition
from standfast.saga.read_back import MISSING, difference
from standfast.text import checked, class_of, namesake, on_one_line, with_article


def check_class(definition: Definition, input: Any, expected: type) -> None:
    """Raise `ConfigurationError` for an input that isn't an `expected`, unless it counts as one."""
    if input is None:
        raise missing(definition)
    if not (expected is float and type(input) is int):  # as type checkers have it
        why = namesake(type(input), expected)
        raise ConfigurationError(
            f"saga {definition.name!r} takes {with_article(expected.__name__)}, not "
            f"{class_of(input)}{why and ': '}{why}"
        )


def too_deep(definition: Definition) -> ConfigurationError:
    """The error for an input that is nested deeper than Python can follow."""
    return ConfigurationError(
        f"the input of saga {definition.name!r} is nested too deep to be stored and read back: "
        "give a flatter one, such as a list whose items name their parents"
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
        return checked(given, name=name).removeprefix("\ufeff").encode()
    if not isinstance(given, (bytes, msgspec.Raw)):
        raise ConfigurationError(
            f"{name}={given!r}: give JSON, as bytes or text; {instead} takes the value itself"
        )
    if isinstance(given, bytes):
        return given.removeprefix(BOM_UTF8)  # as editors on Windows begin a file
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
    except RecursionError as error:
        raise ConfigurationError(
            f"{what}, {_shown(data)}, is nested too deep: give a flatter one"
        ) from error
    except msgspec.DecodeError as error:
        raise ConfigurationError(
            f"{what}, {_shown(data)}, isn't JSON ({error}): text needs quotes, as in "
            """'"ann"'"""
        ) from error


def _shown(data: bytes | msgspec.Raw) -> str:
    return on_one_line(bytes(data).decode(errors="replace"), 80) or "which is empty"


def check_read_back(definition: Definition, input: Any, value: Any) -> None:
    """Raise `ConfigurationError` where `value`, read back, says something else than the input."""
    name, its, given = definition.name, type(value), type(input)
    back = with_article(its.__qualname__)
    text = (
        f"saga {name!r} would be given {back} where it was started with "
        f"{with_article(given.__qualname__)}"
    )
    if definition.input_type is Any and not isinstance(input, (its, tuple)):
        raise ConfigurationError(
            f"{text}: say what it takes, as in class …(Saga[{given.__qualname__}])"
        )
    lost = difference(value, input)
    if lost is None:
        return
    if lost.back is MISSING and lost.path.isidentifier() and its is not given:
        raise ConfigurationError(f"{text}, which says more than {back} can: give one that says all")
    raise ConfigurationError(f"the input of saga {name!r} {lost}")


def in_order(data: bytes, value: Any) -> bytes:
    """What to hash of a value instead of its `data`, which is equal for all that mean the same."""
    try:
        return msgspec.json.encode(canonical(value))
    except (TypeError, ValueError):  # of a codec, or a Pydantic type, with a form of its own
        return data


def hashed(data: bytes | msgspec.Raw) -> str:
    """The hash by which a second start is compared with the first."""
    return blake2b(data, digest_size=12).hexdigest()
