"""`RateLimiter`: at most so many calls in so much time."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from types import TracebackType
from typing import Any, ClassVar, TypeAlias

from standfast.checks import provides, text, whole
from standfast.clock import SYSTEM_CLOCK, Clock
from standfast.durations import Duration, seconds, time_left
from standfast.errors import ConfigurationError, RateLimited
from standfast.ports.rate_limit import LocalRateLimits, RateLimitStore
from standfast.rates import Algorithm, Decision, Rate
from standfast.resilience.deadline import at_most, may_wait
from standfast.resilience.functions import FINISHED, finished, plain, with_brackets
from standfast.resilience.policy import AsyncCall, Call, Measure, Policy
from standfast.resilience.ratelimit.line import Lines, Turn
from standfast.resilience.ratelimit.memory import MemoryRateLimits
from standfast.resilience.ratelimit.watched import OnStoreFailure, WatchedStore
from standfast.resilience.running import current_task
from standfast.resilience.telemetry import Instrument, record, span_event, watch

Key: TypeAlias = str | Callable[..., str]

INSTRUMENTS = {
    "standfast.rate_limiter.allowed": Instrument("counter", "{check}", "Checks allowed"),
    "standfast.rate_limiter.denied": Instrument("counter", "{check}", "Checks denied"),
    "standfast.rate_limiter.store_failures": Instrument(
        "counter", "{check}", "Checks answered by on_store_failure, as the store was away"
    ),
    "standfast.rate_limiter.waiting": Instrument("updown", "{call}", "Calls that wait now"),
}


class RateLimiter(Policy):
    """A rate limit: `limit` units in `per` (seconds or text), `burst` of them at once.

    As a policy each call takes one unit of `key`: a fixed text, or a function of the call's
    arguments. A call that isn't allowed waits up to `max_wait` (0: not at all; only calls of
    ``async def`` can wait), else raises `RateLimited` with `retry_after`.

    Waiters of a key are served in the order in which they came, whatever they want, and while
    someone waits, every other check of the key through this limiter is denied: a big `acquire` at
    the front isn't overtaken. A cancelled waiter takes nothing. At most `max_waiters` wait in all.
    Limiters in other processes that share the store do not stand in the same queue. Threads may
    share a limiter in memory, and so may their event loops; a child process made by ``fork`` goes
    on for itself.

    `store` says who counts; without one, this object does (`MemoryRateLimits`). With a store on a
    server say what happens while it is away: ``on_store_failure="allow"`` lets every check pass,
    ``"deny"`` none. Limiters that share a store are told apart by their `name`. That a store is
    away is logged once, and once more when it is back.

    `algorithm` and its bounds are told at `Rate`. Raises `ConfigurationError` for bad options.
    """

    __slots__ = (
        "__weakref__",
        "_allowed",
        "_clock",
        "_denied",
        "_key",
        "_lines",
        "_local",
        "_max_wait",
        "_prefix",
        "_store",
        "_take",
        "_watched",
        "max_waiters",
        "name",
        "on_store_failure",
        "rate",
    )

    label: ClassVar[str] = "rate_limiter"

    def __init__(
        self,
        limit: int,
        per: Duration = 1.0,
        *,
        burst: int | None = None,
        algorithm: Algorithm = "gcra",
        key: Key = "",
        max_wait: Duration = 0,
        max_waiters: int = 1000,
        store: RateLimitStore | None = None,
        on_store_failure: OnStoreFailure | None = None,
        name: str = "",
        clock: Clock = SYSTEM_CLOCK,
    ) -> None:
        with_brackets(self, limit)
        text(name)
        self.rate: Rate = Rate(limit, per, burst, algorithm)
        self.name: str = name
        self.max_waiters: int = max_waiters
        self.on_store_failure = on_store_failure
        if store is not None:
            if isinstance(store, Policy):
                raise ConfigurationError(f"store={store!r}: it is no store but a policy")
            provides(store, "check", name="store", instead="RedisRateLimits(…), say, or ")
        self._key = key
        self._max_wait = seconds(max_wait, name="max_wait", positive=False)
        self._clock = clock
        self._store = MemoryRateLimits(clock=clock) if store is None else store
        self._local = isinstance(self._store, LocalRateLimits) and self._store.always_local
        self._take: Callable[[str, Rate, int], Decision | None] = (
            self._store.take if isinstance(self._store, LocalRateLimits) else lambda *_: None
        )
        self._prefix = "" if store is None else f"{name}:"
        self._lines = Lines()
        self._allowed = self._denied = 0
        self._watched = WatchedStore(self._store, on_store_failure, name)
        whole(max_waiters, name="max_waiters", least=0)
        if max_waiters == 0 and self._max_wait:
            raise ConfigurationError(
                f"max_waiters={max_waiters!r}, max_wait={max_wait!r}: nobody could wait; give "
                "more max_waiters or no max_wait"
            )
        if not isinstance(key, str):
            plain(key, name="key", wanted="a text, or a function of a call's arguments")
        if on_store_failure not in ("allow", "deny", None):
            raise ConfigurationError(
                f'on_store_failure={on_store_failure!r}: choose "allow" or "deny"'
            )
        if store is not None and not name:
            raise ConfigurationError(
                "name='': limiters that share a store are told apart by their names; give one"
            )
        if not self._local and on_store_failure is None:
            raise ConfigurationError(
                'on_store_failure=None: say what to do while the store is away, "allow" or "deny"'
            )
        watch(self, INSTRUMENTS)

    def __repr__(self) -> str:
        rate = self.rate
        return f"RateLimiter({rate.limit}, {rate.per!r}, burst={rate.capacity}, name={self.name!r})"

    # -- asking ------------------------------------------------------------------------------

    async def check(self, key: str = "", cost: int = 1) -> Decision:
        """Take `cost` units of `key` if they are there now, and tell; never raises for a denial.

        Cancelled while a store on a server answers, the units may have been taken. Raises
        `ConfigurationError` for a `cost` below 1 or above the capacity, which could never pass.
        """
        full_key = self._prefix + key
        decision = self._at_once(full_key, cost)
        if decision is None:
            decision = await self._watched.ask(full_key, self.rate, cost)
        return self._count(decision)

    def check_now(self, key: str = "", cost: int = 1) -> Decision:
        """As `check`, from plain functions. Raises `ConfigurationError` for a store on a server."""
        if not self._local:
            raise ConfigurationError(f"{self!r} has a store that must be awaited: use check()")
        decision = self._at_once(self._prefix + key, cost)
        assert decision is not None, "a local store always answers"
        return self._count(decision)

    async def acquire(
        self, key: str = "", cost: int = 1, max_wait: Duration | None = None
    ) -> Decision:
        """Take `cost` units of `key`, waiting in line up to `max_wait` (the limiter's by default).

        It doesn't wait beyond the deadline around. Raises `RateLimited` when that isn't enough, as
        soon as it is known, or when `max_waiters` wait already; and `ConfigurationError` as `check`
        does. Cancelled, it takes nothing (units that a server handed out meanwhile are given back).
        """
        longest = self._max_wait if max_wait is None else time_left(max_wait, name="max_wait")
        wait = at_most(longest, self._clock)
        full_key = self._prefix + key
        # How long a line takes isn't known; alone, the decision tells it.
        in_line = bool(wait) and full_key in self._lines.by_key
        decision = self._at_once(full_key, cost)
        if decision is None:
            decision = await self._watched.ask_safely(full_key, self.rate, cost)
        if not decision.allowed:
            turn = None
            if wait >= decision.retry_after or in_line:
                turn = self._lines.join(full_key, most=self.max_waiters)
            if turn is None:
                raise self._reject(self._count(decision), key)
            decision = await self._wait_in_line(turn, key, full_key, cost, longest)
        return self._count(decision)

    def check_cost(self, cost: int) -> None:
        """Raise `ConfigurationError` for no whole number, one below 1 or above the capacity."""
        given: object = cost
        is_whole = isinstance(given, int) and not isinstance(given, bool)
        if not (is_whole and 0 < cost <= self.rate.capacity):
            raise ConfigurationError(
                f"cost={cost!r}: must be a whole number from 1 to {self.rate.capacity}, the most "
                "that this limit ever lets pass at once"
            )

    # -- as a policy -------------------------------------------------------------------------

    def around(self, call: Call) -> Call:
        """See `Policy.around`. Raises `ConfigurationError` if calls would have to wait."""
        if not self._local or self._max_wait:
            raise ConfigurationError(
                f"{call!r} is a plain function, which can neither await the limiter's store nor "
                "wait: use an `async def`, or a limiter in memory with max_wait=0"
            )
        key_of, fixed = self._key_parts()
        lines, prefix, passes = self._lines.by_key, self._prefix, self._gate()

        def limited(*args: Any, **kwargs: Any) -> Any:
            key = fixed if key_of is None else key_of(*args, **kwargs)
            try:
                key = prefix + key
            except TypeError:
                raise self._no_key(key) from None
            if not lines and passes(key):
                self._allowed += 1
            else:
                decision = self._at_once(key, 1)
                assert decision is not None, "a local store always answers"
                if not self._count(decision).allowed:
                    raise self._reject(decision, key)
            result = call(*args, **kwargs)
            if type(result) not in FINISHED:
                finished(call, result)
            return result

        return limited

    def around_async(self, call: AsyncCall) -> AsyncCall:
        """See `Policy.around_async`."""
        key_of, fixed = self._key_parts()
        lines, prefix, passes = self._lines.by_key, self._prefix, self._gate()
        if self._max_wait:

            async def patient(*args: Any, **kwargs: Any) -> Any:
                key = fixed if key_of is None else key_of(*args, **kwargs)
                try:
                    full_key = prefix + key
                except TypeError:
                    raise self._no_key(key) from None
                if not lines and passes(full_key):
                    self._allowed += 1
                else:
                    await self.acquire(key)
                return await call(*args, **kwargs)

            return patient

        async def limited(*args: Any, **kwargs: Any) -> Any:
            key = fixed if key_of is None else key_of(*args, **kwargs)
            try:
                key = prefix + key
            except TypeError:
                raise self._no_key(key) from None
            if not lines and passes(key):
                self._allowed += 1
                return await call(*args, **kwargs)
            decision = self._at_once(key, 1)
            if decision is None:
                decision = await self._watched.ask_safely(key, self.rate, 1)
            if self._count(decision).allowed:
                return await call(*args, **kwargs)
            raise self._reject(decision, key)

        return limited

    async def __aenter__(self) -> Decision:
        return await self.acquire(self._fixed_key())

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        return None

    def __enter__(self) -> Decision:
        key = self._fixed_key()
        decision = self.check_now(key)
        if not decision.allowed:
            raise self._reject(decision, key)
        return decision

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        return None

    def measures(self) -> Iterable[Measure]:
        """See `Policy.measures`."""
        name = {"name": self.name}
        yield "standfast.rate_limiter.allowed", self._allowed, name
        yield "standfast.rate_limiter.denied", self._denied, name
        yield "standfast.rate_limiter.store_failures", self._watched.failures, name
        yield "standfast.rate_limiter.waiting", self._lines.waiting, name

    # -- deciding ----------------------------------------------------------------------------

    def _at_once(self, key: str, cost: int) -> Decision | None:
        """The decision if it can be made without waiting."""
        if type(cost) is not int or not 0 < cost <= self.rate.capacity:
            self.check_cost(cost)
        if self._lines.by_key and self._lines.held(key):
            # A check that takes nothing but tells how things stand would need the store; what can
            # be said without it is that the line must move first.
            return Decision(False, 0, self.rate.interval * cost, self.rate.window)
        return self._take(key, self.rate, cost)

    def _count(self, decision: Decision) -> Decision:
        if decision[0]:
            self._allowed += 1
        else:
            self._denied += 1
        return decision

    def _reject(self, decision: Decision, key: str) -> RateLimited:
        what = f"rate limiter {self.name!r}" if self.name else "rate limiter"
        key = key.removeprefix(self._prefix)
        whom = f" of {key!r}" if key else ""
        rate = self.rate
        span_event("rate_limited", name=self.name, retry_after=decision.retry_after)
        return RateLimited(
            f"{what}: more than {rate.limit} per {rate.window:g} s{whom}; try again in "
            f"{decision.retry_after:.3g} s",
            retry_after=decision.retry_after,
        )

    def _gate(self) -> Callable[[str], bool]:
        """Takes one unit of a key at once, if that can be told without a decision."""
        if isinstance(self._store, MemoryRateLimits):
            return self._store.gate(self.rate)
        return lambda key: False

    def _key_parts(self) -> tuple[Callable[..., str] | None, str]:
        return (None, self._key) if isinstance(self._key, str) else (self._key, "")

    def _no_key(self, answer: object) -> ConfigurationError:
        return ConfigurationError(
            f"{self!r}: its key function answered {answer!r}: it must answer a text (str(…) makes "
            "one of anything)"
        )

    def _fixed_key(self) -> str:
        if callable(self._key):
            raise ConfigurationError(
                "key is a function of a call's arguments, and a `with` block has none: "
                "use `await limiter.acquire(key)`"
            )
        return self._key

    # -- waiting -----------------------------------------------------------------------------

    async def _wait_in_line(
        self, turn: Turn, key: str, full_key: str, cost: int, wait: float
    ) -> Decision:
        monotonic = self._clock.monotonic
        began, task = monotonic(), current_task()

        def left() -> float:
            return may_wait(self._clock, began, wait, task) or 0.0

        try:
            while not await self._lines.comes(full_key, turn, within=left(), clock=self._clock):
                if left() <= 0:
                    denied = Decision(False, 0, self.rate.interval * cost, self.rate.window)
                    raise self._reject(self._count(denied), key)
            while not (decision := await self._ask_store(full_key, cost)).allowed:
                late = monotonic() + decision.retry_after > began + wait
                if late or decision.retry_after > at_most(wait, self._clock):
                    raise self._reject(self._count(decision), key)
                await self._clock.sleep(decision.retry_after)
            return decision
        finally:
            self._lines.leave(full_key, turn)
            _record_wait(monotonic() - began, self.name)

    async def _ask_store(self, key: str, cost: int) -> Decision:
        decision = self._take(key, self.rate, cost)
        return (
            await self._watched.ask_safely(key, self.rate, cost) if decision is None else decision
        )


def _record_wait(waited: float, name: str) -> None:
    record(
        "standfast.rate_limiter.wait",
        waited,
        {"name": name},
        description="How long calls waited for a rate limit",
    )
