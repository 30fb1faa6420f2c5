"""`RateLimiter` as a policy, and its line of waiters."""

import asyncio
import random
from functools import partial

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from standfast.errors import ConfigurationError, RateLimited, StoreUnavailable
from standfast.rates import Decision
from standfast.resilience.ratelimit import MemoryRateLimits, RateLimiter
from standfast.testing.manual_clock import ManualClock


class Distant:
    """A store that must be awaited, and can be away."""

    def __init__(self, clock):
        self.inner = MemoryRateLimits(clock=clock)
        self.away = False
        self.gate = asyncio.Event()
        self.gate.set()

    async def check(self, requests):
        await self.gate.wait()
        if self.away:
            raise StoreUnavailable("gone")
        decisions = await self.inner.check(requests)
        await asyncio.sleep(0)
        return decisions


class Counting(MemoryRateLimits):
    """Knows what it handed out, less what was given back."""

    __slots__ = ("handed_out",)

    def take(self, key, rate, cost=1):
        decision = super().take(key, rate, cost)
        if decision.allowed:
            self.handed_out += cost
        return decision


@pytest.fixture
def clock():
    return ManualClock()


@pytest.fixture(params=["local", "distant"])
def make(request, clock):
    def make(limit, per=1.0, **options):
        if request.param == "distant":
            options |= {"store": Distant(clock), "name": "test", "on_store_failure": "deny"}
        return RateLimiter(limit, per, clock=clock, **options)

    return make


def call():
    return "done"


async def call_async():
    return "done"


# -- as a policy ------------------------------------------------------------------------------


def test_plain_functions(clock):
    limited = RateLimiter(2, clock=clock)(call)
    assert [limited(), limited()] == ["done", "done"]
    with pytest.raises(RateLimited, match=r"more than 2 per 1 s; try again in 0.5 s") as caught:
        limited()
    assert caught.value.retry_after == 0.5
    clock.advance(0.5)
    assert limited() == "done"


async def test_async_functions(make, clock):
    limited = make(2)(call_async)
    assert [await limited(), await limited()] == ["done", "done"]
    with pytest.raises(RateLimited) as caught:
        await limited()
    assert caught.value.retry_after == 0.5
    clock.advance(0.5)
    assert await limited() == "done"


async def test_call_and_blocks(make, clock):
    limiter = make(3)
    assert await limiter.call(call_async) == "done"
    async with limiter as decision:
        assert decision == Decision(True, 1, 0.0, pytest.approx(2 / 3))
    async with limiter:
        pass
    with pytest.raises(RateLimited):
        async with limiter:
            raise AssertionError("must not run")


def test_with(clock):
    limiter = RateLimiter(1, clock=clock)
    with limiter as decision:
        assert decision.remaining == 0
    with pytest.raises(RateLimited), limiter:
        raise AssertionError("must not run")


async def test_key_from_the_arguments(make):
    @make(1, key=lambda tenant, **_: tenant)
    async def serve(tenant, *, what=""):
        return tenant

    assert await serve("a") == "a"
    assert await serve("b", what="x") == "b"
    with pytest.raises(RateLimited, match="of 'a'"):
        await serve("a")


def test_key_from_the_arguments_of_a_plain_function():
    @RateLimiter(1, "1h", key=str)
    def serve(tenant):
        return tenant

    assert [serve(1), serve(2)] == [1, 2]
    with pytest.raises(RateLimited, match="of '1'"):
        serve(1)


async def test_a_failure_of_the_call_comes_through(make):
    @make(5)
    async def fail():
        raise KeyError("x")

    with pytest.raises(KeyError):
        await fail()


# -- check ------------------------------------------------------------------------------------


async def test_check_tells_and_never_raises(make, clock):
    limiter = make(10, burst=4)
    assert await limiter.check("k", 3) == Decision(True, 1, 0.0, pytest.approx(0.3))
    denied = await limiter.check("k", 3)
    assert denied == Decision(False, 1, pytest.approx(0.2), pytest.approx(0.3))
    assert (await limiter.check("other", 4)).allowed


@pytest.mark.parametrize("cost", [1.5, "2", True, None])
async def test_a_cost_that_is_no_whole_number_is_refused(make, cost):
    limiter = make(10, burst=4)
    for ask in (limiter.check, limiter.acquire):
        with pytest.raises(ConfigurationError, match=r"cost=.*: must be a whole number from 1"):
            await ask("k", cost)


