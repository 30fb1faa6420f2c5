"""Text that every database can hold: valid Unicode, without NUL.

What a caller names something by is refused with a clear error; text of others that is only told,
such as an exception's message, is cleaned.
"""

from __future__ import annotations

from standfast.errors import ConfigurationError

NAME_LENGTH = 500
"""Characters, at most, of what a caller names something by."""


def checked(text: str, *, name: str, longest: int | None = None) -> str:
    """`text`, if it can be stored. Raises `ConfigurationError` that speaks of it as `name`."""
    if not isinstance(text, str):
        raise ConfigurationError(f"{name}={text!r}: must be text, not {type(text).__name__}")
    if longest is not None and not 0 < len(text) <= longest:
        raise ConfigurationError(
            f"{name}={text[:40]!r} has {len(text)} characters: give 1 to {longest}"
        )
    if not is_storable(text):
        raise ConfigurationError(
            f"{name}={text[:40]!r} holds a NUL character or a lone surrogate, which no database "
            "stores: remove or escape it"
        )
    return text


def cleaned(text: str) -> str:
    """`text` with what can't be stored spelled out as an escape."""
    if is_storable(text):
        return text
    return text.encode("utf-8", "backslashreplace").decode().replace("\0", "\\x00")


def told(error: BaseException) -> str:
    """An exception's message, cleaned; "" if it has none, or none that can be had."""
    try:
        return cleaned(str(error))
    except Exception as broken:  # noqa: BLE001 — a message that can't be made must not hide its error
        return f"(its message can't be read: {type(broken).__name__})"


def is_storable(text: str) -> bool:
    """Whether every database can hold it."""
    if "\0" in text:
        return False
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
