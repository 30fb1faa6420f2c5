"""What a circuit breaker promises, one promise a test, around `def` and `async def`."""

import asyncio
import copy
import gc
import logging
import pickle
import sys
import threading
import time
import traceback
import weakref
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from standfast.errors import BulkheadFull, CircuitOpen, ConfigurationError, Refused
from standfast.resilience import Pipeline, Retry
from standfast.resilience.backoff import Constant, Exponential
from standfast.resilience.breaker import (
    Change,
    CircuitBreaker,
    CircuitRegistry,
    State,
)


def fail(error: BaseException | None = None) -> None:
    raise error or OSError("down")


def answer(value: Any = None) -> Any:
    return value


def breaker(clock: Any, **options: Any) -> CircuitBreaker:
    defaults = {"failure_rate": None, "consecutive_failures": 3, "wait": "30s"}
    return CircuitBreaker("payments", clock=clock, **{**defaults, **options})


def calls(policy: CircuitBreaker, kind: str) -> Callable[..., Any]:
    """A function that makes one call through `policy` in the way of `kind`."""
    if kind == "sync":
        return policy.call

    def run(function: Callable[..., Any], *args: Any) -> Any:
        async def body(*args: Any) -> Any:
            return function(*args)

        return asyncio.run(policy.call(body, *args))

    return run


both = pytest.mark.parametrize("kind", ["sync", "async"])


def open_by_failures(call: Callable[..., Any], times: int = 3) -> None:
    for _ in range(times):
        with pytest.raises(OSError, match="down"):
            call(fail)


@both
def test_it_opens_rejects_probes_and_closes(clock: Any, kind: str) -> None:
    policy = breaker(clock, half_open_calls=2)
    call = calls(policy, kind)
    open_by_failures(call)
    assert policy.state is State.OPEN
    clock.advance(10)
    with pytest.raises(CircuitOpen) as rejected:
        call(answer)
    assert rejected.value.retry_after == pytest.approx(20)
    clock.advance(20)
    assert policy.state is State.HALF_OPEN
    assert call(answer, 1) == 1
    assert policy.state is State.HALF_OPEN
    assert call(answer, 2) == 2
    assert policy.state is State.CLOSED


@both
def test_a_failed_probe_opens_it_again(clock: Any, kind: str) -> None:
    policy = breaker(clock)
    call = calls(policy, kind)
    open_by_failures(call)
    clock.advance(30)
    open_by_failures(call, 1)
    assert policy.state is State.OPEN
    assert policy.retry_after == 30


def test_a_herd_of_50_on_half_open_with_3_permits_makes_3_calls_async(clock: Any) -> None:
    policy = breaker(clock, half_open_calls=3)
    policy.open()
    clock.advance(30)
    made = 0

    async def scenario() -> list[Any]:
        @policy
        async def probe() -> None:
            nonlocal made
            made += 1
            await asyncio.sleep(0.01)

        return await asyncio.gather(*(probe() for _ in range(50)), return_exceptions=True)

    results = asyncio.run(scenario())
    assert made == 3
    assert sum(isinstance(result, CircuitOpen) for result in results) == 47
    assert policy.state is State.CLOSED


def test_a_herd_of_50_threads_on_half_open_with_3_permits_makes_3_calls(clock: Any) -> None:
    policy = breaker(clock, half_open_calls=3)
    policy.open()
    clock.advance(30)
    made, rejected, settle = [], [], threading.Event()

    @policy
    def probe() -> None:
        made.append(1)
        settle.wait(30)

    def caller() -> None:
        try:
            probe()
        except CircuitOpen:
            rejected.append(1)

    threads = [threading.Thread(target=caller) for _ in range(50)]
    for thread in threads:
        thread.start()
    until = time.monotonic() + 30
    while len(rejected) < 47 and time.monotonic() < until:
        time.sleep(0.005)
    settle.set()
    for thread in threads:
        thread.join()
    assert (len(made), len(rejected)) == (3, 47)
    assert policy.state is State.CLOSED


