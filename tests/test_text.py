"""Foreign text on one line."""

import pytest

from standfast.ids import new_id, short_ids
from standfast.text import class_name, named, on_one_line, printable, qualified_name


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


def test_text_of_several_lines_keeps_them():
    assert printable("one\n\ttwo \x1b[31m\n\u202ethree") == "one\n\\ttwo \\x1b[31m\n\\u202ethree"


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


@pytest.mark.parametrize("name", [lambda _: "half \ud800", lambda _: 1 / 0])
def test_the_name_of_an_exceptions_class_is_its_own(name):
    """Python lets no half of a character into it, but a metaclass may say what it likes."""
    odd = type("Odd", (type,), {"__name__": property(name)})
    odd.__qualname__ = "Odd"
    error = odd("Away", (Exception,), {})("gone")
    assert class_name(error) == "Away"
    assert named(error) == "Away: gone"
    assert qualified_name(error) == "Away"


def test_a_qualified_name_can_be_stored():
    class Away(Exception):
        pass

    Away.__qualname__ = "half \ud800"
    assert qualified_name(Away()) == "half \\ud800"
