"""Starting sagas, speaking to them and reading them, from any process."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from typing import Any, Generic, TypeVar
from uuid import UUID

import msgspec

from standfast.clock import SYSTEM_CLOCK, Clock
from standfast.codec import JSON, Codec, with_defaults
from standfast.durations import Duration, seconds
from standfast.errors import (
    ConfigurationError,
    CorruptRecord,
    DefinitionError,
    SagaCompensated,
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
from standfast.saga.machine import Machine
from standfast.saga.state import FINISHED, SagaState, replay
from standfast.saga.steps import Step
from standfast.saga.waiting import Poller, next_look
from standfast.text import checked

R = TypeVar("R")
PATTERN = "saga"
NAME_LENGTH = 500


class Definitions:
    """The sagas that this process knows, by class and by (name, version)."""

    def __init__(self, codec: Codec = JSON) -> None:
        self.codec: Codec = codec
        self.by_class: dict[type[Saga[Any]], Definition] = {}
        self.by_kind: dict[tuple[str, str, int], Definition] = {}

    def add(self, saga: Saga[Any]) -> Definition:
        """Check and register. Raises `DefinitionError`."""
        definition = Definition(saga, self.codec)
        if definition.kind in self.by_kind:
            raise DefinitionError(
                f"saga {definition.name!r} version {definition.version} is added twice: raise the "
                "version of the newer one, or rename it"
            )
        self.by_class[type(saga)] = definition
        self.by_kind[definition.kind] = definition
        return definition

    def of(self, saga: type[Saga[Any]] | str) -> Definition:
        """By class, or the newest version by name. Raises `ConfigurationError`."""
        if isinstance(saga, str):
            found = [d for d in self.by_kind.values() if d.name == saga]
            if found:
                return max(found, key=lambda d: d.version)
            names = sorted({d.name for d in self.by_kind.values()})
            raise ConfigurationError(
                f"no saga is named {saga!r}: this app has {', '.join(names) or 'none'}"
            )
        if not isinstance(saga, type):
            raise ConfigurationError(
                f"{saga!r} isn't a saga: give its class or its name, such as PlaceOrder"
            )
        try:
            return self.by_class[saga]
        except KeyError:
            raise ConfigurationError(
                f"{saga.__name__} isn't known here: app.add({saga.__name__}(…)) first"
            ) from None

    def machine(self, loaded: Loaded) -> tuple[Definition, Machine]:
        """The instance's state, folded from its journal by the definition of its version.

        Raises `CorruptRecord` for an unreadable journal and `SagaNotFound` for an unknown version.
        """
        facts = [fx.decode(text, number) for number, text in enumerate(loaded.facts)]
        instance = loaded.instance
        version = instance.version
        for fact in facts:
            if isinstance(fact, (fx.Started, fx.Migrated)):
                version = fact.version
        definition = self.by_kind.get((PATTERN, instance.name, version))
        if definition is None:
            raise SagaNotFound(f"version {version} of saga {instance.name!r} isn't registered here")
        machine = Machine(instance.id, definition.plan)
        replay(machine, facts)
        return definition, machine


class SagaResult:
    """What a completed saga's steps returned.

    ``result[PlaceOrder.ship]`` (typed) or ``result["ship"]``; `ResultUnavailable` where a step was
    skipped. `as_dict` has all there are.
    """

    __slots__ = ("_definition", "_state")

    def __init__(self, definition: Definition, state: SagaState) -> None:
        self._definition: Definition = definition
        self._state: SagaState = state

    def __getitem__(self, step: Step[Any, R] | str) -> R:
        name = step if isinstance(step, str) else step.name
        return self._definition.result(self._state, name)  # type: ignore[no-any-return]

    def as_dict(self) -> dict[str, Any]:
        """Results by step name; steps without one are left out."""
        return self._definition.results(self._state)

    def __repr__(self) -> str:
        return f"SagaResult({self.as_dict()!r})"


@dataclass(frozen=True, slots=True)
class Story:
    """One instance with all that happened to it: the row, the facts in order, the folded state.

    `state` is None, and `problem` says why, when the journal doesn't fit the code at hand.
    """

    instance: Instance
    facts: Sequence[fx.AnyFact]
    state: SagaState | None
    problem: str = ""


class SagaHandle(Generic[R]):
    """One instance, by id. Cheap to make; every method reads or writes the database."""

    __slots__ = ("_sagas", "created", "id")

    def __init__(self, sagas: Sagas, id: UUID, created: bool = False) -> None:
        self._sagas: Sagas = sagas
        self.id: UUID = id
        self.created: bool = created

    def __repr__(self) -> str:
        return f"SagaHandle({self.id})"

    async def status(self) -> str:
        """One of `standfast.saga.STATUSES`. Raises `SagaNotFound`."""
        return (await self._sagas.instance(self.id)).status

    async def result(self, timeout: Duration | None = None) -> SagaResult:
        """Wait for the end and answer with the steps' results.

        Raises `SagaCompensated` when it ended undone, `SagaParked` when it waits for an operator
        (unless it has just been told something, by an operator say), `TimeoutError` after `timeout`
        (seconds or text), `SagaNotFound`.
        """
        if timeout is None:
            return await self._sagas.outcome(self.id)
        async with asyncio.timeout(seconds(timeout, name="timeout")):
            return await self._sagas.outcome(self.id)

    async def signal(self, name: str, payload: Any = None, *, id: str | None = None) -> None:
        """Send a signal; it is kept until a wait step takes it.

        With an `id`, sending it again changes nothing. Raises `CodecError` for a payload that
        doesn't fit the wait's type, `SagaNotFound`, `ConfigurationError` inside a transaction of
        the same app: `Transaction.signal` commits with it.
        """
        await self._sagas.signal(self.id, name, payload, mail_id=id)

    async def cancel(self, reason: str = "", *, force: bool = False, by: str = "") -> None:
        """Ask for compensation. An attempt in flight may end first; past the pivot it is ignored.

        `force`: also when the pivot's outcome is unknown, taking it as not done. Raises
        `SagaNotFound`, `ConfigurationError` inside a transaction (there: `Transaction.cancel`).
        """
        await self._sagas.send(self.id, ev.CancelAsked(reason, by, force))

    async def story(self) -> Story:
        """All that happened so far."""
        (story,) = await self._sagas.stories([self.id])
        return story


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
        return self._prepare(
            definition,
            definition.codec.encode(with_defaults(input)),
            key,
            correlation_id,
            trace or {},
            id or new_id(),
            parent,
        )

    def _prepare(
        self,
        definition: Definition,
        data: bytes,
        key: str | None,
        correlation_id: str | None,
        trace: dict[str, str],
        id: UUID,
        parent: tuple[UUID, str] | None,
    ) -> tuple[Definition, Start, fx.Started]:
        now = self.clock.now()
        name, plan = definition.name, definition.plan
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
            trace=trace,
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
                return _outcome(definition, state)
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
                        return _outcome(definition, state, row)
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


def _outcome(definition: Definition, state: SagaState, row: Instance | None = None) -> SagaResult:
    """The result or its error; the `row` knows of one that was put aside, the `state` doesn't."""
    name, key = definition.name, state.started.key
    if state.outcome == "completed":
        return SagaResult(definition, state)
    if state.outcome == "compensated":
        raise SagaCompensated(
            f"saga {name!r} with key {key!r} was compensated: {state.cause}", cause=state.cause
        )
    status, cause = (state.status, state.cause) if row is None else (row.status, row.cause)
    raise SagaParked(
        f"saga {name!r} with key {key!r} is {status} ({cause}): see "
        f"`standfast sagas show {state.id}`, then `retry`, `skip` or `resolve` it",
        cause=cause,
    )
