"""SQLite's own answers, on a connection whose user has set it up to make something else of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

AS_IT_IS: AbstractContextManager[None] = nullcontext()


class _Decoding:
    """The ``text_factory`` while the library reads: reads that overlap share one, the last ends it.

    The driver asks the connection for it, so what another task reads there meanwhile is str too.
    """

    def __init__(self, theirs: Callable[[bytes], Any]) -> None:
        self.theirs = theirs
        self.readers = 0

    def __call__(self, data: bytes) -> str:
        return data.decode()


def text_as_str(source: Any) -> AbstractContextManager[None]:
    """A block in which text comes from `source` as str, whatever its ``text_factory`` is."""
    return AS_IT_IS if source.text_factory is str else _text_as_str(source)


@contextmanager
def _text_as_str(source: Any) -> Iterator[None]:
    given = source.text_factory
    decoding = given if isinstance(given, _Decoding) else _Decoding(given)
    source.text_factory = decoding
    decoding.readers += 1
    try:
        yield
    finally:
        decoding.readers -= 1
        if not decoding.readers:
            source.text_factory = decoding.theirs


def rows_as_tuples(source: Any) -> AbstractContextManager[None]:
    """A block in which rows come from `source` as tuples, whatever its ``row_factory`` is."""
    return AS_IT_IS if source.row_factory is None else _rows_as_tuples(source)


@contextmanager
def _rows_as_tuples(source: Any) -> Iterator[None]:
    given, source.row_factory = source.row_factory, None
    try:
        yield
    finally:
        source.row_factory = given
