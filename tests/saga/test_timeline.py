"""A journal with one of each fact, told as text."""

import json
import typing
from uuid import UUID

import msgspec

from standfast.saga import facts as fx
from standfast.saga.pending import Pending
from standfast.saga.timeline import Timeline, as_text, entries, go_on, short


def raw(value: object) -> msgspec.Raw:
    return msgspec.Raw(msgspec.json.encode(value))


CHILD = UUID("01890000-0000-7000-8000-000000000001")
PARENT = UUID("01890000-0000-7000-8000-000000000002")

FACTS: list[fx.AnyFact] = [
    fx.Started(
        at=1000.0,
        input=raw({"id": "1"}),
        version=2,
        key="k",
        correlation_id="k",
        deadline_at=1060.0,
        parent=PARENT,
        parent_branch="sell",
        begins_at=1000.05,
    ),
    fx.Begun(at=1000.06),
    fx.FannedOut(at=1000.1, branch="pack", items=[raw("a"), raw("b")]),
    fx.StepCompleted(at=1000.2, branch="pack[0]"),
    fx.StepCompleted(at=1000.25, branch="pack[1]", result=raw("boxed"), attempt=3),
    fx.AttemptFailed(
        at=1001.0, branch="charge", attempt=1, error="OSError: away", retry_at=1001.5, since=1000.5
    ),
    fx.StepParked(at=1002.0, branch="charge", error="OSError: away", attempt=2),
    fx.Resumed(at=1003.0, branch="charge", by="ann"),
    fx.ChildStarted(at=1004.0, branch="deliver", child=CHILD),
    fx.SleepStarted(at=1004.5, branch="cool_off", until=1004.5 + 3 * 86_400),
    fx.SignalReceived(at=1005.0, name="approved", payload=raw(True)),
    fx.StepSkipped(at=1006.0, branch="gift", reason="none asked for"),
    fx.Migrated(at=1007.0, version=3, input=raw({}), by="bob"),
    fx.CancelRequested(at=1008.0, reason="changed my mind", by="eve", force=True),
    fx.StepFailed(at=1009.0, branch="ship", error="no such street", refused=True),
    fx.StepFailed(at=1009.5, branch="bill", error="gone", attempt=5),
    fx.CompensationStarted(at=1010.0, cause="cancelled", step="ship", in_doubt=["bill"]),
    fx.CompensationAttemptFailed(
        at=1011.0, branch="charge", attempt=1, error="OSError", retry_at=1013.0, since=1010.0
    ),
    fx.CompensationFailed(at=1013.0, branch="charge", error="OSError", attempt=2),
    fx.CompensationSkipped(at=1090.0, branch="charge", reason="paid back in cash", by="ann"),
    fx.ChildUndoRequested(at=1091.0, branch="deliver"),
    fx.CompensationCompleted(at=1092.0, branch="pack[0]"),
    fx.Resolved(at=5000.0, outcome="compensated", reason="done by hand", by="ann"),
    fx.Ignored(at=5001.0, act="retry", why="nothing is parked"),
]

GOLDEN = """\
      +0s            started as version 2 by saga 01890000-0000-7000-8000-000000000002 (sell), \
begins in 0.05s, deadline in 1m: {"id":"1"}
   +0.06s            begins
    +0.1s  pack      fans out to 2 items
    +0.2s  pack[0]   completed
   +0.25s  pack[1]   completed after 3 attempts: "boxed"
      +1s  charge    attempt 1 failed, next in 0.5s: OSError: away
      +2s  charge    parked after 2 attempts: OSError: away
      +3s  charge    resumed by ann
      +4s  deliver   child saga 01890000-0000-7000-8000-000000000001 started
    +4.5s  cool_off  sleeps for 3d
      +5s            signal 'approved' received: true
      +6s  gift      skipped: none asked for
      +7s            moved to version 3 by bob
      +8s            cancelling asked for by eve, by force: changed my mind
      +9s  ship      refused: no such street
    +9.5s  bill      failed for good after 5 attempts: gone
     +10s            compensating: cancelled (in doubt: bill)
     +11s  charge    undo: attempt 1 failed, next in 2s: OSError
     +13s  charge    undo failed after 2 attempts, waits for an operator: OSError
   +1m30s  charge    undo skipped by ann: paid back in cash
   +1m31s  deliver   child saga asked to undo itself
   +1m32s  pack[0]   undone
    +1h6m            resolved as compensated by ann: done by hand
    +1h6m            ignored retry: nothing is parked
"""


