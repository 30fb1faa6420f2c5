"""A field that an input's type doesn't have is refused with those that it has, of whatever type."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple, TypedDict

import attrs
import msgspec
import pydantic
import pytest

from standfast import ConfigurationError, Context, Saga, Standfast, step, wait
from standfast.errors import CodecError
from standfast.saga.operations import Operations
from tests.saga.classes import saga_class


async def act(self: Any, thing: Any, ctx: Context) -> str:
    return repr(thing)


def app_of(type_: Any) -> Standfast:
    body = {"name": "one", "act": step(no_compensation="none")(act)}
    return Standfast("memory://").add(saga_class(Saga[type_], body)())


@dataclass
class Line:
    sku: str
    count: int = 1


@dataclass
class Order:
    id: str
    lines: list[Line]
    by_name: dict[str, Line] | None = None
    first: Line | None = None


class Struct(msgspec.Struct, rename="camel"):
    order_id: str
    line: Line | None = None


@attrs.define
class Slotted:
    id: str
    line: Line | None = None


@attrs.frozen(slots=False)
class Frozen:
    id: str
    count: int = 1
    notes: list[str] = attrs.Factory(list)


class Tagged(msgspec.Struct, tag="card"):
    id: str


class OtherTagged(msgspec.Struct, tag="cash"):
    amount: int


class Typed(TypedDict):
    id: str


class Inner(pydantic.BaseModel):
    sku: str


class Model(pydantic.BaseModel):
    id: str
    lines: list[Inner] = []
    note: str = pydantic.Field("", alias="comment")
    other: str = pydantic.Field("", validation_alias=pydantic.AliasChoices("or", "else"))


class Open(pydantic.BaseModel, extra="allow"):
    id: str


class Root(pydantic.RootModel[dict[str, int]]):
    pass


class Pair(NamedTuple):
    a: int
    b: int


UNKNOWN: list[tuple[Any, str, str]] = [
    (Order, '{"id": "1", "lines": [], "idd": 2}', "no field 'idd': choose from id, lines, by_name"),
    (
        Order,
        '{"id": "1", "lines": [{"sku": "a"}, {"sku": "b", "cuont": 2}]}',
        r"no field 'lines\[1\]\.cuont': choose from sku, count",
    ),
    (
        Order,
        '{"id": "1", "lines": [], "by_name": {"x": {"sku": "b", "cuont": 2}}}',
        r"no field 'by_name\.x\.cuont': choose from sku, count",
    ),
    (Order, '{"id": "1", "lines": [], "first": {"sku": "b", "n": 2}}', r"no field 'first\.n'"),
    (Struct, '{"order_id": "1"}', "no field 'order_id': choose from orderId, line"),
    (Slotted, '{"id": "1", "lin": 2}', "no field 'lin': choose from id, line"),
    (Slotted, '{"id": "1", "line": {"sku": "a", "n": 2}}', r"no field 'line\.n': .* sku, count"),
    (Frozen, '{"id": "1", "cuont": 2}', "no field 'cuont': choose from id, count, notes"),
    (Typed, '{"id": "1", "idd": 2}', "no field 'idd': choose from id"),
    (Typed | None, '{"id": "1", "idd": 2}', "no field 'idd': choose from id"),
    (Model, '{"id": "1", "nte": "x"}', "no field 'nte': choose from id, lines, note, comment"),
    (Model, '{"id": "1", "lines": [{"sku": "a", "n": 1}]}', r"no field 'lines\[0\]\.n'.* sku"),
    (list[Typed], '[{"id": "1"}, {"id": "1", "idd": 2}]', r"no field '\[1\]\.idd'"),
]


@pytest.mark.parametrize(("type_", "text", "match"), UNKNOWN)
async def test_a_field_that_there_isnt_is_refused(type_, text, match):
    app = app_of(type_)
    async with app:
        with pytest.raises(ConfigurationError, match=match):
            await Operations(app.sagas).start("one", text.encode())


KNOWN: list[tuple[Any, str]] = [
    (Order, '{"id": "1", "lines": [{"sku": "a", "count": 2}], "first": null}'),
    (Struct, '{"orderId": "1", "line": {"sku": "a"}}'),
    (Slotted, '{"id": "1", "line": {"sku": "a"}}'),
    (Frozen, '{"id": "1"}'),
    (Tagged, '{"type": "card", "id": "1"}'),
    (Tagged | OtherTagged, '{"type": "cash", "amount": 1}'),
    (Model, '{"id": "1", "comment": "x", "or": "y"}'),
    (Open, '{"id": "1", "anything": "x"}'),
    (Root, '{"a": 1}'),
    (Pair, "[1, 2]"),
    (dict[str, int], '{"a": 1}'),
    (Any, '{"a": 1}'),
    (int, "7"),
]


@pytest.mark.parametrize(("type_", "text"), KNOWN)
async def test_what_a_type_takes_is_taken(type_, text):
    app = app_of(type_)
    async with app.running(drain=5):
        handle = await Operations(app.sagas).start("one", text.encode())
        assert (await handle.result("10s"))["act"]


@pytest.mark.parametrize(
    ("type_", "first"),
    [
        (Model, Model(id="1")),
        (Typed, {"id": "1"}),
        (Order, Order("1", [])),
        (Slotted, Slotted("1")),
        (Frozen, Frozen("1")),
    ],
)
async def test_a_fork_replaces_only_what_there_is(type_, first):
    app = app_of(type_)
    async with app.running(drain=5):
        operations = Operations(app.sagas)
        handle = await app.start("one", first)
        with pytest.raises(ConfigurationError, match=r"has no field 'idd': choose from id"):
            await operations.fork(handle.id, replace={"idd": "2"})
        again = await operations.fork(handle.id, replace={"id": "2"})
        assert "'2'" in (await again.result("10s"))["act"]


@pytest.mark.parametrize("type_", [Slotted, Frozen])
async def test_an_attrs_class_that_took_its_defaults_is_the_same_input(type_):
    app = app_of(type_)
    async with app.running(drain=5):
        first = await Operations(app.sagas).start("one", b'{"id": "1"}', key="k")
        again = await app.start("one", type_("1"), key="k")
        assert again.id == first.id
        assert not again.created
        assert (await again.result("10s"))["act"] == repr(type_("1"))


async def test_a_typed_dict_from_a_program_is_looked_at_too():
    app = app_of(Typed)
    async with app:
        with pytest.raises(ConfigurationError, match="has no field 'idd': choose from id"):
            await app.start("one", {"id": "1", "idd": "2"})


@dataclass
class Approval:
    by: str = ""


class Approved(Saga[int]):
    approval = wait("approval", type=Approval)


async def test_a_payload_with_a_field_that_there_isnt_is_refused():
    app = Standfast("memory://").add(Approved())
    async with app.running(drain=5):
        handle = await app.start(Approved, 1)
        with pytest.raises(CodecError, match="has no field 'byy': choose from by"):
            await handle.signal("approval", {"byy": "ann"})
        await handle.signal("approval", {"by": "ann"})
        assert (await handle.result("10s"))[Approved.approval] == Approval("ann")
