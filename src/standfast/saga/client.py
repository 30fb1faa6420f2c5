"""Starting sagas, speaking to them and reading them, from any process."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from hashlib import blake2b
from typing import Any
from uuid import UUID

import msgspec

from standfast.clock import SYSTEM_CLOCK, Clock
from standfast.codec import with_defaults
from standfast.errors import (
    ConfigurationError,
    CorruptRecord,
    SagaConflict,
    SagaNotFound,
    SagaParked,
)
from standfast.ids import new_id
from standfast.ports.database import StoreTransaction
from standfast.ports.journal import Filter, Instance, JournalStore, Loaded, Mail, Start, Started
from standfast.saga import events as ev
from standfast.saga import facts as fx
from standfast.saga.blocks import refuse_inside
from standfast.saga.definition import Definition, Saga
from standfast.saga.handle import SagaHandle, SagaResult, Story, outcome
from standfast.saga.registry import PATTERN, Definitions
from standfast.saga.state import FINISHED, SagaState
from standfast.saga.waiting import Poller, next_look
from standfast.text import checked

NAME_LENGTH = 500


class Sagas:
    """All sagas of one database, seen from one process."""

    def __init__(
        self,
        store: JournalStore,
        definitions: Definitions,
        *,
        clock: Clock = SYSTEM_CLOCK,
        poll: float = 0.5,
    ) -> None:
        self.store: JournalStore = store
        self.definitions: Definitions = definitions
        self.clock: Clock = clock
        self.poll: float = poll
        self._poller = Poller(store)
        self.watchers: dict[UUID, list[asyncio.Future[tuple[Definition, SagaState]]]] = {}
        self.runs_here: Callable[[UUID], bool] = _nowhere
        self.works_here: bool = False
        self.on_sent: Callable[[UUID], None] = _nothing
        self.wrap: Callable[[StoreTransaction], tuple[Any, Callable[[], None]]] = _as_it_is

    # -- starting ----------------------------------------------------------------------------

    def prepare(
        self,
        saga: type[Saga[Any]] | str | Definition,
        input: Any,
        *,
        key: str | None = None,
        correlation_id: str | None = None,
        trace: dict[str, str] | None = None,
        id: UUID | None = None,
        parent: tuple[UUID, str] | None = None,
    ) -> tuple[Definition, Start, fx.Started]:
        """Check a start and put it into the form that is stored. Raises `ConfigurationError`."""
        definition = saga if isinstance(saga, Definition) else self.definitions.of(saga)
        expected = definition.input_class
        if expected is not None and not isinstance(input, expected):
            raise ConfigurationError(
                f"saga {definition.name!r} takes a {expected.__name__}, not a "
                f"{type(input).__name__}"
            )
        now, id = self.clock.now(), id or new_id()
        name, plan = definition.name, definition.plan
        data = definition.codec.encode(with_defaults(input))
        key = str(id) if key is None else checked(key, name="key", longest=NAME_LENGTH)
        if correlation_id:
            checked(correlation_id, name="correlation_id", longest=NAME_LENGTH)
        deadline = None if plan.deadline is None else now + plan.deadline
        started = fx.Started(
            at=now,
            input=msgspec.Raw(data),
            version=definition.version,
            key=key,
            correlation_id=correlation_id or key,
            deadline_at=deadline,
            trace=trace or {},
            parent=parent[0] if parent else None,
            parent_branch=parent[1] if parent else "",
        )
        instance = Instance(
            id=id,
            pattern=PATTERN,
            name=name,
            version=definition.version,
            key=key,
            correlation_id=started.correlation_id,
            input_hash=blake2b(data, digest_size=12).hexdigest(),
            status="running",
            step="",
            cause="",
            owner=None,
            wake_at=now,
            deadline_at=deadline,
            created_at=now,
            updated_at=now,
            finished_at=None,
        )
        return definition, Start(instance, fx.encode(started)), started

    def accept(self, start: Start, answer: Started) -> SagaHandle[Any]:
        """The handle of a start that was answered. Raises `SagaConflict` for another input."""
        if not answer.created and answer.input_hash != start.instance.input_hash:
            raise SagaConflict(
                f"saga {start.instance.name!r} with key {start.instance.key!r} was started with "
                f"another input (as {answer.id}): use another key, or send the same input"
            )
        return SagaHandle(self, answer.id, answer.created)

    # -- speaking ----------------------------------------------------------------------------

    async def send(self, id: UUID, event: ev.Mailed, *, mail_id: str | None = None) -> None:
        """Send an event to an instance. Raises `SagaNotFound`, `ConfigurationError`."""
        refuse_inside(self, "send to a saga", "tx.signal(…) or tx.cancel(…)")
        (known,) = await self.store.send([self.mail(id, event, mail_id=mail_id)])
        if not known:
            raise unknown(id)
        self.on_sent(id)

    def mail(self, id: UUID, event: ev.Mailed, *, mail_id: str | None = None) -> Mail:
        """The mail by which an event travels. Raises `ConfigurationError` for unfit text."""
        for field in event.__struct_fields__:
            value = getattr(event, field)
            if isinstance(value, str):
                checked(value, name=field)
        if mail_id is not None:
            checked(mail_id, name="id", longest=NAME_LENGTH)
        kind, body = ev.to_mail(event)
        return Mail(id, mail_id or str(new_id()), kind, body, self.clock.now())

    async def signal(
        self, id: UUID, name: str, payload: Any = None, *, mail_id: str | None = None
    ) -> None:
        """See `SagaHandle.signal`."""
        event = self.signalled(await self.instance(id), name, payload)
        await self.send(id, event, mail_id=mail_id)

    def signalled(self, instance: Instance, name: str, payload: Any) -> ev.Signalled:
        """A signal as an event, its payload checked. Raises `CodecError`, `ConfigurationError`."""
        checked(name, name="signal", longest=NAME_LENGTH)
        definition = self.definitions.by_kind.get((PATTERN, instance.name, instance.version))
        if definition is None:
            data = self.definitions.codec.encode(payload)
        else:
            data = definition.check_signal(name, payload)
        return ev.Signalled(name, msgspec.Raw(data))

    # -- reading -----------------------------------------------------------------------------

    async def instance(self, id: UUID) -> Instance:
        """The searchable row. Raises `SagaNotFound`."""
        found = await self.store.find(Filter(ids=(id,)), limit=1)
        if not found:
            raise unknown(id)
        return found[0]

    async def get(self, saga: type[Saga[Any]] | str, key: str) -> SagaHandle[Any]:
        """The instance of a saga that was started with `key`. Raises `SagaNotFound`."""
        name = saga if isinstance(saga, str) else self.definitions.of(saga).name
        checked(key, name="key", longest=NAME_LENGTH)
        found = await self.store.by_key(PATTERN, name, key)
        if found is None:
            raise SagaNotFound(f"no saga {name!r} has the key {key!r}")
        return SagaHandle(self, found.id)

    async def stories(self, ids: Iterable[UUID]) -> list[Story]:
        """All that happened to these instances. Raises `SagaNotFound` if one is unknown."""
        ids = list(ids)
        loaded = {one.instance.id: one for one in await self.store.load(ids)}
        out: list[Story] = []
        for id in ids:
            if id not in loaded:
                raise unknown(id)
            one = loaded[id]
            facts: list[fx.AnyFact] = []
            try:
                for number, text in enumerate(one.facts):
                    facts.append(fx.decode(text, number))
                _, state = self.definitions.machine(one)
            except Exception as error:  # noqa: BLE001 — told in `problem`: reading must go on
                out.append(Story(one.instance, facts, None, f"{error}"))
            else:
                out.append(Story(one.instance, facts, state))
        return out

    async def outcome(self, id: UUID) -> SagaResult:
        """Wait until the instance ends or parks. Errors as in `SagaHandle.result`.

        Where it isn't run in this process, it is looked for in the store, every `poll` seconds at
        last and much more often at first, in one query for all who wait.
        """
        begun = self.clock.monotonic()
        while True:
            if self.runs_here(id):
                future: asyncio.Future[tuple[Definition, SagaState]]
                future = asyncio.get_running_loop().create_future()
                self.watchers.setdefault(id, []).append(future)
                try:
                    definition, state = await future
                except _Gone:
                    continue
                return outcome(definition, state)
            seen = await self._poller.row(id)
            if seen is None:
                raise unknown(id)
            status = seen.status
            if status in FINISHED or status in ("parked", "compensation_failed"):
                found = await self._poller.whole(id)
                if found is None:
                    raise unknown(id)
                row = found.instance
                if row.status != status:
                    continue
                try:
                    definition, state = self.definitions.machine(found)
                except (SagaNotFound, CorruptRecord) as error:
                    if status in FINISHED or not _is_spoken_to(found, by_fact=False):
                        raise SagaParked(f"saga {id}: {error}", cause=row.cause) from error
                else:
                    by_fact = state.status == status
                    # It was found without a worker of its version, and now there is one here.
                    is_due = self.works_here and not by_fact and row.wake_at is not None
                    moves = is_due or _is_spoken_to(found, by_fact=by_fact)
                    if status in FINISHED or not moves:
                        return outcome(definition, state, row)
            now = self.clock.monotonic()
            await self.clock.sleep(next_look(now, now - begun, self.poll) - now)

    def settled(self, id: UUID, definition: Definition, state: SagaState) -> None:
        """Tell those who wait here that the instance ended or parked."""
        for future in self.watchers.pop(id, ()):
            if not future.done():
                future.set_result((definition, state))

    def forget(self, id: UUID) -> None:
        """Tell those who wait here that the instance left this process."""
        for future in self.watchers.pop(id, ()):
            if not future.done():
                future.set_exception(_Gone())


def unknown(id: UUID) -> SagaNotFound:
    """The error for an id that nobody has."""
    return SagaNotFound(f"no saga has the id {id}")


def _is_spoken_to(loaded: Loaded, *, by_fact: bool) -> bool:
    """Whether one that is at rest is about to move, for a worker has it or there is mail for it.

    `by_fact`: it parked by a decision of its own. Otherwise it was put aside, since it can't be
    run, and only mail that is newer makes anybody try again.
    """
    row = loaded.instance
    if row.owner is not None:
        return True
    if row.wake_at is None:
        return False
    return any(by_fact or mail.at > row.updated_at for mail in loaded.mails)


def _as_it_is(store: StoreTransaction) -> tuple[Any, Callable[[], None]]:
    return store, lambda: None


def _nowhere(id: UUID) -> bool:
    return False


def _nothing(id: UUID) -> None:
    pass


class _Gone(Exception):
    """The instance isn't run in this process any more."""
