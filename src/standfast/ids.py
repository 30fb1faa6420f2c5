"""Identifiers: UUIDv7 (RFC 9562), so that new rows land at the end of an index."""

from __future__ import annotations

from collections.abc import Callable
from uuid import UUID

from uuid_utils.compat import uuid7

__all__ = ["UUID", "new_id", "parse_id"]


new_id: Callable[[], UUID] = uuid7
"""A new UUIDv7: unique, and roughly ordered by the time it was made."""


def parse_id(text: str) -> UUID | None:
    """The UUID that `text` spells, or None if it spells none."""
    try:
        return UUID(text)
    except ValueError:
        return None
