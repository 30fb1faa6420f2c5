"""Fallback: substitutes, and how the caller learns of them."""

import asyncio
import functools

import pytest

from standfast.errors import ConfigurationError, Refused
from standfast.resilience import Fallback, LastGood, Pipeline, Retry, Timeout, collect_degraded
from standfast.resilience.backoff import Constant
from standfast.resilience.in_progress import IN_PROGRESS
from standfast.testing import FaultyFunction, ManualClock


@pytest.fixture(params=["def", "async def"])
def run(request):
    async def run(policy, function, *args, **kwargs):
        if request.param == "def":
            return policy(function.__call__)(*args, **kwargs)
        return await policy(function.awaited)(*args, **kwargs)

    return run


async def test_a_value_in_place_of_a_failure(run):
    with collect_degraded() as degraded:
        assert await run(Fallback([], name="stock"), FaultyFunction(then=OSError("away"))) == []
    (one,) = degraded
    assert (one.policy, one.source, one.age) == ("stock", "value", 0)
    assert isinstance(one.error, OSError)


async def test_none_is_a_value(run):
    assert await run(Fallback(None), FaultyFunction(then=OSError)) is None


async def test_a_good_answer_is_not_degraded(run):
    with collect_degraded() as degraded:
        assert await run(Fallback(0), FaultyFunction(then=7)) == 7
    assert degraded == []


async def test_a_function_gets_the_error_and_the_arguments(run):
    policy = Fallback(function=lambda error, user, *, lang: (str(error), user, lang))
    answer = await run(policy, FaultyFunction(then=OSError("away")), 7, lang="en")
    assert answer == ("away", 7, "en")
    assert policy.used["function"] == 1


async def test_a_function_may_be_async_around_async():
    async def other(error):
        await asyncio.sleep(0)
        return "other"

    assert await Fallback(function=other).call(FaultyFunction(then=OSError).awaited) == "other"
    with pytest.raises(ConfigurationError, match="plain function"):
        Fallback(function=other)(FaultyFunction().__call__)


async def test_a_function_that_fails_too_tells_both(run):
    def fails(error):
        raise KeyError("cache")

    with collect_degraded() as degraded, pytest.raises(KeyError) as caught:
        await run(Fallback(function=fails), FaultyFunction(then=OSError))
    assert isinstance(caught.value.__context__, OSError)
    assert degraded == []


async def test_the_last_good_answer_with_its_age(run):
    clock = ManualClock()
    policy = Fallback(last_good=LastGood("1m"), name="prices", clock=clock)
    function = FaultyFunction([10, 20, OSError, OSError, OSError, OSError])
    assert await run(policy, function, "apples") == 10
    clock.advance(30)
    assert await run(policy, function, "pears", unit="kg") == 20
    with collect_degraded() as degraded:
        clock.set_wall(0)  # the system clock is nobody's business
        clock.advance(10)
        assert await run(policy, function, "apples") == 10
        assert await run(policy, function, "pears", unit="kg") == 20
    assert [(one.source, one.age) for one in degraded] == [("last good", 40), ("last good", 10)]
    with pytest.raises(OSError):
        await run(policy, function, "plums")
    clock.advance(21)
    with pytest.raises(OSError):
        await run(policy, function, "apples")


async def test_the_value_when_no_last_good_answer_is_kept(run):
    policy = Fallback(0, last_good=LastGood())
    function = FaultyFunction([OSError, 5, OSError])
    assert [await run(policy, function) for _ in range(3)] == [0, 5, 5]
    assert policy.used == {"value": 1, "function": 0, "last good": 1}


async def test_the_kept_answers_are_bounded(run):
    kept = LastGood(size=10, key=lambda n: n)
    function = FaultyFunction(then=1)
    policy = Fallback(last_good=kept)
    for n in range(1000):
        await run(policy, function, n)
    assert len(kept) == 10


@pytest.mark.parametrize("error", [Refused("no"), KeyError("k"), ValueError("v")])
async def test_business_and_what_is_not_listed_comes_out(run, error):
    policy = Fallback(0, on=(LookupError, Refused), never_on=(KeyError,))
    with pytest.raises(type(error)):
        await run(policy, FaultyFunction(then=error))
    assert await run(policy, FaultyFunction(then=IndexError)) == 0


async def test_cancellation_is_not_answered_for():
    task = asyncio.create_task(Fallback(0).call(FaultyFunction(takes=60).awaited))
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_collectors_hear_of_tasks_and_threads():
    policy = Fallback(0)
    with collect_degraded() as outer, collect_degraded() as inner:
        await asyncio.gather(*(policy.call(FaultyFunction(then=OSError).awaited) for _ in range(3)))
        await asyncio.to_thread(policy.call, FaultyFunction(then=OSError).__call__)
    assert len(inner) == len(outer) == 4


