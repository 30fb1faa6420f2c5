"""SQLite's own answers, on a connection whose user has set it up to make something else of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any


class _Decoding:
    """The ``text_factory`` while the library reads: reads that overlap share one, the last ends it.

    The driver asks the connection for it, so what another task reads there meanwhile is str too.
    """

    def __init__(self, theirs: Callable[[bytes], Any]) -> None:
        self.theirs = theirs
        self.readers = 0

    def __call__(self, data: bytes) -> str:
        return data.decode()


@contextmanager
def text_as_str(source: Any) -> Iterator[None]:
    """A block in which text comes from `source` as str, whatever its ``text_factory`` is."""
    given = source.text_factory
    if given is str:
        yield
        return
    decoding = given if isinstance(given, _Decoding) else _Decoding(given)
    source.text_factory = decoding
    decoding.readers += 1
    try:
        yield
    finally:
        decoding.readers -= 1
        if not decoding.readers:
            source.text_factory = decoding.theirs


@contextmanager
def rows_as_tuples(source: Any) -> Iterator[None]:
    """A block in which rows come from `source` as tuples, whatever its ``row_factory`` is."""
    given = source.row_factory
    if given is None:
        yield
        return
    source.row_factory = None
    try:
        yield
    finally:
        source.row_factory = given
