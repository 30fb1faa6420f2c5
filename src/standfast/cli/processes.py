"""``standfast services`` and ``standfast workers``: the processes that share a database."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from standfast.app import Standfast
from standfast.cli.loading import reading
from standfast.cli.output import age, as_json, note, on_one_line, say, status, table
from standfast.clock import SYSTEM_CLOCK
from standfast.coordination.membership import MEMBER
from standfast.durations import human
from standfast.errors import Unsupported
from standfast.ports.database import Database
from standfast.ports.journal import JournalStore
from standfast.ports.leases import Lease, LeaseStore
from standfast.tables import status_of

NOBODY = "no process is registered: `standfast run APP` starts one"
SAGAS = "sagas"
"""The name of the service that runs sagas."""
LONGEST_ERROR = 60
LONGEST_NAME = 22
"""Letters of a process's name in a table, so that the others fit beside it in 80 columns."""
NAMES_END = 13
"""Letters kept of a longer one's end, where those of a pod and its process are told apart."""


@dataclass(frozen=True, slots=True)
class Process:
    """A process's lease, and what it says of itself: its note, whoever wrote it."""

    lease: Lease
    kinds: Sequence[tuple[str, int]]
    services: Sequence[Mapping[str, Any]]


def read(lease: Lease) -> Process:
    """The process that holds a lease. What can't be read of its note is left out."""
    try:
        note = json.loads(lease.note)
    except ValueError:
        note = {}
    kinds = [one for one in _listed(note, "kinds") if isinstance(one, list) and len(one) == 3]
    services = [one for one in _listed(note, "services") if isinstance(one, dict)]
    return Process(lease, [(str(name), version) for _, name, version in kinds], services)


def _listed(note: Any, name: str) -> list[Any]:
    found = note.get(name) if isinstance(note, dict) else None
    return found if isinstance(found, list) else []


async def _processes(database: Database) -> list[Process]:
    return [read(lease) for lease in await database.port(LeaseStore).leases(MEMBER)]


def _short_name(name: str) -> str:
    """A process's name, without its middle where it is long: ``--json`` has all of it."""
    if len(name) <= LONGEST_NAME:
        return name
    return f"{name[: LONGEST_NAME - NAMES_END - 1]}…{name[-NAMES_END:]}"


def _remaining(lease: Lease) -> str:
    return human(lease.expires_in) if lease.expires_in > 0 else "ran out"


# -- services --------------------------------------------------------------------------------


async def services(app: Standfast, as_values: bool) -> None:
    """Print every process with how its services stand."""
    async with reading(app.database, [LeaseStore]) as database:
        found = await _processes(database)
        now = SYSTEM_CLOCK.now() + (await database.clock_offset(SYSTEM_CLOCK) or 0.0)
    if as_values:
        say(
            as_json(
                [
                    {
                        "token": one.lease.token,
                        "process": one.lease.holder,
                        "lease_expires_in": round(one.lease.expires_in, 3),
                        "services": one.services,
                    }
                    for one in found
                ]
            )
        )
        return
    table(
        ["PROCESS", "SERVICE", "STATE", "SINCE", "RESTARTS", "LEASE", "LAST ERROR"],
        [
            (
                _short_name(one.lease.holder),
                str(service.get("name", "")),
                status(str(service.get("state", ""))),
                _since(service.get("since"), now),
                str(service.get("restarts", "")),
                _remaining(one.lease),
                _last_error(service),
            )
            for one in found
            for service in one.services or [{}]
        ],
    )
    if not found:
        note(NOBODY)


def _since(at: Any, now: float) -> str:
    return age(at, now) if isinstance(at, (int, float)) else ""


def _last_error(service: Mapping[str, Any]) -> str:
    """What a service failed with last, in one line that is cut where it is long."""
    line = on_one_line(str(service.get("error", "")))
    if not line and service.get("restarts"):
        return "lost its lease"  # nothing else begins one again that never failed
    return line if len(line) <= LONGEST_ERROR else f"{line[: LONGEST_ERROR - 1]}…"


# -- workers ---------------------------------------------------------------------------------


async def workers(app: Standfast, as_values: bool) -> None:
    """Print every process with the sagas that it can run, and how many it has."""
    async with reading(app.database, [LeaseStore]) as database:
        found = await _processes(database)
        owned = await _owned(database)
    if as_values:
        say(
            as_json(
                [
                    {
                        "token": one.lease.token,
                        "name": one.lease.holder,
                        "sagas": [
                            {"name": name, "version": version} for name, version in one.kinds
                        ],
                        "lease_expires_in": round(one.lease.expires_in, 3),
                        "owned": owned.get(one.lease.token, 0),
                    }
                    for one in found
                ]
            )
        )
        return
    table(
        ["NAME", "LEASE", "SAGAS IN HAND", "CAN RUN"],
        [
            (
                _short_name(one.lease.holder),
                _remaining(one.lease),
                str(owned.get(one.lease.token, 0)),
                _can_run(one),
            )
            for one in found
        ],
    )
    if not found:
        note(NOBODY)


def _can_run(process: Process) -> str:
    """The sagas that a process can run, or why there are none."""
    if process.kinds:
        return ", ".join(f"{name} v{version}" for name, version in process.kinds)
    states = {str(one.get("name")): str(one.get("state")) for one in process.services}
    if SAGAS in states:
        return f"(none now: {SAGAS} is {states[SAGAS].replace('_', ' ')})"
    return f"(no sagas, only {', '.join(states)})" if states else "(nothing yet)"


async def _owned(database: Database) -> Mapping[int, int]:
    """How many instances each owns; none where the database has no journal."""
    try:
        stands = await status_of(database, [JournalStore])
    except Unsupported:
        return {}
    if not all(one.applied for one in stands):
        return {}
    return await database.port(JournalStore).owned()
