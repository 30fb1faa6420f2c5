"""Retry, around functions and blocks, plain and async."""

import asyncio
import concurrent.futures
import contextlib
import email.utils
from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from standfast.errors import (
    BulkheadFull,
    CircuitOpen,
    ConfigurationError,
    RateLimited,
    Refused,
    Rejected,
)
from standfast.resilience.backoff import Constant, Exponential
from standfast.resilience.breaker import CircuitBreaker
from standfast.resilience.budget import RetryBudget, do_not_retry, is_final, is_marked, let_pass
from standfast.resilience.deadline import within
from standfast.resilience.hedge import Hedge
from standfast.resilience.marks import SCOPE, Scope
from standfast.resilience.pipeline import Pipeline
from standfast.resilience.retry import Retry
from standfast.resilience.timeout import Timeout
from standfast.resilience.tracebacks import NEWEST, newest_frames
from standfast.testing import FaultyFunction, ManualClock

# Far more than anything here takes.
WITHIN = 20.0


class Bad(Exception):
    retry_after: object = None


def retry(**options) -> Retry:
    """A retry that waits by a clock that moves by itself."""
    options.setdefault("clock", ManualClock(auto=True))
    options.setdefault("backoff", Constant(1))
    return Retry(**options)


@pytest.fixture(params=["def", "async def", "for", "async for"])
def run(request):
    """Calls a `FaultyFunction` under a retry, in each of the four ways."""

    async def run(policy: Retry, function: FaultyFunction, *args):
        if request.param == "def":
            return policy(function.__call__)(*args)
        if request.param == "async def":
            return await policy(function.awaited)(*args)
        if request.param == "for":
            for attempt in policy:
                with attempt:
                    return function(*args)
        async for attempt in policy:
            with attempt:
                return await function.awaited(*args)
        raise AssertionError("the loop ended without an answer")

    run.judges_results = "for" not in request.param
    return run


async def test_three_attempts_make_three_calls(run):
    function = FaultyFunction(then=Bad("no"))
    policy = retry(attempts=3)
    with pytest.raises(Bad, match="no") as caught:
        await run(policy, function, 7)
    assert function.calls == [((7,), {})] * 3
    assert policy.clock.slept == [1, 1]
    assert is_marked(caught.value)
    assert "attempts=3" in caught.value.__notes__[0]
    assert caught.value.__context__ is None, "the attempts' errors must not be chained"


async def test_three_attempts_make_three_calls_each_with_five_tasks_sharing_the_policy():
    policy = retry(attempts=3)
    functions = [FaultyFunction(then=Bad) for _ in range(5)]
    done = await asyncio.gather(
        *(policy.call(function.awaited) for function in functions), return_exceptions=True
    )
    assert [type(error) for error in done] == [Bad] * 5
    assert [len(function.calls) for function in functions] == [3] * 5


async def test_the_first_success_ends_it(run):
    function = FaultyFunction([Bad, Bad], then="fine")
    assert await run(retry(attempts=5), function) == "fine"
    assert len(function.calls) == 3


@pytest.mark.parametrize(
    "error", [Refused("no"), KeyError("k"), concurrent.futures.CancelledError()]
)
async def test_fatal_errors_are_not_tried_again(run, error):
    function = FaultyFunction(then=error)
    with pytest.raises(type(error)) as caught:
        await run(retry(never_on=(KeyError,)), function)
    assert len(function.calls) == 1
    assert not is_marked(caught.value)


async def test_only_what_is_listed_is_tried_again(run):
    function = FaultyFunction([OSError], then=Bad)
    with pytest.raises(Bad):
        await run(retry(on=(OSError,)), function)
    assert len(function.calls) == 2


async def test_unwanted_results_are_tried_again_and_the_last_is_returned(run):
    if not run.judges_results:
        pytest.skip("a block has no result")
    policy = retry(attempts=3, on_result=lambda status: status == 503)
    assert await run(policy, FaultyFunction([503], then=200)) == 200
    always = FaultyFunction(then=503)
    assert await run(policy, always) == 503
    assert len(always.calls) == 3
    assert policy.counts.exhausted == 1


# -- cancellation ----------------------------------------------------------------------------


