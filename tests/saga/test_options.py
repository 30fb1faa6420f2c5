"""Options of a wrong type, out of range, or at odds with each other are refused by name."""

from __future__ import annotations

from datetime import timedelta
from functools import partial
from typing import Any

import pytest

from standfast import Context, Exponential, Migration, Retry, Saga, Standfast, child, step, wait
from standfast.codec import JsonCodec
from standfast.errors import ConfigurationError, DefinitionError
from standfast.resilience import Pipeline, Timeout
from standfast.saga.definition import Definition
from standfast.saga.plan import MOST_STEPS, Plan, StepPlan
from standfast.testing import run_saga
from tests.saga.classes import saga_class

NAN = float("nan")


async def act(self: Any, thing: int, ctx: Context) -> None: ...


async def of_item(self: Any, thing: int, ctx: Context, item: Any) -> None: ...


async def async_function(self: Any, thing: int, ctx: Context) -> Any: ...


async def async_generator(self: Any, thing: int, ctx: Context) -> Any:
    yield 1


class AsyncCall:
    async def __call__(self, saga: Any, thing: int, ctx: Context) -> Any: ...


ASYNC = [
    async_function,
    async_generator,
    AsyncCall(),
    partial(async_function),
    partial(partial(AsyncCall())),
]


class Inner(Saga[int]):
    go = step(no_compensation="none")(act)


@pytest.mark.parametrize("function", ASYNC)
@pytest.mark.parametrize(
    "make",
    [
        lambda function: step(when=function, no_compensation="none")(act),
        lambda function: step(each=function, no_compensation="none")(of_item),
        lambda function: wait("w", when=function),
        lambda function: child(Inner, function),
        lambda function: child(Inner, lambda *_: 1, when=function),
        lambda function: Migration(input=function),
    ],
    ids=["when", "each", "wait when", "child input", "child when", "migration"],
)
def test_an_async_function_is_refused_where_a_plain_one_is_called(make, function):
    with pytest.raises(DefinitionError, match="plain function"):
        make(function)


@pytest.mark.parametrize(
    ("saga", "said"),
    [
        (
            {"a": step(when=lambda *_: async_function(*_), no_compensation="none")(act)},
            r"when= answered with a coroutine, which nobody awaits",
        ),
        (
            {"a": step(each=lambda *_: async_function(*_), no_compensation="none")(of_item)},
            r"each= answered with a coroutine, which nobody awaits",
        ),
        (
            {"a": child(Inner, lambda *_: async_function(*_), no_compensation="none")},
            r"a child's input answered with a coroutine, which nobody awaits",
        ),
        (
            {"a": step(each=lambda *_: "abc", no_compensation="none")(of_item)},
            "each= answered with a str: give a list",
        ),
        (
            {"a": step(each=lambda *_: {"k": 1}, no_compensation="none")(of_item)},
            "each= answered with a dict: give a list",
        ),
        (
            {"a": step(each=lambda *_: None, no_compensation="none")(of_item)},
            "each= answered with a NoneType: give a list",
        ),
    ],
)
def test_an_answer_that_isnt_one_fails_the_step(saga, said):
    run = run_saga([saga_class(Saga[int], saga, "Odd")(), Inner()], 1)
    assert run.status == "compensated"
    assert said in run.cause


@pytest.mark.parametrize("function", [async_generator, partial(act), AsyncCall(), max, "act"])
def test_what_cant_be_a_step(function):
    with pytest.raises(
        DefinitionError, match=r"can't be a step(: write it with `async def`|, for)"
    ):
        step(function)


WRONG = [
    ({"retry": 0}, "has retry=0: give a Retry"),
    ({"retry": "3"}, "has retry='3': give a Retry"),
    (
        {"retry": Pipeline(Timeout(2), Retry())},
        r"has retry=Pipeline\(Timeout\('2s'\), Retry\(\)\): give a Retry, .* put other policies on",
    ),
    ({"timeout": 10**400}, "timeout=.*"),
    ({"timeout": "999999w"}, "longer than a hundred years. Give None for no limit"),
    ({"timeout": NAN}, "timeout=nan"),
    ({"timeout": -1}, "timeout=-1"),
    ({"timeout": True}, "timeout=True: not a duration"),
    ({"timeout": [5]}, r"timeout=\[5\]: not a duration"),
    ({"timeout": timedelta(0)}, "timeout="),
    ({"pivot": "yes"}, "pivot='yes': must be True or False"),
    ({"transactional": 1}, "transactional=1: must be True or False"),
    ({"on_exhausted": ""}, "on_exhausted=''"),
    ({"on_exhausted": 5}, "on_exhausted=5"),
    ({"no_compensation": True}, "no_compensation=True: say in words why"),
    ({"after": 5}, "comes after 5, which isn't a step"),
    ({"after": {}}, r"comes after \{\}, which isn't a step"),
    ({"after": [["a"]]}, r"comes after \['a'\], which isn't a step"),
    ({"when": True}, "when= must be a function of"),
    ({"each": [1]}, "each= must be a function of"),
]


