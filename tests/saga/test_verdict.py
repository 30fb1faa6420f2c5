"""What a waiter makes of what it finds stored, as a table: every sight has its row."""

from dataclasses import replace
from itertools import product
from types import SimpleNamespace
from typing import Any

import pytest

from standfast.conformance.samples import mail, start
from standfast.ports.journal import Loaded
from standfast.saga.polling import sight
from standfast.saga.verdict import Seen, Sight, judge

# finished, readable, runnable_here, spoken_to: the verdict. `by_fact` only tells how the last two
# came about.
TABLE = {
    (True, True, False, False): "ended",
    (True, True, False, True): "ended",  # what is said to it now comes after its end
    (True, True, True, False): "ended",
    (True, True, True, True): "ended",
    (True, False, False, False): "unreadable",
    (True, False, False, True): "unreadable",
    (True, False, True, False): "unreadable",
    (True, False, True, True): "unreadable",
    (False, True, False, False): "stuck",
    (False, True, False, True): "wait",
    (False, True, True, False): "wait",
    (False, True, True, True): "wait",
    (False, False, False, False): "unreadable",
    (False, False, False, True): "wait",  # whoever has its version may move it
    (False, False, True, False): "wait",
    (False, False, True, True): "wait",
}


def test_the_table_is_complete():
    assert set(TABLE) == set(product((True, False), repeat=4))


@pytest.mark.parametrize("by_fact", [True, False])
@pytest.mark.parametrize(("seen", "verdict"), TABLE.items())
def test_verdict(seen, verdict, by_fact):
    finished, readable, runnable_here, spoken_to = seen
    assert judge(Sight(finished, readable, by_fact, runnable_here, spoken_to)) == verdict


def stored(status: str, *mailed_at: float, **columns: Any) -> Loaded:
    row = start(status=status, updated_at=100.0, **{"wake_at": None, **columns}).instance
    return Loaded(row, [], [mail(row.id, at=at) for at in mailed_at])


def test_what_is_seen_of_one_that_says_the_same_as_its_journal():
    for works_here in (False, True):
        ended = sight(stored("completed"), "completed", works_here=works_here)
        assert ended == Sight(True, True, True, False, False)
        parked = sight(stored("parked", wake_at=5.0), "parked", works_here=works_here)
        assert parked == Sight(False, True, True, False, False)
    mailed = stored("parked", 50.0, wake_at=5.0)
    assert sight(mailed, "parked", works_here=False).spoken_to, "however old the mail is"
    assert not sight(stored("parked", 50.0), "parked", works_here=False).spoken_to, "never due"
    assert sight(stored("parked", owner=7), "parked", works_here=False).spoken_to


def test_what_is_seen_of_one_that_was_put_aside():
    """Its journal says that it runs, or can't be read."""
    for status in ("running", None):
        old, new = stored("parked", 100.0, wake_at=5.0), stored("parked", 100.0, 101.0, wake_at=5.0)
        assert not sight(old, status, works_here=False).spoken_to
        assert sight(new, status, works_here=False).spoken_to
        assert not sight(
            replace(new, instance=stored("parked").instance), status, works_here=False
        ).spoken_to
        assert sight(stored("parked", owner=7), status, works_here=False).spoken_to
    due = stored("parked", wake_at=5.0)
    assert sight(due, "running", works_here=True) == Sight(False, True, False, True, False)
    assert not sight(due, "running", works_here=False).runnable_here
    assert not sight(stored("parked"), "running", works_here=True).runnable_here
    assert sight(due, None, works_here=True) == Sight(False, False, False, False, False)
    assert sight(stored("completed"), None, works_here=True) == Sight(True, False, False)


def test_why_it_took_too_long_is_told_as_far_as_it_was_seen():
    seen = Seen("order", 2, "k", "waiting")
    end = " (see `standfast sagas show ID`)"
    begin = "saga 'order' with key 'k' didn't end within 5s: "
    for changes, why in (
        ({}, "it is waiting"),
        ({"full": "3 of 3 are taken"}, "it is waiting, and waits for a slot: 3 of 3 are taken"),
        (
            {"full": "x", "lacks_worker": True},
            (
                "it is waiting, and no live worker has version 2 of saga 'order': `standfast run` "
                "an app that has it"
            ),
        ),
        ({"away": "no route"}, "it is waiting, and the database doesn't answer: no route"),
        ({"status": ""}, "the database didn't answer"),
    ):
        assert replace(seen, **changes).too_long("ID", 5.0) == begin + why + end
    assert Seen().too_long("ID", 0.0) == (
        f"saga ID didn't end within 0s: no time was left to ask{end}"
    )
    assert "time stands still at 1970-01-01 00:00:07Z until" in seen.too_long("ID", 5.0, 7.0)
    machine = SimpleNamespace(
        status="running", running={"pay", "bill"}, started=SimpleNamespace(key="here")
    )
    here: Any = SimpleNamespace(definition=SimpleNamespace(name="order"), machine=machine)
    said = replace(seen, here=here, lacks_worker=True).too_long("ID", 5.0)
    assert said == (
        "saga 'order' with key 'here' didn't end within 5s: it is running in this process, in step "
        f"bill, pay{end}"
    )
    machine.running = set()
    assert "in this process (see" in replace(seen, here=here).too_long("ID", 5.0)
