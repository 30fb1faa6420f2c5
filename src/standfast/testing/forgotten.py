"""What a test forgot to await: such a test does less than it says, and passes all the same."""

from __future__ import annotations

import linecache
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import CoroutineType
from typing import Any, TypeAlias, TypeGuard

import pytest

Coroutine: TypeAlias = "CoroutineType[Any, Any, Any]"

PACKAGE = f"{Path(__file__).parents[1]}/"
DEPTH = 10
"""How far up the stack to look for the line of the test."""


@contextmanager
def refusing_forgotten(*, can_await: bool) -> Iterator[None]:
    """Fail a test that has passed and left coroutines of ours without an ``await``.

    `can_await`: whether it is an ``async def``, and so has only to write that.
    """
    depth = sys.get_coroutine_origin_tracking_depth()
    sys.set_coroutine_origin_tracking_depth(max(depth, DEPTH))
    seen: list[warnings.WarningMessage] = []
    try:
        with warnings.catch_warnings(record=True) as seen:
            warnings.filterwarnings("always", r"coroutine '.*' was never awaited", RuntimeWarning)
            yield
    finally:
        sys.set_coroutine_origin_tracking_depth(depth)
        ours = [source for one in seen if _is_ours(source := one.source)]
        for one in seen:
            if one.source not in ours:
                warnings.warn_explicit(
                    one.message, one.category, one.filename, one.lineno, source=one.source
                )
    if ours:
        what_to_do = (
            "write `await` before it"
            if can_await
            else "a test that is `def` calls what `standfast_app.blocking` has, and asserts of the "
            "handles that come from there; what has to be awaited, as `standfast_clock.advance`, "
            "is for tests that are `async def`"
        )
        lines = "\n".join(f"  {_line(one)}" for one in ours)
        pytest.fail(
            f"this was called and never awaited, so that nothing was done:\n{lines}\n{what_to_do}",
            pytrace=False,
        )


def _is_ours(source: object) -> TypeGuard[Coroutine]:
    return isinstance(source, CoroutineType) and source.cr_code.co_filename.startswith(PACKAGE)


def _line(coroutine: Coroutine) -> str:
    """Where the test made it."""
    for file, number, _ in coroutine.cr_origin or ():
        if not file.startswith(PACKAGE):
            return f"{Path(file).name}:{number}: {linecache.getline(file, number).strip()}"
    return coroutine.__qualname__
