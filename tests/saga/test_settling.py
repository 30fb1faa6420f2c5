"""How an instance is ended that no code can run: as its mail asks, and what its parent hears."""

from uuid import UUID

import msgspec
import pytest

from standfast.conformance.samples import start
from standfast.ports.journal import Loaded, Mail, child_key
from standfast.saga import events as ev
from standfast.saga import facts as fx
from standfast.saga.settling import settled

NOW = 1000.0
RESOLVE = ev.ResolveAsked("compensated", "paid back", "ann")


def loaded(*events, status="parked", facts=("?",), **changes):
    row = start(status=status, **changes).instance
    mails = []
    for number, event in enumerate(events, 7):
        subject, body = event if isinstance(event, tuple) else ev.to_mail(event)
        mails.append(Mail(row.id, f"m{number}", subject, body, NOW, number))
    return Loaded(row, list(facts), mails)


@pytest.mark.parametrize("status", ["parked", "compensation_failed", "waiting"])
def test_one_at_rest_is_ended_as_it_was_asked(status):
    damaged = loaded(ev.SkipAsked("", "x"), RESOLVE, ("odd", "?"), status=status, version=3)
    append = settled(damaged, NOW)
    assert append is not None
    assert (append.id, append.after) == (damaged.instance.id, 0)
    (fact,) = [fx.decode(text, 1) for text in append.facts]
    assert fact == fx.Resolved(at=NOW, outcome="compensated", reason="paid back", by="ann")
    assert append.change is not None
    assert (append.change.status, append.change.finished_at) == ("compensated", NOW)
    assert (append.change.cause, append.change.version) == ("resolved by hand: paid back", 3)
    assert append.release
    assert list(append.consumed) == [7, 8, 9]
    assert append.mails == []


@pytest.mark.parametrize("status", ["running", "compensating"])
def test_what_may_be_under_way_isnt_ended(status):
    assert settled(loaded(RESOLVE, status=status), NOW) is None


def test_without_being_asked_nothing_is_ended():
    assert settled(loaded(), NOW) is None
    assert settled(loaded(ev.RetryAsked(), ("resolve", "{")), NOW) is None


PARENT = UUID(int=7 << 64)
STARTED = fx.encode(
    fx.Started(
        at=1.0,
        input=msgspec.Raw(b"1"),
        version=1,
        key="k",
        correlation_id="c",
        parent=PARENT,
        parent_branch="pay[2]",
    )
)


@pytest.mark.parametrize(
    ("facts", "key"),
    [
        ([STARTED, "?"], "k"),
        (["?"], child_key(PARENT, "pay[2]")),
        ([], child_key(PARENT, "pay[2]#1")),
    ],
)
def test_its_parent_is_told(facts, key):
    append = settled(loaded(RESOLVE, facts=facts, key=key), NOW)
    assert append is not None
    assert append.after == len(facts) - 1
    (mail,) = append.mails
    assert (mail.to, mail.at) == (PARENT, NOW)
    assert ev.from_mail(mail.subject, mail.body) == ev.ChildFinished(
        child="pay[2]",
        outcome="compensated",
        result=msgspec.Raw(b"null"),
        cause="resolved by hand: paid back",
        undoable=False,
    )


@pytest.mark.parametrize(
    ("event", "told"), [(ev.UndoAsked(), True), (ev.SkipAsked("", "x"), False)]
)
def test_one_that_had_ended_stays_as_it_is_and_answers_its_parent(event, told):
    damaged = loaded(RESOLVE, event, facts=[STARTED, "?"], status="completed")
    damaged.instance.finished_at = 5.0
    append = settled(damaged, NOW)
    assert append is not None
    assert (append.facts, append.change, list(append.consumed)) == ([], None, [7, 8])
    assert append.release
    assert [ev.from_mail(one.subject, one.body).outcome for one in append.mails] == (
        ["completed"] if told else []
    )
