"""The verbs of `app`, `tx` and handles, and their twins: each passes on all that it is given."""

from datetime import UTC, datetime
from typing import Any

import pytest

from standfast import ConfigurationError, Standfast
from standfast.doors.blocking_handle import BlockingSagaHandle, with_ids
from standfast.ids import new_id
from standfast.saga import events as ev
from standfast.saga.handle import SagaHandle
from standfast.stepping import entered, step

ID = new_id()
START = {"key": "k", "correlation_id": "c", "at": datetime(2030, 1, 1, tzinfo=UTC), "after": "1s"}
NONE = dict.fromkeys(START)


class Recorder:
    """It has every method, which notes what it is called with, and answers `answer`."""

    id, created = ID, True

    def __init__(self, answer: Any = None) -> None:
        self.starter = self
        self.calls: list[tuple[Any, ...]] = []
        self.answer = answer

    def __getattr__(self, name: str) -> Any:
        async def call(*args: Any, **options: Any) -> Any:
            self.calls.append((name, *args, options))
            return self.answer

        return call

    def taken(self) -> list[tuple[Any, ...]]:
        calls, self.calls = self.calls, []
        return calls


@pytest.fixture
async def app():
    async with Standfast("memory://") as app:
        vars(app)["sagas"] = Recorder(Recorder())
        yield app


async def test_those_of_an_app(app):
    await app.start("s", 1, **START)
    await app.start("s", 1)
    await app.saga("s", "k")
    assert app.sagas.taken() == [
        ("start", "s", 1, START),
        ("start", "s", 1, NONE),
        ("get", "s", "k", {}),
    ]
    for wrong, why in (({"after": -1}, "after=-1"), ({"timeout": "soon"}, "timeout='soon'")):
        with pytest.raises(ConfigurationError, match=why):
            app.progress("s", **wrong)


async def test_those_of_a_transaction(app):
    async with app.transaction() as tx:
        await tx.start("s", 1, **START)
        await tx.start("s", 1)
        await tx.saga("s", "k")
        await tx.signal(ID, "go", {"a": 1}, id="m")
        await tx.signal(ID, "go")
        await tx.cancel(ID, "why", force=True, by="ann")
        await tx.cancel(ID)
        expected = [
            ("start_within", tx, "s", 1, START),
            ("start_within", tx, "s", 1, NONE),
            ("get_within", tx, "s", "k", {}),
            ("signal_within", tx, ID, "go", {"a": 1}, {"mail_id": "m"}),
            ("signal_within", tx, ID, "go", None, {"mail_id": None}),
            ("cancel_within", tx, ID, "why", {"force": True, "by": "ann"}),
            ("cancel_within", tx, ID, "", {"force": False, "by": ""}),
        ]
        assert app.sagas.taken() == expected
        blocking = app.blocking_transaction(tx, step)
        handle = BlockingSagaHandle(app.sagas.answer, step)
        started = blocking.start("s", 1, **START)
        assert (started.id, started.created) == (ID, True)
        blocking.start("s", 1)
        blocking.saga("s", "k")
        blocking.signal(handle, "go", {"a": 1}, id="m")
        blocking.signal(ID, "go")
        blocking.cancel(handle, "why", force=True, by="ann")
        blocking.cancel(ID)
        assert app.sagas.taken() == expected


async def test_those_of_a_handle():
    sagas: Any = Recorder([7])
    handle = SagaHandle[Any](sagas, ID)
    await handle.result("5s")
    await handle.result()
    await handle.result(-1)
    await handle.signal("go", 1, id="m")
    await handle.signal("go")
    await handle.cancel("why", force=True, by="ann")
    await handle.cancel()
    await handle.timeline()
    assert await handle.story() == 7
    assert sagas.taken() == [
        ("outcome", ID, 5.0, {}),
        ("outcome", ID, None, {}),
        ("outcome", ID, 0.0, {}),
        ("signal", ID, "go", 1, {"mail_id": "m"}),
        ("signal", ID, "go", None, {"mail_id": None}),
        ("send", ID, ev.CancelAsked("why", "ann", True), {}),
        ("send", ID, ev.CancelAsked("", "", False), {}),
        ("timeline", ID, {}),
        ("stories", [ID], {}),
    ]


def test_those_of_a_handle_for_sync_code():
    inner: Any = Recorder(7)
    handle = BlockingSagaHandle[Any](inner, step)
    assert (handle.id, handle.created, repr(handle)) == (ID, True, f"BlockingSagaHandle({ID})")
    answers = [
        handle.status(),
        handle.result("5s"),
        handle.result(),
        handle.timeline(),
        handle.story(),
        handle.complete(lambda it: it.anything(1)),
    ]
    assert answers == [7] * 6
    handle.signal("go", 1, id="m")
    handle.signal("go")
    handle.cancel("why", force=True, by="ann")
    handle.cancel()
    assert inner.taken() == [
        ("status", {}),
        ("result", "5s", {}),
        ("result", None, {}),
        ("timeline", {}),
        ("story", {}),
        ("anything", 1, {}),
        ("signal", "go", 1, {"id": "m"}),
        ("signal", "go", None, {"id": None}),
        ("cancel", "why", {"force": True, "by": "ann"}),
        ("cancel", "", {"force": False, "by": ""}),
    ]
    assert with_ids([handle, "s/k", (handle,)]) == [ID, "s/k", [ID]]
    assert (with_ids(b"x"), with_ids({handle: 1}), with_ids(ID)) == (b"x", {handle: 1}, ID)


# -- what carries them out -----------------------------------------------------------------------


class Block:
    def __init__(self, swallows: bool) -> None:
        self.swallows, self.left = swallows, []

    async def __aenter__(self):
        return 7

    async def __aexit__(self, kind, error, trace):
        self.left.append((kind, error, trace is not None))
        return self.swallows


def test_a_block_for_sync_code_is_left_with_what_was_raised_in_it():
    quiet, loud = Block(True), Block(False)
    for block in (quiet, loud):
        with entered(step, lambda block=block: block) as value:
            assert value == 7
    error = ZeroDivisionError()
    with entered(step, lambda: quiet):
        raise error
    with pytest.raises(ZeroDivisionError), entered(step, lambda: loud):
        raise error
    for block in (quiet, loud):
        assert block.left == [(None, None, False), (ZeroDivisionError, error, True)]


def test_what_would_have_to_wait_is_refused_and_closed():
    left: list[str] = []

    class Forever:
        def __await__(self):
            yield

    async def waits():
        try:
            await Forever()
        finally:
            left.append("closed")

    with pytest.raises(RuntimeError, match="waits for an event loop, and here is none"):
        step(waits())
    assert left == ["closed"]

    async def fails():
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        step(fails())