async def _cancelled(policy: CircuitBreaker) -> None:
    @policy
    async def hang() -> None:
        await asyncio.Event().wait()

    task = asyncio.create_task(hang())
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_three_cancelled_calls_do_not_open_it(clock: Any) -> None:
    policy = breaker(clock, failure_rate=0.1, minimum_calls=1)
    for _ in range(3):
        await _cancelled(policy)
    assert policy.state is State.CLOSED
    assert (policy.ignored, policy.failures, policy.successes) == (3, 0, 0)


async def test_cancellation_counts_as_failure_where_asked(clock: Any) -> None:
    policy = breaker(clock, on_cancellation="failure")
    for _ in range(3):
        await _cancelled(policy)
    assert policy.state is State.OPEN


async def test_a_cancelled_probe_frees_its_permit(clock: Any) -> None:
    policy = breaker(clock, half_open_calls=1)
    policy.open()
    clock.advance(30)
    for _ in range(5):
        await _cancelled(policy)
        assert policy.state is State.HALF_OPEN
    assert policy.call(answer, 1) == 1
    assert policy.state is State.CLOSED


def test_a_probe_that_never_returns_does_not_leave_it_half_open_for_ever(clock: Any) -> None:
    policy = breaker(clock, half_open_calls=1, half_open_timeout="60s")
    policy.open()
    clock.advance(30)
    lost = policy.acquire()
    with pytest.raises(CircuitOpen):
        policy.call(answer)
    clock.advance(60)
    assert policy.state is State.OPEN
    clock.advance(30)
    assert policy.call(answer, 1) == 1
    assert policy.state is State.CLOSED
    lost.failure()
    assert policy.state is State.CLOSED, "its late result is dropped"


def test_four_threads_with_calls_of_0_2_s_take_about_0_2_s() -> None:
    policy = CircuitBreaker("slow-calls")
    together = threading.Barrier(4, timeout=30)

    @policy
    def slow() -> None:
        together.wait()  # never passed if a lock let in one call at a time
        time.sleep(0.2)

    threads = [threading.Thread(target=slow) for _ in range(4)]
    started = time.monotonic()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert time.monotonic() - started < 0.75, "one after another would be 0.8 s"
    assert policy.successes == 4


@both
def test_1000_rejections_leave_the_traceback_at_the_length_of_one(clock: Any, kind: str) -> None:
    policy = breaker(clock)
    policy.force_open()
    call = calls(policy, kind) if kind == "sync" else None
    lengths = set()

    async def body() -> None: ...

    async def many() -> None:
        for _ in range(1000):
            try:
                await policy.call(body)
            except CircuitOpen as rejection:
                lengths.add(len(traceback.extract_tb(rejection.__traceback__)))

    if call is None:
        asyncio.run(many())
        assert lengths == {2}, "here and the wrapper"
    else:
        wrapped = policy(answer)
        for _ in range(1000):
            try:
                wrapped()
            except CircuitOpen as rejection:
                lengths.add(len(traceback.extract_tb(rejection.__traceback__)))
        assert lengths == {2}, "here and the wrapper"


@both
def test_a_rejection_leaves_nothing_to_the_garbage_collector(clock: Any, kind: str) -> None:
    policy = breaker(clock)
    policy.open()

    async def body() -> None: ...

    gc.collect()
    gc.disable()
    try:
        try:
            if kind == "sync":
                policy.call(answer)
            else:
                policy(body)().send(None)
        except CircuitOpen as rejection:
            gone = weakref.ref(rejection)
        assert gone() is None
    finally:
        gc.enable()


def test_a_rejection_can_be_shown_copied_and_pickled(clock: Any) -> None:
    policy = breaker(clock)
    policy.open()
    with pytest.raises(CircuitOpen) as caught:
        policy.call(answer)
    rejection = caught.value
    rejection.add_note("while paying")
    message = "circuit 'payments' is open: the call was not made"
    by_hand = CircuitOpen(message, retry_after=30.0)
    by_hand.add_note("while paying")
    for one in (
        rejection,
        by_hand,
        copy.copy(rejection),
        copy.deepcopy(rejection),
        pickle.loads(pickle.dumps(rejection)),
    ):
        assert type(one) is CircuitOpen
        assert str(one) == message
        assert repr(one) == f"CircuitOpen({message!r})".replace("'circuit ", '"circuit ')
        assert one.args == (message,)
        assert one.retry_after == 30
        assert one.__notes__ == ["while paying"]
    assert CircuitOpen().retry_after is None


