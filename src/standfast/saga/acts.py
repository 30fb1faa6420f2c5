"""What operators can ask of a saga, and when it can change something."""

from __future__ import annotations

import getpass
import os

from standfast.errors import ConfigurationError
from standfast.saga import events as ev
from standfast.saga.status import FINISHED, STUCK, UNFINISHED

APPLIES_TO: dict[type[ev.Mailed], tuple[str, ...]] = {
    ev.Signalled: UNFINISHED,
    ev.CancelAsked: ("running", "waiting", "parked"),
    ev.RetryAsked: STUCK,
    ev.SkipAsked: STUCK,
    ev.ResolveAsked: (*STUCK, "waiting"),
    ev.MigrateAsked: UNFINISHED,
}
"""The statuses in which an act can change something."""


def operating_user() -> str:
    """The name of the OS user, or its number where it has no name."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a container without an entry in passwd
        return f"uid {os.getuid()}"


def check(act: ev.Mailed) -> None:
    """Raise `ConfigurationError` for a skip or resolve without a reason, or a wrong outcome."""
    if isinstance(act, (ev.SkipAsked, ev.ResolveAsked)) and not act.reason.strip():
        raise ConfigurationError("a reason is needed: it is kept in the journal")
    if isinstance(act, ev.ResolveAsked) and act.outcome not in FINISHED:
        raise ConfigurationError(f"outcome={act.outcome!r}: choose completed or compensated")
