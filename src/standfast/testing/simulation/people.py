"""Those who interfere with a simulated saga: senders of signals, cancellers, an operator."""

from __future__ import annotations

from uuid import UUID

import msgspec

from standfast.saga import events as ev
from standfast.saga.machine import Machine
from standfast.testing.simulation.invariants import Observed
from standfast.testing.simulation.scene import Scene

MOODS = ("early", "late", "twice", "never")
LAST_ACT = 5
HEALED_FROM = 3
DAY = 86_400.0


class Senders:
    """Send the signals that the saga waits for, in time or otherwise, and cancel it at times."""

    def __init__(self, scene: Scene) -> None:
        self.scene = scene
        self.moments = 0
        self._served: set[tuple[UUID, str, float]] = set()
        self._early: set[str] = set()
        self._never: set[UUID] = set()

    def mood(self, name: str) -> str:
        """How a signal comes in this run."""
        chance = self.scene.chance
        place = f"signal {name}"
        if not chance.strikes("signal", place):
            return "in time"
        return MOODS[chance.choose(f"{place}: how", len(MOODS))]

    def disturb(self, place: str) -> None:
        """A moment in which someone may cancel, or a signal may come too early."""
        scene = self.scene
        self.moments += 1
        if scene.chance.strikes("cancel", f"{place}: cancel"):
            scene.strikes["the saga itself", "cancel"] += 1
            scene.send(scene.root, ev.CancelAsked("simulated", "customer"), "somebody cancels")
        for name in scene.rules.signals:
            if name in self._early or self.moments <= 6 * scene.chance.draw(f"{name}: when"):
                continue
            self._early.add(name)
            if self.mood(name) == "early":
                for id in scene.instances:
                    self._send(id, name, "early")

    def watch(self, observed: Observed, machine: Machine) -> None:
        """Serve the waits that have opened."""
        for wait in machine.open_waits():
            which = (observed.id, wait.id, wait.opened_at)
            if which in self._served:
                continue
            self._served.add(which)
            self.scene.spawn(self._serve(observed, wait.step.signal, wait.step.timeout))

    async def _serve(self, observed: Observed, name: str, timeout: float | None) -> None:
        scene = self.scene
        if name not in scene.rules.signals:
            return
        mood = self.mood(name)
        limit = 60.0 if timeout is None else timeout
        drawn = scene.chance.draw(f"signal {name}: delay")
        if mood == "early":
            return
        if mood == "never":
            scene.strikes[f"signal {name}", "never"] += 1
            self._never.add(observed.id)
            if drawn < 0.5:
                await scene.clock.sleep(DAY)
                scene.send(observed.id, ev.CancelAsked("gave up", "customer"), "somebody gives up")
            return
        delay = limit + 1 + 100 * drawn if mood == "late" else 0.9 * limit * drawn
        if not scene.rules.operated:  # in a unit test it comes soon
            delay = min(delay, drawn)
        await scene.clock.sleep(delay)
        self._send(observed.id, name, mood)
        if mood == "twice":
            await scene.clock.sleep(10 * drawn)
            self._send(observed.id, name, mood)

    def _send(self, id: UUID, name: str, mood: str) -> None:
        scene = self.scene
        scene.strikes[f"signal {name}", mood] += 1
        event = ev.Signalled(name, msgspec.Raw(scene.rules.signals[name]))
        scene.send(id, event, f"signal {name} is sent, {mood}")

    def withheld(self, observed: Observed) -> bool:
        """Whether a signal was kept from it, so that it may wait for ever."""
        return observed.id in self._never


class Operator:
    """Looks after what is parked: retries it, mostly, and never says what isn't so."""

    def __init__(self, scene: Scene) -> None:
        self.scene = scene
        self.acts: dict[UUID, int] = {}

    def tried_all(self, id: UUID) -> bool:
        """Whether nothing helped, without any fault from outside."""
        return self.acts.get(id, 0) > LAST_ACT

    def called(self, observed: Observed, machine: Machine) -> None:
        """An instance is parked."""
        number = self.acts[observed.id] = self.acts.get(observed.id, 0) + 1
        if number <= LAST_ACT:
            self.scene.spawn(self._act(observed, machine, f"{observed.label}operator {number}"))
        if number >= HEALED_FROM:
            self.scene.chance.healed = True

    async def _act(self, observed: Observed, machine: Machine, place: str) -> None:
        scene, to = self.scene, observed.id
        how = "retry"
        if scene.chance.strikes("operator", place):
            options = ("skip", "resume", "force", "away")
            how = options[scene.chance.choose(f"{place}: how", len(options))]
        if how == "skip" and not self._is_known_done(observed, machine):
            how = "retry"
        if how == "force" and not self._may_force(observed, machine):
            how = "retry"
        step = machine.failed_step or "the saga itself"
        scene.strikes[step, f"operator: {how}"] += 1
        await scene.clock.sleep(1 + 60 * scene.chance.draw(f"{place}: delay"))
        if how == "retry":
            scene.send(to, ev.RetryAsked(by="operator"), "the operator retries what is parked")
        elif how == "skip":
            skip = ev.SkipAsked(reason="it is known to be done", by="operator")
            scene.send(to, skip, "the operator skips what is parked, for it is done")
        elif how == "resume":
            scene.send(to, ev.Signalled("resume"), "signal resume is sent")
            if machine.undoing:  # it doesn't resume an undo, so somebody must
                scene.send(to, ev.RetryAsked(by="operator"), "the operator retries the undo")
        elif how == "force":
            cancel = ev.CancelAsked("the pivot is known not to be done", "operator", force=True)
            scene.send(to, cancel, "the operator cancels by force")
        else:
            scene.tell("the operator stays away")

    def _is_known_done(self, observed: Observed, machine: Machine) -> bool:
        """Whether all that is parked is done in truth, though the saga doesn't know.

        A transactional attempt that failed was rolled back, whatever its function did.
        """
        undoing = machine.undoing
        stuck = [
            b.id
            for b in machine.branches.values()
            if (b.undo == "failed" if undoing else b.state == "parked")
        ]
        operation = "compensation" if undoing else "action"
        returned = {
            c.branch
            for c in self.scene.calls
            if c.instance == str(observed.id) and c.returned and c.operation == operation
        }

        def is_rolled_back(branch: str) -> bool:
            step = observed.step(branch)
            return step.undo_transactional if undoing else step.transactional

        return all(
            observed.label + branch in returned and not is_rolled_back(branch) for branch in stuck
        )

    def _may_force(self, observed: Observed, machine: Machine) -> bool:
        """Whether the pivot is parked, and known not to have taken effect."""
        pivot = machine.plan.pivot
        if pivot is None or machine.undoing or pivot not in machine.open:
            return False
        name = observed.label + pivot
        calls = [c for c in self.scene.calls if c.instance == str(observed.id)]
        return not any(c.branch == name and (c.began or c.late) for c in calls)
