"""The frames that an error came through, as far as they are wanted."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from types import FrameType, TracebackType

NEWEST = 1000
"""How many are looked at: as many as one call can go through, by Python's limit of recursion."""


def newest_frames(error: BaseException) -> Iterator[FrameType]:
    """The frames that `error` came through, the one that it reached last first.

    Python lengthens the traceback of an error at its head, whenever it is raised again, and cuts it
    nowhere. Where a client keeps one error object and raises it for each call while its connection
    is down, the traceback holds all of them; those of this call are the newest.
    """
    return islice(_frames(error.__traceback__), NEWEST)


def latest(traceback: TracebackType | None) -> TracebackType | None:
    """The part of a traceback that tells of the last time that its error was raised.

    That ends where the function that has caught it comes again, as another call of it: there the
    time before begins. Whatever there is, no more than `NEWEST` entries.
    """
    if traceback is None:
        return None
    caught, entries = traceback.tb_frame, [traceback]
    rest = traceback.tb_next
    while rest is not None and len(entries) < NEWEST:
        if rest.tb_frame.f_code is caught.f_code and rest.tb_frame is not caught:
            break
        entries.append(rest)
        rest = rest.tb_next
    if rest is None:
        return traceback
    cut: TracebackType | None = None
    for one in reversed(entries):
        cut = TracebackType(cut, one.tb_frame, one.tb_lasti, one.tb_lineno)
    return cut


def _frames(traceback: TracebackType | None) -> Iterator[FrameType]:
    while traceback is not None:
        yield traceback.tb_frame
        traceback = traceback.tb_next