@pytest.mark.parametrize("block", [False, True])
async def test_cancellation_is_never_retried(block):
    started = asyncio.Event()
    calls = 0

    async def hang():
        nonlocal calls
        calls += 1
        started.set()
        if calls == 1:  # made again it returns, so that nothing hangs
            await asyncio.Event().wait()

    async def in_block():
        async for attempt in retry(attempts=None):
            with attempt:
                await hang()

    policy = retry(attempts=None, on=(Exception,))
    task = asyncio.create_task(in_block() if block else policy.call(hang))
    await asyncio.wait_for(started.wait(), WITHIN)
    task.cancel()
    await asyncio.wait([task], timeout=WITHIN)
    assert task.cancelled(), "the retry swallows the cancellation"
    assert calls == 1


@pytest.mark.parametrize("block", [False, True])
async def test_cancellation_that_a_library_turned_into_its_own_error_is_not_retried(block):
    started = asyncio.Event()
    calls = 0

    async def converts():
        nonlocal calls
        calls += 1
        started.set()
        if calls > 1:
            return
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            raise Bad("connection lost") from None

    async def in_block():
        async for attempt in retry(attempts=None):
            with attempt:
                await converts()

    task = asyncio.create_task(in_block() if block else retry(attempts=None).call(converts))
    await asyncio.wait_for(started.wait(), WITHIN)
    task.cancel()
    await asyncio.wait([task], timeout=WITHIN)
    assert task.done(), "the retry swallows the cancellation"
    with pytest.raises(Bad):
        await task
    assert calls == 1


async def test_asyncio_timeout_around_a_retry_ends_it_on_time():
    policy = Retry(attempts=500, backoff=Constant(0.01))  # so that it ends if it isn't ended
    loop = asyncio.get_running_loop()
    began = loop.time()
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.2):
            await policy.call(FaultyFunction(then=Bad).awaited)
    assert 0.2 <= loop.time() - began < 10


async def test_asyncio_timeout_ends_a_long_wait_between_attempts():
    policy = Retry(attempts=2, backoff=Constant(WITHIN))
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.05):
            await policy.call(FaultyFunction(then=Bad).awaited)


# -- time ------------------------------------------------------------------------------------


async def test_total_time_bounds_the_attempts(run):
    function = FaultyFunction(then=Bad)
    policy = retry(attempts=None, total="3.5s")
    with pytest.raises(Bad) as caught:
        await run(policy, function)
    assert len(function.calls) == 4, "at 0, 1, 2 and 3 seconds"
    assert "total=3.5s" in caught.value.__notes__[0]


async def test_it_gives_up_when_the_delay_would_pass_the_deadline(run):
    policy = retry(attempts=None)
    function = FaultyFunction(then=Bad)
    with within("2.5s", clock=policy.clock), pytest.raises(Bad) as caught:
        await run(policy, function)
    assert len(function.calls) == 3, "at 0, 1 and 2 seconds"
    assert policy.clock.slept == [1, 1], "it must not wait for an attempt that won't be"
    assert "deadline" in caught.value.__notes__[0]


async def test_the_system_clock_may_jump(run):
    clock = ManualClock(auto=True)
    policy = retry(attempts=None, total=3.5, clock=clock)
    calls = 0

    class Jumps(FaultyFunction):
        def _begin(self, args, kwargs):
            nonlocal calls
            calls += 1
            clock.set_wall(clock.now() + (1e6 if calls % 2 else -2e6))
            return super()._begin(args, kwargs)

    with pytest.raises(Bad):
        await run(policy, Jumps(then=Bad))
    assert calls == 4


# -- Retry-After -----------------------------------------------------------------------------


def answered(value: object, name: str = "Retry-After") -> Bad:
    error = Bad("busy")
    error.response = type("Response", (), {"headers": {name: value}})()
    return error


def asked(value: object) -> Bad:
    error = Bad("busy")
    error.retry_after = value
    return error


WALL = 1_700_000_000.0


