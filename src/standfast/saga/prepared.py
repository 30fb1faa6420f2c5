"""Validating and encoding a start, before it is inserted."""

from __future__ import annotations

from datetime import datetime
from hashlib import blake2b
from typing import Any, NamedTuple
from uuid import UUID

import msgspec

from standfast.clock import Clock
from standfast.codec import with_defaults
from standfast.durations import Duration, epoch, seconds
from standfast.errors import CodecError, ConfigurationError
from standfast.ids import new_id
from standfast.ports.journal import Instance, Start
from standfast.saga import facts as fx
from standfast.saga.definition import Definition
from standfast.saga.inputs import (
    check_class,
    check_read_back,
    in_order,
    too_deep,
    unreadable,
)
from standfast.saga.registry import PATTERN
from standfast.saga.spans import Spans
from standfast.text import NAME_LENGTH, checked


class Parent(NamedTuple):
    """The saga that starts a child, and the branch that does."""

    id: UUID
    branch: str


SAME: frozenset[type] = frozenset({str, bool, int})
"""What is read back as it is, and nobody can change."""


class Prepared(NamedTuple):
    """A validated, encoded start, ready to insert. `input` is as it will be read back."""

    definition: Definition
    start: Start
    fact: fx.Started
    input: Any


def prepare(
    definition: Definition,
    input: Any,
    *,
    clock: Clock,
    key: str | None = None,
    correlation_id: str | None = None,
    trace: dict[str, str] | None = None,
    spans: Spans | None = None,
    id: UUID | None = None,
    parent: Parent | None = None,
    at: datetime | None = None,
    after: Duration | None = None,
) -> Prepared:
    """Validate and encode a start. Raises `ConfigurationError`, `CodecError`.

    `at`, or how long `after` now: when it is to begin; one that has passed is at once. `trace` is
    the trace context that it starts with; by default `spans` begins one, if there are any.
    """
    codec, expected = definition.codec, definition.input_class
    try:
        if expected is not None and not isinstance(input, expected):
            check_class(definition, input, expected)
        data, value = codec.encode(with_defaults(input)), input
        if type(input) is not definition.input_type or type(input) not in SAME:
            try:
                value = codec.decode(data, definition.input_type)
            except CodecError as error:
                raise unreadable(definition, input, error) from error
            if value != input or not definition.equality_tells:
                check_read_back(definition, input, value)
        text = in_order(data, value) if definition.is_loose else data
    except RecursionError as error:
        raise too_deep(definition) from error
    now, id = clock.now(), id or new_id()
    plan = definition.plan
    key = str(id) if key is None else checked(key, name="key", longest=NAME_LENGTH)
    if correlation_id:
        checked(correlation_id, name="correlation_id", longest=NAME_LENGTH)
    if trace is None:
        trace = {} if spans is None else spans.begin(definition.name, key)
    begins_at = now if at is None and after is None else max(now, _beginning(at, after, now))
    deadline = None if plan.deadline is None else begins_at + plan.deadline
    delayed = begins_at > now
    fact = fx.Started(
        at=now,
        input=msgspec.Raw(data),
        version=definition.version,
        key=key,
        correlation_id=correlation_id or key,
        deadline_at=deadline,
        trace=trace,
        parent=parent.id if parent else None,
        parent_branch=parent.branch if parent else "",
        begins_at=begins_at if delayed else None,
    )
    instance = Instance(
        id=id,
        pattern=PATTERN,
        name=definition.name,
        version=definition.version,
        key=key,
        correlation_id=fact.correlation_id,
        input_hash=blake2b(text, digest_size=12).hexdigest(),
        status="waiting" if delayed else "running",
        step="",
        cause="",
        owner=None,
        wake_at=begins_at,
        deadline_at=deadline,
        created_at=now,
        updated_at=now,
        finished_at=None,
    )
    return Prepared(definition, Start(instance, fx.encode(fact)), fact, value)


def _beginning(at: datetime | None, after: Duration | None, now: float) -> float:
    """When a delayed start is to begin. Raises `ConfigurationError`."""
    if after is None:
        assert at is not None
        return epoch(at, name="at")
    if at is not None:
        raise ConfigurationError(f"at={at!r} and after={after!r}: give one of the two")
    return now + seconds(after, name="after", positive=False)
