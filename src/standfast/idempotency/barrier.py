"""The sub-transaction barrier: a participant's own rows change at most once for each branch.

Put it around what a saga's step (or its undo) does to your database, in the same transaction. It
answers three anomalies of messages that arrive twice, late or not at all: *duplicates*, *null
compensation* (the undo comes, but the action never did) and *hanging* (the action comes after its
undo).

Source: the sub-transaction barrier of dtm (Ye Dongfu, 2021), after the three anomalies that TCC
implementations such as Seata name.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, AbstractContextManager, asynccontextmanager
from dataclasses import dataclass
from typing import Any, Literal, Protocol, overload

from standfast.branch_key import BranchKey
from standfast.clock import SYSTEM_CLOCK, Clock
from standfast.codec import JSON
from standfast.errors import MigrationNeeded
from standfast.ports.marks import Mark, MarkStore, MarkWriter
from standfast.transaction import BlockingUnitOfWork, UnitOfWork


class HasBranchKey(Protocol):
    """Anything that knows which branch it acts for, such as a step's context."""

    @property
    def branch_key(self) -> BranchKey:
        """The branch and the operation."""
        ...


@dataclass(slots=True)
class Gate:
    """What the barrier decided.

    `first`: go ahead, and set `result` to what the caller should get (JSON-able). Otherwise do
    nothing: `why` says whether it is a ``"duplicate"`` (then `result` is that of the first time, as
    plain JSON), ``"nothing_to_undo"`` or ``"already_undone"``.
    """

    first: bool
    why: Literal["", "duplicate", "nothing_to_undo", "already_undone"] = ""
    result: Any = None


@overload
def barrier(
    tx: UnitOfWork, branch: HasBranchKey | BranchKey, *, clock: Clock = SYSTEM_CLOCK
) -> AbstractAsyncContextManager[Gate]: ...
@overload
def barrier(
    tx: BlockingUnitOfWork, branch: HasBranchKey | BranchKey, *, clock: Clock = SYSTEM_CLOCK
) -> AbstractContextManager[Gate]: ...
def barrier(
    tx: UnitOfWork | BlockingUnitOfWork,
    branch: HasBranchKey | BranchKey,
    *,
    clock: Clock = SYSTEM_CLOCK,
) -> AbstractAsyncContextManager[Gate] | AbstractContextManager[Gate]:
    """Decide, inside `tx`, whether this action or compensation is to take effect.

    ::

        async with app.transaction() as tx:
            async with barrier(tx, BranchKey.from_headers(request.headers)) as gate:
                if gate.first:
                    await tx.execute("UPDATE stock SET …")
                    gate.result = {"reservation": 7}

    In a `BlockingTransaction` it is a ``with`` block.

    Guarantees: with all effects inside `tx`, at most one action and one compensation of a branch
    take effect, the compensation only after the action, and no action after its compensation. A
    body that raises has done nothing, though its error be caught inside `tx`: what it wrote is
    undone with its mark (`UnitOfWork.savepoint`).
    Concurrent calls for one branch wait for each other. Not guaranteed once the marks have been
    purged (``standfast purge-marks``): keep them longer than any message can be late, and than
    the longest saga of any caller takes. Raises
    `StoreError` (`MigrationNeeded` where ``app.add(Barrier())`` is missing, so that there is no
    table for marks), and `CodecError` for a result that can't be encoded.
    """
    key = branch if isinstance(branch, BranchKey) else branch.branch_key
    if isinstance(tx, UnitOfWork):
        return _barrier(tx, key, clock)
    return tx.entered(lambda inner: _barrier(inner, key, clock))


@asynccontextmanager
async def _barrier(tx: UnitOfWork, key: BranchKey, clock: Clock) -> AsyncIterator[Gate]:
    async with tx.savepoint():
        marks = tx.within(MarkStore)
        gate = await _decided(marks, key, clock.now())
        yield gate
        if gate.first and gate.result is not None:
            await marks.keep_result(key.key, key.operation, JSON.encode(gate.result).decode())


async def _decided(marks: MarkWriter, key: BranchKey, at: float) -> Gate:
    operation = key.operation
    try:
        done = await marks.set(key.key, "action", operation, at=at)
    except MigrationNeeded as error:
        raise MigrationNeeded(
            "the table of marks is missing: app.add(Barrier()) brings it, then run `standfast "
            "migrate` where the app doesn't make its tables itself"
        ) from error
    if operation == "compensation":
        undone = await marks.set(key.key, "compensation", operation, at=at)
        if undone is not None:
            return Gate(False, "duplicate", _decode(undone))
        return Gate(False, "nothing_to_undo") if done is None else Gate(True)
    if done is None:
        return Gate(True)
    if done.reason == "compensation":
        return Gate(False, "already_undone")
    return Gate(False, "duplicate", _decode(done))


def _decode(mark: Mark) -> Any:
    return None if mark.result is None else JSON.decode(mark.result.encode(), Any)
