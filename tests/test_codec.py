"""The default codec: what it takes, what it refuses, and when two values mean the same."""

import enum
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from typing import Annotated, Any, Literal
from uuid import UUID

import attrs
import msgspec
import pydantic
import pytest

from standfast.codec import JSON, canonical, is_loose
from standfast.errors import CodecError


@dataclass
class Line:
    name: str
    tags: set[str]


@attrs.define
class Hidden:
    name: str
    _secret: str = ""


@attrs.define
class Open:
    name: str


class Model(pydantic.BaseModel):
    model_config = pydantic.ConfigDict(populate_by_name=True)
    tags: set[str]
    at: datetime = pydantic.Field(alias="when")


class Foreign:
    pass


class Colour(enum.Enum):
    RED = "red"


@pytest.mark.parametrize(
    ("type_", "why"),
    [
        (Foreign, "Foreign can't be decoded: use a dataclass"),
        (list[Foreign], "Foreign can't be decoded"),
        ("nowhere.Type", "can't be decoded"),
        (dict[tuple[int, int], str], r"dict\[tuple\[int, int\], str\] can't be encoded: the keys"),
        (dict[str | list[int], str], "the keys of a dict must be text"),
        (dict[Literal[True, "a"], int], "the keys of a dict"),
        (dict[Literal["a"] | None, int], "the keys of a dict"),
        (dict[bool, int], "the keys of a dict"),
        (list[dict[Line, int]], "the keys of a dict"),
        (Hidden, "Hidden can't be encoded: of an attrs class, .* rename _secret, or use"),
        (list[Hidden], "Hidden can't be encoded"),
    ],
)
def test_a_type_that_could_not_be_read_back_is_refused(type_, why):
    with pytest.raises(CodecError, match=why):
        JSON.check(type_)


@pytest.mark.parametrize(
    "type_",
    [
        Any,
        Line,
        Open,
        Model,
        list[Model],
        dict[str, Line],
        dict[int | UUID, str],
        dict[Annotated[str, msgspec.Meta(min_length=1)], str],
        dict[Literal["a", 1], str],
        dict[Colour, datetime],
        dict[float | Decimal, bytes],
        dict[Any, int],
        tuple[dict[datetime, int], ...],
    ],
)
def test_one_that_can_be_read_back_passes(type_):
    JSON.check(type_)


def test_a_value_that_has_no_json_is_told_by_its_class():
    for value, why in (
        (Foreign(), "a Foreign can't be encoded as JSON .*no JSON form for Foreign"),
        ([Foreign()], "a list can't be"),
    ):
        with pytest.raises(CodecError, match=why):
            JSON.encode(value)
    nested: list[Any] = []
    for _ in range(100_000):
        nested = [nested]
    with pytest.raises(CodecError, match="a list can't be encoded"):
        JSON.encode(nested)
    for data, type_, why in (
        (b"{", int, "doesn't decode to int"),
        (b'"x"', list[int], "decode to list"),
    ):
        with pytest.raises(CodecError, match=why):
            JSON.decode(data, type_)
    with pytest.raises(CodecError, match="no way to build Foreign from JSON"):
        JSON.decode(b"{}", Foreign)


def test_a_pydantic_model_comes_back_by_its_names_or_aliases():
    noon = datetime(2030, 1, 1, 12, tzinfo=UTC)
    made = Model(tags={"a"}, when=noon)
    assert JSON.decode(JSON.encode(made), Model) == made
    assert JSON.decode(b'{"tags": ["a"], "when": "2030-01-01T12:00:00Z"}', Model) == made


def test_what_means_the_same_is_the_same():
    same: list[list[Any]] = [
        [Line("a", {"x", "y"}), Line("a", {"y", "x"})],
        [{"a": 1, "b": 2}, {"b": 2, "a": 1}],
        [(1, 2), [1, 2]],
        [Decimal("1.50"), Decimal("1.5"), Decimal("01.500")],
        [Decimal(0), Decimal("0.00"), Decimal("-0")],
        [Decimal("1E+2"), Decimal(100), Decimal("100.0")],
        [{Decimal("1.0"): "x"}, {Decimal(1): "x"}],
        [Model(tags={"x", "y"}, when=datetime(2030, 1, 1, tzinfo=UTC))] * 2,
    ]
    for values in same:
        assert all(canonical(one) == canonical(values[0]) for one in values), values
    for one, other in (
        (Decimal("1.5"), Decimal("15")),
        (Decimal("1.5"), Decimal("-1.5")),
        (Decimal("0.1"), Decimal("0.01")),
        ({"a": Decimal(1)}, {"a": Decimal(2)}),
        ([1, 2], [2, 1]),
        (Decimal("NaN"), Decimal("Infinity")),
    ):
        assert str(canonical(one)) != str(canonical(other)), (one, other)
    assert canonical(float("inf")) == float("inf")
    with pytest.raises(TypeError, match="no plain form for Foreign"):
        canonical(Foreign())


def test_a_loose_type_is_one_of_which_equal_values_may_have_other_texts():
    loose = (Any, float, Decimal, dict[str, int], set[int], frozenset[int], Line, Model, "nowhere")
    assert all(map(is_loose, loose))
    assert is_loose(list[tuple[int, set[int]]])
    assert not any(map(is_loose, (str, int, bool, list[int], tuple[str, int], UUID, Colour, Open)))