@pytest.mark.parametrize(
    ("error", "waited"),
    [
        (asked(7), 7),
        (asked(timedelta(seconds=7)), 7),
        (asked(0.5), 1),  # the backoff's own delay is longer
        (asked(None), 1),
        (asked("soon"), 1),
        (asked(float("nan")), 1),
        (asked(-3), 1),
        (answered("7"), 7),
        (answered("7", "retry-after"), 7),
        (answered(b"7"), 7),
        (answered(email.utils.formatdate(WALL + 7, usegmt=True)), 7),
        (answered(email.utils.formatdate(WALL - 7, usegmt=True)), 1),
        (answered("in a while"), 1),
        (CircuitOpen("open", retry_after=9.0), 9),
    ],
)
async def test_retry_after_is_honoured(run, error, waited):
    policy = retry(clock=ManualClock(auto=True, wall=WALL), on=(Exception, CircuitOpen))

    class Raises(FaultyFunction):
        def _begin(self, args, kwargs):
            super()._begin(args, kwargs)
            if len(self.calls) == 1:
                raise error
            return "fine"

    assert await run(policy, Raises()) == "fine"
    assert policy.clock.slept == [pytest.approx(waited)]


async def test_a_retry_after_that_is_too_long_ends_it(run):
    function = FaultyFunction(then=asked(61))
    with pytest.raises(Bad) as caught:
        await run(retry(max_retry_after="1m"), function)
    assert len(function.calls) == 1
    assert "max_retry_after=60s" in caught.value.__notes__[0]


class OfItsOwn(Retry):
    """Gives up after five attempts, whatever its options are."""

    def next_delay(self, attempt, elapsed, previous, random):
        if self.total is not None:
            raise OSError("broken")
        return 0.0 if attempt < 5 else None


@pytest.mark.parametrize(
    ("options", "calls", "told"),
    [
        ({"attempts": None}, 5, "after attempt 5: next_delay() of OfItsOwn gave none"),
        ({"attempts": 2}, 5, "after attempt 5: next_delay() of OfItsOwn gave none"),
        ({"total": 9}, 1, "after attempt 1: next_delay() of OfItsOwn failed: OSError: broken"),
    ],
)
async def test_who_decided_that_there_is_no_other_attempt_is_told(run, options, calls, told):
    function = FaultyFunction(then=Bad())
    with pytest.raises(Bad) as caught:
        await run(OfItsOwn(clock=ManualClock(auto=True), **options), function)
    assert len(function.calls) == calls
    assert told in caught.value.__notes__[0]


# -- amplification ---------------------------------------------------------------------------


async def test_three_layers_of_three_attempts_make_three_calls(run):
    function = FaultyFunction(then=Bad)
    inner = retry(attempts=3)(function.awaited)
    middle = retry(attempts=3)(inner)
    outer = retry(attempts=3)(middle)
    with pytest.raises(Bad):
        await outer()
    assert len(function.calls) == 3

    function = FaultyFunction(then=Bad)
    with pytest.raises(Bad):
        retry()(retry()(retry()(function.__call__)))()
    assert len(function.calls) == 3


async def test_the_mark_survives_an_error_raised_from_it(run):
    inner = FaultyFunction(then=Bad)

    @retry(attempts=3)
    def layer():
        try:
            retry(attempts=3).call(inner.__call__)
        except Bad as error:
            raise RuntimeError("payments are down") from error

    with pytest.raises(RuntimeError):
        layer()
    assert len(inner.calls) == 3


async def test_do_not_retry_is_at_hand_for_anyone(run):
    function = FaultyFunction(then=do_not_retry(Bad("hopeless")))
    with pytest.raises(Bad):
        await run(retry(), function)
    assert len(function.calls) == 1


async def test_only_what_somebody_decided_is_final():
    with pytest.raises(Bad) as exhausted:
        await retry(attempts=2).call(FaultyFunction(then=Bad).awaited)
    assert is_marked(exhausted.value)
    assert not is_final(exhausted.value)
    assert is_final(do_not_retry(exhausted.value)), "a decision about it weighs more"
    assert is_final(let_pass(exhausted.value)), "and nothing takes it back"
    with pytest.raises(KeyError) as later:
        raise KeyError from exhausted.value
    assert is_final(later.value)


async def test_one_attempt_leaves_no_mark(run):
    with pytest.raises(Bad) as caught:
        await run(retry(attempts=1), FaultyFunction(then=Bad))
    assert not is_marked(caught.value)