@pytest.mark.parametrize("cost", [0, -1, 5])
async def test_a_cost_that_can_never_pass_is_refused(make, cost):
    limiter = make(10, burst=4)
    for ask in (limiter.check, limiter.acquire):
        with pytest.raises(
            ConfigurationError, match=f"cost={cost}: must be a whole number from 1 to 4"
        ):
            await ask("k", cost)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"max_wait": -1}, "max_wait=-1"),
        ({"max_waiters": -1}, "max_waiters=-1: must be a whole number, 0 or more"),
        ({"on_store_failure": "maybe"}, "on_store_failure='maybe': choose"),
        ({"store": MemoryRateLimits()}, "name='': limiters that share a store"),
        ({"store": Distant(ManualClock()), "name": "x"}, "on_store_failure=None: say what to do"),
        ({"key": call_async}, "key=.* is async.*: give a text, or a function"),
        ({"key": 7}, "key=7: give a text, or a function"),
        ({"max_waiters": 1.5}, "max_waiters=1.5: must be a whole number"),
        ({"burst": 2**60}, "can't be counted; at most"),
    ],
)
def test_bad_options_are_refused(options, message):
    with pytest.raises(ConfigurationError, match=message):
        RateLimiter(1, **options)


def test_what_can_not_be_done_is_refused(clock):
    distant = RateLimiter(1, store=Distant(clock), name="x", on_store_failure="deny")
    with pytest.raises(ConfigurationError, match="can neither await"):
        distant(call)
    with pytest.raises(ConfigurationError, match="use check"):
        distant.check_now()
    with pytest.raises(ConfigurationError, match="can neither await"):
        RateLimiter(1, max_wait=1)(call)
    with pytest.raises(ConfigurationError, match="key is a function"), RateLimiter(1, key=str):
        pass


async def test_limiters_that_share_a_store_are_apart(clock):
    store = MemoryRateLimits(clock=clock)
    a, b = (RateLimiter(1, store=store, name=name) for name in "ab")
    again = RateLimiter(1, store=store, name="a")
    assert (await a.check()).allowed
    assert (await b.check()).allowed
    assert not (await again.check()).allowed


@pytest.mark.parametrize("answer", [None, 7, b"x"])
@pytest.mark.parametrize("max_wait", [0, 1])
async def test_a_key_function_that_answers_no_text(make, answer, max_wait):
    limited = make(1, key=lambda: answer, max_wait=max_wait)(call_async)
    with pytest.raises(ConfigurationError, match=r"its key function answered .*: it must answer"):
        await limited()


def test_a_key_function_that_answers_no_text_for_a_plain_function():
    with pytest.raises(ConfigurationError, match="its key function answered None"):
        RateLimiter(1, key=lambda: None)(call)()


async def test_an_error_of_the_key_function_comes_through(make):
    def key():
        raise TypeError("mine")

    with pytest.raises(TypeError, match="mine"):
        await make(1, key=key)(call_async)()


def test_a_decision_is_its_answer():
    limiter = RateLimiter(1, "1h")
    assert limiter.check_now()
    assert not limiter.check_now()
    assert not Decision(False, 1, 0.0, 0.0)
    assert Decision(True, 0, 0.0, 0.0)


# -- waiting ----------------------------------------------------------------------------------


async def test_waits_until_it_may(make, clock):
    limiter = make(2, max_wait="10s")
    limited = limiter(call_async)
    tasks = [asyncio.create_task(limited()) for _ in range(6)]
    await clock.run(0)
    for done in (2, 3, 4, 5, 6):
        assert sum(task.done() for task in tasks) == done
        await clock.run(0.5)


async def test_first_come_first_served(make, clock):
    limiter = make(10, burst=1)
    served = []

    async def wait(n):
        await limiter.acquire(max_wait=60)
        served.append(n)

    async with asyncio.TaskGroup() as group:
        for n in range(20):
            group.create_task(wait(n))
            await clock.settle()
        await clock.run(10)
    assert served == list(range(20))
    await clock.settle()
    assert asyncio.all_tasks() == {asyncio.current_task()}, "nobody sleeps whose turn has come"


async def test_a_big_acquire_at_the_front_is_served_first(make, clock):
    limiter = make(10, "1s")
    await limiter.acquire(cost=10)
    served = []

    async def take(name, cost):
        await limiter.acquire(cost=cost, max_wait=60)
        served.append(name)

    async with asyncio.TaskGroup() as group:
        group.create_task(take("big", 10))
        await clock.settle()
        for _ in range(5):
            group.create_task(take("small", 1))
        await clock.run(0.95)
        assert served == []
        assert not (await limiter.check()).allowed, "a check doesn't overtake either"
        await clock.run(0.05)
        assert served == ["big"]
        await clock.run(1)
    assert served == ["big"] + ["small"] * 5