def test_golden():
    assert as_text(entries(FACTS)) == GOLDEN


def test_what_is_told_otherwise():
    """Put off rather than tried, one rather than many, and a clock that was set back."""
    put_off = fx.AttemptFailed(
        at=5.0, branch="a", attempt=1, error="full", retry_at=4.0, since=5.0, rejected=True
    )
    told = [
        fx.Started(at=10.0, input=raw(None), version=1, key="", correlation_id=""),
        put_off,
        fx.CompensationAttemptFailed(
            at=11.0, branch="a", attempt=2, error="full", retry_at=13.0, since=5.0, rejected=True
        ),
        fx.FannedOut(at=11.0, branch="b", items=[raw(1)]),
        fx.StepSkipped(at=11.0, branch="b", by="ann"),
        fx.Resumed(at=11.0, branch=""),
        fx.SleepStarted(at=11.0, branch="c", until=10.0),
        fx.SignalReceived(at=11.0, name="go"),
        fx.CancelRequested(at=11.0),
        fx.CompensationStarted(at=11.0, cause="ship: away", step="ship"),
        fx.Resolved(at=11.0, outcome="completed", reason="x", children=[CHILD]),
    ]
    assert [line.split(maxsplit=1) for line in as_text(entries(told)).splitlines()] == [
        ["+0s", "started as version 1: null"],
        ["+0s", "a  attempt 1 wasn't tried, next in 0s: full"],
        ["+1s", "a  undo: attempt 2 wasn't tried, next in 2s: full"],
        ["+1s", "b  fans out to 1 item"],
        ["+1s", "b  skipped by ann"],
        ["+1s", "resumed"],
        ["+1s", "c  sleeps for 0s"],
        ["+1s", "signal 'go' received"],
        ["+1s", "cancelling asked for"],
        ["+1s", "compensating: ship: away"],
        ["+1s", f"resolved as completed: x ({go_on([CHILD])})"],
    ]


def test_children_that_go_on_are_named_though_many():
    ids = [UUID(int=n) for n in range(1, 6)]
    told = go_on(ids)
    assert told.startswith("5 child sagas go on all the same: 00000000-")
    assert f"{ids[2]}, …; cancel or resolve them as well" in told
    assert str(ids[3]) not in told
    assert go_on(ids[:3]).endswith(f"{ids[2]}; cancel or resolve them as well")


def test_every_kind_of_fact_is_told():
    assert {type(fact) for fact in FACTS} == set(typing.get_args(fx.AnyFact))


def test_long_times_are_aligned_too():
    late = fx.StepCompleted(at=1000.000316, branch="pack")
    assert as_text(entries([FACTS[0], late, fx.Begun(at=1001.0)])).splitlines()[1:] == [
        "+0.000316s  pack  completed",
        "       +1s        begins",
    ]


def test_an_empty_journal():
    assert as_text(entries([])) == ""


def test_values_are_cut():
    assert short(raw("x" * 100)) == '"' + "x" * 58 + "…"
    assert short("a\n b") == "a b"


NASTY = "Client error '404'\nFor more:\t[red]https://x[/red]\x1b[31m\x07 \u202eevil 漢字 \udcff"


def test_errors_of_any_shape_stay_on_their_line():
    started = FACTS[0]
    failed = fx.AttemptFailed(
        at=1001.0, branch="ch\narge", attempt=1, error=NASTY, retry_at=1001.5, since=1000.5
    )
    (_, entry) = entries([started, failed])
    lines = as_text([entry]).splitlines()
    assert len(lines) == 1
    assert "Client error '404' For more: [red]https://x[/red]\\x1b[31m\\x07 \\u202eevil" in lines[0]
    assert lines[0].endswith("漢字 \\udcff")
    assert entry.error == NASTY, "the entry has it as it was"


