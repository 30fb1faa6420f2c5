"""The in-memory state of one running saga instance."""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from typing import Any
from uuid import UUID

from standfast.coordination.slots import Slots
from standfast.errors import CorruptRecord
from standfast.ports.journal import Mail
from standfast.saga import events as ev
from standfast.saga.context import log_fields
from standfast.saga.definition import Definition
from standfast.saga.isolation import Isolation
from standfast.saga.machine import Machine
from standfast.saga.move import Opened
from standfast.saga.prepared import Prepared

log = logging.getLogger("standfast.saga")


class Active:
    """The in-memory state of one running saga instance."""

    __slots__ = (
        "born",
        "child_starts",
        "claimed_anew",
        "consumed",
        "definition",
        "id",
        "inbox",
        "input",
        "input_reader",
        "is_cut_off",
        "isolation",
        "last_mail",
        "machine",
        "moves_to",
        "shown",
        "sleeps_until",
        "slots",
        "task",
        "tasks",
        "waiter",
    )

    def __init__(self, definition: Definition, machine: Machine, input: Any) -> None:
        self.id: UUID = machine.id
        self.definition: Definition = definition
        self.machine: Machine = machine
        self.input: Any = input
        self.input_reader: object = None
        """Whose `input` that is, if its type allows for changing it."""
        self.isolation: Isolation | None = None
        """Needed once an attempt has left something in its context."""
        self.is_cut_off: bool = False
        """Whether the worker has ended all of it: what still comes out counts for nothing."""
        self.claimed_anew: bool = False
        """Whether the worker claimed it again before its release was heard of: it must go on."""
        self.slots: Slots | None = None
        """Whose slot it takes, and gives back when it is unloaded."""
        self.inbox: deque[ev.Event] = deque()
        self.waiter: asyncio.Future[None] | None = None
        self.consumed: list[int] = []
        self.last_mail: int = 0
        self.moves_to: int | None = None
        self.sleeps_until: float | None = None
        self.shown: tuple[str, str, str] = ("running", "", "")
        self.child_starts: dict[str, Prepared] = {}
        """Starts of children that were asked for, by branch."""
        self.born: list[Prepared] = []
        """Those whose start is being stored."""
        self.task: asyncio.Task[None] | None = None
        self.tasks: set[asyncio.Task[None]] = set()

    def post(self, event: ev.Event) -> None:
        """Queue an event for the instance's task, and wake it."""
        self.inbox.append(event)
        self.nudge()

    def deliver(self, mail: Mail) -> None:
        """Queue a mail for the instance's task; one that came before is ignored."""
        if mail.number <= self.last_mail:
            return
        self.last_mail = mail.number
        event: ev.Event
        try:
            event = ev.from_mail(mail.subject, mail.body)
        except CorruptRecord:
            log.exception(
                "saga %s %s: dropped unreadable mail %s",
                self.definition.name,
                self.id,
                mail.id,
                extra=log_fields(self.definition.name, self.machine, None, "", 0),
            )
            event = ev.Tick()
        if isinstance(event, ev.MigrateAsked) and self._leaves_for(event):
            self.nudge()  # the mail stays unread: whoever takes over moves the instance
            return
        self.consumed.append(mail.number)
        self.post(event)

    def _leaves_for(self, asked: ev.MigrateAsked) -> bool:
        elsewhere = asked.version != self.definition.version and not self.machine.outcome
        self.moves_to = asked.version if elsewhere else None
        return elsewhere

    def open(self, opened: Opened, mails: list[Mail]) -> None:
        """Go on from what was read from the store: the move that it was handed over for, first."""
        self.definition, self.machine = opened.definition, opened.machine
        self.input, self.input_reader = opened.input, None
        self.moves_to = None
        if opened.move is not None and opened.mail is not None:
            self.post(opened.move)
            # Earlier requests to move are settled with the last.
            settled = [mail.number for mail in mails if mail.subject == opened.mail.subject]
            self.consumed.extend(settled)
            self.shown = ("", "", "")
            mails = [mail for mail in mails if mail.number not in settled]
        for mail in mails:
            self.deliver(mail)

    def renew(self, opened: Opened, mails: list[Mail]) -> None:
        """Drop what isn't stored, and go on from what is."""
        self.inbox.clear()
        self.consumed = []
        self.last_mail = 0
        self.shown = ("", "", "")
        self.child_starts.clear()
        self.born = []
        self.open(opened, mails)

    def cut_off(self) -> list[asyncio.Task[None]]:
        """End all of its tasks, for good; they are still to be waited for."""
        self.is_cut_off = True
        tasks = [*self.tasks] if self.task is None else [self.task, *self.tasks]
        for task in tasks:
            task.cancel()
        return tasks

    def drop_attempts(self) -> set[asyncio.Task[None]]:
        """Cancel the attempts that run in tasks of their own: what comes of them isn't heard."""
        dropped, self.tasks = self.tasks, set()
        for task in dropped:
            task.cancel()
        return dropped

    def forget(self, task: asyncio.Task[None]) -> None:
        """An attempt's task is done."""
        self.tasks.discard(task)

    def nudge(self) -> None:
        """Wake the instance's task."""
        if self.waiter is not None and not self.waiter.done():
            self.waiter.set_result(None)
