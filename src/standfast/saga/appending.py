"""What is stored of an instance in one append: facts, its row, its children's starts, and mail."""

from __future__ import annotations

from uuid import UUID

import msgspec

from standfast.clock import Clock
from standfast.ports.journal import Append, Mail, RowChange
from standfast.saga import events as ev
from standfast.saga import facts as fx
from standfast.saga.active import Active
from standfast.saga.prepared import Parent, Prepared


def append_of(
    active: Active, facts: list[fx.Fact], *, release: bool, wake_at: float | None, clock: Clock
) -> Append:
    """The append for `facts`, which its machine has folded already.

    What goes with them is taken from `active`: the mail that they consumed, the starts of children.
    `release` lets the instance go, due at `wake_at`.
    """
    machine = active.machine
    append = Append(active.id, machine.sequence - len(facts), list(map(fx.encode, facts)))
    append.release = release
    append.wake_at = wake_at
    if active.consumed:
        append.consumed = active.consumed
        active.consumed = []
    outcome = machine.outcome
    shown = (machine.status, machine.failed_step, machine.cause)
    moves = active.moves_to if release and not outcome else None
    if shown != active.shown or outcome or moves is not None:
        active.shown = shown
        finished = clock.now() if outcome else None
        append.change = RowChange(*shown, moves or machine.started.version, finished)
    if machine.plan.has_children:
        _add_children(append, active, facts, clock.now())
    if machine.reports:
        machine.reports = False
        if machine.started.parent is not None and outcome:
            append.mails = [*append.mails, _report(active, machine.started.parent, clock.now())]
    return append


def _add_children(append: Append, active: Active, facts: list[fx.Fact], now: float) -> None:
    """Add the starts of children that `facts` tell of, and what is asked of children."""
    starts: list[Prepared] = []
    mails: list[Mail] = []
    for number, fact in enumerate(facts, append.after + 1):
        if type(fact) is fx.ChildStarted:
            starts.append(active.child_starts.pop(fact.branch))
        elif type(fact) is fx.ChildUndoRequested:
            child = active.machine.branches[fact.branch].child
            assert child is not None
            # After an operator's retry it is asked anew, by a mail with another id.
            mails.append(mail(child, f"undo:{active.id}:{number}", ev.UndoAsked(), now))
    if starts:
        append.starts = [prepared.start for prepared in starts]
        active.born = starts
    append.mails = mails


def _report(active: Active, parent: UUID, now: float) -> Mail:
    machine, definition = active.machine, active.definition
    return report(
        Parent(parent, machine.started.parent_branch),
        f"end:{machine.id}:{machine.sequence}",
        outcome=machine.outcome,
        result=definition.codec.encode(definition.results(machine)),
        cause=machine.cause,
        undoable=not machine.past_pivot,
        at=now,
    )


def report(
    parent: Parent, id: str, *, outcome: str, result: bytes, cause: str, undoable: bool, at: float
) -> Mail:
    """The mail that tells a parent how its child saga ended, and with what results, as JSON."""
    event = ev.ChildFinished(
        child=parent.branch,
        outcome=outcome,
        result=msgspec.Raw(result),
        cause=cause,
        undoable=undoable,
    )
    return mail(parent.id, id, event, at)


def mail(to: UUID, id: str, event: ev.Mailed, at: float) -> Mail:
    """The mail by which an event travels."""
    subject, body = ev.to_mail(event)
    return Mail(to, id, subject, body, at)