@both
def test_a_rejection_tells_when_to_come_back_if_that_is_known(clock: Any, kind: str) -> None:
    policy = breaker(clock, half_open_calls=1, half_open_timeout="60s")
    call = calls(policy, kind)

    def told() -> float | None:
        with pytest.raises(CircuitOpen) as caught:
            call(answer)
        return caught.value.retry_after

    policy.open()
    clock.advance(29)
    assert told() == 1
    clock.advance(1)
    policy.acquire()
    assert told() is None, "a probe is under way"
    clock.advance(70)
    assert told() == 20, "it expired 10 seconds ago, and that opened it for 30"
    policy.force_open()
    assert told() is None
    assert policy.rejected == 4


def test_a_late_success_from_before_an_opening_does_not_close_it(clock: Any) -> None:
    policy = breaker(clock, half_open_calls=1)
    early = policy.acquire()
    open_by_failures(policy.call)
    early.success()
    assert policy.state is State.OPEN
    clock.advance(30)
    other = breaker(clock, half_open_calls=1)
    early = other.acquire()
    other.open()
    clock.advance(30)
    assert other.state is State.HALF_OPEN
    early.success()
    assert other.state is State.HALF_OPEN


@both
def test_successes_that_cost_little_count_like_any(clock: Any, kind: str) -> None:
    """Of 10 calls 5 failed: whichever way their successes were counted, that opens it."""
    policy = breaker(clock, window=10, failure_rate=0.5, consecutive_failures=None)
    call = calls(policy, kind)
    for _ in range(1000):
        call(answer)
    assert policy.successes == 1000
    open_by_failures(call, 4)
    for _ in range(5):
        call(answer)
    open_by_failures(call, 1)
    assert policy.state is State.OPEN
    assert (policy.successes, policy.failures) == (1005, 5)


@both
def test_a_success_that_completes_the_minimum_opens_it(clock: Any, kind: str) -> None:
    policy = breaker(clock, failure_rate=0.5, minimum_calls=10, consecutive_failures=None)
    call = calls(policy, kind)
    open_by_failures(call, 5)
    for _ in range(4):
        call(answer)
    assert policy.state is State.CLOSED
    call(answer)
    assert policy.state is State.OPEN


@both
def test_a_success_opens_it_when_older_ones_have_left_the_window(clock: Any, kind: str) -> None:
    policy = breaker(
        clock, window="10s", failure_rate=0.5, minimum_calls=4, consecutive_failures=None
    )
    call = calls(policy, kind)
    for _ in range(10):
        call(answer)
    clock.advance(5)
    open_by_failures(call, 3)
    call(answer)
    clock.advance(5)
    assert policy.state is State.CLOSED
    call(answer)
    assert policy.state is State.OPEN


@both
def test_a_success_at_the_turn_of_a_step_of_the_window_belongs_to_the_next(
    clock: Any, kind: str
) -> None:
    policy = breaker(
        clock, window="10s", failure_rate=0.5, minimum_calls=2, consecutive_failures=None
    )
    call = calls(policy, kind)
    call(answer)
    clock.advance(1)
    call(answer)
    clock.advance(9.5)
    open_by_failures(call, 1)
    assert policy.state is State.OPEN, "one of two: the second success is in the window still"


def test_noted_successes_take_little_memory(clock: Any) -> None:
    for prepare in (CircuitBreaker.reset, CircuitBreaker.disable, CircuitBreaker.metrics_only):
        policy = breaker(clock)
        prepare(policy)
        wrapped = policy(answer)
        for _ in range(10_000):
            wrapped()
            assert len(policy._machine.noted) < 1000
        assert policy.successes == 10_000


