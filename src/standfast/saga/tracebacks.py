"""Where an error was raised, as text to be stored: short, and without this library's own frames."""

from __future__ import annotations

import traceback
from types import TracebackType

from standfast.resilience.tracebacks import latest
from standfast.text import cleaned, is_storable

FRAMES = 20
"""How many frames of each error are told: the last ones."""
LENGTH = 4000
"""Characters. Of what is longer, the beginning and the end are told."""


def traceback_of(error: BaseException) -> str:
    """The traceback of `error` and of what it came from, from the user's first frame on."""
    try:
        told = traceback.TracebackException(
            type(error), error, users(error.__traceback__), limit=-FRAMES, compact=True
        )
        one: traceback.TracebackException | None = told
        while one is not None:
            for frame in one.stack:  # to find what to underline it would parse each line
                frame.colno = frame.end_colno = None
            one = one.__cause__ or one.__context__
        text = cleaned("".join(told.format())).strip()
    except BaseException:  # noqa: BLE001 — errors may take being looked at badly: then it isn't told
        return ""
    half = LENGTH // 2
    return text if len(text) <= LENGTH else f"{text[:half]}\n…\n{text[-half:]}"


def can_be_printed(error: BaseException) -> bool:
    """Whether a log handler can print `error` with its traceback, as it is."""
    try:
        told = traceback.format_exception(type(error), error, latest(error.__traceback__))
        return is_storable("".join(told))
    except BaseException:  # noqa: BLE001 — as above
        return False


def users(frames: TracebackType | None) -> TracebackType | None:
    """The part of a traceback that begins with the user's code; all of it, if there is none.

    Of an error that has been raised before, it tells what it came through this time.
    """
    found = frames = latest(frames)
    while found is not None and _is_ours(found):
        found = found.tb_next
    return frames if found is None else found


def _is_ours(frame: TracebackType) -> bool:
    module = str(frame.tb_frame.f_globals.get("__name__"))
    return module.startswith(("standfast.", "asyncio.", "contextlib"))