async def test_a_spent_budget_ends_all_retries(run):
    clock = ManualClock(auto=True)
    budget = RetryBudget(0.0, per_second=0, burst=4, clock=clock)
    one, other = retry(budget=budget, clock=clock), retry(budget=budget, clock=clock, attempts=None)
    function = FaultyFunction(then=Bad)
    with pytest.raises(Bad):
        await run(one, function)
    with pytest.raises(Bad) as caught:
        await run(other, function)
    assert len(function.calls) == 2 + 4, "two calls and four retries"
    assert (budget.taken, budget.denied, budget.calls) == (4, 1, 2)
    assert is_marked(caught.value)
    assert "budget" in caught.value.__notes__[0]


async def test_a_later_attempt_that_isnt_entered_is_told_too():
    def loop():
        for attempt in retry():
            if attempt.number == 1:
                with attempt:
                    raise Bad

    async def async_loop():
        async for attempt in retry():
            if attempt.number == 1:
                with attempt:
                    raise Bad

    with pytest.raises(ConfigurationError, match="not entered"):
        loop()
    with pytest.raises(ConfigurationError, match="not entered"):
        await async_loop()


@pytest.mark.parametrize("way", ["async def", "async for"])
async def test_a_retry_that_its_caller_doesnt_wait_for_is_given_back(way):
    budget = RetryBudget(0.0, per_second=0, burst=1)
    policy = Retry(attempts=2, backoff=Constant(WITHIN), budget=budget)
    function = FaultyFunction(then=Bad)

    async def in_block():
        async for attempt in policy:
            with attempt:
                await function.awaited()

    async def call():
        await (policy.call(function.awaited) if way == "async def" else in_block())

    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.01):
            await call()
    task = asyncio.create_task(call())
    await asyncio.sleep(0.01)
    assert budget.left() == 0, "it is taken before the pause"
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert len(function.calls) == 2
    assert (budget.left(), budget.taken, policy.counts.retries) == (1, 0, 0)


@pytest.mark.parametrize("way", ["def", "for"])
def test_a_retry_whose_pause_is_interrupted_is_given_back(way):
    class Interrupted(ManualClock):
        def pause(self, seconds):
            raise KeyboardInterrupt

    budget = RetryBudget(0.0, per_second=0, burst=1)
    policy = retry(budget=budget, clock=Interrupted())

    def in_block():
        for attempt in policy:
            with attempt:
                raise Bad

    with pytest.raises(KeyboardInterrupt):
        policy.call(FaultyFunction(then=Bad).__call__) if way == "def" else in_block()
    assert (budget.left(), budget.taken, policy.counts.retries) == (1, 0, 0)


def test_what_is_given_back_never_fills_a_budget_beyond_its_top():
    budget = RetryBudget(1.0, per_second=0, burst=2)
    assert budget.take()
    budget.calls += 5
    budget.give_back()
    assert budget.left() == 2


@given(
    st.floats(0, 1),
    st.floats(0, 5),
    st.integers(1, 20),
    st.lists(
        st.one_of(
            st.integers(1, 50).map(lambda n: ("calls", n)),
            st.floats(0, 10).map(lambda s: ("time", s)),
            st.just(("take", 1)),
        ),
        max_size=60,
    ),
)
def test_a_budget_never_gives_more_than_its_share(ratio, per_second, burst, steps):
    clock = ManualClock()
    budget = RetryBudget(ratio, per_second=per_second, burst=burst, clock=clock)
    tokens = float(burst)
    for what, amount in steps:
        if what == "calls":
            budget.calls += amount
            tokens += amount * ratio
        elif what == "time":
            clock.advance(amount)
            tokens += amount * per_second
        elif budget.take():
            tokens -= 1
        assert 0 <= budget.left() <= burst
    assert tokens >= -1e-6
    assert budget.taken <= burst + ratio * budget.calls + per_second * clock.monotonic() + 1e-6


# -- the guard -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("error", "calls"),
    [
        (Bad("lost"), 1),
        (CircuitOpen("open"), 3),
        (BulkheadFull("full"), 1),
        (ConnectionRefusedError(), 3),
        (OSError(), 1),
    ],
)
async def test_what_is_not_idempotent_is_repeated_only_if_it_was_never_sent(run, error, calls):
    function = FaultyFunction(then=error)
    with pytest.raises(type(error)):
        await run(retry(idempotent=False, on=(Exception, CircuitOpen)), function)
    assert len(function.calls) == calls


