"""Foreign text on one line."""

import pytest

from standfast.errors import ConfigurationError
from standfast.ids import new_id, short_ids
from standfast.text import (
    checked,
    class_name,
    class_of,
    cleaned,
    did_you_mean,
    named,
    namesake,
    on_one_line,
    printable,
    qualified_name,
    told,
    with_article,
)


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("plain", "plain"),
        ("two\nlines\r\n and\ta tab\u2028more", "two lines and a tab more"),
        ("\x1b[31mred\x07\x9b", "\\x1b[31mred\\x07\\x9b"),
        ("\u202eevil\u2066", "\\u202eevil\\u2066"),
        ("\udcff half", "\\udcff half"),
        (
            "\x7f\x80\u200e\u200f\u202a\u202d\u2069\ud800\udfff",
            "\\x7f\\x80\\u200e\\u200f\\u202a\\u202d\\u2069\\ud800\\udfff",
        ),
        ("[red]kept[/red] 漢字 👩‍👩‍👧", "[red]kept[/red] 漢字 👩‍👩‍👧"),
        ("", ""),
    ],
)
def test_a_terminal_can_show_it(text, line):
    assert on_one_line(text) == line
    line.encode()


def test_text_of_several_lines_keeps_them():
    assert printable("one\n\ttwo \x1b[31m\n\u202ethree") == "one\n\\ttwo \\x1b[31m\n\\u202ethree"
    assert printable("a\x0bb\r\nc") == "a\\x0bb\\r\nc", "nothing else begins a line"


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


@pytest.mark.parametrize(
    ("text", "longest", "why"),
    [
        ("", 3, "key='' has 0 characters: give 1 to 3"),
        ("four", 3, "key='four' has 4 characters: give 1 to 3"),
        ("nul\0", 4, "key='nul\\x00' holds a NUL character or a lone surrogate"),
        ("\ud800", None, "holds a NUL character or a lone surrogate"),
        (5, None, "key=5: must be text, not int"),
    ],
)
def test_what_cant_be_stored_is_refused(text, longest, why):
    with pytest.raises(ConfigurationError) as caught:
        checked(text, name="key", longest=longest)
    assert why in str(caught.value)


def test_what_can_be_stored_passes_and_what_others_say_is_made_such():
    for text, longest in (("a", 3), ("abc", 3), ("", None), ("x" * 1000, None)):
        assert checked(text, name="key", longest=longest) == text
    assert cleaned("plain ü") == "plain ü"
    assert cleaned("a\0b \ud800") == "a\\x00b \\ud800"


class Mute(Exception):
    """One that nobody can read."""

    def __str__(self):
        raise SystemExit("no")


def test_an_exception_is_told_by_what_is_in_it():
    assert told(ValueError("a\0")) == "a\\x00"
    assert (told(ValueError()), named(ValueError())) == ("", "ValueError")
    assert told(Mute()) == "(its message can't be read: SystemExit)"
    one = ExceptionGroup("some", [ExceptionGroup("inner", [ValueError("no")])])
    assert (named(one), told(one)) == ("ValueError: no", "ValueError: no")
    two = ExceptionGroup("some", [one, KeyError("k")])
    assert told(two) == "ValueError: no; KeyError: 'k'"
    assert named(two) == "ExceptionGroup: ValueError: no; KeyError: 'k'"
    for number, end in ((10, "9"), (11, "9; and 1 more"), (13, "9; and 3 more")):
        many = ExceptionGroup("many", [ValueError(n) for n in range(number)])
        assert told(many).endswith(f"ValueError: 8; ValueError: {end}")


def test_nouns_have_their_article():
    nouns = {"Order": "an", "item": "an", "OSError": "an", "user": "a", "UUID": "a", "saga": "a"}
    assert {noun: with_article(noun) for noun in nouns} == {
        noun: f"{article} {noun}" for noun, article in nouns.items()
    }
    assert class_of(1) == "an int"


def test_what_was_probably_meant_is_told_in_its_own_letters():
    assert did_you_mean("placeorder", ["PlaceOrder", "Ship"]) == " (did you mean PlaceOrder?)"
    assert did_you_mean("pay", ["pays", "Pay"]) == " (did you mean Pay or pays?)"
    assert did_you_mean("nothing", ["PlaceOrder"]) == ""


def test_a_namesake_is_told_apart_by_where_it_comes_from():
    here, again = (type("Order", (), {"__module__": "shop"}) for _ in range(2))
    program = type("Order", (), {"__module__": "__main__"})
    assert namesake(here, int) == ""
    assert "the code of shop that makes Order has run again since" in namesake(here, again)
    assert namesake(program, here).startswith(
        "this is the Order of __main__, and that which is known is of shop"
    )
