"""Stored instances as plain JSON values, also those whose journal can't be read."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

from standfast.ports.journal import Instance, Loaded


def row(instance: Instance) -> dict[str, Any]:
    """An instance's searchable row as plain values."""
    return dataclasses.asdict(instance) | {"id": str(instance.id)}


def record(loaded: Loaded) -> dict[str, Any]:
    """An instance with its facts and waiting mail as plain values.

    `unreadable` counts what isn't JSON; that comes as text, damaged bytes as lone surrogates
    (PEP 383).
    """
    facts = [_plain(text) for text in loaded.facts]
    mails = [
        {"id": mail.id, "subject": mail.subject, "at": mail.at, "body": _plain(mail.body)}
        for mail in loaded.mails
    ]
    bodies = [*facts, *(mail["body"] for mail in mails)]
    return {
        "instance": row(loaded.instance),
        "facts": facts,
        "mails": mails,
        "unreadable": sum(isinstance(body, str) for body in bodies),
    }


def _plain(text: str) -> Any:
    """A stored JSON object as plain values, or the text itself if it is none."""
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return text
    return value if isinstance(value, dict) else text
