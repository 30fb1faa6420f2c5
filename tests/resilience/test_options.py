"""What users hand to policies: checked when a policy is built, and survived when it fails."""

import asyncio
import functools
import logging

import pytest

from standfast.errors import CircuitOpen, ConfigurationError
from standfast.resilience import (
    AdaptiveBulkhead,
    Bulkhead,
    CircuitBreaker,
    CircuitRegistry,
    Fallback,
    Hedge,
    LastGood,
    Pipeline,
    Retry,
    RetryBudget,
    ThreadPoolBulkhead,
    Timeout,
)
from standfast.resilience.backoff import Constant, Exponential
from standfast.resilience.budget import is_marked
from standfast.testing import ManualClock


async def awaited(*_):
    return True


def generator(*_):
    yield True


class AsyncCallable:
    async def __call__(self, *_):
        return True


class Backoff:
    """A user's own, which gives what it is told to."""

    def __init__(self, gives):
        self.gives = gives

    def delay(self, attempt, previous, random):
        if isinstance(self.gives, Exception):
            raise self.gives
        return self.gives


class AsyncBackoff:
    async def delay(self, attempt, previous, random):
        return 1.0


ANSWERS_LATER = [awaited, functools.partial(awaited, 1), AsyncCallable(), generator]


@pytest.mark.parametrize("function", ANSWERS_LATER)
@pytest.mark.parametrize(
    ("option", "build"),
    [
        ("on_result", lambda f: Retry(on_result=f)),
        ("key", lambda f: LastGood(key=f)),
        ("judge_result", lambda f: CircuitBreaker(judge_result=f)),
        ("retry_after", lambda f: CircuitBreaker(retry_after=f)),
        ("listener", lambda f: CircuitBreaker(listeners=[f])),
        ("listener", lambda f: CircuitBreaker().on_change(f)),
        ("watcher", lambda f: CircuitRegistry().on_add(f)),
    ],
)
def test_functions_that_answer_later_are_refused_when_it_is_built(option, build, function):
    with pytest.raises(ConfigurationError):
        build(function)


@pytest.mark.parametrize(
    ("option", "build"),
    [
        ("on_result", lambda: Retry(on_result=awaited)),
        ("key", lambda: LastGood(key=awaited)),
        ("judge_result", lambda: CircuitBreaker(judge_result=awaited)),
        ("backoff.delay", lambda: Retry(backoff=AsyncBackoff())),
        ("wait.delay", lambda: CircuitBreaker(wait=AsyncBackoff())),
    ],
)
def test_the_message_names_the_option_and_the_remedy(option, build):
    with pytest.raises(ConfigurationError, match=rf"{option}=.* is async.*plain `def`"):
        build()


GIVES_A_GENERATOR = (lambda: lambda *_: (one for one in ()))()


def test_functions_that_turn_out_to_answer_with_a_generator():
    for use in (
        Retry(on_result=GIVES_A_GENERATOR).call,
        Fallback(function=GIVES_A_GENERATOR).call,
        Fallback(last_good=LastGood(key=GIVES_A_GENERATOR)).call,
        lambda function: ThreadPoolBulkhead(1).submit(generator).result(),
    ):
        with pytest.raises(ConfigurationError, match="answered with a generator"):
            use(down if "Fallback" in repr(use) else int)


async def test_a_fallback_function_around_a_coroutine_that_answers_with_a_generator():
    async def fails():
        raise OSError

    with pytest.raises(ConfigurationError, match="answered with a generator"):
        await Fallback(function=GIVES_A_GENERATOR).call(fails)


def test_a_fallback_of_a_generator_is_refused():
    with pytest.raises(ConfigurationError, match="generator"):
        Fallback(function=generator)


@pytest.mark.parametrize("option", ["failure_on", "success_on", "ignore_on"])
@pytest.mark.parametrize("value", [OSError, [OSError], ("OSError",), (OSError("away"),), None])
def test_filters_of_a_breaker_are_tuples_of_exception_classes(option, value):
    with pytest.raises(ConfigurationError, match=f"{option}="):
        CircuitBreaker(**{option: value})


@pytest.mark.parametrize("value", ["3", 2.5, True, float("nan")])
@pytest.mark.parametrize(
    ("option", "build"),
    [
        ("attempts", lambda n: Retry(attempts=n)),
        ("most", lambda n: Hedge(1, most=n)),
        ("size", lambda n: LastGood(size=n)),
        ("limit", lambda n: Bulkhead(n)),
        ("queue", lambda n: Bulkhead(1, queue=n)),
        ("initial", lambda n: AdaptiveBulkhead(n)),
        ("core", lambda n: ThreadPoolBulkhead(n)),
        ("queue", lambda n: ThreadPoolBulkhead(1, queue=n)),
        ("minimum_calls", lambda n: CircuitBreaker(minimum_calls=n)),
        ("half_open_calls", lambda n: CircuitBreaker(half_open_calls=n)),
    ],
)
def test_numbers_are_whole(option, build, value):
    with pytest.raises(ConfigurationError, match=rf"{option}={value!r}: must be a whole number"):
        build(value)


