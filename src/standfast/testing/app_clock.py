"""A clock for apps under test: `advance` runs all that is due by then, with the real engine."""

from __future__ import annotations

import asyncio
import math
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from standfast.app import Standfast
from standfast.clock import SYSTEM_CLOCK, AdjustedClock
from standfast.durations import Duration, human, seconds
from standfast.errors import ConfigurationError, TimedOut
from standfast.resilience.marks import SCOPE, Scope
from standfast.saga.active import Active
from standfast.saga.executor import SagaExecutor
from standfast.testing.manual_clock import ManualClock


class AppTime:
    """What an `AppClock` gives to apps.

    What sagas know of time is the clock's: when a sleep, a retry, a deadline is due, when an
    attempt's timeout strikes. Leases, and how often a worker looks at the store, go by real time,
    so that nothing is taken for dead because a test let a year pass.
    """

    is_manual: bool = True

    def __init__(self, clock: ManualClock) -> None:
        self.now: Callable[[], float] = clock.now
        self.timeout: Callable[[float], asyncio.Timeout] = clock.timeout
        self.monotonic: Callable[[], float] = SYSTEM_CLOCK.monotonic

    async def sleep(self, seconds: float) -> None:
        """Return after `seconds` of real time."""
        await SYSTEM_CLOCK.sleep(seconds)


