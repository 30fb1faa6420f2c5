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
        unknown = unknown_field(definition.input_type, data)
        if unknown:
            return f"the input of saga {name!r} {unknown}"
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