@pytest.mark.parametrize("value", ["0.5", True, float("nan"), None])
@pytest.mark.parametrize(
    ("option", "build"),
    [
        ("ratio", lambda n: RetryBudget(n)),
        ("per_second", lambda n: RetryBudget(per_second=n)),
        ("burst", lambda n: RetryBudget(burst=n)),
        ("factor", lambda n: Exponential(factor=n)),
        ("smoothing", lambda n: AdaptiveBulkhead(smoothing=n)),
        ("tolerance", lambda n: AdaptiveBulkhead(tolerance=n)),
        ("percentile", lambda n: Hedge(1, percentile=n or "none")),
        ("failure_rate", lambda n: CircuitBreaker(failure_rate=n or "none")),
    ],
)
def test_shares_and_factors_are_numbers(option, build, value):
    with pytest.raises(ConfigurationError, match=rf"{option}=.*: must be a number"):
        build(value)


# -- hooks that fail ---------------------------------------------------------------------------


@pytest.fixture(params=["def", "async def"])
def run(request):
    """Calls a function under a policy, alone or in a pipeline."""

    async def run(policy, function):
        if request.param == "def":
            return policy.call(function)

        async def call():
            return function()

        return await policy.call(call)

    return run


@pytest.fixture(params=["alone", "in a pipeline"])
def wrap(request):
    return (lambda policy: policy) if request.param == "alone" else Pipeline


def down():
    raise OSError("the real error")


def asks_what_is_not_there(error):
    return error.headers["retry-after"]


@pytest.mark.parametrize(
    "hook",
    [
        asks_what_is_not_there,
        lambda _: float("nan"),
        lambda _: -1,
        lambda _: "soon",
    ],
)
async def test_a_retry_after_that_fails_hides_no_error_and_opens_as_usual(run, wrap, hook, caplog):
    clock = ManualClock()
    breaker = CircuitBreaker(consecutive_failures=1, wait="7s", retry_after=hook, clock=clock)
    with pytest.raises(OSError, match="the real error"):
        await run(wrap(breaker), down)
    assert breaker.retry_after == 7
    assert "retry_after=" in caplog.text


@pytest.mark.parametrize("asked", [float("inf"), 10**400])
def test_a_retry_after_without_end_opens_for_the_longest_that_it_may(asked):
    for hook in (None, lambda error: error.retry_after):
        breaker = CircuitBreaker(
            consecutive_failures=1,
            wait="7s",
            maximum_retry_after="60s",
            retry_after=hook,
            clock=ManualClock(),
        )
        error = OSError()
        error.retry_after = asked
        with pytest.raises(OSError), breaker:
            raise error
        assert breaker.retry_after == 60


@pytest.mark.parametrize("gives", [ValueError("no"), float("nan"), -1, "soon", float("inf"), None])
async def test_a_wait_that_fails_hides_no_error_and_opens_for_30_s(run, wrap, gives, caplog):
    breaker = CircuitBreaker(consecutive_failures=1, wait=Backoff(gives), clock=ManualClock())
    with pytest.raises(OSError, match="the real error"):
        await run(wrap(breaker), down)
    assert breaker.retry_after == 30
    assert "wait=" in caplog.text


@pytest.mark.parametrize("gives", [ValueError("no"), float("nan"), -1, "soon", float("inf")])
async def test_a_backoff_that_fails_hides_no_error_and_ends_the_attempts(run, wrap, gives, caplog):
    calls = []

    def fails():
        calls.append(1)
        down()

    with pytest.raises(OSError, match="the real error") as caught:
        await run(wrap(Retry(backoff=Backoff(gives))), fails)
    assert len(calls) == 1
    assert "the backoff failed" in caught.value.__notes__[0]
    assert "backoff=" in caplog.text


async def test_a_judge_that_answers_a_bool_is_told(run, wrap):
    breaker = CircuitBreaker(consecutive_failures=1, judge_result=lambda status: status < 500)
    with pytest.raises(ConfigurationError, match=r'judge_result=.* answered False.*"failure"'):
        await run(wrap(breaker), lambda: 503)


