"""What a run is made of, as those who take part in it see it: the world, chance, and the story."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Coroutine, Mapping, Sequence
from contextvars import Context
from dataclasses import dataclass, field
from random import Random
from typing import Any
from uuid import UUID

from standfast.durations import Duration
from standfast.ports.journal import JournalStore, Mail
from standfast.saga import events as ev
from standfast.saga.context import Context as StepContext
from standfast.saga.definition import Definition
from standfast.saga.saga import Saga
from standfast.testing.ledger import Ledger
from standfast.testing.simulation.call import Call, without_items
from standfast.testing.simulation.chance import Chance
from standfast.testing.simulation.given import an_error
from standfast.testing.simulation.invariants import Observed, Violation, World
from standfast.testing.simulation.process import FOREVER, SimulatedDefinitions, own_tasks
from standfast.testing.simulation.store import SharedDatabase
from standfast.testing.virtual import VirtualClock, VirtualLoop
from standfast.text import named

Check = Callable[[World], Any]


@dataclass(frozen=True, slots=True)
class Rules:
    """What all runs of one simulation share.

    `signals` are payloads by name, as JSON. `invariants` are checked at the end, `always` whenever
    something happened. `raises` are the errors that calls are told to end with, by step, instead of
    being made. `operated`: an operator looks after what is parked. `after`: how long after the
    start it begins. `asked` is the function of the test kit that was called.
    """

    definitions: SimulatedDefinitions
    signals: Mapping[str, bytes]
    invariants: Sequence[Check] = ()
    always: Sequence[Check] = ()
    schema: str = ""
    raises: Mapping[str, Sequence[BaseException] | type[BaseException]] = field(
        default_factory=dict
    )
    operated: bool = True
    after: Duration | None = None
    asked: str = "simulate"


class Scene(ABC):
    """One run: what has happened so far, and what those who take part in it may do."""

    def __init__(
        self, rules: Rules, sagas: Sequence[Saga[Any]], input: Any, chance: Chance, *, tell: bool
    ) -> None:
        self.rules = rules
        self.chance = chance
        self.saga_objects = sagas
        self.input = input
        self.definitions = rules.definitions
        self.loop = VirtualLoop(horizon=FOREVER / 10)
        own_tasks(self.loop)
        self.clock = VirtualClock(self.loop)
        self.database = SharedDatabase(self.loop, self.clock, rules.schema, rules.asked)
        self.ledgers: dict[int, Ledger] = {}  # those that were used, wherever the saga has them
        self.instances: dict[UUID, Observed] = {}
        self.by_text: dict[str, Observed] = {}
        self.root: UUID = UUID(int=Random(chance.draw("id")).getrandbits(128))  # noqa: S311
        self.calls: list[Call] = []
        self.strikes: Counter[tuple[str, str]] = Counter()
        self.violation: Violation | None = None
        self.story: list[tuple[float, str]] | None = [] if tell else None
        self.down_until: dict[str, float] = {}
        self.main: Definition = self.definitions.of(type(sagas[0]))
        self._tallies: Counter[str] = Counter()
        self._tasks: set[Any] = set()
        self._mails = 0

    @abstractmethod
    async def pass_time(self, place: str, branch: str, fault: str) -> None:
        """A moment in which time passes, and anything may happen."""

    @abstractmethod
    def is_by_a_zombie(self) -> bool:
        """Whether the code that runs just now is of a process that lost its lease."""

    @abstractmethod
    def touched(self) -> None:
        """Something changed, so what must hold always is checked."""

    def spawn(self, work: Coroutine[Any, Any, None]) -> None:
        """Let something go on beside, outside of any process."""
        task = self.loop.create_task(work, context=Context())
        self._tasks.add(task)
        task.add_done_callback(self._ended)

    def _ended(self, task: Any) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and task.exception() is not None:
            error = task.exception()
            self.violated("simulation", named(error))

    def tell(self, text: str) -> None:
        """Add a line to the story."""
        if self.story is not None:
            self.story.append((self.loop.elapsed, text))

    def violated(self, rule: str, text: str) -> None:
        """Something doesn't hold: the run ends here."""
        if self.violation is None:
            self.violation = Violation(rule, text)
            self.tell(f"*** {text}")
        self.loop.stop()

    def tally(self, what: str) -> int:
        """How often this has happened, this time included."""
        self._tallies[what] += 1
        return self._tallies[what]

    def strike(self, call: Call, fault: str) -> None:
        """Count a fault of a call."""
        undo = "undo " if call.operation == "compensation" else ""
        self.strikes[undo + without_items(call.branch), fault] += 1

    def begin_call(self, ctx: StepContext) -> Call:
        """The engine calls a function of the user's."""
        observed = self.by_text[ctx.saga_id]
        branch = ctx.step if ctx.item is None else f"{ctx.step}[{ctx.item}]"
        call = Call(
            self.loop.elapsed,
            ctx.saga_id,
            observed.label + branch,
            ctx.operation,
            ctx.attempt,
            ctx.idempotency_key,
        )
        self.calls.append(call)
        if self.is_by_a_zombie():
            # It runs what is another's by now. Its answer will count for nothing.
            call.late = True
            self.tell(f"{call} begins, in the process that was paused")
            return call
        self.tell(f"{call} begins")
        try:
            observed.check_call(call, branch)
        except Violation as violation:
            self.violated(violation.rule, str(violation))
        return call

    def repeat_call(self, call: Call) -> Call:
        """A request that arrives after its caller has given it up."""
        late = Call(
            self.loop.elapsed,
            call.instance,
            call.branch,
            call.operation,
            call.attempt,
            call.key,
            late=True,
        )
        self.calls.append(late)
        return late

    def told_to_raise(self, call: Call, number: int) -> BaseException | None:
        """The error that this call, the so-manieth of its branch, is told to end with."""
        undo = "undo " if call.operation == "compensation" else ""
        told = self.rules.raises.get(undo + call.branch)
        if told is None:
            told = self.rules.raises.get(undo + without_items(call.branch), ())
        if isinstance(told, type):
            return an_error(told)
        return told[number - 1] if number <= len(told) else None

    def is_untried(self, call: Call) -> bool:
        """Whether no request of this branch can have reached the participant yet."""
        same = [c for c in self.calls if c.instance == call.instance and c.branch == call.branch]
        return not any(c.began or c.late for c in same)

    def has_refused(self, call: Call) -> bool:
        """Whether the participant has refused this branch."""
        return any(
            c.ended == "refused" and c.branch == call.branch and c.instance == call.instance
            for c in self.calls
        )

    def send(self, to: UUID, event: ev.Mailed, text: str) -> None:
        """Somebody sends something to an instance."""
        self.tell(text)
        self._mails += 1
        subject, body = ev.to_mail(event)
        mail = Mail(to, f"mail {self._mails}", subject, body, self.clock.now())
        self.spawn(self._deliver(mail))

    async def _deliver(self, mail: Mail) -> None:
        await self.database.port(JournalStore).send([mail])
