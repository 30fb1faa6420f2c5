"""Whom operations act on: by address, id, handle or filter, the same on every backend."""

import pytest

from standfast import Barrier, Context, Saga, Standfast, step
from standfast.conformance.samples import mail, start
from standfast.errors import ConfigurationError, SagaNotFound
from standfast.ids import new_id
from standfast.saga import events as ev
from standfast.saga.status import STATUSES
from standfast.testing import ManualClock
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


# -- of rows as they stand -----------------------------------------------------------------------

KIND = ("saga", "sleepy", 1)


async def rows(app, *every):
    """New rows, with these columns each; their ids by their keys."""
    starts = [start(kind=KIND, **{"key": f"{n}", **one}) for n, one in enumerate(every)]
    answers = await app.sagas.store.start(starts, owner=None)
    return {new.instance.key: answer.id for new, answer in zip(starts, answers, strict=True)}


@pytest.fixture
async def ops():
    async with Standfast("memory://", clock=ManualClock()).add(Sleepy()) as app:
        yield app.operations


async def test_whom_each_act_can_change(ops):
    await rows(ops.sagas.host, *({"status": one, "key": one} for one in STATUSES))
    unfinished = set(STATUSES) - {"completed", "compensated"}
    stuck = {"parked", "compensation_failed"}
    for act, whom in (
        (ev.Signalled, unfinished),
        (ev.MigrateAsked, unfinished),
        (ev.CancelAsked, {"running", "waiting", "parked"}),
        (ev.RetryAsked, stuck),
        (ev.SkipAsked, stuck),
        (ev.ResolveAsked, stuck | {"waiting"}),
    ):
        assert {one.key async for one in ops.matching(act, ops.select())} == whom
        only = ops.select(statuses=["parked", "completed"])
        assert {one.key async for one in ops.matching(act, only)} == {"parked"}
        ended = ops.select(statuses="completed")
        assert [one async for one in ops.matching(act, ended)] == []
    assert await ops.counts() == {("sleepy", one): 1 for one in STATUSES}


async def test_acts_are_checked_before_any_is_asked(ops):
    ids = await rows(ops.sagas.host, {"status": "parked"})
    for act, why in (
        (ops.skip(ids["0"], reason=" "), "a reason is needed"),
        (ops.resolve(ids["0"], "completed", reason=""), "a reason is needed"),
        (ops.resolve(ids["0"], "undone", reason="x"), "outcome='undone': choose completed or"),
        (ops.cancel(ids["0"], by="\0"), "NUL"),
        (ops.signal(ids["0"], "resume", mail_id="x" * 501), "has 501 characters"),
    ):
        with pytest.raises(ConfigurationError, match=why):
            await act
    (loaded,) = await ops.sagas.store.load([*ids.values()])
    assert loaded.mails == []


async def test_ages_count_from_the_start(ops):
    now, day = ops.sagas.clock.now(), 86_400.0
    ages = {"new": 0.5, "day": 1.0, "old": 3.0, "older": 9.0}
    made = ({"key": key, "created_at": now - age * day} for key, age in ages.items())
    await rows(ops.sagas.host, *made)
    for options, keys in (
        ({"older_than": "1d"}, {"old", "older"}),
        ({"newer_than": "1d"}, {"new", "day"}),
        ({"older_than": "12h", "newer_than": "5d"}, {"day", "old"}),
        ({"older_than": "0s"}, {*ages}),
    ):
        assert {one.key async for one in ops.each(ops.select(**options))} == keys
    for wrong in ({"older_than": 3}, {"newer_than": "3"}):
        with pytest.raises(ConfigurationError, match="give 3 a unit"):
            ops.select(**wrong)


async def test_a_page_says_whether_there_is_another(ops):
    ids = await rows(ops.sagas.host, *[{}] * 4)
    newest_first = sorted(ids.values(), reverse=True)
    for limit, next in ((3, newest_first[2]), (4, None), (5, None)):
        page = await ops.page(ops.select(), limit=limit)
        assert [one.id for one in page.instances] == newest_first[:limit]
        assert page.next == next
    assert [one.id async for one in ops.each(ops.select(), after=newest_first[1])] == (
        newest_first[2:]
    )
    exported = [one async for one in ops.export(ops.select(), after=newest_first[2])]
    assert [one["instance"]["id"] for one in exported] == [str(newest_first[3])]


async def test_what_is_stuck_and_was_told_something_that_none_acted_on(ops):
    now = ops.sagas.clock.now()
    stuck = {"status": "parked", "wake_at": None}
    ids = await rows(
        ops.sagas.host,
        {**stuck, "key": "told", "step": "go", "cause": "away"},
        {**stuck, "key": "quiet", "step": "go", "cause": "away"},
        {**stuck, "key": "later", "wake_at": now + 60},
        {**stuck, "key": "failed", "status": "compensation_failed"},
        {"key": "runs", "status": "running"},
    )
    store = ops.sagas.store
    for key in ("told", "failed", "runs"):
        await store.send([mail(ids[key], f"{key} {n}", at=now - n) for n in range(2)])
    found = [one async for one in ops.each(ops.select())]
    unread = await ops.unread(found)
    assert {id: [one.id for one in mails] for id, mails in unread.items()} == {
        ids[key]: [f"{key} 0", f"{key} 1"] for key in ("told", "failed")
    }
    groups = {(one.status, one.cause): one for one in await ops.stuck()}
    assert {key: (one.count, one.due) for key, one in groups.items()} == {
        ("parked", "away"): (2, 1),
        ("parked", ""): (1, 0),
        ("compensation_failed", ""): (1, 1),
    }
    narrowed = await ops.stuck(ops.select(step="go", statuses="running"))
    assert [one.count for one in narrowed] == [2], "whatever statuses it has"