async def test_a_plain_function_doesnt_overtake_who_waits(clock):
    limiter = RateLimiter(1, "1s", clock=clock)
    await limiter.acquire()
    waiting = asyncio.create_task(limiter.acquire(max_wait=60))
    await clock.settle()
    clock.advance(1)
    with pytest.raises(RateLimited):
        limiter(call)()
    assert (await waiting).allowed


async def test_a_call_that_would_wait_doesnt_overtake_who_waits(clock):
    limiter = RateLimiter(1, "1s", clock=clock, max_wait=60)
    limited = limiter(call_async)
    await limited()
    waiting = asyncio.create_task(limiter.acquire())
    await clock.settle()
    clock.advance(1)
    time_goes_on = asyncio.create_task(clock.run(2))
    await limited()
    assert waiting.done()
    await time_goes_on


async def test_keys_do_not_wait_for_each_other(make, clock):
    limiter = make(1, "1h")
    await limiter.acquire("a")
    waiting = asyncio.create_task(limiter.acquire("a", max_wait="2h"))
    await clock.settle()
    assert (await limiter.acquire("b", max_wait="2h")).allowed
    assert not waiting.done()
    waiting.cancel()


async def test_gives_up_as_soon_as_it_is_known(make, clock):
    limiter = make(1, "1h")
    await limiter.acquire()
    with pytest.raises(RateLimited) as caught:
        await limiter.acquire(max_wait="59m")
    assert caught.value.retry_after == pytest.approx(3600)
    assert clock.monotonic() == 0


async def test_gives_up_in_line(make, clock):
    """When its time is over before its turn, without holding up those behind it."""
    limiter = make(1, 10.0)
    await limiter.acquire()
    first = asyncio.create_task(limiter.acquire(max_wait=100))
    await clock.settle()
    second = asyncio.create_task(limiter.acquire(max_wait=5))
    await clock.settle()
    third = asyncio.create_task(limiter.acquire(max_wait=100))
    await clock.run(5)
    with pytest.raises(RateLimited):
        await second
    told = {name: count for name, count, _ in limiter.measures()}
    assert told["standfast.rate_limiter.denied"] == 1
    await clock.run(5)
    assert first.done()
    await clock.run(10)
    assert (await third).allowed


async def test_the_line_is_bounded(make, clock):
    limiter = make(1, max_waiters=2)
    await limiter.acquire()
    waiting = [asyncio.create_task(limiter.acquire(max_wait=60)) for _ in range(2)]
    await clock.settle()
    with pytest.raises(RateLimited):
        await limiter.acquire(max_wait=60)
    await clock.run(2)
    assert all(task.done() for task in waiting)
    assert {name: value for name, value, _ in limiter.measures()} == {
        "standfast.rate_limiter.allowed": 3,
        "standfast.rate_limiter.denied": 1,
        "standfast.rate_limiter.store_failures": 0,
        "standfast.rate_limiter.waiting": 0,
    }


@given(seed=st.integers(0, 2**32))
@settings(max_examples=10, deadline=None)
@pytest.mark.parametrize("distant", [False, True])
def test_a_cancelled_waiter_loses_no_capacity(seed, distant):
    """1,000 random cancellations (100 waiters in each of ten examples)."""

    async def run():
        chance = random.Random(seed)
        clock = ManualClock()
        store = counting = Counting(clock=clock)
        counting.handed_out = 0
        if distant:
            store = Distant(clock)
            store.inner = counting
        limiter = RateLimiter(
            10, "10s", burst=5, clock=clock, store=store, name="t", on_store_failure="deny"
        )
        tasks = []
        for _ in range(200):
            cost = chance.randint(1, 5)
            tasks.append((asyncio.create_task(limiter.acquire(cost=cost, max_wait="1d")), cost))
            if chance.random() < 0.3:
                await clock.run(chance.random())
            for _ in range(chance.randint(0, 3)):
                await asyncio.sleep(0)
            if chance.random() < 0.6:
                chance.choice(tasks)[0].cancel()
        for task, _ in chance.sample(tasks, 100):
            task.cancel()
            for _ in range(chance.randint(0, 2)):
                await asyncio.sleep(0)
        await clock.run("1h")
        assert all(task.done() for task, _ in tasks)
        cancelled = sum(task.cancelled() for task, _ in tasks)
        assert cancelled >= 50
        got = [cost for task, cost in tasks if not task.cancelled()]
        assert counting.handed_out == sum(got)
        assert limiter._allowed == len(got)
        assert not limiter._lines.by_key
        assert (await limiter.check(cost=5)).allowed

    asyncio.run(run())