def test_entries_are_typed_and_have_a_json_form():
    told = entries(FACTS)
    assert [one.kind for one in told[:3]] == ["started", "begun", "fanned_out"]
    by_kind = {one.kind: one for one in told}
    assert by_kind["started"].value == {"id": "1"}
    assert by_kind["fanned_out"].value == ["a", "b"]
    assert by_kind["child_started"].child == CHILD
    assert (by_kind["signal_received"].value, by_kind["resumed"].by) == (True, "ann")
    failed = by_kind["attempt_failed"]
    assert failed.as_json() == {
        "at": 1001.0,
        "after": 1.0,
        "kind": "attempt_failed",
        "branch": "charge",
        "text": "attempt 1 failed, next in 0.5s: OSError: away",
        "mood": "bad",
        "attempt": 1,
        "error": "OSError: away",
        "retry_at": 1001.5,
    }
    whole = Timeline(id=PARENT, saga="sell", version=3, key="k", status="compensated", entries=told)
    read_back = json.loads(json.dumps(whole.as_json(), allow_nan=False))
    assert read_back["id"] == str(PARENT)
    assert len(read_back["entries"]) == len(FACTS)
    assert str(whole) == GOLDEN


def test_a_mood_says_how_an_entry_is_meant():
    moods = {one.kind: one.mood for one in entries(FACTS)}
    assert {kind for kind, mood in moods.items() if mood == "good"} == {
        "step_completed",
        "compensation_completed",
    }
    assert {kind for kind, mood in moods.items() if mood == "bad"} == {
        "attempt_failed",
        "step_failed",
        "compensation_started",
        "compensation_attempt_failed",
    }
    held = {kind for kind, mood in moods.items() if mood == "held"}
    assert held == {"step_parked", "compensation_failed"}
    assert set(moods.values()) == {"", "good", "bad", "held"}


def test_the_other_ways_in_which_facts_are_told():
    null = raw(None)
    rejected = {"branch": "a", "attempt": 2, "error": "full", "rejected": True, "since": 1.0}
    facts: list[fx.AnyFact] = [
        fx.Started(at=1.0, input=raw(1), version=1, key="k", correlation_id="k"),
        fx.FannedOut(at=1.0, branch="a", items=[raw("x")]),
        fx.FannedOut(at=1.0, branch="a", items=[]),
        fx.StepCompleted(at=1.0, branch="a", result=null, attempt=2),
        fx.AttemptFailed(at=2.0, retry_at=1.0, **rejected),
        fx.CompensationAttemptFailed(at=2.0, retry_at=3.0, **rejected),
        fx.StepSkipped(at=1.0, branch="a", by="ann", reason="no"),
        fx.StepSkipped(at=1.0, branch="a"),
        fx.SignalReceived(at=1.0, name="go", payload=null),
        fx.SleepStarted(at=9.0, branch="a", until=1.0),
        fx.CancelRequested(at=1.0),
        fx.CompensationStarted(at=1.0, cause="gone"),
        fx.CompensationCompleted(at=1.0, branch="a", attempt=3),
        fx.StepFailed(at=1.0, branch="a", error="no", attempt=1),
        fx.Resolved(at=1.0, outcome="completed", reason="x", by="", children=[CHILD]),
    ]
    assert [one.text for one in entries(facts)] == [
        "started as version 1: 1",
        "fans out to 1 item",
        "fans out to 0 items",
        "completed after 2 attempts",
        "attempt 2 wasn't tried, next in 0s: full",
        "undo: attempt 2 wasn't tried, next in 1s: full",
        "skipped by ann: no",
        "skipped",
        "signal 'go' received",
        "sleeps for 0s",
        "cancelling asked for",
        "compensating: gone",
        "undone after 3 attempts",
        "failed for good: no",
        (
            f"resolved as completed: x (1 child saga goes on all the same: {CHILD}; cancel or "
            "resolve it as well)"
        ),
    ]
    assert entries(facts)[6].reason == "no"
    early = entries([facts[0], fx.Begun(at=0.5)])
    assert as_text(early).splitlines()[1].split() == ["+0s", "begins"], "clocks may be set back"


def test_a_timeline_tells_what_goes_on_and_what_cant_be_read():
    waits = Pending(kind="child", branch="deliver", child=CHILD)
    whole = Timeline(
        id=PARENT,
        saga="sell",
        version=3,
        key="k",
        status="running",
        entries=[],
        pending=[waits],
        problem="damaged",
        read_at=7.0,
    )
    assert whole.as_json() == {
        "id": str(PARENT),
        "saga": "sell",
        "version": 3,
        "key": "k",
        "status": "running",
        "entries": [],
        "pending": [
            {
                "kind": "child",
                "branch": "deliver",
                "operation": "action",
                "child": str(CHILD),
            }
        ],
        "problem": "damaged",
    }
