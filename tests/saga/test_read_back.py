"""What is stored is read back as what it was, or refused: by one rule, wherever it is given."""

from __future__ import annotations

import typing
from dataclasses import dataclass, field
from datetime import UTC, datetime, time, timedelta, timezone
from typing import Any, Literal, NamedTuple, TypedDict, TypeVar

import attrs
import msgspec
import pydantic
import pytest

from standfast import Context, Retry, Saga, SagaCompensated, Standfast, child, step, wait
from standfast.codec import JSON
from standfast.errors import CodecError, ConfigurationError, DefinitionError
from standfast.saga.read_back import difference, equality_tells, exact_class, may_lose
from standfast.saga.sharing import Values

T = TypeVar("T")
ODD = timezone(timedelta(minutes=19, seconds=32))
"""As Amsterdam had it in 1900."""


@dataclass
class Base:
    a: int = 1


@dataclass
class Sub(Base):
    b: int = 2


@dataclass
class Holder:
    one: Base
    many: list[Base] = field(default_factory=list)


@dataclass
class ByA:
    """Two are equal if what isn't compared differs."""

    a: int
    one: Base = field(compare=False)


class BaseStruct(msgspec.Struct):
    a: int = 1


class SubStruct(BaseStruct):
    b: int = 2


class HolderStruct(msgspec.Struct):
    one: BaseStruct


@attrs.define
class BaseAttrs:
    a: int = 1


@attrs.define
class SubAttrs(BaseAttrs):
    b: int = 2


@attrs.define
class HolderAttrs:
    one: BaseAttrs


class BaseModel(pydantic.BaseModel):
    a: int = 1


class SubModel(BaseModel):
    b: int = 2


class HolderModel(pydantic.BaseModel):
    one: BaseModel = BaseModel()
    many: list[BaseModel] = []


class Excluding(pydantic.BaseModel):
    secret: str = pydantic.Field(default="", exclude=True)


class Computed(pydantic.BaseModel):
    a: int

    @pydantic.computed_field  # type: ignore[prop-decorator]
    @property
    def b(self) -> int:
        return self.a + 1


class Pinned(pydantic.BaseModel):
    """Private attributes are none of its data, to Pydantic."""

    a: int
    _made: int = pydantic.PrivateAttr(default=0)


@dataclass
class When:
    at: datetime


class Row(TypedDict):
    a: int


class Pair(NamedTuple):
    a: int
    at: datetime


LOST: list[tuple[Any, Any, str]] = [
    (Base, Sub(), "b"),
    (BaseModel, SubModel(), "b"),
    (Holder, Holder(Sub()), "has no field 'one.b': choose from a"),
    (Holder, Holder(Base(), [Base(), Sub()]), r"has no field 'many\[1\].b'"),
    (ByA, ByA(1, Sub()), "has no field 'one.b'"),
    (HolderStruct, HolderStruct(SubStruct()), "has no field 'one.b'"),
    (HolderAttrs, HolderAttrs(SubAttrs()), "has no field 'one.b'"),
    (HolderModel, HolderModel(one=SubModel()), "has no field 'one.b'"),
    (HolderModel, HolderModel(many=[SubModel()]), r"has no field 'many\[0\].b'"),
    (dict[str, BaseModel], {"x": SubModel()}, "has no field 'x.b'"),
    (list[Row], [{"a": 1, "c": 2}], r"has no field '\[0\].c': choose from a"),
    (Excluding, Excluding(secret="s"), "would be read back as '', not as 's', at 'secret'"),
    (datetime, datetime(1900, 1, 1, tzinfo=ODD), r"as 1900-01-01 00:00:00\+00:19:32"),
    (When, When(datetime(1900, 1, 1, tzinfo=ODD)), r"\+00:19:32, at 'at'"),
    (list[time], [time(tzinfo=ODD)], r"\+00:19:32, at '\[0\]'"),
    (Pair, Pair(1, datetime(1900, 1, 1, tzinfo=ODD)), r"\+00:19:32, at '\[1\]'"),
    (dict[datetime, int], {datetime(1900, 1, 1, tzinfo=ODD): 1}, "would be read back as"),
    (set[datetime], {datetime(1900, 1, 1, tzinfo=ODD)}, "would be read back as"),
]

