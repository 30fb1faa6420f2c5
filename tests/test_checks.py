"""What options are checked for: what passes, what is refused, and with which words."""

import functools
import re

import pytest

from standfast.checks import (
    flag,
    is_async,
    is_unawaited,
    plain_answer,
    provides,
    text,
    texts,
    whole,
)
from standfast.errors import ConfigurationError


def test_what_is_right_passes_as_it_is():
    assert (whole(1, name="n"), whole(0, name="n", least=0), whole(7, name="n")) == (1, 0, 7)
    assert (text("", name="n"), flag(False, name="n"), flag(True, name="n")) == ("", False, True)
    for given in ([], ["a", "b"], ("a",), {"a"}, {"a": 1}):
        assert texts(given, name="n", wanted="a list") is given
    assert provides(given := [], "append", "pop", name="n") is given
    assert plain_answer(given, name="when=") is given


@pytest.mark.parametrize(
    ("check", "why"),
    [
        (lambda: whole(0, name="batch"), "batch=0: must be a whole number, 1 or more"),
        (lambda: whole(-1, name="n", least=0), "n=-1: must be a whole number, 0 or more"),
        (lambda: whole(True, name="n"), "n=True: must be a whole number"),
        (lambda: whole(1.0, name="n"), "n=1.0: must be a whole number"),
        (
            lambda: whole("5", name="n", note=", or None"),
            "n='5': must be a whole number, 1 or more, or None",
        ),
        (lambda: text(5, name="key", note=": give str(5)"), "key=5: must be a text: give str(5)"),
        (lambda: text(b"x"), "name=b'x': must be a text"),
        (lambda: texts("ab", name="only", wanted="a list"), "only='ab': give a list"),
        (lambda: texts(b"ab", name="only", wanted="a list"), "only=b'ab': give a list"),
        (lambda: texts(["a", 5], name="only", wanted="a list"), "only=['a', 5]: give a list"),
        (lambda: texts(5, name="only", wanted="a list"), "only=5: give a list"),
        (lambda: flag(1, name="force"), "force=1: must be True or False"),
        (lambda: flag("no", name="force"), "force='no': must be True or False"),
        (
            lambda: provides(list, "append", name="x"),
            "x=<class 'list'>: give an object with append",
        ),
        (
            lambda: provides(5, "open", "close", name="x", instead="a URL, or "),
            "x=5: give a URL, or an object with open, close",
        ),
        (
            lambda: provides(type("Odd", (), {"open": 5})(), "open", name="x"),
            "give an object with open",
        ),
    ],
)
def test_what_is_wrong_is_told_with_its_value(check, why):
    with pytest.raises(ConfigurationError, match=re.escape(why)):
        check()


async def later():
    return 1


async def steps():
    yield 1


def plain():
    return later()


class Callables:
    async def __call__(self):
        pass

    @staticmethod
    async def static():
        pass

    @classmethod
    async def of_class(cls):
        pass


class Plain:
    def __call__(self):
        pass


def test_what_answers_with_something_to_be_awaited_is_known():
    known = [
        later,
        steps,
        functools.partial(functools.partial(later)),
        vars(Callables)["static"],
        functools.partial(Callables()),
        Callables.static,
        Callables.of_class,
        Callables(),
    ]
    assert all(map(is_async, known))
    others = [
        plain,
        functools.partial(plain),
        staticmethod(plain),
        Plain(),
        Plain,
        Callables,
        len,
        5,
    ]
    assert not any(map(is_async, others))


async def test_a_coroutine_that_nobody_awaits_is_closed():
    left, iterated = later(), steps()
    with pytest.raises(ConfigurationError, match=r"^when= answered with a coroutine, which nobody"):
        plain_answer(left, name="when=")
    with pytest.raises(RuntimeError, match="cannot reuse already awaited coroutine"):
        await left
    assert is_unawaited(iterated)
    assert not is_unawaited([left])