def test_setting_the_system_clock_changes_nothing(clock: Any) -> None:
    policy = breaker(clock, window="60s", failure_rate=0.5, minimum_calls=4)
    open_by_failures(policy.call, 2)
    clock.wall -= 86_400
    open_by_failures(policy.call, 1)
    assert policy.state is State.OPEN
    clock.wall += 10 * 86_400
    assert policy.state is State.OPEN
    clock.wall -= 20 * 86_400
    clock.advance(30)
    assert policy.state is State.HALF_OPEN


def test_slow_calls_open_it(clock: Any) -> None:
    policy = CircuitBreaker(
        failure_rate=None,
        slow_call_rate=0.5,
        slow_call_duration="2s",
        minimum_calls=4,
        clock=clock,
    )
    for seconds in (1, 2, 3):
        policy.call(clock.advance, seconds)
    assert policy.state is State.CLOSED
    policy.call(clock.advance, 3)
    assert policy.state is State.OPEN


def test_the_wait_grows_with_each_opening_in_a_row_and_starts_again(clock: Any) -> None:
    policy = breaker(clock, wait=Exponential("1s", maximum="8s", jitter="none"), half_open_calls=1)
    open_by_failures(policy.call)
    for expected in (1, 2, 4, 8, 8):
        assert policy.retry_after == expected
        clock.advance(expected)
        open_by_failures(policy.call, 1)
    clock.advance(8)
    policy.call(answer)
    open_by_failures(policy.call)
    assert policy.retry_after == 1


class _Busy(Exception):
    def __init__(self, headers: dict[str, str]) -> None:
        self.response = self
        self.headers = headers


@pytest.mark.parametrize(
    ("error", "wait"),
    [
        (_Busy({"Retry-After": "120"}), 120),
        (_Busy({"Retry-After": "999999"}), 600),
        (_Busy({"Retry-After": "Wed, 21 Oct 2015 07:28:00 GMT"}), 30),
        (_Busy({}), 30),
    ],
)
def test_it_waits_as_long_as_a_retry_after_says(clock: Any, error: Exception, wait: int) -> None:
    policy = breaker(clock, consecutive_failures=1)
    with pytest.raises(_Busy):
        policy.call(fail, error)
    assert policy.retry_after == wait
    policy.probe_early()
    assert policy.retry_after == (0 if wait == 30 else wait), "what the server asked for holds"


@both
def test_exceptions_count_as_told(clock: Any, kind: str) -> None:
    policy = breaker(clock, failure_on=(OSError,))
    call = calls(policy, kind)
    for error in (Refused("no funds"), BulkheadFull(), ValueError(), OSError()):
        with pytest.raises(type(error)):
            call(fail, error)
    assert (policy.successes, policy.ignored, policy.failures) == (2, 1, 1)


@both
def test_results_count_as_told(clock: Any, kind: str) -> None:
    def judge(status: int) -> Any:
        return "failure" if status >= 500 else "ignored" if status == 429 else "success"

    policy = breaker(clock, judge_result=judge)
    call = calls(policy, kind)
    assert [call(answer, status) for status in (200, 429, 503)] == [200, 429, 503]
    assert (policy.successes, policy.ignored, policy.failures) == (1, 1, 1)


def test_a_judge_that_fails_gives_the_permit_back(clock: Any) -> None:
    policy = breaker(clock, half_open_calls=1, judge_result=lambda result: result["status"])
    policy.open()
    clock.advance(30)
    with pytest.raises(TypeError):
        policy.call(answer)
    assert policy.state is State.HALF_OPEN
    policy.call(answer, {"status": "success"})
    assert policy.state is State.CLOSED


def test_a_call_that_worked_is_not_made_again_for_a_judge_that_fails(clock: Any) -> None:
    policy, made = breaker(clock, judge_result=lambda result: result["status"]), []
    with pytest.raises(KeyError):
        Pipeline(Retry(attempts=3, backoff=Constant(0)), policy).call(lambda: made.append(1) or {})
    assert made == [1]
    assert (policy.ignored, policy.failures) == (1, 0)


