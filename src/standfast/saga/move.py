"""Moving an instance to another version of its saga.

A move is asked for by mail and happens only while the instance is read from the store: a worker of
the version it has lets its attempts end, leaves the mail unread and hands the instance over; a
worker of the version wanted folds the journal by its own plan, with the steps renamed, and goes on
if that works. If it doesn't, the instance stays on the version it had, and its journal says why.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextvars import copy_context
from dataclasses import dataclass
from typing import Any
from uuid import UUID

import msgspec

from standfast.checks import plain_answer
from standfast.errors import (
    CodecError,
    ConfigurationError,
    CorruptRecord,
    SagaNotFound,
    StandfastError,
    Unreadable,
)
from standfast.ports.journal import Loaded, Mail
from standfast.saga import events as ev
from standfast.saga import facts as fx
from standfast.saga.definition import Definition
from standfast.saga.machine import Machine
from standfast.saga.registry import PATTERN, Definitions
from standfast.saga.replay import replay
from standfast.text import named

MIGRATE = "migrate"


@dataclass(slots=True)
class Opened:
    """An instance read from the store. `move`: what the machine must hear first, for `mail`.

    `input` is an `Unreadable` where it can't be read: what needs no input can be done all the same.
    """

    definition: Definition
    machine: Machine
    input: Any
    move: ev.MigrateAsked | None = None
    mail: Mail | None = None


class MoveRefused(CorruptRecord):
    """It can't move, and its own version isn't registered here either. `version` is its own."""

    def __init__(self, message: str, version: int, mail: Mail) -> None:
        super().__init__(message)
        self.version = version
        self.mail = mail


def open_instance(definitions: Definitions, loaded: Loaded) -> Opened:
    """Fold an instance, under the version that it is to move to if it was handed over for that.

    Raises `CorruptRecord`, `SagaNotFound` or `MoveRefused`.
    """
    asked = [mail for mail in loaded.mails if mail.subject == MIGRATE]
    facts = [fx.decode(text, number) for number, text in enumerate(loaded.facts)]
    version = _version(loaded, facts)
    if not asked or loaded.instance.version == version:
        definition, machine = definitions.machine(loaded)
        return Opened(definition, machine, _input(definition, machine))
    mail = asked[-1]
    try:
        return _moved(definitions, loaded, facts, version, mail)
    except StandfastError as error:
        problem = f"it can't move to version {loaded.instance.version}: {error}"
    try:
        definition, machine = definitions.machine(loaded)
    except SagaNotFound as error:
        raise MoveRefused(problem, version, mail) from error
    refusal = ev.MigrateAsked(version, problem=problem)
    return Opened(definition, machine, _input(definition, machine), refusal, mail)


def _input(definition: Definition, machine: Machine) -> Any:
    try:
        return definition.input(machine)
    except CodecError as error:
        return Unreadable(f"its input can't be read: {error}")


def _version(loaded: Loaded, facts: Sequence[fx.AnyFact]) -> int:
    version = loaded.instance.version
    for fact in facts:
        if isinstance(fact, (fx.Started, fx.Migrated)):
            version = fact.version
    return version


def _moved(
    definitions: Definitions,
    loaded: Loaded,
    facts: Sequence[fx.AnyFact],
    version: int,
    mail: Mail,
) -> Opened:
    asked = ev.from_mail(mail.subject, mail.body)
    assert isinstance(asked, ev.MigrateAsked)
    definition = definitions.by_kind.get((PATTERN, loaded.instance.name, asked.version))
    if definition is None:
        raise SagaNotFound(f"version {asked.version} isn't registered here")
    machine, data = fold(definition, loaded.instance.id, facts, version)
    input = definition.codec.decode(data, definition.input_type)
    renamed = definition.saga.migrations[version].renamed
    move = ev.MigrateAsked(asked.version, data, renamed, asked.by)
    return Opened(definition, machine, input, move, mail)


def fold(
    definition: Definition, id: UUID, facts: Sequence[fx.AnyFact], version: int
) -> tuple[Machine, msgspec.Raw]:
    """An instance of another version as it would be under `definition`, and its new input.

    Raises `ConfigurationError` where there is no migration from `version`, or its input function
    raises; `CorruptRecord` or `CodecError` where the journal doesn't fit.
    """
    migration = definition.saga.migrations.get(version)
    if migration is None:
        raise ConfigurationError(
            f"it has no migration from version {version}: give it migrations = "
            f"{{{version}: Migration()}}"
        )
    machine = Machine(id, definition.plan, definition.misfit)
    replay(machine, facts, renamed=migration.renamed)
    data = machine.started.input
    if migration.input is not None:
        try:
            made = copy_context().run(migration.input, msgspec.json.decode(data))
            made = plain_answer(made, name="it")
            data = msgspec.Raw(definition.codec.encode(made))
        except KeyboardInterrupt:
            raise
        except BaseException as error:  # the user's function: whatever it raises refuses the move
            raise ConfigurationError(f"its input function raised {named(error)}") from error
    definition.codec.decode(data, definition.input_type)
    for branch in machine.branches.values():
        if branch.result is not None and not branch.fans_out:
            definition.codec.decode(branch.result, definition.result_types[branch.step.name])
    return machine, data
