"""Foreign text on one line."""

import pytest

from standfast.ids import new_id, short_ids
from standfast.text import on_one_line


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("plain", "plain"),
        ("two\nlines\r\n and\ta tab\u2028more", "two lines and a tab more"),
        ("\x1b[31mred\x07\x9b", "\\x1b[31mred\\x07\\x9b"),
        ("\u202eevil\u2066", "\\u202eevil\\u2066"),
        ("\udcff half", "\\udcff half"),
        ("[red]kept[/red] 漢字 👩‍👩‍👧", "[red]kept[/red] 漢字 👩‍👩‍👧"),
        ("", ""),
    ],
)
def test_a_terminal_can_show_it(text, line):
    assert on_one_line(text) == line
    line.encode()


def test_it_is_cut():
    assert on_one_line("x" * 100, 10) == "x" * 9 + "…"
    assert on_one_line("x" * 10, 10) == "x" * 10


def test_short_ids_are_ends_that_tell_apart():
    ids = [new_id() for _ in range(1000)]
    short = short_ids(ids)
    assert len(set(short.values())) == 1000
    assert all(len(one) >= 8 and id.hex.endswith(one) for id, one in short.items())
    twins = [type(ids[0])(int=n << 40 | 0xABCDEF0123) for n in (1, 2)]
    assert [*short_ids(twins).values()] == ["1abcdef0123", "2abcdef0123"]
    assert short_ids([ids[0], ids[0]]) == {ids[0]: ids[0].hex[-8:]}
    assert short_ids([]) == {}