def test_special_states_last_until_reset(clock: Any) -> None:
    policy = breaker(clock)
    policy.force_open()
    clock.advance(86_400)
    with pytest.raises(CircuitOpen) as rejected:
        policy.call(answer)
    assert rejected.value.retry_after is None
    policy.metrics_only()
    open_by_failures(policy.call, 10)
    assert policy.state is State.METRICS_ONLY
    policy.disable()
    open_by_failures(policy.call, 10)
    assert policy.state is State.DISABLED
    policy.reset()
    open_by_failures(policy.call, 3)
    assert policy.state is State.OPEN


def test_on_alert_half_the_evidence_is_enough_for_a_time(clock: Any) -> None:
    policy = breaker(clock, consecutive_failures=6)
    policy.alert("30s")
    clock.advance(31)
    open_by_failures(policy.call, 3)
    assert policy.state is State.CLOSED
    policy.alert("30s")
    told: list[str] = []
    policy.on_change(lambda _, change: told.append(change.reason))
    open_by_failures(policy.call, 1)
    assert policy.state is State.OPEN
    policy.reset()
    clock.advance(31)
    open_by_failures(policy.call, 6)
    assert told == ["4 failures in a row, on alert", "by hand", "6 failures in a row"]


def test_a_shorter_alert_doesnt_end_a_longer_one(clock: Any) -> None:
    policy = breaker(clock, consecutive_failures=6)
    policy.alert("60s")
    policy.alert("1s")
    clock.advance(31)
    open_by_failures(policy.call, 3)
    assert policy.state is State.OPEN


def test_a_with_block_is_one_call(clock: Any) -> None:
    policy, other = breaker(clock), breaker(clock)
    with policy, other, policy:
        pass
    for _ in range(3):
        with pytest.raises(OSError, match="down"), policy:
            fail()
    assert (policy.successes, policy.failures, policy.state) == (2, 3, State.OPEN)
    with pytest.raises(CircuitOpen), policy:
        raise AssertionError("the block must not run")


async def test_an_async_with_block_is_one_call_also_in_tasks_side_by_side(clock: Any) -> None:
    policy = breaker(clock)

    async def one(error: Exception | None) -> None:
        async with policy:
            await asyncio.sleep(0)
            if error:
                raise error

    await asyncio.gather(one(None), one(OSError()), one(None), return_exceptions=True)
    assert (policy.successes, policy.failures) == (2, 1)


def test_a_permit_is_settled_once(clock: Any) -> None:
    policy = breaker(clock)
    permit = policy.acquire()
    permit.success()
    for settle in (permit.success, permit.failure, permit.ignore):
        with pytest.raises(RuntimeError, match="exactly once"):
            settle()
    with policy as permit:
        permit.ignore()
    assert (policy.successes, policy.ignored) == (1, 1)


def test_listeners_hear_every_change_and_can_not_break_a_call(
    clock: Any, caplog: pytest.LogCaptureFixture
) -> None:
    heard: list[tuple[str, State, State]] = []

    def listener(policy: CircuitBreaker, change: Change) -> None:
        heard.append((policy.name, change.old, change.new))
        raise RuntimeError("a bad listener")

    policy = breaker(clock, half_open_calls=1, listeners=[listener])
    with caplog.at_level(logging.ERROR):
        open_by_failures(policy.call)
        clock.advance(30)
        assert policy.call(answer, 1) == 1
    assert heard == [
        ("payments", State.CLOSED, State.OPEN),
        ("payments", State.OPEN, State.HALF_OPEN),
        ("payments", State.HALF_OPEN, State.CLOSED),
    ]
    assert "a bad listener" in caplog.text


def test_the_registry_names_every_breaker_that_lives(clock: Any) -> None:
    registry = CircuitRegistry()
    first = CircuitBreaker(registry=registry)
    second = CircuitBreaker("payments", registry=registry)
    third = CircuitBreaker("payments", registry=registry)
    assert [one.name for one in registry] == ["circuit-1", "payments", "payments"]
    assert set(registry.named("payments")) == {second, third}
    assert first.name == "circuit-1"
    del third
    gc.collect()
    assert registry.named("payments") == [second]


