"""Starting sagas: one way for apps, transactions and operators, whoever runs them afterwards.

A start is written with others in one commit, or inside a transaction; a child's is written with the
facts of its parent. After that commit each is told to `SagaExecutor.begun`, which counts it and
runs it here, or lets a worker know.
"""

from __future__ import annotations

from datetime import datetime
from functools import partial
from typing import Any
from uuid import UUID

from standfast.affinity import Affinity, not_open, running_loop
from standfast.batching import Batcher
from standfast.durations import Duration
from standfast.errors import SagaConflict, StaleWriter
from standfast.inside import innermost, refuse_inside
from standfast.ports.journal import JournalStore, Start, StartAnswer
from standfast.saga.executor import SagaExecutor
from standfast.saga.handle import Reachable, SagaHandle
from standfast.saga.inputs import hashed
from standfast.saga.prepared import Prepared, prepare
from standfast.saga.saga import Saga
from standfast.transaction import UnitOfWork


class Starter:
    """Starts sagas of one database from one process, from `open` to `close`.

    `sagas` is what the handles that it answers with speak to.
    """

    def __init__(self, journal: JournalStore, executor: SagaExecutor, sagas: Reachable) -> None:
        self._executor = executor
        self._definitions = executor.definitions
        self._journal = journal
        self._sagas = sagas
        self._passive: Batcher[Start, StartAnswer] | None = None
        self._affinity: Affinity

    def open(self, lanes: int) -> None:
        """Accept starts, with up to `lanes` concurrent commits."""
        self._affinity = Affinity("this app")
        self._passive = Batcher(partial(self._journal.start, owner=None), lanes=lanes)

    async def close(self) -> None:
        """Wait for the accepted starts to be committed; take no more."""
        passive, self._passive = self._passive, None
        if passive is not None:
            await passive.close()

    async def start(
        self,
        saga: type[Saga[Any]] | str,
        input: Any,
        *,
        key: str | None = None,
        correlation_id: str | None = None,
        id: UUID | None = None,
        at: datetime | None = None,
        after: Duration | None = None,
    ) -> SagaHandle[Any]:
        """Start in a transaction of its own; run by this process if it has a free slot.

        `id` is the new instance's, by default one that is made. See `Standfast.start` for the
        errors.
        """
        executor, passive = self._executor, self._passive
        if innermost() is not None:
            refuse_inside(executor.host.database, "start a saga", "tx.start(…)")
        definition = self._definitions.by_class.get(saga)  # type: ignore[arg-type]  # or no class
        if definition is None:
            definition = self._definitions.of(saga)
        if passive is None:
            raise not_open()
        if running_loop() is not self._affinity.loop:
            self._affinity.refuse()
        prepared = prepare(
            definition,
            input,
            clock=executor.clock,
            key=key,
            correlation_id=correlation_id,
            spans=executor.telemetry.spans,
            id=id,
            at=at,
            after=after,
        )
        delayed = prepared.fact.begins_at is not None
        runner = None if delayed else executor.reserve(definition)
        if runner is None:
            return self._answered(prepared, await passive.submit(prepared.start), None)
        owner, slots = runner.desk.owner, runner.desk.slots
        new = prepared.start.instance.id
        executor.beginning.add(new)
        try:
            # One that is alone has nobody to share a commit with.
            alone = runner.desk.slots.taken <= 1
            write = runner.starts.write_alone if alone else runner.starts.submit
            answer = await write(prepared.start)
        except StaleWriter:
            executor.give_back(definition, slots)
            return self._answered(prepared, await passive.submit(prepared.start), None)
        except BaseException:
            # Its caller gives up, but it may be written all the same, as this worker's own.
            executor.give_back(definition, slots)
            runner.desk.doubt()
            raise
        finally:
            executor.beginning.discard(new)
        if not answer.created:
            executor.give_back(definition, slots)
        return self._answered(prepared, answer, owner)

    async def start_within(
        self,
        tx: UnitOfWork,
        saga: type[Saga[Any]] | str,
        input: Any,
        *,
        key: str | None,
        correlation_id: str | None,
        at: datetime | None,
        after: Duration | None,
    ) -> SagaHandle[Any]:
        """Start as part of a transaction: a worker may take it once that has committed."""
        executor, definition = self._executor, self._definitions.of(saga)
        prepared = prepare(
            definition,
            input,
            clock=executor.clock,
            key=key,
            correlation_id=correlation_id,
            spans=executor.telemetry.spans,
            at=at,
            after=after,
        )
        (answer,) = await tx.within(JournalStore).start([prepared.start])
        if answer.created:
            tx.hint(partial(executor.begun, prepared))
        return self._handle(prepared, answer)

    def _answered(
        self, prepared: Prepared, answer: StartAnswer, owner: int | None
    ) -> SagaHandle[Any]:
        if answer.created:
            self._executor.begun(prepared, owner)
        return self._handle(prepared, answer)

    def _handle(self, prepared: Prepared, answer: StartAnswer) -> SagaHandle[Any]:
        row = prepared.start.instance
        if answer.created or answer.input_hash == row.input_hash:
            return SagaHandle(self._sagas, answer.id, answer.created)
        # Of one that an older release started, the hash is of the data as it was encoded.
        if answer.input_hash != hashed(prepared.fact.input):
            raise SagaConflict(
                f"saga {row.name!r} with key {row.key!r} was started with another input (as "
                f"{answer.id}): use another key, or send the same input"
            )
        return SagaHandle(self._sagas, answer.id, answer.created)
