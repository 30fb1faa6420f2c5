"""Whether processes mean the same by a kind: the fingerprints in their notes, compared."""

from __future__ import annotations

import json
from collections.abc import Mapping

from standfast.ports.leases import Kind


def fingerprints(note: str) -> dict[Kind, str]:
    """The fingerprint of each kind that a process can run, by its note.

    What can't be read of it is left out: it may be of an older or a newer release.
    """
    try:
        found = json.loads(note)
    except ValueError:
        return {}
    listed = found.get("fingerprints") if isinstance(found, dict) else None
    out: dict[Kind, str] = {}
    for one in listed if isinstance(listed, list) else ():
        match one:
            case [str(pattern), str(name), int(version), str(fingerprint)]:
                out[pattern, name, version] = fingerprint
    return out


def unlike(mine: Mapping[Kind, str], theirs: Mapping[Kind, str]) -> list[Kind]:
    """The kinds that both have, with unequal fingerprints."""
    return [kind for kind in mine if theirs.get(kind, mine[kind]) != mine[kind]]
