"""Lists as PostgreSQL writes arrays: ``{1,2,NULL}``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import msgspec

_CONTROLS: Final = tuple(map(chr, range(32)))
_encode = msgspec.json.Encoder().encode


def numbers(values: Sequence[float | None]) -> str:
    """An array of integers, floats or booleans, exactly as they are."""
    text = _encode(values).decode()
    if text.count("null") != values.count(None):  # JSON has no infinity.
        return "{" + ",".join(map(str, values)).replace("None", "NULL") + "}"
    return "{" + text[1:-1] + "}"


def texts(values: Sequence[str]) -> str:
    """An array of any texts."""
    joined = "".join(values)
    for control in _CONTROLS:
        if control in joined:
            escaped = [value.replace("\\", "\\\\").replace('"', '\\"') for value in values]
            return '{"' + '","'.join(escaped) + '"}'
    # Quotes and backslashes are escaped as JSON does it; all else stands for itself.
    return "{" + _encode(values).decode()[1:-1] + "}"