async def test_a_judge_whose_answer_must_be_awaited_is_told(run, wrap):
    retry = Retry(on_result=lambda status: awaited(status), backoff=Constant(0))
    with pytest.raises(ConfigurationError, match="awaitable"):
        await run(wrap(retry), lambda: 200)


class Frozen(Exception):
    """An error that lets nobody write to it."""

    def __setattr__(self, name, value):
        raise AttributeError("frozen")


class Hostile(Exception):
    """An error whose attributes fail."""

    def __getattr__(self, name):
        raise AttributeError(name) if name.startswith("__") else ZeroDivisionError(name)


@pytest.mark.parametrize("kind", [Frozen, Hostile])
async def test_an_error_that_can_not_be_looked_at_comes_through(run, wrap, kind):
    policy = Pipeline(Retry(backoff=Constant(0)), CircuitBreaker(consecutive_failures=3))
    calls = []

    def fails():
        calls.append(1)
        raise kind("the real error")

    with pytest.raises(kind, match="the real error") as caught:
        await run(wrap(policy), fails)
    assert len(calls) == 3
    assert is_marked(caught.value)


def test_a_listener_that_fails_is_logged_and_the_next_is_told(caplog):
    told = []

    def fails(breaker, change):
        raise ZeroDivisionError

    breaker = CircuitBreaker(listeners=[fails, lambda _, change: told.append(change.new.value)])
    with caplog.at_level(logging.ERROR):
        breaker.open()
    assert told == ["open"]
    with pytest.raises(CircuitOpen):
        breaker.call(down)


# -- what is decorated -------------------------------------------------------------------------

POLICIES = [
    lambda: Retry(backoff=Constant(0)),
    lambda: Timeout(20),
    lambda: Fallback(None),
    lambda: Fallback(last_good=LastGood()),
    lambda: Hedge(20),
    CircuitBreaker,
    lambda: Bulkhead(5),
    lambda: AdaptiveBulkhead(5),
    lambda: ThreadPoolBulkhead(2),
    lambda: Pipeline(Timeout(20), Retry(backoff=Constant(0)), CircuitBreaker(), Bulkhead(5)),
]


@pytest.mark.parametrize("make", POLICIES)
@pytest.mark.parametrize("way", ["decorated", "called"])
def test_a_plain_function_that_answers_with_a_coroutine_is_refused(make, way):
    begun = []

    async def work():
        begun.append(1)

    def plain():
        return work()

    policy = make()
    with pytest.raises(ConfigurationError, match=r"plain function that answered with an awaitable"):
        policy(plain)() if way == "decorated" else policy.call(plain)
    assert not begun, "nothing of it ran without protection"


def test_a_call_that_answers_with_another_awaitable_is_refused():
    class Request:
        def __await__(self):
            yield

    with pytest.raises(ConfigurationError, match=r"a Request.*call_async"):
        Retry().call(Request)


async def test_decorated_static_and_class_methods_are_protected():
    retry = Retry(backoff=Constant(0))
    calls = []

    class Client:
        @retry
        @staticmethod
        async def static():
            calls.append(1)
            raise OSError

        @retry
        @classmethod
        async def of_class(cls):
            calls.append(cls)
            raise OSError

        @staticmethod
        @retry
        def outside():
            calls.append(1)
            raise OSError

    for call in (Client.static, Client.of_class, Client().static, Client().of_class):
        calls.clear()
        with pytest.raises(OSError):
            await call()
        assert len(calls) == 3
    calls.clear()
    with pytest.raises(OSError):
        Client.outside()
    assert len(calls) == 3
    calls.clear()
    with pytest.raises(OSError):
        await retry.call(staticmethod(Client.__dict__["static"].__func__.__wrapped__))
    assert len(calls) == 3


async def test_a_singledispatch_is_protected_if_its_implementations_are_alike():
    retry = Retry(backoff=Constant(0))
    calls = []

    @functools.singledispatch
    async def send(what):
        calls.append(what)
        raise OSError

    @send.register
    async def _(what: int):
        calls.append(what)
        raise OSError

    for what in (7, "seven"):
        calls.clear()
        with pytest.raises(OSError):
            await retry(send)(what)
        assert calls == [what] * 3

    @send.register
    def _(what: float):
        return what

    with pytest.raises(ConfigurationError, match="singledispatch"):
        retry(send)


async def test_an_object_is_async_if_its_class_says_so():
    retry = Retry(backoff=Constant(0))
    made = retry.call(AsyncCallable)
    assert isinstance(made, AsyncCallable), "calling a class gives an object, no coroutine"
    assert await retry.call(made)
    assert await retry.call(functools.partial(made, 1))
    assert asyncio.iscoroutinefunction(retry(made))
