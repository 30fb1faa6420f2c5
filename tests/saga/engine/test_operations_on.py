"""Whom operations act on: by address, id, handle or filter, the same on every backend."""

import pytest

from standfast import Barrier, Context, Saga, Standfast, step
from standfast.errors import ConfigurationError, SagaNotFound
from standfast.ids import new_id
from tests.saga.engine.test_waits import Approved
from tests.saga.engine.world import World


class Sleepy(Saga[str]):
    @step(no_compensation="nothing to undo")
    async def go(self, name: str, ctx: Context) -> None: ...


async def test_acts_take_an_address_an_id_a_handle_or_several(app_url):
    async with Standfast(app_url, migrate=True).add(Sleepy()) as app:
        one, two = [await app.start(Sleepy, key, key=key) for key in ("1", "2")]
        ops = app.operations
        every = (one, one.id, str(one.id), one.id.hex[-12:], "sleepy/1")
        for which in every:
            assert await ops.cancel(which) == 1
            assert await ops.cancel([which]) == 1
        assert await ops.cancel([*every, two]) == 2, "each once"
        assert await ops.cancel(iter([one, two])) == 2
        assert await ops.cancel([]) == 0
        for which in every:
            assert (await ops.fork(which)).id not in (one.id, two.id)
            assert (await ops.timeline(which)).id == one.id


async def test_none_is_asked_where_one_is_not_there(app_url):
    async with Standfast(app_url, migrate=True).add(Sleepy()) as app:
        one = await app.start(Sleepy, "1", key="1")
        ops, none = app.operations, new_id()
        for which in (none, [none], [one.id, none], app.handle(none)):
            with pytest.raises(SagaNotFound, match=f"no saga has the id {none}"):
                await ops.cancel(which)
        with pytest.raises(SagaNotFound, match="no saga 'sleepy' has the key '9'"):
            await ops.retry("sleepy/9")
        with pytest.raises(SagaNotFound, match="'x' is no address"):
            await ops.retry(["x"])
        with pytest.raises(SagaNotFound):
            await ops.signal([none], "go")
        with pytest.raises(SagaNotFound):
            await ops.migrate(none, 2)
        with pytest.raises(SagaNotFound):
            await ops.fork(none)
        (loaded,) = await app.sagas.store.load([one.id])
        assert not loaded.mails
        for which in (7, [7], None, b"x", {one.id: 1}):
            with pytest.raises(ConfigurationError, match="names no saga"):
                await ops.retry(which)


async def test_filters_are_checked_when_made(app_url):
    async with Standfast(app_url, migrate=True).add(Sleepy(), Approved(World())) as app:
        one = await app.start(Sleepy, "1", key="1")
        ops = app.operations
        assert ops.select(name=Sleepy) == ops.select(name="sleepy")
        assert ops.select(statuses="parked") == ops.select(statuses=["parked"])
        assert ops.select(step=Sleepy.go) == ops.select(step="go")
        assert await ops.retry(ops.select(statuses="parked"), at=Sleepy.go) == 0
        assert len((await ops.page(ops.select(name=Sleepy))).instances) == 1
        for wrong, said in (
            ({"name": int}, "name="),
            ({"key": 1}, "key=1"),
            ({"step": 1}, "step=1"),
            ({"version": "1"}, "version='1'"),
            ({"statuses": "stuck"}, "status='stuck'"),
        ):
            with pytest.raises(ConfigurationError, match=said):
                ops.select(**wrong)
        for act in (ops.retry(one, at=1), ops.skip(one, at=1, reason="no")):
            with pytest.raises(ConfigurationError, match="at=1 is no step"):
                await act
        with pytest.raises(ConfigurationError, match="limit='1'"):
            await ops.page(ops.select(), limit="1")
        with pytest.raises(ConfigurationError, match="filter='parked'"):
            await ops.page("parked")
        with pytest.raises(ConfigurationError, match="give JSON"):
            await ops.start("sleepy", {"a": 1})
        assert (await ops.start(Sleepy, '"2"', key="2")).created


async def test_an_app_that_is_not_open_says_so(app_url):
    barrier = Barrier()
    app = Standfast(app_url, migrate=True).add(Sleepy(), barrier)
    async with app:
        handle = await app.start(Sleepy, "1", key="1")
    ops = app.operations
    for act in (
        lambda: ops.stuck(),
        lambda: ops.counts(),
        lambda: ops.locate("sleepy/1"),
        lambda: ops.page(ops.select()),
        lambda: ops.cancel(handle),
        lambda: ops.timeline(handle),
        lambda: anext(ops.purge(finished_for="1d")),
        lambda: app.saga(Sleepy, "1"),
        lambda: app.start(Sleepy, "2"),
        lambda: handle.status(),
        lambda: handle.cancel(),
        lambda: handle.signal("x"),
        lambda: handle.timeline(),
        lambda: handle.story(),
        lambda: handle.result("1s"),
        lambda: barrier.count(older_than="1d"),
        lambda: anext(barrier.purge(older_than="1d")),
    ):
        with pytest.raises(ConfigurationError, match="isn't open: use `async with app:`"):
            await act()
    async with app.transaction() as tx:  # which opens it
        assert (await tx.start(Sleepy, "3", key="3")).created
