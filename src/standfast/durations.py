"""Durations as people write them: ``0.25``, ``"250ms"``, ``"5s"``, ``"10m"``, ``"1h30m"``."""

from __future__ import annotations

import math
import re
import time
from datetime import datetime, timedelta
from typing import TypeAlias

from standfast.errors import ConfigurationError

Duration: TypeAlias = float | int | str | timedelta
"""Seconds as a number, text such as ``"5s"`` or ``"1h30m"``, or a ``timedelta``."""

Age: TypeAlias = str | timedelta
"""A duration that says its unit: text such as ``"30d"``, or a ``timedelta``."""

LONGEST = 36500 * 86400.0
"""A hundred years, in seconds: what is added to now must stay a time that every database knows."""

_UNITS = {"us": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0, "w": 604800.0}
_PART = re.compile(r"(\d+(?:\.\d+)?)(us|ms|s|m|h|d|w)")


def seconds(
    value: Duration, *, name: str = "duration", positive: bool = True, without: str = ""
) -> float:
    """The `value` in seconds.

    `name` is the option's name, for the message. With `positive` (the default) zero is refused.
    `without`: what None stands for, where that may be given instead ("for no limit"). Raises
    `ConfigurationError` for anything that isn't a finite duration of at least zero, and for one of
    more than a hundred years.
    """
    result = _parse(value, name)
    if LONGEST < result < math.inf:
        raise ConfigurationError(
            f"{name}={_short(value)}: longer than a hundred years. Give "
            f"{f'None {without}' if without else 'a shorter one'}"
        )
    if not math.isfinite(result) or result < 0 or (positive and result == 0):
        wanted = "more than zero" if positive else "zero or more"
        raise ConfigurationError(f"{name}={_short(value)}: a duration must be finite and {wanted}")
    return result


def time_left(value: Duration, *, name: str) -> float:
    """The `value` in seconds, for one that was reckoned and not written down.

    Zero or less means that none is left. Raises `ConfigurationError` as `seconds` does.
    """
    return 0.0 if _parse(value, name) <= 0 else seconds(value, name=name)


def time_limit(value: Duration | None, *, name: str, positive: bool = True) -> float | None:
    """The `value` in seconds, as a limit: None is none. Otherwise as `seconds`."""
    if value is None:
        return None
    return seconds(value, name=name, positive=positive, without="for no limit")


def age(value: Age, *, name: str, positive: bool = False, without: str = "") -> float:
    """The `value` in seconds, as the age by which something is chosen: with a unit.

    Whoever writes 30 may mean days, and what was deleted or cancelled after seconds doesn't come
    back: so a bare number is refused. The options are as for `seconds`, as is what it raises.
    """
    given: object = value.strip() if isinstance(value, str) else value
    bare = isinstance(given, (int, float)) and not isinstance(given, bool)
    if bare or (isinstance(given, str) and given.replace(".", "", 1).isdecimal()):
        number = _short(given).strip("'")
        raise ConfigurationError(
            f"{name}={_short(value)}: give {number} a unit, such as '{number}d': it "
            "would be taken as seconds, where days may be meant"
        )
    return seconds(value, name=name, positive=positive, without=without)


def _parse(value: Duration, name: str) -> float:
    if isinstance(value, timedelta):
        return value.total_seconds()
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        try:
            return float(value)
        except OverflowError:  # of an int that no float can hold
            return math.inf if value > 0 else -math.inf
    if isinstance(value, str):
        text = value.strip().replace(" ", "")
        unsigned = text.removeprefix("-")
        parts = _PART.findall(unsigned)
        if parts and "".join(number + unit for number, unit in parts) == unsigned:
            found = sum(float(number) * _UNITS[unit] for number, unit in parts)
            return found if unsigned == text else -found
    raise ConfigurationError(
        f'{name}={_short(value)}: not a duration. Give seconds (2.5) or text such as "250ms", '
        '"5s", "10m", "1h30m", "2d"'
    )


def epoch(value: datetime, *, name: str) -> float:
    """A time in seconds since the Unix epoch. Raises `ConfigurationError` if it has no zone."""
    given: object = value
    if not isinstance(given, datetime):
        raise ConfigurationError(f"{name}={value!r}: give a datetime with a time zone")
    if given.utcoffset() is None:
        raise ConfigurationError(
            f"{name}={value!r} has no time zone, so it is another time on each machine: give one, "
            'as in datetime.now(UTC) or datetime(2030, 1, 1, tzinfo=ZoneInfo("Europe/Paris"))'
        )
    return given.timestamp()


def _short(value: object) -> str:
    try:
        text = repr(value)
    except ValueError:  # Python refuses to write out an int of thousands of digits
        text = "a number of thousands of digits"
    return text if len(text) <= 60 else f"{text[:59]}…"


def human(value: float) -> str:
    """`value` seconds as short text: ``"0.25s"``, ``"1m30s"``, ``"2d3h"``."""
    if 0 < value < 0.0001:  # which would come as 3.06e-05
        return f"{float(f'{value * 1e6:.2g}'):g}us" if value >= 1e-7 else "0s"
    if value < 59.95 or value > LONGEST:  # above the first, three digits would say "60s"
        return f"{value:.3g}s"
    rest = round(value)
    text = ""
    for unit, size in (("d", 86400), ("h", 3600), ("m", 60), ("s", 1)):
        count, rest = divmod(rest, size)
        if count and len(re.findall("[a-z]", text)) < 2:
            text += f"{count}{unit}"
    return text


def moment(at: float | None) -> str:
    """A time in seconds since the Unix epoch as text, ``"2026-11-27 16:51:03Z"``; "" for none."""
    return "" if at is None else time.strftime("%Y-%m-%d %H:%M:%SZ", time.gmtime(at))
