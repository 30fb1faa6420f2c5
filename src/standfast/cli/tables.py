"""The tables of sagas: narrow enough for a terminal of 80 columns, whole where there is none."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import TYPE_CHECKING

from standfast.cli.notices import unread as told_of
from standfast.cli.output import (
    age,
    as_json,
    is_narrow,
    note,
    say,
    status,
    table,
    without_middle,
)
from standfast.ids import short_ids

if TYPE_CHECKING:  # each command loads what it needs, so that help comes at once
    from uuid import UUID

    from standfast.ports.journal import Instance, Mail
    from standfast.saga.pending import Pending
    from standfast.saga.stuck_groups import StuckGroup

LONGEST_SAGA = 24
LONGEST_KEY = 18
"""Letters of names and keys in a table on a terminal, so that all fits in 80 columns."""


def print_counts(counts: Mapping[tuple[str, str], int], json: bool) -> None:
    """How many there are, by saga and status."""
    rows = sorted((name, word, number) for (name, word), number in counts.items())
    if json:
        say(as_json([{"name": n, "status": word, "count": number} for n, word, number in rows]))
    else:
        table(["SAGA", "STATUS", "COUNT"], [(n, status(word), str(c)) for n, word, c in rows])


def print_stuck(groups: Sequence[StuckGroup], now: float, json: bool) -> None:
    """What is stuck, a line for each group."""
    if json:
        say(as_json([group.as_json() for group in groups]))
        return
    shown = short_ids(group.example for group in groups)
    table(
        ["COUNT", "SAGA", "STEP", "OLDEST", "EXAMPLE", "ERROR"],
        [
            (
                str(group.count),
                saga_name(group.saga),
                without_middle(group.step, LONGEST_KEY, 6),
                age(group.since, now),
                shown[group.example] if is_narrow() else str(group.example),
                group.error,
            )
            for group in groups
        ],
    )
    if not groups:
        note("nothing is stuck")
    due = sum(group.due for group in groups)
    if due:
        note(
            f"{due} of these wait{'s' * (due == 1)} for a worker, not for an operator: what was "
            "asked isn't acted on yet (sagas show tells), or no live worker has the version"
        )


def saga_name(saga: str) -> str:
    """A saga's name, without its middle where it is long and the terminal narrow."""
    return without_middle(saga, LONGEST_SAGA, 8) if is_narrow() else saga


def print_instances(
    instances: Sequence[Instance],
    goes_on: Mapping[UUID, Sequence[Pending]],
    now: float,
    unread: Mapping[UUID, Sequence[Mail]] = MappingProxyType({}),
) -> None:
    """A table of instances; `goes_on` is what they do or wait for, where that is known.

    `unread` is what stuck ones were told and isn't acted on yet.
    """
    narrow = is_narrow()
    shown = short_ids(one.id for one in instances)

    def key(one: Instance) -> str:
        if one.key == str(one.id):
            return ""
        return without_middle(one.key, LONGEST_KEY, 6) if narrow else one.key

    table(
        ["ID", "SAGA", "KEY", "AGE", "STATUS"],
        [
            (
                shown[one.id] if narrow else str(one.id),
                f"{saga_name(one.name)} v{one.version}",
                key(one),
                age(one.created_at, now),
                status(
                    one.status,
                    _stands(one, goes_on.get(one.id, ()), unread.get(one.id, ()), now),
                ),
            )
            for one in instances
        ],
    )


def _stands(one: Instance, goes_on: Sequence[Pending], unread: Sequence[Mail], now: float) -> str:
    """How an instance stands, beside its status: why, or what it does or waits for."""
    from standfast.durations import human, moment
    from standfast.saga.pending import in_short
    from standfast.saga.timeline import short

    if unread:
        return f"{told_of(unread[-1], now)}; {short(one.cause, 200)}"
    if one.status in ("parked", "compensation_failed") or one.finished_at is not None:
        return short(one.cause, 200)
    if goes_on:
        return in_short(goes_on, now)
    if one.owner is None and one.wake_at is not None and one.wake_at > now:
        return f"until {moment(one.wake_at)}, in {human(one.wake_at - now)}"
    return ""