@pytest.mark.parametrize(("options", "match"), WRONG, ids=str)
def test_a_wrong_option_of_a_step_is_named(options, match):
    with pytest.raises(ConfigurationError, match=match):
        made = step(**{"no_compensation": "none", **options})(act)
        Standfast("memory://").add(saga_class(Saga[int], {"a": made}, "Odd")())


@pytest.mark.parametrize("limit", ["3", True, 0, 2.5, NAN, -1])
def test_a_limit_is_a_whole_number(limit):
    with pytest.raises(
        DefinitionError, match=f"limit={limit!r}: must be a whole number, 1 or more"
    ):
        step(each=lambda *_: [], limit=limit, no_compensation="none")(of_item)


@pytest.mark.parametrize(
    "options", [{"timeout": 10**400}, {"retry": 3}, {"transactional": "no"}], ids=str
)
def test_a_wrong_option_of_a_compensation_is_named(options):
    (name,) = options
    with pytest.raises(ConfigurationError, match=name):
        made = step(act)
        made.compensation(**options)(of_item if "transactional" in options else act)
        Standfast("memory://").add(saga_class(Saga[int], {"a": made}, "Odd")())


@pytest.mark.parametrize(
    ("make", "match"),
    [
        (lambda: wait(""), "signal='' has 0 characters"),
        (lambda: wait(5), "signal=5: must be text"),
        (lambda: wait("x" * 501), "has 501 characters: give 1 to 500"),
        (lambda: wait("a\0b"), "NUL"),
        (lambda: wait("w", when=5), "when= must be a function"),
        (lambda: wait("w", timeout="3 days"), "timeout='3 days': not a duration"),
        (lambda: wait("w", timeout=10**400), "timeout=1000"),
        (lambda: wait("w", timeout=1, on_timeout=False), "on_timeout=False"),
        (lambda: wait("w", on_timeout="park"), "has on_timeout='park', but no timeout"),
        (lambda: child("Inner", lambda *_: 1), r"child\('Inner', …\): give the class of a saga"),
        (lambda: child(Inner(), lambda *_: 1), "give the class of a saga"),
        (lambda: child(Inner, 5), "input= must be a function of"),
        (lambda: child(Inner, lambda *_: 1, no_compensation=5), "no_compensation=5"),
    ],
)
def test_a_wrong_option_of_a_wait_or_a_child_is_named(make, match):
    with pytest.raises(ConfigurationError, match=match):
        Standfast("memory://").add(saga_class(Saga[int], {"a": make()}, "Odd")())


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"version": True}, "version=True: must be a whole number"),
        ({"version": 1.5}, "version=1.5: must be a whole number"),
        ({"max_in_flight": "5"}, "max_in_flight='5': must be a whole number, 1 or more, or None"),
        ({"max_in_flight": True}, "max_in_flight=True"),
        ({"threads": 0}, "threads=0: must be a whole number, 1 or more, or None"),
        ({"name": 5}, "saga name 5 can't be stored"),
        ({"deadline": 10**400}, "odd.deadline=1000"),
        ({"deadline": NAN}, "odd.deadline=nan"),
        ({"deadline": True}, "odd.deadline=True"),
        ({"deadline_ends_parked": "yes"}, "deadline_ends_parked='yes': must be True or False"),
        ({"migrations": [1]}, r"migrations=\[1\]: give a dict"),
        ({"version": 2, "migrations": {1: "move"}}, r"give a Migration\(\), not 'move'"),
        ({"version": 2, "migrations": {"1": Migration()}}, "from version '1': give the number"),
    ],
    ids=str,
)
def test_a_wrong_option_of_a_saga_is_named(options, match):
    body = {"a": step(no_compensation="none")(act), **options}
    with pytest.raises(ConfigurationError, match=match):
        Standfast("memory://").add(saga_class(Saga[int], body, "Odd")())


@pytest.mark.parametrize("renamed", [["a"], {"a": 1}, {1: "a"}], ids=str)
def test_a_migration_renames_by_name(renamed):
    with pytest.raises(DefinitionError, match="give a dict of names"):
        Migration(renamed=renamed)


