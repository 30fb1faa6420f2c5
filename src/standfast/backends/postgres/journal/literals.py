"""Lists as PostgreSQL writes arrays: ``{1,2,NULL}``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import msgspec

_SEPARATOR: Final = "\x1f"
_encode = msgspec.json.Encoder().encode


def numbers(values: Sequence[float | None]) -> str:
    """An array of integers, floats or booleans, exactly as they are."""
    text = _encode(values).decode()
    if text.count("null") != values.count(None):  # JSON has no infinity.
        return "{" + ",".join(map(str, values)).replace("None", "NULL") + "}"
    return "{" + text[1:-1] + "}"


def texts(values: Sequence[str]) -> str:
    """An array of any texts."""
    if not values:
        return "{}"
    joined = _SEPARATOR.join(values)
    if joined.count(_SEPARATOR) >= len(values):  # A text holds it too: one by one.
        return "{" + ",".join([f'"{_escaped(value)}"' for value in values]) + "}"
    return '{"' + _escaped(joined).replace(_SEPARATOR, '","') + '"}'


def _escaped(text: str) -> str:
    return text.replace("\\", "\\\\").replace('"', '\\"')
