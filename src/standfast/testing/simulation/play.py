"""One run of a simulation: one seed, one saga, a worker that dies, people who interfere."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from standfast.durations import LONGEST
from standfast.ports.journal import Append, Start
from standfast.saga import facts as fx
from standfast.saga.active import Active
from standfast.saga.definition import Definition
from standfast.saga.prepared import prepare
from standfast.saga.saga import Saga
from standfast.saga.status import STUCK
from standfast.testing.ledger import Ledger, watching
from standfast.testing.simulation.call import without_items
from standfast.testing.simulation.chance import Chance
from standfast.testing.simulation.invariants import (
    Observed,
    Violation,
    World,
    difference,
)
from standfast.testing.simulation.judgement import check, judge, path_of, world_of
from standfast.testing.simulation.people import Operator, Senders
from standfast.testing.simulation.process import Process, running_process
from standfast.testing.simulation.scene import Rules, Scene
from standfast.testing.simulation.store import ProcessDatabase, answer_lost
from standfast.testing.virtual import refusing_real_io
from standfast.testing.words import describe

LINGER = (0.0, 1.0, LONGEST)


@dataclass(slots=True)
class Played:
    """What came of one run. `struck` are the places of its faults, `strikes` counts them."""

    path: int
    struck: list[str]
    strikes: Counter[tuple[str, str]]
    violation: Violation | None
    story: list[tuple[float, str]]
    world: World


class Play(Scene):
    """One run. The engine is the real one: its definition, machine, runner and attempts."""

    def __init__(
        self, rules: Rules, sagas: Sequence[Saga[Any]], input: Any, chance: Chance, *, tell: bool
    ) -> None:
        super().__init__(rules, sagas, input, chance, tell=tell)
        self._processes: list[Process] = []  # the dead too, or their tasks would be garbage
        self.operator = Operator(self)
        self.senders = Senders(self)

    # -- the run -----------------------------------------------------------------------------

    def run(self) -> Played:
        """Play it to the end, and judge."""
        self.loop.when_idle = self._look_for_waits
        try:
            with refusing_real_io(self.loop), watching(self._used):
                self.spawn(self._begin())
                self.loop.run_until_quiet()
                if self.loop.refused is None and self.violation is None:
                    self._judge()
            return self._outcome()
        finally:
            self._end()

    def _used(self, ledger: Ledger) -> None:
        self.ledgers[id(ledger)] = ledger

    def _judge(self) -> None:
        try:
            judge(self, self.operator, self.senders)
        except Violation as violation:
            self.violated(violation.rule, str(violation))

    def _outcome(self) -> Played:
        if self.loop.refused is not None:
            raise self.loop.refused
        return Played(
            path_of(self),
            self.chance.struck,
            self.strikes,
            self.violation,
            self.story or [],
            world_of(self),
        )

    def _end(self) -> None:
        for process in self._processes:
            process.kill()  # a dead one's waits aren't served
        self.loop.set_exception_handler(lambda loop, context: None)  # of what is cut off now
        self.loop.end()
        if self.database.tables is not None and self.story is None:
            self.database.tables.close()  # else whoever reads the story may want to read the rows

    async def _begin(self) -> None:
        how: dict[str, Any] = {"key": "simulated", "id": self.root, "after": self.rules.after}
        prepared = prepare(self.main, self.input, clock=self.clock, **how)
        self._born(self.root, self.main, "", prepared.fact)
        self.tell(f"{self.main.name} starts with {self.input!r}")
        process = self._new_process()

        async def work() -> None:
            await process.boot()
            await process.sagas.starter.start(self.main.name, self.input, **how)

        process.begin(self.loop, work()).add_done_callback(self._ended)

    def _new_process(self) -> Process:
        number = len(self._processes) + 1
        linger = LINGER[self.chance.choose(f"linger {number}", len(LINGER))]
        process = Process(self.database, self, self.clock, self.definitions, linger=linger)
        self._processes.append(process)
        return process

    def _born(self, id: UUID, definition: Definition, label: str, started: fx.Started) -> None:
        observed = Observed(id, definition, label)
        observed.note(started)
        self.instances[id] = self.by_text[str(id)] = observed

    # -- what happens ------------------------------------------------------------------------

    async def pass_time(self, place: str, branch: str, fault: str) -> None:
        """A moment in which time passes, and anything may happen."""
        chance = self.chance
        if chance.strikes("latency", f"{place}: latency"):
            drawn = chance.draw(f"{place}: how long")
            await self.clock.sleep(drawn * (0.1 if drawn < 0.5 else 2 if drawn < 0.95 else 100))
        self.senders.disturb(place)
        if chance.strikes("crash", f"{place}: crash"):
            undo = "undo " if " compensation " in place else ""
            self.strikes[undo + without_items(branch), fault] += 1
            await self._crash(place)
        elif chance.strikes("pause", f"{place}: pause"):
            self._pause(place)

    # -- the store ---------------------------------------------------------------------------

    def next_commit(self) -> str:
        """The name of a commit."""
        return f"commit {self.tally('commits')}"

    async def before_commit(
        self, place: str, process: ProcessDatabase, appends: Sequence[Append]
    ) -> None:
        """See `Fate`."""
        if not process.is_dead:
            await self.pass_time(f"{place} begins", self._about(appends), "crash before its commit")

    async def after_commit(
        self, place: str, process: ProcessDatabase, appends: Sequence[Append]
    ) -> None:
        """See `Fate`."""
        if process.is_dead:
            return
        if self.chance.strikes("store", f"{place}: answer lost"):
            self.strikes[self._about(appends), "commit's answer lost"] += 1
            self.tell("the store wrote that, but its answer was lost")
            raise answer_lost()
        await self.pass_time(f"{place} ends", self._about(appends), "crash after its commit")

    def _about(self, appends: Sequence[Append]) -> str:
        """The step that a commit is about, for the coverage table."""
        for append in appends:
            for text in append.facts:
                branch = getattr(fx.decode(text, 1), "branch", "")
                if branch:
                    return without_items(self.instances[append.id].label + str(branch))
        return "the saga itself"

    def committed(self, append: Append) -> None:
        """Facts were stored."""
        observed = self.instances[append.id]
        for number, text in enumerate(append.facts, append.after + 1):
            fact = fx.decode(text, number)
            self.tell(f"stored: {observed.label}{describe(fact)}")
            try:
                observed.note(fact)
            except Violation as violation:
                self.violated(violation.rule, str(violation))
            if isinstance(fact, fx.CompensationStarted) and fact.cause.startswith("the deadline"):
                self.strikes["the saga itself", "deadline passed"] += 1
        for start in append.starts:
            self.started(start, observed.label)
        self._compare(append, observed)
        self._call_operator(append, observed)
        self.touched()

    def started(self, start: Start, label: str = "") -> None:
        """A saga was started: by another as its child, or by a step in its transaction."""
        row = start.instance
        if row.id in self.instances:
            return
        fact = fx.decode(start.fact, 0)
        assert isinstance(fact, fx.Started)
        definition = self.definitions.by_kind[row.pattern, row.name, row.version]
        if fact.parent is None:
            self.tell(f"stored: {row.name} is started, with the key {row.key}")
        self._born(row.id, definition, f"{label}{fact.parent_branch or row.name}/", fact)

    def _active(self, append: Append) -> Active | None:
        """The instance in the memory of the process that just stored this."""
        process = running_process()
        return None if process is None else process.active.get(append.id)

    def _call_operator(self, append: Append, observed: Observed) -> None:
        """Whoever looks after what is parked hears of one that leaves memory like that."""
        active = self._active(append)
        if active is None or not (append.release and self.rules.operated):
            return
        if active.machine.status in STUCK:
            self.operator.called(observed, active.machine)

    def _compare(self, append: Append, observed: Observed) -> None:
        """The live machine must be what its journal says."""
        active = self._active(append)
        if active is None:
            return
        machine = active.machine
        self.senders.watch(observed, machine)
        if not append.facts or machine.sequence != append.after + len(append.facts):
            return
        if machine.sequence % 3:  # a fold of it all each time would cost more than it finds
            return
        copy = self.definitions.new(append.id, observed.definition, observed.facts)
        found = difference(machine, copy)
        if found:
            self.violated("fold", f"the machine isn't what its journal says: {found}")

    def _look_for_waits(self) -> None:
        """Show the senders what is waited for: a wait with a condition opens without a fact."""
        for process in self._processes:
            if not process.is_dead:
                for id, active in process.active.items():
                    self.senders.watch(self.instances[id], active.machine)

    def is_by_a_zombie(self) -> bool:
        """See `Scene`."""
        process = running_process()
        return process is not None and not self.database.holds(process.membership.token)

    def touched(self) -> None:
        """Something changed, so what must hold always is checked."""
        if self.rules.always and self.violation is None:
            check(self, self.rules.always)

    async def _crash(self, place: str) -> None:
        """Kill the process in which this is, and start another if it was the last."""
        process = running_process()
        if process is None or process.is_dead:
            return
        process.kill()
        if any(not other.is_dead for other in self._processes):
            self.tell(f"--- this process is killed ({place}), and others go on")
            self.spawn(self._restart(process, 0.0, new=False))
        else:
            drawn = self.chance.draw(f"{place}: downtime")
            down = 0.0 if drawn < 0.4 else drawn * 5 if drawn < 0.9 else drawn * 3600
            self.tell(f"--- the process is killed ({place}), and starts again {down:.2f} s later")
            self.spawn(self._restart(process, down, new=True))
        await process.database.alive()

    async def _restart(self, dead: Process, down: float, *, new: bool) -> None:
        """Let the lease of a dead process run out; another process ends it, by its next beat."""
        await self.clock.sleep(down)
        self._let_run_out(dead)
        if new:
            self._boot()
        else:
            self._beat()

    def _pause(self, place: str) -> None:
        """Let the lease of a process that works run out, unnoticed by itself."""
        process = running_process()
        if process is None or not self.database.holds(process.membership.token):
            return
        self.strikes["the saga itself", "paused past its lease"] += 1
        self.tell(f"--- this process is paused past its lease ({place}): another takes over")
        self._let_run_out(process)
        self._boot()

    def _let_run_out(self, process: Process) -> None:
        token = process.last_token if process.is_dead else process.membership.token
        if token is not None:
            self.database.let_run_out(token)

    def _boot(self) -> None:
        process = self._new_process()
        process.begin(self.loop, process.boot()).add_done_callback(self._ended)

    def _beat(self) -> None:
        """The hearts of those that live beat."""
        for process in self._processes:
            if not process.is_dead:
                process.membership.suspect()
