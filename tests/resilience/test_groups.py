"""What a ``TaskGroup`` raises is judged, everywhere, by what is in it."""

import math
from typing import Any

import pytest

from standfast import Refused, Retry
from standfast.errors import CircuitOpen, RateLimited
from standfast.groups import every, leaves, lineage, some
from standfast.resilience import CircuitBreaker, Constant, Fallback, do_not_retry
from standfast.resilience.breaker import State
from standfast.resilience.budget import is_final, is_marked, let_pass
from standfast.resilience.retry_after import retry_after
from standfast.saga.attempt import is_refusal
from standfast.text import named, told

NESTED = ExceptionGroup("outer", [KeyError("k"), ExceptionGroup("inner", [OSError("o")])])


class Busy(ConnectionError):
    def __init__(self, wait: float) -> None:
        super().__init__("busy")
        self.retry_after = wait


def test_leaves_are_found_however_deep_and_in_order() -> None:
    assert [type(one) for one in leaves(NESTED)] == [KeyError, OSError]
    alone = ValueError("v")
    assert list(leaves(alone)) == [alone]


def test_a_circular_chain_of_causes_ends() -> None:
    first, second = ValueError("1"), ValueError("2")
    first.__cause__, second.__cause__ = second, first
    assert list(lineage(first)) == [first, second]


def wide(last: Exception, *, beside: type[Exception]) -> ExceptionGroup[Exception]:
    return ExceptionGroup("wide", [*(beside(str(n)) for n in range(2000)), last])


def deep(inside: Exception) -> Exception:
    for _ in range(5000):
        inside = ExceptionGroup("deep", [inside])
    return inside


def test_a_huge_group_is_looked_at_to_its_last_exception() -> None:
    huge = wide(OSError("sent"), beside=ConnectionRefusedError)
    assert len(leaves(huge)) == 2001
    assert not every(huge, ConnectionRefusedError)
    assert some(wide(OSError("sent"), beside=ValueError), OSError)
    assert every(deep(OSError()), OSError)
    assert not every(deep(OSError()), ValueError)
    assert some(deep(OSError()), OSError)
    assert named(deep(OSError("down"))) == "OSError: down"
    assert told(huge).endswith("; and 1991 more")
    assert is_final(deep(do_not_retry(OSError())))
    assert retry_after(wide(Busy(7), beside=ValueError), 0) == 7


def test_a_huge_group_with_one_that_was_sent_is_not_sent_again() -> None:
    sent = []

    def pay() -> None:
        sent.append(1)
        raise wide(OSError("reset"), beside=ConnectionRefusedError)

    with pytest.raises(ExceptionGroup):
        Retry(attempts=3, idempotent=False, backoff=Constant(0)).call(pay)
    assert len(sent) == 1


@pytest.mark.parametrize("error", [deep(OSError()), wide(OSError(), beside=Refused)])
def test_a_huge_group_is_no_refusal_and_a_failure_to_a_breaker(error: Exception) -> None:
    assert not is_refusal(error)
    breaker = CircuitBreaker(consecutive_failures=1)

    def fail() -> None:
        raise error

    caught: BaseException | None = None
    try:
        breaker.call(fail)
    except Exception as raised:  # pytest can't show a failure that holds so deep a group
        caught = raised
    assert type(caught) is ExceptionGroup
    assert breaker.state is State.OPEN


def test_what_a_subclass_says_is_in_it_counts_for_nothing() -> None:
    class Odd(ExceptionGroup[Exception]):
        exceptions = property(lambda _: 1 / 0)  # type: ignore[assignment]

    assert every(Odd("odd", [OSError()]), OSError)
    assert not every(Odd("odd", [OSError()]), ValueError)


def test_a_mark_for_everybody_outlasts_those_for_some() -> None:
    error = do_not_retry(OSError())
    for _ in range(100):
        try:
            raise error
        except OSError:
            let_pass(error)
    assert is_final(error)
    assert is_marked(error, since=10**9)


def test_every_and_some() -> None:
    assert every(NESTED, (KeyError, OSError))
    assert not every(NESTED, OSError)
    assert some(NESTED, OSError)
    assert not some(NESTED, ValueError)
    assert every(NESTED, ExceptionGroup)
    assert every(KeyError(), KeyError)


def test_marks_are_found_in_groups_and_behind_their_causes() -> None:
    final = ExceptionGroup("g", [ValueError(), ExceptionGroup("i", [do_not_retry(OSError())])])
    assert is_final(final)
    assert is_marked(final)
    passed = ExceptionGroup("g", [let_pass(OSError())])
    assert is_marked(passed)
    assert not is_final(passed)
    wrapped = RuntimeError("wrapped")
    wrapped.__cause__ = final
    assert is_final(wrapped)
    assert not is_marked(NESTED)


