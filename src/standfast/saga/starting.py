"""Starting sagas: one way for apps, transactions and operators, whoever runs them afterwards.

A start is written with others in one commit, or inside a transaction; a child's is written with the
facts of its parent. After that commit each is told to `SagaExecutor.begun`, which counts it and
runs it here, or lets a worker know.
"""

from __future__ import annotations

from collections.abc import Awaitable, Sequence
from functools import partial
from itertools import groupby
from operator import itemgetter
from typing import Any

from standfast.batching import Batcher
from standfast.errors import ConfigurationError, SagaConflict, StaleWriter
from standfast.ports.journal import JournalStore, Start, StartAnswer
from standfast.saga.definition import Definition
from standfast.saga.executor import SagaExecutor
from standfast.saga.prepared import Prepared, prepare
from standfast.transaction import UnitOfWork, refuse_inside


class Starter:
    """Starts sagas of one database from one process. Open from `open` to `close`."""

    def __init__(self, journal: JournalStore, executor: SagaExecutor) -> None:
        self._journal = journal
        self._executor = executor
        self._batcher: Batcher[tuple[Start, int | None], StartAnswer] | None = None

    def open(self, lanes: int) -> None:
        """Take starts, of which `lanes` commits may be in flight at once."""
        self._batcher = Batcher(self._write, lanes=lanes)

    async def close(self) -> None:
        """Finish what was accepted."""
        batcher, self._batcher = self._batcher, None
        if batcher is not None:
            await batcher.close()

    def prepare(
        self, definition: Definition, input: Any, key: str | None, correlation_id: str | None
    ) -> Prepared:
        """Check a start and put it into form, with a trace of its own if anybody traces."""
        spans = self._executor.telemetry.spans
        trace = None if spans is None else spans.begin(definition.name, key or "")
        return prepare(
            definition,
            input,
            clock=self._executor.clock,
            key=key,
            correlation_id=correlation_id,
            trace=trace,
        )

    async def start(self, prepared: Prepared) -> StartAnswer:
        """Start in a transaction of its own, run by this process if it has a place for it.

        Raises `SagaConflict` for a key that is taken by another input, `StoreUnavailable`, and
        `ConfigurationError` inside an open transaction or while the app isn't open.
        """
        executor, batcher, start = self._executor, self._batcher, prepared.start
        refuse_inside(executor.host.database, "start a saga", "tx.start(…)")
        if batcher is None:
            raise ConfigurationError("the app isn't open: use `async with app:` or app.running()")
        desk = executor.reserve(prepared.definition)
        if desk is None:
            answer = await batcher.submit((start, None))
            return self._answered(prepared, answer, None)
        owner = desk.owner
        try:
            # One that is alone has nobody to share a commit with.
            write = batcher.write_alone if desk.slots.taken <= 1 else batcher.submit
            answer = await write((start, owner))
        except StaleWriter:
            executor.give_back(prepared.definition)
            answer = await batcher.submit((start, None))
            return self._answered(prepared, answer, None)
        except BaseException:
            # Its caller gives up, but it may be written all the same, as this worker's own.
            executor.give_back(prepared.definition)
            desk.doubt(start.instance.id)
            raise
        return self._answered(prepared, answer, owner)

    async def start_within(self, tx: UnitOfWork, prepared: Prepared) -> StartAnswer:
        """Start as part of a transaction: a worker may take it once that has committed."""
        (answer,) = await tx.within(JournalStore).start([prepared.start])
        if answer.created:
            tx.on_commit(partial(self._executor.begun, prepared))
        return _of_the_same_input(prepared, answer)

    def _answered(self, prepared: Prepared, answer: StartAnswer, owner: int | None) -> StartAnswer:
        if answer.created:
            self._executor.begun(prepared, owner)
        elif owner is not None:
            self._executor.give_back(prepared.definition)
        return _of_the_same_input(prepared, answer)

    def _write(
        self, batch: Sequence[tuple[Start, int | None]]
    ) -> Awaitable[Sequence[StartAnswer | Exception]]:
        """Write starts that share an owner, as nearly always, in one commit."""
        starts, owners = zip(*batch, strict=True)
        if len(set(owners)) > 1:
            return self._write_by_owner(batch)
        return self._journal.start(starts, owner=owners[0])

    async def _write_by_owner(
        self, batch: Sequence[tuple[Start, int | None]]
    ) -> Sequence[StartAnswer | Exception]:
        answers: list[StartAnswer | Exception] = []
        for owner, group in groupby(batch, itemgetter(1)):
            starts = [start for start, _ in group]
            try:
                answers += await self._journal.start(starts, owner=owner)
            except StaleWriter as error:
                answers += [error] * len(starts)
        return answers


def _of_the_same_input(prepared: Prepared, answer: StartAnswer) -> StartAnswer:
    row = prepared.start.instance
    if not answer.created and answer.input_hash != row.input_hash:
        raise SagaConflict(
            f"saga {row.name!r} with key {row.key!r} was started with another input (as "
            f"{answer.id}): use another key, or send the same input"
        )
    return answer
