"""Values that were decoded encode as those made in code."""

from dataclasses import dataclass, field

import msgspec
import pytest

from standfast.codec import JSON, with_defaults


@dataclass(frozen=True)
class Line:
    name: str
    count: int = 1


@dataclass(slots=True)
class Slotted:
    id: str
    count: int = 1


class Struct(msgspec.Struct):
    line: Line
    count: int = 1


@dataclass
class Order:
    id: str
    amount: int = 1
    lines: list[Line] = field(default_factory=list)
    first: Line | None = None
    by_name: dict[str, Line] = field(default_factory=dict)
    struct: Struct | None = None
    note: str = ""


LINE = Line("a")


@pytest.mark.parametrize(
    ("made", "text"),
    [
        (Order("1"), b'{"id": "1"}'),
        (Order("1", note="x"), b'{"note": "x", "id": "1"}'),
        (
            Order("1", 1, [LINE], LINE, {"a": LINE}, Struct(LINE)),
            b"""{"id": "1", "lines": [{"name": "a"}], "first": {"name": "a"},
                 "by_name": {"a": {"name": "a"}}, "struct": {"line": {"name": "a"}}}""",
        ),
        (Slotted("1"), b'{"id": "1"}'),
        (Struct(LINE), b'{"line": {"name": "a"}}'),
        (7, b"7"),
        ("text", b'"text"'),
    ],
)
def test_one_encoding(made, text):
    decoded = with_defaults(JSON.decode(text, type(made)))
    assert decoded == made
    assert JSON.encode(decoded) == JSON.encode(made)