# -- blocks ----------------------------------------------------------------------------------


async def test_attempts_of_a_block_are_numbered():
    seen = []
    for attempt in retry():
        with attempt:
            seen.append(attempt.number)
            if attempt.number < 3:
                raise Bad
    assert seen == [1, 2, 3]


async def test_a_block_without_with_is_told():
    with pytest.raises(ConfigurationError, match="with attempt"):
        for _ in retry():
            pass


async def test_leaving_a_block_early_is_fine():
    for attempt in retry():
        with attempt:
            break
    assert attempt.number == 1


# -- configuration ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"attempts": 0}, "attempts=0"),
        ({"total": 0}, "total=0"),
        ({"backoff": 3}, "backoff=3"),
        ({"on": OSError}, "on="),
        ({"on": ("OSError",)}, "on="),
        ({"never_on": (1,)}, "never_on="),
        ({"unsent": [OSError]}, "unsent="),
        ({"on_result": 503}, "on_result=503"),
        ({"budget": 0.1}, "budget=0.1"),
        ({"max_retry_after": -1}, "max_retry_after=-1"),
    ],
)
def test_bad_options_are_refused_with_their_value(options, told):
    with pytest.raises(ConfigurationError, match=told):
        Retry(**options)


@pytest.mark.parametrize(
    ("arguments", "told"),
    [({"ratio": 2}, "ratio=2"), ({"per_second": -1}, "per_second=-1"), ({"burst": 0}, "burst=0")],
)
def test_bad_budgets_are_refused_with_their_value(arguments, told):
    with pytest.raises(ConfigurationError, match=told):
        RetryBudget(**arguments)


def test_a_retry_is_a_value():
    assert Retry(attempts=4) == Retry(attempts=4)
    assert hash(Retry(attempts=4)) == hash(Retry(attempts=4))
    assert Retry(4, Exponential(0.2)) != Retry(4)
    with pytest.raises(AttributeError):
        Retry().attempts = 5


# -- rejections --------------------------------------------------------------------------------


@pytest.fixture(params=["alone", "in a pipeline"])
def wrap(request):
    return (lambda policy: policy) if request.param == "alone" else Pipeline


REJECTIONS = [
    CircuitOpen("open", retry_after=2.0),
    BulkheadFull("full", retry_after=2.0),
    RateLimited("limited", retry_after=2.0),
    CircuitOpen("open"),
    ExceptionGroup("all", [OSError(), CircuitOpen("open", retry_after=2.0)]),
]


@pytest.mark.parametrize("rejection", REJECTIONS)
@pytest.mark.parametrize("options", [{}, {"idempotent": False}, {"on": (Exception, OSError)}])
async def test_a_rejection_ends_the_attempts_at_once(run, rejection, options):
    policy, function = retry(**options), FaultyFunction(then=rejection)
    with pytest.raises(type(rejection)):
        await run(policy, function)
    assert len(function.calls) == 1
    assert policy.clock.slept == []


@pytest.mark.parametrize(
    ("on", "waited"),
    [
        ((Exception, RateLimited), [7]),
        ((RateLimited,), [7]),
        ((Exception, Rejected), [7]),
        ((Exception, CircuitOpen), []),
    ],
)
async def test_a_rejection_is_waited_out_where_its_class_is_named(run, on, waited):
    policy = retry(on=on, attempts=2)
    function = FaultyFunction([RateLimited("limited", retry_after=7.0)], then="fine")
    if waited:
        assert await run(policy, function) == "fine"
    else:
        with pytest.raises(RateLimited):
            await run(policy, function)
    assert policy.clock.slept == waited


async def test_a_named_rejection_must_fit_like_any_failure(run):
    policy = retry(on=(Exception, CircuitOpen), max_retry_after=5)
    function = Raises(CircuitOpen("open", retry_after=6.0))
    with pytest.raises(CircuitOpen) as caught:
        await run(policy, function)
    assert len(function.calls) == 1
    assert "max_retry_after=5s" in caught.value.__notes__[0]


