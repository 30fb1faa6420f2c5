"""The scenario runner: it compares, rewrites, and says what is wrong with a line."""

from __future__ import annotations

from typing import ClassVar

import pytest

from standfast.errors import ConfigurationError
from standfast.saga import events as ev
from standfast.saga import facts as fx
from standfast.saga.machine import Machine
from standfast.testing import ScenarioMismatch, check_scenario, play_scenario
from standfast.testing import scenario as module
from standfast.testing.scenario_text import ScenarioError
from tests.saga.scenarios.sagas import SAGAS
from tests.testing.shop import PlaceOrder

STORY = """\
# An order.
saga shop version 1
input {"id": "1"}
reserve -> "r1"
----
0s reserve completed "r1"
do charge
= running (wakes at 10m)

charge -> refused no funds
undo reserve -> done
----
0s charge failed, without effect: no funds
0s compensation began: charge refused: no funds
0s reserve undone
= compensated: charge refused: no funds
"""


def test_a_scenario_that_holds(tmp_path):
    file = tmp_path / "order.txt"
    file.write_text(STORY)
    check_scenario(file, *SAGAS)
    check_scenario(str(file), *SAGAS, update=True)
    assert file.read_text() == STORY
    assert play_scenario(STORY, *SAGAS) == STORY


def test_a_difference_is_shown_as_such_and_can_be_taken_over(tmp_path):
    file = tmp_path / "order.txt"
    file.write_text(STORY.replace("do charge", "do something"))
    with pytest.raises(ScenarioMismatch, match=r"(?s)update=True.*-do something\n\+do charge"):
        check_scenario(file, *SAGAS)
    check_scenario(file, *SAGAS, update=True)
    assert file.read_text() == STORY


def test_how_a_file_is_written_makes_no_difference(tmp_path):
    file = tmp_path / "order.txt"
    for text in (STORY.removesuffix("\n"), "\ufeff" + STORY, STORY.replace("\n", "\r\n")):
        file.write_bytes(text.encode())
        check_scenario(file, *SAGAS)
    file.write_text(STORY.replace('"r1"', '"r\u20281"'), encoding="utf-8")
    check_scenario(file, *SAGAS)
    file.write_bytes(STORY.replace("An order", "Für").encode("latin-1"))
    with pytest.raises(ScenarioError, match=r"order\.txt: it isn't in UTF-8"):
        check_scenario(file, *SAGAS)


def test_what_was_decided_may_be_left_out_when_it_is_first_written():
    bare = 'saga shop version 1\ninput {"id": "1"}\nreserve -> "r1"\n'
    played = play_scenario(bare, *SAGAS)
    assert played.endswith('----\n0s reserve completed "r1"\ndo charge\n= running (wakes at 10m)\n')
    assert play_scenario(played, *SAGAS) == played


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ("", "line 1: nothing happens"),
        ("saga nowhere", "line 1: no saga 'nowhere' of version any: there are shop version 1"),
        ("saga shop version 9", "line 1: no saga 'shop' of version 9"),
        ("reserve -> 1", "line 1: begin with `saga NAME`"),
        ("saga shop\ninput {", "line 2: 'input {': '{' isn't JSON"),
        ("saga shop\ninput 1\ninput 2", "line 3: an input comes right after"),
        ("saga shop\ncharge -> 1", "line 2: `do charge` isn't going on: do reserve"),
        ("saga shop\nundo reserve -> done", "line 2: `undo reserve` isn't going on"),
        ("saga shop\nreserve -> r1", "line 2: 'reserve -> r1': 'r1' isn't JSON"),
        ("saga shop\nundo reserve -> r1", "isn't understood; a line is one of"),
        ("saga shop\nchild reserve -> ended", "isn't understood; a line is one of"),
        ("saga shop\ndance", "line 2: 'dance' isn't understood; a line is one of"),
        ("saga shop\nskip reserve", "isn't understood"),
        ("saga shop\nresolve failed: why", "isn't understood"),
        ("saga careful\nwake", "line 2: it never wakes by itself"),
        ("saga shop version two", "line 1: "),
        ("saga shop after dinner", "line 1: after='dinner'"),
        ("saga shop\nwait long", "line 2: wait='long'"),
        ("saga shop\nreserve -> items 1", "line 2: "),
    ],
)
def test_a_line_that_is_wrong_is_named(lines, message, tmp_path):
    file = tmp_path / "wrong.txt"
    file.write_text(lines)
    with pytest.raises(ScenarioError) as caught:
        check_scenario(file, *SAGAS)
    assert message in str(caught.value)
    assert str(file) in str(caught.value)


def test_a_machine_that_folds_otherwise_than_it_decides_is_found(monkeypatch):
    class Forgetful(Machine):
        __slots__ = ()

        def _emit(self, fact: fx.Fact) -> None:
            super()._emit(fact)
            if isinstance(fact, fx.StepCompleted):
                self.cause = "something that isn't in the journal"

    monkeypatch.setattr(module, "Machine", Forgetful)
    with pytest.raises(ScenarioMismatch, match="isn't what its journal says: cause"):
        play_scenario(STORY, *SAGAS)


def test_a_machine_that_decides_otherwise_after_a_crash_is_found(monkeypatch):
    begun = []

    class Moody(Machine):
        """The first one made retries; those that are folded from a journal don't."""

        __slots__ = ("mood",)

        def __init__(self, *args) -> None:
            super().__init__(*args)
            begun.append(self)
            self.mood = len(begun) <= 2

        def _failed(self, event, now, random) -> None:
            event.retriable = self.mood
            Machine._failed(self, event, now, random)

        _handlers: ClassVar = {**Machine._handlers, ev.Failed: _failed}

    monkeypatch.setattr(module, "Machine", Moody)
    with pytest.raises(ScenarioMismatch, match="with a crash after each line"):
        play_scenario("saga shop version 1\ninput 1\nreserve -> error 503\n", *SAGAS)


def test_what_is_no_scenario_and_no_saga_is_told(tmp_path):
    with pytest.raises(ScenarioError, match=r"^play_scenario\(.*\): give the scenario's text"):
        play_scenario(PlaceOrder, "saga place-order")
    with pytest.raises(ScenarioError, match=r"^check_scenario\(.*\): give the path of a file"):
        check_scenario(PlaceOrder, "place-order.txt")
    with pytest.raises(ConfigurationError, match="'place-order' isn't a saga: give an instance"):
        play_scenario("saga place-order", "place-order")
