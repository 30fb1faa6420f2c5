"""What is given to commands as text: JSON, a field of an input, a time."""

from __future__ import annotations

import re
import sys
from datetime import datetime
from pathlib import Path
from typing import Any

from standfast.errors import ConfigurationError
from standfast.ids import SHORTEST
from standfast.text import checked


def parsed_time(text: str) -> datetime:
    """The time that an option gives, with its zone. Raises `ConfigurationError`."""
    try:
        found = datetime.fromisoformat(text)
    except ValueError as error:
        raise ConfigurationError(
            f"--at {text!r}: write a time with its zone, as in 2030-01-31T09:00+01:00 ({error})"
        ) from error
    if found.utcoffset() is None:
        raise ConfigurationError(
            f"--at {text!r} has no time zone: write it behind the time, as in "
            "2030-01-31T09:00+01:00, or 2030-01-31T08:00Z for UTC"
        )
    return found


def looks_like_address(text: str) -> bool:
    """Whether it is ``name/key``, an id, or as much of one as is shown."""
    return "/" in text or re.fullmatch(rf"[0-9a-fA-F-]{{{SHORTEST},}}", text) is not None


def json_argument(text: str) -> bytes:
    """The JSON that an option gives: itself, a file's, or what stands on standard input.

    Raises `ConfigurationError`.
    """
    if text == "-":
        return _utf8(sys.stdin.buffer.read(), "standard input")
    if text.startswith("@"):
        try:
            return _utf8(Path(text[1:]).read_bytes(), text)
        except OSError as error:
            raise ConfigurationError(f"{text}: {error.strerror}") from error
    return checked(text, name="the JSON").encode()


def _utf8(data: bytes, where: str) -> bytes:
    try:
        data.decode()
    except UnicodeDecodeError as error:
        raise ConfigurationError(f"{where}: JSON is UTF-8, and this isn't ({error})") from error
    return data


def field(text: str) -> tuple[str, Any]:
    """The name and the value of ``FIELD=JSON``. Raises `ConfigurationError`."""
    import msgspec

    name, equals, value = text.partition("=")
    if not (name and equals):
        raise ConfigurationError(f"--set {text!r}: write FIELD=JSON")
    checked(text, name="--set")
    try:
        return name, msgspec.json.decode(value)
    except RecursionError as error:
        raise ConfigurationError(f"--set {name}=…: the value is nested too deep") from error
    except msgspec.DecodeError as error:
        raise ConfigurationError(
            f"--set {text!r}: the value isn't JSON ({error}); text needs quotes: '{name}=\"…\"'"
        ) from error