def test_what_telemetry_reads(clock: Any) -> None:
    policy = breaker(clock)
    policy.call(answer)
    open_by_failures(policy.call)
    with pytest.raises(CircuitOpen):
        policy.call(answer)
    read = {(name, *sorted(labels.items())): value for name, value, labels in policy.measures()}
    name = ("name", "payments")
    counted = {
        outcome: read["standfast.resilience.calls", name, ("outcome", outcome), policy_label]
        for policy_label in [("policy", "circuit_breaker")]
        for outcome in ("success", "failure", "ignored", "rejected")
    }
    assert counted == {"success": 1, "failure": 3, "ignored": 0, "rejected": 1}
    assert read["standfast.circuit_breaker.state", name, ("state", "open")] == 1
    assert read["standfast.circuit_breaker.state", name, ("state", "closed")] == 0
    assert read["standfast.circuit_breaker.transitions", name, ("to", "open")] == 1


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"failure_rate": 50}, "failure_rate=50"),
        ({"failure_rate": None}, "give a threshold"),
        ({"minimum_calls": 0}, "minimum_calls=0"),
        ({"minimum_calls": 200}, "widen the window"),
        ({"half_open_calls": 0}, "half_open_calls=0"),
        ({"window": 0}, "window=0"),
        ({"window": 1.5}, "window=1.5"),
        ({"window": "soon"}, "window='soon'"),
        ({"wait": "0s"}, "wait='0s'"),
        ({"slow_call_rate": 0.5}, "give both"),
        ({"on_cancellation": "maybe"}, "on_cancellation='maybe'"),
    ],
)
def test_bad_options_are_refused_when_it_is_built(options: Any, message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        CircuitBreaker(**options)


@pytest.mark.parametrize(
    ("options", "enough"),
    [
        ({}, 5),
        ({"failure_rate": None, "failure_count": 3}, 3),
        ({"failure_rate": None, "consecutive_failures": 2}, 2),
        ({"failure_rate": None, "slow_call_rate": 1, "slow_call_duration": "1h"}, None),
    ],
)
def test_a_small_window_needs_no_more_calls_than_it_holds(options: Any, enough: int | None) -> None:
    policy = CircuitBreaker(window=5, **options)
    calls = 0
    while policy.state is State.CLOSED and calls < 9:
        calls += 1
        with pytest.raises(OSError):
            policy.call(fail, OSError())
    assert calls == (enough or 9)


@pytest.fixture
def restless_threads() -> Iterator[None]:
    """Threads take turns as often as they can."""
    usual = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(usual)


@pytest.mark.parametrize("window", [1_000_000, "1h"])
@pytest.mark.usefixtures("restless_threads")
def test_many_threads_lose_no_outcome(window: Any) -> None:
    policy = CircuitBreaker("counted", window=window, failure_rate=1.0)
    call = policy(answer)
    failing = policy(fail)

    def work() -> None:
        for turn in range(2000):
            call()
            with policy:
                pass
            if turn % 20 == 0:
                with pytest.raises(OSError, match="down"):
                    failing()
            if turn % 500 == 0:
                assert policy.successes > turn

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (policy.successes, policy.failures) == (16_000, 400)
    counted = policy._machine.window
    assert (counted.calls, counted.failures) == (16_400, 400)


def test_a_call_in_the_midst_of_another_s_transition_does_not_deadlock(clock: Any) -> None:
    """As from a signal handler or a finalizer: here the clock calls while the lock is held."""
    policy = breaker(clock, failure_rate=0.9, consecutive_failures=None, minimum_calls=1)
    call, nested = policy(answer), []

    class Nested:
        def __init__(self) -> None:
            self.armed = False

        def monotonic(self) -> float:
            if self.armed:
                self.armed = False
                nested.append(policy.call(answer, policy.successes))
                with pytest.raises(OSError, match="down"):
                    policy.call(fail)
            return float(clock.monotonic())

    inner = Nested()
    policy._monotonic = inner.monotonic
    for _ in range(10):
        call()
    inner.armed = True
    with pytest.raises(OSError, match="down"):
        policy.call(fail)
    assert nested == [10]
    assert (policy.successes, policy.failures, policy.state) == (11, 2, State.CLOSED)