@pytest.mark.parametrize("attempts", ["3", True, 0, -1, 2.5, NAN])
def test_attempts_are_a_whole_number(attempts):
    with pytest.raises(ConfigurationError, match=r"attempts=.*: must be"):
        Retry(attempts=attempts)


@pytest.mark.parametrize("factor", ["2", True, NAN, 0.5])
def test_a_factor_is_a_number(factor):
    with pytest.raises(ConfigurationError, match=r"factor=.*: must be"):
        Exponential(factor=factor)


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"database": 5}, "database=5: give a URL, or an object with open, close, port"),
        ({"database": None}, "database=None: give a URL"),
        ({"codec": JsonCodec}, "codec=.*JsonCodec.*: give an object with encode, decode"),
        ({"codec": 5}, "codec=5: give an object with encode, decode"),
        ({"clock": 5}, "clock=5: give an object with now, monotonic, sleep"),
        ({"migrate": "yes"}, "migrate='yes': must be True or False"),
    ],
    ids=str,
)
def test_a_wrong_option_of_an_app_is_named(options, match):
    with pytest.raises(ConfigurationError, match=match):
        Standfast(**{"database": "memory://", **options})


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"max_in_flight": "10"}, "max_in_flight='10': must be a whole number"),
        ({"threads": None}, "threads=None: must be a whole number, 1 or more"),
        ({"max_in_flight": True}, "max_in_flight=True"),
        ({"max_in_flight": 0}, "max_in_flight=0"),
        ({"name": 5}, "name=5: must be text"),
        ({"lease": "soon"}, "lease='soon'"),
        ({"lease": 10**400}, "lease=1000"),
        ({"lease": NAN}, "lease=nan"),
        ({"poll": True}, "poll=True"),
        ({"linger": -1}, "linger=-1"),
        ({"drain": NAN}, "drain=nan"),
        ({"only": "sagas"}, "only='sagas'"),
    ],
    ids=str,
)
async def test_a_wrong_option_of_running_is_named(options, match):
    app = Standfast("memory://").add(Inner())
    with pytest.raises(ConfigurationError, match=match):
        async with app.running(**options):
            pass


# -- many steps ----------------------------------------------------------------------------------


def chain(length: int) -> list[StepPlan]:
    return [
        StepPlan(f"s{n}", after=(f"s{n - 1}",) if n else (), no_compensation="none")
        for n in range(length)
    ]


def test_a_long_chain_of_steps_runs():
    body = {f"s{n}": step(no_compensation="none")(act) for n in range(1200)}
    saga = saga_class(Saga[int], body, "Long")()
    plan = Definition(saga).plan
    assert len(plan.descendants["s0"]) == 1199
    assert plan.is_before("s3", "s1199")
    assert not plan.is_before("s1199", "s3")


def test_more_steps_than_can_be_are_refused():
    with pytest.raises(DefinitionError, match=f"has {MOST_STEPS + 1} steps: at most {MOST_STEPS}"):
        Plan("long", 1, chain(MOST_STEPS + 1))


def test_a_long_circle_is_told():
    steps = chain(1200)
    steps[0] = StepPlan("s0", after=("s2",), no_compensation="none")
    with pytest.raises(DefinitionError, match=r"depends on itself \(s0 → s1 → s2 → s0\)"):
        Plan("long", 1, steps)


# -- at odds with each other ---------------------------------------------------------------------


@pytest.mark.parametrize(
    ("deadline", "made", "match"),
    [
        (
            1,
            wait("w", timeout="3d"),
            "step 'a' has timeout=3d, but the whole saga a deadline of 1s",
        ),
        ("1m", step(timeout="61s", no_compensation="none")(act), "has timeout=1m1s, but"),
        ("1m", wait("w", timeout="1h", on_timeout="continue"), "has timeout=1h, but"),
    ],
)
def test_a_timeout_beyond_the_deadline_is_refused(deadline, made, match):
    saga = saga_class(Saga[int], {"deadline": deadline, "a": made}, "Odd")
    with pytest.raises(DefinitionError, match=f"{match}.*raise the deadline, or shorten"):
        Standfast("memory://").add(saga())


def test_past_the_pivot_a_timeout_may_be_longer_than_the_deadline():
    body = {
        "deadline": "1m",
        "before": step(timeout="1m", no_compensation="none")(act),
        "pay": step(pivot=True, timeout="1h")(act),
        "late": wait("late", timeout="3d"),
    }
    Standfast("memory://").add(saga_class(Saga[int], body, "Fine")())