async def test_a_breaker_that_opens_ends_the_retries_around_it(wrap):
    clock = ManualClock(auto=True)
    breaker = CircuitBreaker(consecutive_failures=1, wait="3s", clock=clock)
    pipeline = wrap(Pipeline(retry(clock=clock), breaker))
    function = FaultyFunction(then=OSError)
    with pytest.raises(CircuitOpen):
        pipeline.call(function.__call__)
    with pytest.raises(CircuitOpen):
        await pipeline.call(function.awaited)
    assert len(function.calls) == 1
    assert clock.slept == [1], "the backoff after the first failure, and not the breaker's wait"


# -- one exception, several callers ------------------------------------------------------------


async def test_a_shared_exception_is_marked_for_who_gave_up_and_nobody_else():
    shared, calls = asyncio.get_running_loop().create_future(), {2: 0, 5: 0}

    async def ask(attempts):
        calls[attempts] += 1
        await shared

    shared.set_exception(Bad("away"))
    done = await asyncio.gather(
        *(retry(attempts=n, backoff=Constant(0)).call(ask, n) for n in calls),
        return_exceptions=True,
    )
    assert calls == {2: 2, 5: 5}
    assert len({id(error) for error in done}) == 1
    (note,) = done[0].__notes__
    assert "after attempt" in note, "one note, and not one of everybody"


@pytest.mark.parametrize("mark", [do_not_retry, let_pass])
async def test_who_marks_an_exception_that_it_caught_marks_it_for_its_own_callers(mark):
    shared = asyncio.get_running_loop().create_future()
    shared.set_exception(Bad("away"))
    calls = {"marked": 0, "other": 0}

    async def other():
        calls["other"] += 1
        await shared

    async def marked():
        calls["marked"] += 1
        try:
            await shared
        except Bad as error:
            raise mark(error)  # noqa: B904

    policies = retry(backoff=Constant(0)), retry(backoff=Constant(0))
    await asyncio.gather(policies[0].call(marked), policies[1].call(other), return_exceptions=True)
    assert calls == {"marked": 1, "other": 3}
    with pytest.raises(Bad) as caught:
        await marked()
    assert is_final(caught.value) is (mark is do_not_retry)
    with pytest.raises(Bad) as caught:
        await other()
    assert not is_final(caught.value)


class Raises:
    """A function that raises one and the same exception object."""

    def __init__(self, error):
        self.error, self.calls = error, []

    def __call__(self):
        self.calls.append(1)
        raise self.error

    async def awaited(self):
        return self()


async def test_an_exception_that_is_raised_again_later_is_another_call_s(run):
    error, policy = Bad("away"), retry(attempts=3)
    function = Raises(error)
    for so_far in (3, 6, 9):
        with pytest.raises(Bad) as caught:
            await run(policy, function)
        assert caught.value is error
        assert len(function.calls) == so_far
        assert len(error.__notes__) == 1


async def test_however_often_an_exception_was_raised_before_a_call_costs_the_same(run, monkeypatch):
    """Its traceback has grown with each; no more is looked at than what one call goes through."""
    stored, looked_at = Bad("kept"), []
    for _ in range(3 * NEWEST):
        try:
            raise stored
        except Bad:
            pass

    def counted(error):
        for frame in newest_frames(error):
            looked_at.append(frame)
            yield frame

    monkeypatch.setattr("standfast.resilience.marks.newest_frames", counted)

    class MarksItElsewhere(Raises):
        def __call__(self):
            with contextlib.suppress(Bad):
                super().__call__()
            do_not_retry(stored)  # by somebody else, who has caught it at the same time
            super().__call__()

    for function in (Raises(stored), MarksItElsewhere(stored)):
        looked_at.clear()
        with pytest.raises(Bad):
            await run(retry(attempts=3), function)
        assert len(looked_at) <= 3 * NEWEST


async def test_in_the_next_call_layers_still_make_three_calls():
    function = Raises(Bad("away"))
    layers = retry()(retry()(retry()(function.awaited)))
    plain = retry()(retry()(retry()(function.__call__)))
    for so_far in (6, 12):
        with pytest.raises(Bad):
            await layers()
        with pytest.raises(Bad):
            plain()
        assert len(function.calls) == so_far


