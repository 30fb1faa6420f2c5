"""When a failure says to come back: ``retry_after``, or a response's ``Retry-After`` (RFC 9110)."""

from __future__ import annotations

import math
from datetime import UTC, timedelta
from typing import Any

from standfast.groups import leaves


def retry_after(outcome: Any, now: float) -> float | None:
    """Seconds to wait as `outcome`, an exception or a bad result, says, or None if it doesn't.

    `now` is the wall clock, in seconds since the Unix epoch.

    Looks at the attribute ``retry_after`` (a number of seconds or a ``timedelta``), then at
    ``response.headers`` (httpx, requests, aiohttp and others), whose ``Retry-After`` may be seconds
    or an HTTP date. Of an exception group, the longest of what is in it. What can't be read counts
    as not said; what is too long for a float is infinite.
    """
    if isinstance(outcome, BaseExceptionGroup):
        asked = [wait for one in leaves(outcome) if (wait := _asked(one, now)) is not None]
        return max(asked, default=None)
    return _asked(outcome, now)


def _asked(outcome: Any, now: float) -> float | None:
    try:
        told = getattr(outcome, "retry_after", None)
        if told is None:
            headers = getattr(getattr(outcome, "response", None), "headers", None)
            if headers is None:  # it is a response itself, or an error of aiohttp or urllib
                headers = getattr(outcome, "headers", None)
            told = _header(headers)
        return _seconds(told, now)
    except BaseException:  # noqa: BLE001 — others' properties and mappings: what they raise would
        return None  # hide the failure that they belong to


def _header(headers: Any) -> Any:
    """``Retry-After`` of any mapping: most know no case, a plain dict does."""
    get = getattr(headers, "get", None)
    if get is None:
        return None
    for name in ("Retry-After", "retry-after"):
        value = get(name)
        if value is not None:
            return value
    return None


def _seconds(told: Any, now: float) -> float | None:
    if isinstance(told, timedelta):
        told = told.total_seconds()
    if isinstance(told, bytes):
        told = told.decode("latin-1")
    if isinstance(told, str):
        told = _number(told) if _number(told) is not None else _until(told, now)
    if isinstance(told, bool) or not isinstance(told, (int, float)) or told != told:
        return None
    try:
        return max(0.0, float(told))
    except OverflowError:
        return math.inf if told > 0 else 0.0


def _number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None


def _until(date: str, now: float) -> float | None:
    from email.utils import parsedate_to_datetime  # not cheap to import, seldom needed

    try:
        moment = parsedate_to_datetime(date)
    except (TypeError, ValueError):
        return None
    if moment.tzinfo is None:  # "-0000": UTC of an unknown place
        moment = moment.replace(tzinfo=UTC)
    return moment.timestamp() - now