async def test_in_a_pipeline_it_answers_for_all_inside():
    clock = ManualClock(auto=True)
    function = FaultyFunction(then=OSError)
    pipeline = Pipeline(Fallback(0), Timeout(5), Retry(3, Constant(0.1), clock=clock))
    assert await pipeline.call(function.awaited) == 0
    assert len(function.calls) == 3


@pytest.mark.parametrize(
    ("make", "told"),
    [
        (lambda: Fallback(), "without an answer"),
        (lambda: Fallback(1, function=print), "value=1"),
        (lambda: Fallback(function=3), "function=3"),
        (lambda: Fallback(last_good=60), "last_good=60"),
        (lambda: Fallback(0, on=OSError), "on="),
        (lambda: LastGood(0), "max_age=0"),
        (lambda: LastGood(size=0), "size=0"),
        (lambda: LastGood(key="id"), "key='id'"),
    ],
)
def test_bad_options_are_refused_with_their_value(make, told):
    with pytest.raises(ConfigurationError, match=told):
        make()


# -- whose last good answer --------------------------------------------------------------------


@pytest.fixture(params=["alone", "in a pipeline", "in the inner one of two"])
def wrap(request):
    if request.param == "alone":
        return lambda policy: policy
    if request.param == "in a pipeline":
        return lambda policy: Pipeline(policy, Retry(backoff=Constant(0)), Timeout("20s"))
    return lambda policy: Pipeline(Pipeline(policy, Timeout("20s")), Retry(backoff=Constant(0)))


def of(function, kind):
    """`function` as a ``def`` or an ``async def``."""
    if kind == "def":
        return function

    async def awaited(*args, **kwargs):
        return function(*args, **kwargs)

    return awaited


async def answer(value):
    return await value if asyncio.iscoroutine(value) else value


def fails_after_one_call(name):
    answers = iter([f"{name} is up"])

    def function(*args):
        try:
            return f"{next(answers)}{args}"
        except StopIteration:
            raise OSError(f"{name} is down") from None

    return function


@pytest.mark.parametrize("way", ["decorated", "called"])
@pytest.mark.parametrize("kind", ["def", "async def"])
async def test_two_functions_have_answers_of_their_own(wrap, kind, way):
    policy = wrap(Fallback(last_good=LastGood()))
    price, stock = (of(fails_after_one_call(name), kind) for name in ("price", "stock"))
    if way == "decorated":
        price, stock = policy(price), policy(stock)
    else:
        price, stock = functools.partial(policy.call, price), functools.partial(policy.call, stock)
    assert await answer(price(7)) == "price is up(7,)"
    assert await answer(price(7)) == "price is up(7,)", "the last good one of its own"
    with pytest.raises(OSError, match="price is down"):
        await answer(price(8))
    assert await answer(stock(7)) == "stock is up(7,)"


def test_a_last_good_that_two_fallbacks_share_keeps_functions_apart():
    kept = LastGood(key=lambda number: number)
    price = Fallback(last_good=kept)(fails_after_one_call("price"))
    stock = Fallback(last_good=kept)(fails_after_one_call("stock"))
    price(7)
    assert stock(7) == "stock is up(7,)"


def test_filled_in_arguments_and_bound_methods_tell_calls_apart():
    policy = Fallback(last_good=LastGood())

    class Client:
        def __init__(self, name):
            self.get = fails_after_one_call(name)

        def page(self, path):
            return self.get(path)

    one, other = Client("one"), Client("other")
    assert policy.call(one.page, "/") == policy.call(one.page, "/") == "one is up('/',)"
    assert policy.call(other.page, "/") == "other is up('/',)"
    page = functools.partial(Client.page, Client("third"))
    assert policy.call(functools.partial(page, "/")) == "third is up('/',)"
    assert policy.call(functools.partial(page, "/")) == "third is up('/',)"
    with pytest.raises(OSError, match="third is down"):
        policy.call(functools.partial(page, "/other"))


def test_equal_arguments_of_different_types_are_not_the_same_question():
    policy = Fallback(last_good=LastGood())
    function = FaultyFunction(["one"], then=OSError)
    assert policy.call(function.__call__, 1) == "one"
    for other in (True, 1.0):
        with pytest.raises(OSError):
            policy.call(function.__call__, other)
    assert policy.call(function.__call__, 1) == "one"


@pytest.mark.parametrize("bound", [False, True])
def test_arguments_by_name_ask_what_those_by_position_do(bound):
    class Shop:
        def price(self, item, size=1, /, color="red", *, sale=False): ...

    function = Shop().price if bound else Shop.price
    first = () if bound else (Shop(),)
    kept = LastGood()

    def key(*args, **kwargs):
        return kept.key(function, (*first, *args), kwargs)

    assert key("lamp", 2, "blue") == key("lamp", 2, color="blue")
    assert key("lamp", 2, "blue", sale=True) == key("lamp", 2, sale=True, color="blue")
    assert key("lamp", 2, color="blue") != key("lamp", 2, color="red")
    assert key("lamp", color="blue") != key("lamp", "blue")
    assert key("lamp", 2, color=1) != key("lamp", 2, color=True)