KEPT: list[tuple[Any, Any]] = [
    (Holder, Holder(Base(3), [Base()])),
    (HolderModel, HolderModel(one=BaseModel(a=2))),
    (Computed, Computed(a=1)),
    (list[Computed], [Computed(a=1)]),
    (Pinned, Pinned(a=1)),
    (When, When(datetime(1900, 1, 1, tzinfo=UTC))),
    (dict[bytes, int], {b"a": 1}),
    (Row, {"a": 1}),
    (Pair, Pair(1, datetime(2000, 1, 1, tzinfo=UTC))),
]


class _Takes(Saga[T], typing.Generic[T]):
    @step(no_compensation="it only looks")
    async def look(self, thing: T, ctx: Context) -> str:
        return repr(thing)


def sagas(type_: Any, value: Any) -> list[Saga[Any]]:
    """One for each way by which a value of the type is stored."""

    class Takes(_Takes[type_]):  # type: ignore[valid-type]
        name = "input"

    class Child(Saga[str]):
        made = child(Takes, lambda self, thing, ctx: value)

    class Result(Saga[str]):
        @step(retry=Retry(attempts=3))
        async def look(self, thing: str, ctx: Context) -> type_:  # type: ignore[valid-type]
            return value

        @look.compensation
        async def undo(self, thing: str, ctx: Context) -> None: ...

        @step(no_compensation="it only looks")
        async def seen(self, thing: str, ctx: Context) -> str:
            return repr(ctx.result(self.look))

    class Item(Saga[str]):
        @step(each=lambda self, thing, ctx: ["", value][1:], no_compensation="it only looks")
        async def look(self, thing: str, ctx: Context, item: type_) -> str:  # type: ignore[valid-type]
            return repr(item)

    class Signal(Saga[str]):
        go = wait("go", type=type_)

        @step(no_compensation="it only looks")
        async def look(self, thing: str, ctx: Context) -> str:
            return repr(ctx.result(self.go))

    for made in (Result, Item):
        function = made.__dict__["look"].function
        function.__annotations__["return" if made is Result else "item"] = type_
    return [Takes(), Child(), Result(), Item(), Signal()]


@pytest.mark.parametrize(("type_", "value", "match"), LOST)
async def test_what_would_lose_something_is_refused(type_, value, match):
    app = Standfast("memory://").add(*sagas(type_, value))
    async with app.running(drain=5):
        with pytest.raises(ConfigurationError, match=f"{match}|says more than"):
            await app.start("input", value)
        for name in ("child", "result", "item"):
            handle = await app.start(name, "x")
            with pytest.raises(SagaCompensated, match=f"{match}|says more than"):
                await handle.result("10s")
        handle = await app.start("signal", "x")
        with pytest.raises(CodecError, match=match):
            await handle.signal("go", value)


@pytest.mark.parametrize(("type_", "value"), KEPT)
async def test_what_loses_nothing_is_taken(type_, value):
    app = Standfast("memory://").add(*sagas(type_, value))
    async with app.running(drain=5):
        handle = await app.start("signal", "x")
        await handle.signal("go", value)
        assert (await handle.result("10s"))["look"] == repr(value)
        assert (await (await app.start("input", value)).result("10s"))["look"] == repr(value)
        assert (await (await app.start("item", "x")).result("10s"))["look"] == [repr(value)]
        assert (await (await app.start("result", "x")).result("10s"))["seen"] == repr(value)


@attrs.define
class Hidden:
    a: int
    _token: str = "none"


@attrs.define
class Generic(typing.Generic[T]):
    a: T
    _token: str = "none"