class AppClock:
    """Time that stands still until `advance`, for apps with the real engine and a real database.

    ::

        clock = AppClock()
        app = Standfast("sqlite:///test.db", clock=clock.for_apps).add(Remind())
        clock.drive(app)
        async with app.running():
            handle = await app.start(Remind, order)  # sleeps for three days
            await clock.advance("3d")
            assert await handle.status() == "completed"

    It is a `Clock` itself, for what else a test gives time to: policies, and fakes that take their
    time by ``await clock.sleep(…)``. Their sleeps end by `advance` too. `for_apps` is the clock
    that apps are made with. `wall` is when it begins, in seconds since the Unix epoch, by default
    now.

    On every backend: on PostgreSQL such an app doesn't set its clock by the server's. Purging in
    the background goes by real time. For one event loop, and for apps whose worker runs in it.
    """

    def __init__(self, *, wall: float | None = None) -> None:
        self._manual = ManualClock(wall=SYSTEM_CLOCK.now() if wall is None else wall)
        self.for_apps: AppTime = AppTime(self._manual)
        self._apps: list[Standfast] = []
        self._asleep: Counter[Scope] = Counter()
        self._moving = False

    def drive(self, *apps: Standfast) -> None:
        """From now on, `advance` waits for what these apps do.

        Raises `ConfigurationError` for an app with another clock.
        """
        for app in apps:
            if not isinstance(app.clock, AdjustedClock) or app.clock.inner is not self.for_apps:
                raise ConfigurationError(
                    "the app that this clock is to move has another clock: make it as "
                    "Standfast(…, clock=clock.for_apps)"
                )
        self._apps.extend(apps)

    # -- as a clock --------------------------------------------------------------------------

    def now(self) -> float:
        """Unix time in seconds."""
        return self._manual.now()

    def monotonic(self) -> float:
        """Seconds since the clock was made."""
        return self._manual.monotonic()

    async def sleep(self, seconds: float) -> None:
        """Return when the clock has moved by `seconds`, at once when it isn't positive."""
        with self._sleeping():
            await self._manual.sleep(seconds)

    @contextmanager
    def _sleeping(self) -> Iterator[None]:
        """Note which attempt of a step sleeps: nothing else will come of it before time passes."""
        scope = SCOPE.get()
        if scope is None:
            yield
            return
        self._asleep[scope] += 1
        try:
            yield
        finally:
            self._asleep[scope] -= 1
            self._asleep += Counter()  # drops the zeros

    # -- moving ------------------------------------------------------------------------------

    async def advance(self, duration: Duration, *, patience: Duration = 10.0) -> None:
        """Let time pass, and return when all that was due by then has been run, in its order.

        Time goes from one moment at which something is due to the next: the end of a saga's sleep,
        wait, retry, delay or deadline, of an attempt's timeout, of a sleep by this clock. It goes
        on when all that came of that is stored, and the sagas wait again: for time, for a signal,
        for an operator. What is due at the same moment runs at the same time, as ever.

        `patience`: how long, in real time, what is due at one moment may take. Raises
        `TimedOut` beyond that: a step waits for something else than this clock, say, of which
        nobody can tell whether it is still to come. ``advance(0)`` only waits. Raises
        `ConfigurationError` while another `advance` of this clock is under way, and where an app's
        worker runs in another event loop.
        """
        for app in self._apps:
            if app.supervisor is not None:
                app.check_open()
        until = self.now() + seconds(duration, positive=False)
        limit = seconds(patience, name="patience")
        with self._alone():
            await self._until_quiet(limit)
            while (moment := await self._next_moment()) <= until:
                self._move_to(moment)
                await self._until_quiet(limit)
            self._move_to(until)
            await self._until_quiet(limit)

    @contextmanager
    def _alone(self) -> Iterator[None]:
        if self._moving:
            raise ConfigurationError(
                "another advance of this clock is under way: await them one after the other, or "
                "advance once by the sum"
            )
        self._moving = True
        try:
            yield
        finally:
            self._moving = False

    async def _next_moment(self) -> float:
        """When something is due next, after now; infinite if nothing is."""
        now = self.now()
        moments = [now + self._manual.waits_for]
        for executor in self._executors():
            wakes = [active.machine.wake_at() for active in executor.active.values()]
            if executor.kinds:
                wakes.append(await executor.journal.next_wake(list(executor.kinds)))
            moments += [at for at in wakes if at is not None]
        return min((at for at in moments if at > now), default=math.inf)

    def _move_to(self, moment: float) -> None:
        self._manual.advance(max(0.0, moment - self.now()))
        self._manual.set_wall(max(moment, self.now()))  # to the bit: else what is due may not be
        for executor in self._executors():
            for active in executor.active.values():
                if _is_due(active, moment):
                    active.nudge()
            if executor.desk is not None:
                executor.desk.wake()

    def _executors(self) -> list[SagaExecutor]:
        return [app.sagas.executor for app in self._apps if app.supervisor is not None]

    # -- waiting -----------------------------------------------------------------------------

    async def _until_quiet(self, patience: float) -> None:
        give_up_at = SYSTEM_CLOCK.monotonic() + patience
        while True:
            await self._manual.settle()
            busy = await self._what_goes_on()
            if not busy:
                return
            if SYSTEM_CLOCK.monotonic() > give_up_at:
                raise TimedOut(
                    f"after {human(patience)} of real time, {busy}: time can't pass before that is "
                    "over. If a fake is to take its time, let it `await clock.sleep(…)` by this "
                    "clock; for real work that is slow, give advance(…, patience=…) more"
                )
            await asyncio.sleep(
                0.001
            )  # the database, a driver's thread or a user's step is at work

    async def _what_goes_on(self) -> str:
        """What still is to be done at this moment, in words; "" if there is nothing."""
        running = 0
        for executor in self._executors():
            before = _standing(executor, self.now())
            if isinstance(before, str):
                return before
            if found := await self._what_is_stored(executor):
                return found
            if _standing(executor, self.now()) != before:
                return "sagas go on"
            running += sum(len(one.machine.running) for one in executor.active.values())
        if running <= len(self._asleep):
            return ""
        steps = [
            f"{active.definition.name} {active.machine.started.key!r} in {branch}"
            for executor in self._executors()
            for active in executor.active.values()
            for branch in sorted(active.machine.running)
        ]
        return f"{running} attempt(s) still run, of {', '.join(steps[:5])}"

    async def _what_is_stored(self, executor: SagaExecutor) -> str:
        """What is due in the store, or on its way from there into memory; "" if nothing is."""
        desk, journal = executor.desk, executor.journal
        if desk is None:
            return "the worker isn't up (another process may have the database)"
        due_at = await journal.next_wake(list(executor.kinds)) if executor.kinds else None
        is_due = due_at is not None and due_at <= self.now()
        # In this order: what is claimed in between is owned from then on.
        if is_due or set(await journal.owned_by(desk.owner)) - executor.active.keys():
            desk.wake()
            return "a saga is due, and the worker hasn't taken it in"
        for mail in await journal.collect(desk.owner, list(executor.active)):
            active = executor.active.get(mail.to)
            if active is None or mail.number > active.last_mail:
                desk.hint(mail.to)
                return f"mail to saga {mail.to} is on its way"
        return ""


def _standing(executor: SagaExecutor, now: float) -> str | list[tuple[object, ...]]:
    """What goes on in memory, in words; or, if nothing does, how all stand, to be compared."""
    if executor.beginning:
        return "a saga is being started"
    # What was taken in and is gone again since has changed nothing else here.
    standing: list[tuple[object, ...]] = [(executor.telemetry.recovered,)]
    for active in executor.active.values():
        waits = active.waiter is not None and not active.waiter.done()
        running = frozenset(active.machine.running)
        if active.inbox or not (waits or running) or (not running and _is_due(active, now)):
            return f"saga {active.definition.name} {active.machine.started.key!r} goes on"
        standing.append((active.id, active.machine.sequence, running, active.waiter))
    return standing


def _is_due(active: Active, now: float) -> bool:
    at = active.machine.wake_at()
    return at is not None and at <= now