def test_what_takes_any_names_keeps_them_apart():
    def anything(a, /, b=1, **rest): ...

    kept = LastGood()
    assert kept.key(anything, (1,), {"b": 2}) == kept.key(anything, (1, 2), {})
    assert kept.key(anything, (1,), {"a": 2}) != kept.key(anything, (1, 2), {})
    assert kept.key(print, (1,), {"end": ""}) != kept.key(print, (1, ""), {})


async def test_a_slow_answer_does_not_replace_one_to_a_later_call():
    clock, first = ManualClock(), asyncio.Event()
    answers = iter(["old", "new"])

    async def price():
        answer = next(answers, None)
        if answer == "old":
            await first.wait()
        if answer is None:
            raise OSError
        return answer

    policy = Fallback(last_good=LastGood("1m"), clock=clock)(price)
    slow = asyncio.create_task(policy())
    await asyncio.sleep(0)
    clock.advance(1)
    assert await policy() == "new"
    clock.advance(1)
    first.set()
    assert await slow == "old"
    assert await policy() == "new"


def test_a_slow_answer_replaces_one_that_is_too_old():
    kept = LastGood("1m")
    kept.keep("k", "new", now=10.0, begun=9.0)
    kept.keep("k", "old", now=100.0, begun=1.0)
    assert kept.find("k", 110.0) == (10.0, "old")


@pytest.mark.parametrize("kept", [LastGood(), LastGood(key=lambda order: [order])])
async def test_arguments_that_can_not_be_hashed_are_refused_before_the_call(run, kept):
    function = FaultyFunction(then="charged")
    with pytest.raises(TypeError, match=r"not made: unhashable.*LastGood\(key=\.\.\.\)"):
        await run(Fallback(last_good=kept), function, {"id": 1})
    assert function.calls == []


async def test_in_a_transport_the_request_is_the_key(run):
    class Exchange:
        def __init__(self, path):
            self.path = path

        def may_repeat(self):
            return True

        def identity(self):
            return self.path

    policy = Fallback(last_good=LastGood())
    function = FaultyFunction(["alice's page"], then=OSError)

    async def get(path):
        before = IN_PROGRESS.set(Exchange(path))
        try:
            return await run(policy, function)
        finally:
            IN_PROGRESS.reset(before)

    assert await get("/alice") == "alice's page"
    with pytest.raises(OSError):
        await get("/bob")
    assert await get("/alice") == "alice's page"


async def test_what_call_async_makes_is_the_function_that_it_was_given():
    policy, function = Fallback(last_good=LastGood()), fails_after_one_call("stock")

    def answers_later(number):
        return of(function, "async def")(number)

    for _ in range(2):
        assert await policy.call_async(answers_later, 7) == "stock is up(7,)"


def test_the_last_good_answer_is_the_object_itself() -> None:
    """As `functools.cache` has it: a copy of each answer would cost more than most of them."""
    answers = iter([["a"]])
    policy = Fallback(last_good=LastGood())

    def ask() -> list[str]:
        try:
            return next(answers)
        except StopIteration:
            raise OSError("away") from None

    assert policy.call(ask) is policy.call(ask)


def test_a_named_argument_counts_with_its_type():
    """1, 1.0 and True are equal, and yet not the same question."""
    keys = {LastGood().key(len, (), {"x": x}) for x in (1, 1.0, True)}
    assert len(keys) == 3


def test_the_order_of_named_arguments_makes_no_other_question():
    def ask(**named):
        return named

    one, other = ({"a": 1, "b": 2}, {"b": 2, "a": 1})
    assert LastGood().key(ask, (), one) == LastGood().key(ask, (), other)
    assert LastGood().key(ask, (), one) != LastGood().key(ask, (), {"a": 2, "b": 1})


def test_an_answer_that_was_renewed_stays_longer():
    kept = LastGood(size=2)
    for key in ("a", "b", "a", "c"):
        kept.keep(key, key, 0.0)
    assert [kept.find(key, 0.0) for key in "abc"] == [(0.0, "a"), None, (0.0, "c")]


def test_an_answer_that_was_used_stays_longer():
    kept = LastGood(size=2)
    for key in "ab":
        kept.keep(key, key, 0.0)
    kept.find("a", 0.0)
    kept.keep("c", "c", 0.0)
    assert [kept.find(key, 0.0) for key in "abc"] == [(0.0, "a"), None, (0.0, "c")]


def test_it_is_shown_without_its_value():
    """That may be anybody's data, and messages show policies."""
    assert repr(Fallback({"card": "4111"}, name="stock")) == "Fallback(name='stock')"
    assert repr(Fallback(0)) == "Fallback()"