@pytest.mark.parametrize("between", ["task", "hedge", "thread", "timeout", "group"])
async def test_the_mark_passes_tasks_threads_and_groups(between):
    function = FaultyFunction(then=Bad)
    inner = retry()(function.awaited)
    plain = retry()(function.__call__)

    async def call():
        if between == "task":
            await asyncio.create_task(inner())
        elif between == "hedge":
            await Hedge(60).call(inner)
        elif between == "thread":
            await asyncio.to_thread(plain)
        elif between == "timeout":
            Timeout(20).call(plain)
        else:
            async with asyncio.TaskGroup() as group:
                group.create_task(inner())

    with pytest.raises((Bad, ExceptionGroup)):
        await retry().call(call)
    assert len(function.calls) == 3


@pytest.mark.parametrize("mark", [do_not_retry, let_pass])
async def test_a_mark_doesnt_outlive_the_call_in_which_it_was_made(run, mark):
    shared = Raises(Bad("away"))

    def marked():
        calls.append(1)
        try:
            shared()
        except Bad as error:
            raise mark(error)  # noqa: B904

    for _ in range(3):
        calls = []
        with pytest.raises(Bad):
            retry().call(marked)
        assert len(calls) == 1
        shared.calls.clear()
        with pytest.raises(Bad):
            await run(retry(), shared)
        assert len(shared.calls) == 3, "raised again, the object has its mark and its old traceback"


async def test_a_mark_doesnt_outlive_the_attempt_in_which_it_was_made(run):
    class Varied(Raises):
        """In the first attempt a retry inside gives up, of which nothing comes out."""

        def __call__(self):
            self.calls.append(1)
            if len(self.calls) > 1:
                raise self.error
            with pytest.raises(Bad):
                retry(attempts=2).call(Raises(self.error).__call__)
            raise OSError("something else")

    function = Varied(Bad("away"))
    with pytest.raises(Bad):
        await run(retry(attempts=4), function)
    assert len(function.calls) == 4


@pytest.mark.parametrize("how", ["task", "thread", "pool", "group", "hedge"])
async def test_a_mark_follows_what_one_call_hands_on(how):
    shared = Raises(Bad("away"))
    with pytest.raises(Bad):
        shared()  # it has an old traceback

    def marked():
        try:
            shared()
        except Bad as error:
            raise do_not_retry(error)  # noqa: B904

    async def marked_async():
        await asyncio.sleep(0)
        marked()

    async def call():
        calls.append(1)
        if how == "task":
            await asyncio.create_task(marked_async())
        elif how == "thread":
            await asyncio.to_thread(marked)
        elif how == "pool":
            await asyncio.get_running_loop().run_in_executor(None, marked)
        elif how == "group":
            async with asyncio.TaskGroup() as group:
                group.create_task(marked_async())
        else:
            await Hedge(5.0).call(marked_async)

    for _ in range(2):
        calls = []
        with pytest.raises((Bad, ExceptionGroup)):
            await retry().call(call)
        assert len(calls) == 1


async def test_after_a_cancellation_was_swallowed_no_unwanted_result_is_tried_again():
    calls = 0

    async def stubborn() -> str:
        nonlocal calls
        calls += 1
        try:
            await asyncio.sleep(WITHIN)
        except asyncio.CancelledError:
            pass
        return "partial"

    tried = retry(attempts=3, on_result=lambda result: result == "partial")(stubborn)
    task = asyncio.create_task(tried())
    await asyncio.sleep(0.01)
    task.cancel()
    assert await asyncio.wait_for(task, WITHIN / 2) == "partial"
    assert calls == 1


def test_whose_a_mark_is_that_was_set_on_what_was_caught():
    """One set where no attempt is known, in a thread of its own say, is of whoever it reaches."""
    mine, other = Scope(), Scope()

    def marked_in(scope):
        before = SCOPE.set(scope)
        try:
            raise OSError("away")
        except OSError as error:
            raise do_not_retry(error) from None
        finally:
            SCOPE.reset(before)

    for scope, finals in ((None, [True, True]), (mine, [True, False]), (other, [False, True])):
        with pytest.raises(OSError, match="away") as caught:
            marked_in(scope)
        assert [is_final(caught.value, one) for one in (mine, other)] == finals
        assert not is_final(caught.value, Scope()), "it began after that"
