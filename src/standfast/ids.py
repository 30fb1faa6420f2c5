"""Identifiers: UUIDv7 (RFC 9562), so that new rows land at the end of an index."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from uuid import UUID

from uuid_utils.compat import uuid7

__all__ = ["UUID", "new_id", "parse_id", "short_ids"]


new_id: Callable[[], UUID] = uuid7
"""A new UUIDv7: unique, and roughly ordered by the time it was made."""


def parse_id(text: str) -> UUID | None:
    """The UUID that `text` spells, or None if it spells none."""
    try:
        return UUID(text)
    except ValueError:
        return None


SHORTEST = 8
"""Digits of a short id, at least."""


def short_ids(ids: Iterable[UUID]) -> dict[UUID, str]:
    """The ends of ids, as many digits as tell them apart from each other, and 8 at least.

    Ids of one moment have the same beginning, so it is the end that is kept.
    """
    every = list(dict.fromkeys(ids))
    length = SHORTEST
    while len({id.hex[-length:] for id in every}) < len(every):
        length += 1
    return {id: id.hex[-length:] for id in every}
