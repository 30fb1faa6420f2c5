"""The sagas that a process knows."""

from __future__ import annotations

from typing import Any
from uuid import UUID

from standfast.codec import JSON, Codec
from standfast.errors import ConfigurationError, DefinitionError, SagaNotFound
from standfast.ports.journal import Loaded
from standfast.saga import facts as fx
from standfast.saga.blocking import Blocking
from standfast.saga.definition import Definition
from standfast.saga.machine import Machine
from standfast.saga.replay import replay
from standfast.saga.saga import Saga
from standfast.text import namesake

PATTERN = "saga"
"""What the instances are called in a store that keeps those of other patterns too."""


class Definitions:
    """The sagas that this process knows, by class and by (name, version).

    `blocking` is where their ``def`` functions run; None where none of them is run.
    """

    def __init__(self, codec: Codec = JSON, blocking: Blocking | None = None) -> None:
        self.codec: Codec = codec
        self._blocking = blocking
        self.by_class: dict[type[Saga[Any]], Definition] = {}
        self.by_kind: dict[tuple[str, str, int], Definition] = {}
        self.limits: dict[tuple[str, str, int], int | None] = {}
        """How many instances of each kind's name one worker runs at once; None for any number."""

    def add(self, saga: Saga[Any]) -> Definition:
        """Check and register. Raises `DefinitionError`."""
        definition = Definition(saga, self.codec, self._blocking)
        if definition.kind in self.by_kind:
            raise DefinitionError(
                f"saga {definition.name!r} version {definition.version} is added twice: raise the "
                "version of the newer one, or rename it"
            )
        self.by_class[type(saga)] = definition
        self.by_kind[definition.kind] = definition
        self.limits[definition.kind] = definition.max_in_flight
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
                f"{saga.__name__} isn't known here: {self._remedy(saga, 'first')}"
            ) from None

    def _remedy(self, saga: type[Saga[Any]], when: str) -> str:
        """What to do about a class that wasn't added."""
        told = (namesake(saga, known) for known in self.by_class)
        return next(filter(None, told), f"app.add({saga.__name__}(…)) {when}")

    def check_children(self) -> None:
        """Raise `DefinitionError` where a saga has a child that isn't added."""
        for definition in self.by_kind.values():
            for step in definition.steps.values():
                if step.child is not None and step.child not in self.by_class:
                    child = step.child.__name__
                    raise DefinitionError(
                        f"saga {definition.name!r}, step {step.name!r} starts a {child}, which "
                        f"isn't known here: {self._remedy(step.child, 'too')}"
                    )

    def begin(self, id: UUID, definition: Definition, started: fx.Started) -> Machine:
        """The machine of an instance that was just started."""
        machine = Machine(id, definition.plan, definition.misfit)
        machine.apply(started)
        return machine

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
        machine = Machine(instance.id, definition.plan, definition.misfit)
        replay(machine, facts)
        return definition, machine
