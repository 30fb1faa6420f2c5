"""Where rate limits are counted: in this process, or on a server that many processes share."""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import sha256
from typing import NamedTuple, Protocol, runtime_checkable

from standfast.rates import Decision, Rate


class RateRequest(NamedTuple):
    """Take `cost` units of `key`. A negative cost gives units back, and is always allowed."""

    key: str
    rate: Rate
    cost: int = 1


_LONGEST = 200


def storable(key: str) -> str:
    """`key` as a server can keep it: itself, or its digest if it is long or no proper text.

    For authors of stores. Keys come from outside: headers of 8 kB, NUL, halves of surrogate pairs.
    A digest counts as well, and no key can make a statement fail that decides others too.
    """
    if len(key) <= _LONGEST and (key.isascii() or _is_text(key)) and "\0" not in key:
        return key
    return f"sha256:{sha256(key.encode('utf-8', 'surrogatepass')).hexdigest()}"


def _is_text(key: str) -> bool:
    try:
        key.encode()
    except UnicodeEncodeError:
        return False
    return True


class RateLimitStore(Protocol):
    """Counts what was taken of each key, by one clock for all who share the store."""

    async def check(self, requests: Sequence[RateRequest]) -> list[Decision]:
        """Decide all `requests` in their order; each sees what those before it took.

        In one step, unless there are more than the store takes at a time. A key may be any text;
        `storable` makes one of it that a server can keep.

        A check that is denied takes nothing. A key that is asked with another rate than before
        keeps what was taken; with another algorithm it starts anew. Giving back more than was
        taken only fills the capacity. A cost above the capacity is always denied. Should the clock
        be set back, no key is blocked for longer than it takes to fill its capacity.

        Raises `StoreUnavailable`; then nothing is known about what was taken.
        """
        ...


@runtime_checkable
class LocalRateLimits(Protocol):
    """A store that can often, or always, answer without waiting."""

    always_local: bool
    """Whether `take` never answers None."""

    def take(self, key: str, rate: Rate, cost: int = 1) -> Decision | None:
        """As `RateLimitStore.check` of one request, at once; None to be asked through `check`."""
        ...