@pytest.mark.parametrize(
    ("type_", "match"),
    [
        (Hidden, "Hidden can't be encoded: of an attrs class, .* rename _token"),
        (list[Hidden | None], "rename _token"),
        (Generic[int], "rename _token"),
        (dict[tuple[int, int], int], r"dict\[tuple\[int, int\], int\] can't be encoded: the keys"),
        (dict[bool, int], "the keys of a dict must be text"),
        (dict[int | None, int], "the keys of a dict must be text"),
        (dict[Literal[True], int], "the keys of a dict must be text"),
        (list[dict[Base, int]], "the keys of a dict must be text"),
    ],
)
def test_a_type_that_loses_something_is_refused_when_it_is_added(type_, match):
    for saga in sagas(type_, None):
        if saga.saga_name() != "child":
            with pytest.raises(DefinitionError, match=match):
                Standfast("memory://").add(saga)


@dataclass
class Partial:
    a: int
    b: int | msgspec.UnsetType = msgspec.UNSET


def test_what_is_lost_where_nothing_is_said_of_types():
    lost = difference({"h": {"a": 1}}, {"h": Hidden(1, "tok")})
    assert str(lost) == "has no field 'h._token': choose from a"
    assert difference({"c": {"a": 1, "b": 2}}, {"c": Computed(a=1)}) is None
    assert difference({"c": {"a": 1}}, {"c": SubModel(a=1)}) is not None
    assert difference({"c": {"a": 1}}, {"c": Partial(1)}) is None  # what is unset isn't stored
    assert str(difference({"c": {"a": 1}}, {"c": Partial(1, 2)})).startswith("has no field 'c.b'")
    assert difference({"at": "1900-01-01T00:00:00+00:20"}, {"at": datetime(1900, 1, 1, tzinfo=ODD)})
    odder = datetime(1900, 1, 1, tzinfo=timezone(timedelta(microseconds=5)))
    assert difference({"at": "1900-01-01T00:00:00Z"}, {"at": odder})


@pytest.mark.parametrize("value", [[float("nan")], {"h": Hidden(1, "tok")}, [time(tzinfo=ODD)]])
@pytest.mark.parametrize("annotation", [Any, dict, dict[str, Any]])
def test_a_result_without_a_type_is_what_json_makes_of_it_and_loses_nothing(value, annotation):
    values = Values(annotation)
    assert values.stored(JSON, {"a": [(1, 2), {3}, Base()]})[1] == {"a": [[1, 2], [3], {"a": 1}]}
    with pytest.raises(CodecError):
        values.stored(JSON, {"a": value})


def test_one_that_holds_others_of_its_kind_may_hold_more():
    assert exact_class(Node) is None


async def test_what_is_nested_too_deep_to_be_compared_is_told():
    deep = Node()
    for _ in range(250):
        deep = Node([deep])
    takes, _, result, *_ = sagas(Node, deep)
    app = Standfast("memory://").add(takes, result)
    async with app.running(drain=5):
        with pytest.raises(ConfigurationError, match="nested too deep"):
            await app.start("input", deep)
        handle = await app.start("result", "x")
        with pytest.raises(SagaCompensated, match="nested too deep"):
            await handle.result("10s")


@dataclass
class Node:
    kids: list[Node] = field(default_factory=list)


# -- when it is looked for at all ----------------------------------------------------------------


@pytest.mark.parametrize("type_", [str, int, float, list[str], dict[str, int], str | None])
def test_plain_values_arent_compared(type_):
    assert not may_lose(type_)


@pytest.mark.parametrize("type_", [Base, BaseStruct, BaseAttrs])
def test_flat_ones_of_the_very_class_arent_compared(type_, monkeypatch):
    assert exact_class(type_) is type_
    values = Values(type_)
    monkeypatch.setattr("standfast.saga.sharing.difference", None)
    monkeypatch.setattr(values, "_equality_tells", False)
    assert values.stored(JSON, type_(3))[1] == type_(3)


@pytest.mark.parametrize(
    ("type_", "answer"),
    [(Base, True), (Holder, True), (HolderModel, True), (HolderAttrs, True), (ByA, False)],
)
def test_whether_it_is_enough_that_two_are_equal(type_, answer):
    assert equality_tells(type_) is answer