async def test_cancelled_at_the_front_the_next_is_served_in_its_place(make, clock):
    limiter = make(1, 10.0)
    await limiter.acquire()
    waiting = [asyncio.create_task(limiter.acquire(max_wait="1d")) for _ in range(501)]
    await clock.run(9)
    for task in waiting[:-1]:
        task.cancel()
        await asyncio.sleep(0)
    await clock.run(1)
    assert (await waiting[-1]).allowed


@pytest.mark.parametrize("way", ["acquire", "call"])
async def test_cancelled_while_the_store_answers(clock, way):
    """What the server hands out to somebody who has gone is given back."""
    store = Distant(clock)
    limiter = RateLimiter(3, "1h", clock=clock, store=store, name="t", on_store_failure="deny")
    store.gate.clear()

    async def never() -> None:
        raise AssertionError("it isn't called")

    begin = limiter(never) if way == "call" else partial(limiter.acquire, max_wait="2h")
    tasks = [asyncio.create_task(begin()) for _ in range(3)]
    await clock.settle()
    for task in tasks:
        task.cancel()
    await clock.settle()
    store.gate.set()
    await clock.settle()
    assert all(task.cancelled() for task in tasks)
    assert (await limiter.check(cost=3)).allowed


async def test_cancelled_while_the_store_is_away_nothing_is_given_back(clock):
    """Nothing was handed out: the store would have more than there is when it is back."""
    asked = []

    class Noting(Distant):
        async def check(self, requests):
            asked.extend(request.cost for request in requests)
            return await super().check(requests)

    store = Noting(clock)
    limiter = RateLimiter(3, "1h", clock=clock, store=store, name="t", on_store_failure="allow")
    store.away = True
    store.gate.clear()
    task = asyncio.create_task(limiter.acquire(cost=2, max_wait="2h"))
    await clock.settle()
    task.cancel()
    await clock.settle()
    store.gate.set()
    await clock.settle()
    assert task.cancelled()
    assert asked == [2]


async def test_setting_the_system_clock_back_or_forward_changes_nothing(make, clock):
    limiter = make(1, 10.0)
    await limiter.acquire()
    waiting = asyncio.create_task(limiter.acquire(max_wait=60))
    await clock.settle()
    for wall in (0.0, 4e9):
        clock.set_wall(wall)
        await clock.settle()
        assert not waiting.done()
    await clock.run(9.9)
    assert not waiting.done()
    await clock.run(0.1)
    assert (await waiting).allowed


# -- a store that is away ---------------------------------------------------------------------


async def test_fail_open(clock):
    store = Distant(clock)
    limiter = RateLimiter(1, clock=clock, store=store, name="t", on_store_failure="allow")
    assert (await limiter.check("another")).counted
    store.away = True
    for _ in range(3):
        decision = await limiter.check()
        assert (decision.allowed, decision.counted) == (True, False)
        await limiter.acquire()
    assert ("standfast.rate_limiter.store_failures", 6, {"name": "t"}) in list(limiter.measures())
    store.away = False
    assert (await limiter.check()).allowed
    assert not (await limiter.check()).allowed


async def test_fail_closed(clock):
    store = Distant(clock)
    limiter = RateLimiter(5, clock=clock, store=store, name="t", on_store_failure="deny")
    store.away = True
    denied = await limiter.check()
    assert (denied.allowed, denied.counted, denied.retry_after) == (False, False, 1.0)
    with pytest.raises(RateLimited):
        await limiter.acquire()
    waiting = asyncio.create_task(limiter.acquire(max_wait=60))
    await clock.run(3)
    assert not waiting.done()
    store.away = False
    await clock.run(1)
    assert (await waiting).allowed


async def test_an_outage_is_logged_once_and_what_is_for_good_as_an_error(clock, caplog):
    class Refusing(Distant):
        error = StoreUnavailable("gone")

        async def check(self, requests):
            if self.away:
                raise self.error
            return await super().check(requests)

    store = Refusing(clock)
    limiter = RateLimiter(9, clock=clock, store=store, name="t", on_store_failure="allow")

    async def logged():
        caplog.clear()
        for _ in range(3):
            await limiter.check()
        return [(record.levelname, record.getMessage()) for record in caplog.records]

    store.away = True
    away = "rate limiter 't': gone. Until it answers, every check is allowed"
    assert await logged() == [("WARNING", away)]
    store.error = StoreUnavailable("wrong password", for_good=True)
    refused = "rate limiter 't': wrong password. Until it answers, every check is allowed"
    assert await logged() == [("ERROR", refused)]
    store.error = StoreUnavailable("gone")
    assert await logged() == []
    store.away = False
    assert await logged() == [("WARNING", "rate limiter 't': its store answers again")]
    store.away = True
    assert await logged() == [("WARNING", away)]