def test_a_mark_that_cant_be_read_hides_nothing() -> None:
    class Odd(Exception):
        def __getattr__(self, name: str) -> str:
            raise RuntimeError(name)

    assert not is_marked(Odd())


def test_the_longest_wait_of_a_group_counts() -> None:
    assert retry_after(ExceptionGroup("g", [Busy(2), ValueError(), Busy(7)]), 0) == 7
    assert retry_after(NESTED, 0) is None


def test_hooks_into_foreign_objects_that_fail_say_nothing() -> None:
    class Raising(Exception):
        def __init__(self, name: str) -> None:
            super().__init__()
            self.name = name

        def __getattribute__(self, name: str) -> object:
            if name == object.__getattribute__(self, "name"):
                raise BaseException(name)
            return object.__getattribute__(self, name)

    class Headers(Exception):
        headers = property(lambda self: (_ for _ in ()).throw(RuntimeError()))

    for odd in (Raising("retry_after"), Raising("response"), Headers()):
        assert retry_after(odd, 0) is None
    dated = ConnectionError()
    dated.retry_after = "Wed, 21 Oct 99999 07:28:00 GMT"  # type: ignore[attr-defined]
    assert retry_after(dated, 0) is None


@pytest.mark.parametrize("told", [math.inf, 10**400, "9" * 400])
def test_a_wait_that_no_float_can_hold_is_told_and_is_too_long(told: Any) -> None:
    asked = ConnectionError()
    asked.headers = {"Retry-After": told}  # type: ignore[attr-defined]
    assert retry_after(asked, 0) == math.inf


@pytest.mark.parametrize(
    ("policy", "error", "answer"),
    [
        (Retry(), NESTED, True),
        (Retry(on=(KeyError, OSError)), NESTED, True),
        (Retry(on=(OSError,)), NESTED, False),
        (Retry(never_on=(KeyError,)), NESTED, False),
        (Retry(), ExceptionGroup("g", [OSError(), Refused("no")]), False),
        (Retry(), BaseExceptionGroup("g", [OSError(), KeyboardInterrupt()]), False),
        (Retry(idempotent=False), ExceptionGroup("g", [RateLimited(), OSError()]), False),
        (Retry(idempotent=False), ExceptionGroup("g", [RateLimited()]), True),
    ],
)
def test_a_group_is_tried_again_if_all_in_it_may_be(
    policy: Retry, error: BaseException, answer: bool
) -> None:
    assert policy.is_retriable(error) is answer


def test_a_retry_around_lets_a_marked_one_in_a_group_pass() -> None:
    calls = 0

    def call() -> None:
        nonlocal calls
        calls += 1
        raise ExceptionGroup("g", [do_not_retry(OSError("gone"))])

    with pytest.raises(ExceptionGroup):
        Retry(attempts=3, backoff=Constant(0)).call(call)
    assert calls == 1


@pytest.mark.parametrize(
    ("inside", "failures"),
    [
        ([Refused("no")], 0),
        ([CircuitOpen("open")], 0),
        ([CircuitOpen("open"), Refused("no")], 0),
        ([Refused("no"), ExceptionGroup("i", [OSError("o")])], 1),
    ],
)
def test_a_breaker_counts_a_group_as_the_worst_in_it(
    inside: list[Exception], failures: int
) -> None:
    breaker = CircuitBreaker("b", consecutive_failures=1)

    def call() -> None:
        raise ExceptionGroup("g", inside)

    with pytest.raises(ExceptionGroup):
        breaker.call(call)
    assert breaker.failures == failures
    assert (breaker.state is State.OPEN) is bool(failures)


def test_a_fallback_answers_for_a_group_unless_business_said_no() -> None:
    fallback = Fallback("stale", on=(OSError,))

    def fail(*inside: Exception) -> str:
        raise ExceptionGroup("g", inside)

    assert fallback.call(fail, OSError()) == "stale"
    for inside in ((OSError(), Refused("no")), (OSError(), ValueError())):
        with pytest.raises(ExceptionGroup):
            fallback.call(fail, *inside)


def test_a_group_is_told_with_its_leaves() -> None:
    assert told(NESTED) == "KeyError: 'k'; OSError: o"
    assert named(NESTED) == "ExceptionGroup: KeyError: 'k'; OSError: o"
    assert named(ExceptionGroup("unhandled", [ConnectionError("down")])) == "ConnectionError: down"
    many = ExceptionGroup("many", [ValueError(str(n)) for n in range(12)])
    assert told(many).endswith("; ValueError: 9; and 2 more")


def test_a_message_that_cant_be_had_is_said_to_be_so() -> None:
    class Panic(BaseException): ...

    class Odd(Exception):
        def __str__(self) -> str:
            raise Panic

    assert named(Odd()) == "Odd: (its message can't be read: Panic)"
