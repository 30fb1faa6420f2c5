"""What a test asserts of a saga's end, and the story that a failed one tells."""

import asyncio
import re
import sys
import traceback
from collections.abc import Iterator
from uuid import UUID

import pytest

from standfast import ConfigurationError, Context, Refused, Retry, Saga, Standfast, step, wait
from standfast.saga.handle import SagaHandle
from standfast.saga.pending import Pending
from standfast.saga.timeline import Entry, Timeline
from standfast.testing import assert_compensated, assert_completed, assert_parked
from standfast.testing.app_under_test import stories
from standfast.testing.assertions import story_of
from standfast.testing.forgotten import refusing_forgotten


class Sell(Saga[str]):
    @step(no_compensation="nothing to undo", retry=Retry(attempts=1), on_exhausted="park")
    async def charge(self, order: str, ctx: Context) -> str:
        if order == "refused":
            raise Refused("no money")
        if order == "parked":
            raise OSError("the bank is away")
        return f"paid {order}"

    approval = wait("approved", when=lambda saga, order, ctx: order == "waits")


ENDS = {
    "a": "completed",
    "refused": "compensated: charge refused: no money",
    "parked": "parked: charge: OSError: the bank is away",
}


async def judged(assertion, handle, timeout=20.0, **options):
    """The first line of an assertion's complaint."""
    with pytest.raises(AssertionError, match=rf"\n\nsell '.*' is .* \({handle.id}\)") as caught:
        await assertion(handle, timeout=timeout, **options)
    assert caught.value.__suppress_context__
    return f"{caught.value}".splitlines()[0]


async def test_each_end_is_told_from_the_others():
    app = Standfast("memory://").add(Sell())
    async with app.running(drain=0.1):
        of = {key: await app.start(Sell, key, key=key) for key in (*ENDS, "waits")}
        result = await assert_completed(of["a"])
        assert result[Sell.charge] == "paid a"
        assert await assert_compensated(of["refused"]) == "charge refused: no money"
        assert (
            await assert_compensated(of["refused"], because="money") == "charge refused: no money"
        )
        cause = "charge: OSError: the bank is away"
        assert await assert_parked(of["parked"], because="bank") == cause
        assert await assert_parked(of["parked"]) == cause

        why = await judged(assert_compensated, of["refused"], because="time")
        assert why.startswith("not compensated because of 'time': saga ")
        why = await judged(assert_parked, of["parked"], because="time")
        assert why.startswith("not parked because of 'time': saga ")
        for assertion, wanted in (
            (assert_completed, "completed"),
            (assert_compensated, "compensated"),
            (assert_parked, "parked"),
        ):
            for key, handle in of.items():
                if wanted not in ENDS.get(key, ""):
                    why = await judged(assertion, handle, 0.05 if key == "waits" else 20.0)
                    assert why.startswith(f"not {wanted}: ")
                    assert ("it completed" in why) is (key == "a")
                    assert ("no money" in why) is (key == "refused")
                    assert ("the bank is away" in why) is (key == "parked")

        told = await stories(app, {of["a"].id}, AssertionError(f"sell ({of['parked'].id})\n"))
        assert [line.split(" (")[0] for line in told.splitlines() if line.startswith("sell")] == [
            "sell 'refused' is compensated",
            "sell 'waits' is waiting",
        ]
        assert await stories(app, {one.id for one in of.values()}, OSError()) == "none was started"


@pytest.fixture
def blocking() -> Iterator[Standfast]:
    app = Standfast("memory://").add(Sell())
    with app.blocking.running(drain=0.1):
        yield app
    app.blocking.close()


def test_sync_code_asserts_at_once(blocking):
    handle = blocking.blocking.start(Sell, "refused")
    assert assert_compensated(handle) == "charge refused: no money"
    with pytest.raises(AssertionError, match=r"^not completed: ") as caught:
        assert_completed(handle)
    assert len(traceback.extract_tb(caught.value.__traceback__)) <= 3, "it ends in the test"
    assert assert_completed(blocking.blocking.start(Sell, "b"))[Sell.charge] == "paid b"


@pytest.mark.parametrize("assertion", [assert_completed, assert_compensated, assert_parked])
def test_what_is_no_handle_is_refused_at_once(assertion):
    with pytest.raises(ConfigurationError, match="7 isn't a SagaHandle: give what"):
        assertion(7)


def test_a_story_tells_all_that_a_timeline_has():
    timeline = Timeline(
        id=UUID(int=7),
        saga="sell",
        version=1,
        key="order-7",
        status="waiting",
        entries=[Entry(at=0.0, after=0.0, kind="started", text="started")],
        pending=[Pending(kind="operator", branch="charge", since=90.0)],
        problem="row 2",
        read_at=100.0,
    )
    assert story_of(timeline).splitlines() == [
        f"sell 'order-7' is waiting ({UUID(int=7)})",
        "        +0s    started",
        "  now: charge: waits for an operator for 10s",
        "  the rest can't be read: row 2",
    ]


async def test_an_end_is_waited_for_as_long_as_it_is_said():
    app = Standfast("memory://").add(Sell())
    async with app.running(drain=0.1):
        handle = await app.start(Sell, "waits")
        completing = asyncio.create_task(assert_completed(handle, timeout=20))
        await asyncio.sleep(0)
        await handle.signal("approved")
        assert (await completing)[Sell.charge] == "paid waits"


@pytest.mark.parametrize("can_await", [True, False])
async def test_what_was_never_awaited_is_told_with_its_line(can_await):
    handle = SagaHandle.__new__(SagaHandle)

    async def of_the_tests_own(): ...

    def forget():
        with refusing_forgotten(can_await=can_await):
            assert_completed(handle)
            of_the_tests_own()

    depth = sys.get_coroutine_origin_tracking_depth()
    with (
        pytest.warns(RuntimeWarning, match="of_the_tests_own") as others,
        pytest.raises(pytest.fail.Exception) as failed,
    ):
        forget()
    assert len(others) == 1, "what is the user's own is warned of as ever"
    first, line, what_to_do = f"{failed.value}".splitlines()
    assert first == "this was called and never awaited, so that nothing was done:"
    assert re.fullmatch(r"  test_assertions.py:\d+: assert_completed\(handle\)", line)
    assert what_to_do.startswith("write `await` before it" if can_await else "a test that is `def`")
    assert sys.get_coroutine_origin_tracking_depth() == depth
    with refusing_forgotten(can_await=can_await):
        pass


async def test_a_test_that_failed_fails_with_its_own_error():
    with pytest.raises(KeyError), refusing_forgotten(can_await=True):
        assert_completed(SagaHandle.__new__(SagaHandle))
        raise KeyError
