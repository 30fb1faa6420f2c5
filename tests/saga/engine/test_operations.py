"""Finding sagas and acting on them, on every backend."""

import sqlite3
from dataclasses import replace
from uuid import UUID

import pytest

from standfast import Saga, SagaParked, Standfast, wait
from standfast.errors import ConfigurationError, SagaConflict, SagaNotFound
from standfast.ids import new_id
from standfast.saga import events as ev
from standfast.saga import facts as fx
from standfast.saga.diagram import mermaid
from tests.saga.engine.test_waits import Approved, Pivoted
from tests.saga.engine.world import Order, Trip, until


async def test_finds_acts_and_draws(work, world):
    world.will("ship", *[OSError("away")] * 3)
    app = await work(Pivoted(world))
    handle = await app.start(Pivoted, Order("1"), key="a/1")
    with pytest.raises(SagaParked):
        await handle.result(timeout=10)
    await (await app.start(Pivoted, Order("2"), key="2")).result(timeout=10)
    ops = app.operations

    whole = str(handle.id)
    for address in ("pivoted/a/1", whole, whole[:-1], whole[-8:], whole[-12:].upper(), whole[1:]):
        assert (await ops.locate(address)).id == handle.id
    with pytest.raises(SagaNotFound, match="several"):
        await ops.locate(whole[:4])
    for address in ("pivoted/none", "0", "", "x" * 8, "f" * 8, "f" * 31, "0" * 31):
        with pytest.raises(SagaNotFound):
            await ops.locate(address)

    first = await ops.page(ops.select(name="pivoted"), limit=1)
    rest = await ops.page(ops.select(name="pivoted"), limit=1, after=first.next)
    assert {first.instances[0].key, rest.instances[0].key} == {"a/1", "2"}
    assert rest.next is None
    with pytest.raises(ConfigurationError, match="stuck"):
        ops.select(statuses=["stuck"])

    flow = mermaid(app.sagas.definitions.of("pivoted").plan, (await handle.story()).state)
    assert "    class s_ship parked\n" in flow
    assert "    class s_pay completed\n" in flow

    with pytest.raises(ConfigurationError, match="reason"):
        await anext(ops.tell(ev.SkipAsked(reason=" "), [handle.id]))
    act = ev.SkipAsked(reason="sent by hand", by="ann")
    (touched,) = [one async for one in ops.matching(ev.SkipAsked, ops.select())]
    assert touched.id == handle.id
    assert [n async for n in ops.tell(act, [touched.id])] == [(1, [touched.id])]
    with pytest.raises(ConfigurationError, match="the ids that are left"):
        await anext(ops.tell(act, [touched.id], after=touched.id))
    await until(lambda: _completed(handle))
    (skipped,) = [f for f in (await handle.story()).facts if isinstance(f, fx.StepSkipped)]
    assert (skipped.reason, skipped.by) == ("sent by hand", "ann")

    await until(lambda: _at_rest(app, handle))
    assert [n async for n in ops.purge(finished_for="0s", batch=1)] == [1, 2]
    assert not (await ops.page(ops.select())).instances


async def test_starts_forks_counts_and_exports(work, world):
    app = await work(Trip(world))
    ops = app.operations
    handle = await ops.start("trip", b'{"id": "1", "amount": 2}', key="1")
    again = await ops.start("trip", b'{"amount": 2, "id": "1"}', key="1")
    assert (handle.created, again.created, again.id) == (True, False, handle.id)
    in_code = await app.start(Trip, Order("d"), key="d")
    assert (await ops.start("trip", b'{"id": "d"}', key="d")).id == in_code.id
    await in_code.result(timeout=10)
    with pytest.raises(SagaConflict, match="another input"):
        await ops.start("trip", b'{"id": "2"}', key="1")
    for wrong in (b"", b"7", b'{"amount": 1}', b'{"id": "1", "amuont": 2}'):
        with pytest.raises(ConfigurationError, match="the input of saga 'trip'"):
            await ops.start("trip", wrong)
    assert (await handle.result(timeout=10))["charge"].amount == 2

    forked = await ops.fork(handle.id, key="2", replace={"amount": 5})
    assert (await forked.result(timeout=10))["charge"].amount == 5
    origin = await app.sagas.instance(forked.id)
    assert origin.correlation_id == f"fork of {handle.id}"
    assert (await ops.fork(handle.id)).id not in (handle.id, forked.id)
    with pytest.raises(ConfigurationError, match="no field 'price'"):
        await ops.fork(handle.id, replace={"price": 1})
    for wrong, why in (([1], "not a list"), ({"amount": object()}, "plain JSON"), ("x", "a str")):
        with pytest.raises(ConfigurationError, match=f"replace=.*: give a dict of fields, .*{why}"):
            await ops.fork(handle.id, replace=wrong)  # type: ignore[arg-type]
    with pytest.raises(SagaNotFound):
        await ops.fork(new_id())
    await until(lambda: _all_completed(ops, 4))

    exported = [one async for one in ops.export(ops.select(key="1"))]
    (one,) = exported
    assert one["instance"]["id"] == str(handle.id)
    assert [fact["kind"] for fact in one["facts"]] == ["started", *["step_completed"] * 3]
    assert (one["mails"], one["unreadable"]) == ([], 0)
    assert await ops.count_finished(finished_for="0s") == 4
    assert await ops.count_finished(finished_for="1h") == 0


async def test_names_and_keys_may_have_slashes_and_no_wrong_saga_is_found(work, world):
    def named(name):
        return type(Pivoted)("Named", (Pivoted,), {"name": name})

    outer, inner, longest = named("shop"), named("shop/order"), named("x" * 200)
    app = await work(outer(world), inner(world), longest(world))
    locate = app.operations.locate
    await app.start(outer, Order("1"), key="order/1")
    assert (await locate("shop/order/1")).name == "shop"
    await app.start(inner, Order("1"), key="2")
    assert (await locate("shop/order/2")).key == "2"
    await app.start(longest, Order("1"), key="order/3")
    assert (await locate(f"{longest.name}/order/3")).key == "order/3"
    await app.start(inner, Order("1"), key="1")
    with pytest.raises(SagaNotFound, match=r"several sagas .*'shop', key 'order/1'\) or .*'1'\)"):
        await locate("shop/order/1")
    with pytest.raises(SagaNotFound, match="no saga 'shop' has the key 'order/3'"):
        await locate("shop/order/3")


async def test_a_signal_is_checked_against_the_waits(work, world):
    app = await work(Approved(world))
    ops = app.operations
    handle = await app.start(Approved, Order("1"))
    instances = [await app.sagas.instance(handle.id)]
    for name, payload, why in (
        ("aproved", b"1", "choose from approved"),
        ("approved", b'{"by": 7, "level": 1}', "Expected `str`"),
        ("approved", b"{", "isn't JSON"),
        (
            "approved",
            b"ann",
            r"payload of signal 'approved', ann, isn't JSON .*: text needs quotes",
        ),
        ("approved", b"", "which is empty, isn't JSON"),
        ("approved", b'"ann"', r"takes \w+ as its payload, and not \"ann\" \(Expected `object`"),
        ("approved", b"null", r"as its payload, and not none"),
    ):
        with pytest.raises(ConfigurationError, match=why):
            ops.signalled(name, payload, instances)
    for given in ({"by": "ann"}, 7, None):
        with pytest.raises(ConfigurationError, match=r"payload=.*: give JSON, as bytes or text"):
            await ops.signal([handle], "approved", given)  # type: ignore[arg-type]
    with pytest.raises(ConfigurationError, match="'approved', by ann, isn't JSON"):
        await ops.signal([handle], "approved", "by ann")
    act = ops.signalled("approved", '{"by": "ann", "level": 1}', instances)
    for id in ("first", "first", "second"):
        assert [n.done async for n in ops.tell(act, [handle.id], mail_id=id)] == [1]
    assert (await handle.result(timeout=10))["note"] == "ann ann"


async def test_programs_see_and_mend_what_is_stuck(work, world):
    world.will("ship", *[OSError("no truck\nfor order 17")] * 3)
    app = await work(Pivoted(world))
    handle = await app.start(Pivoted, Order("1"), key="a")
    with pytest.raises(SagaParked):
        await handle.result(timeout=10)
    ops = app.operations
    (group,) = await ops.stuck()
    assert (group.saga, group.step, group.count, group.example) == ("pivoted", "ship", 1, handle.id)
    assert group.error == "ship: OSError: no truck for order <n>"
    assert await ops.stuck(ops.select(name="other")) == []

    told = await handle.timeline()
    assert told.as_json() == (await ops.timeline("pivoted/a")).as_json()
    assert (told.saga, told.version, told.key, told.status) == ("pivoted", 1, "a", "parked")
    assert told.entries[-1].kind == "step_parked"
    (one,) = told.pending
    assert (one.kind, one.branch) == ("operator", "ship")
    rows = [await app.sagas.instance(handle.id)]
    assert await ops.pending(rows) == {handle.id: told.pending}

    assert await ops.retry(ops.select(name="other"), by="ann") == 0
    assert await ops.retry(ops.select(statuses=["completed"]), by="ann") == 0
    assert await ops.retry(ops.select(step="ship"), by="ann") == 1
    await handle.result(timeout=10)
    resumed = [one for one in (await handle.timeline()).entries if one.kind == "resumed"]
    assert [one.by for one in resumed] == ["ann"]
    assert await ops.stuck() == []


async def test_acts_of_programs_reach_those_they_are_for(work, world):
    app = await work(Approved(world))
    ops = app.operations
    handles = [await app.start(Approved, Order(str(number))) for number in range(5)]
    await until(lambda: world.log.count("ask") == 5)
    every = ops.select(name="approved")
    approval = b'{"by": "ann", "level": 1}'
    with pytest.raises(ConfigurationError, match="choose from approved"):
        await ops.signal(every, "aproved", approval)
    with pytest.raises(ConfigurationError, match="Expected"):
        await ops.signal([handles[0].id], "approved", b"7")
    assert await ops.signal([handles[0].id], "approved", approval, mail_id="1") == 1
    assert await ops.signal(every, "approved", approval, mail_id="1") == 5
    with pytest.raises(ConfigurationError, match="version 7"):
        await ops.migrate(every, 7)
    with pytest.raises(ConfigurationError, match="reason"):
        await ops.skip(every, reason=" ")
    with pytest.raises(ConfigurationError, match="outcome='lost'"):
        await ops.resolve(every, "lost", reason="x")
    assert await ops.resolve([handles[0].id], "completed", reason="by hand", by="eve") == 1
    assert await ops.cancel(ops.select(key="none")) == 0
    assert await ops.cancel(every, reason="closed", by="eve") >= 4

    async def ended():
        counts = await ops.counts()
        return counts == {("approved", "completed"): 1, ("approved", "compensated"): 4}

    await until(ended)


async def test_a_fork_needs_no_more_of_a_journal_than_the_input(tmp_path, world):
    app = Standfast(f"sqlite:///{tmp_path}/app.db", migrate=True).add(Trip(world))
    async with app.running():
        handle = await app.start(Trip, Order("1"), key="1")
        await handle.result(timeout=10)
        with sqlite3.connect(tmp_path / "app.db") as con:
            con.execute("UPDATE standfast_journal SET fact = '{' WHERE seq = 1")
        fork = await app.operations.fork(handle.id, key="2")
        await fork.result(timeout=10)


async def test_any_number_may_be_named_at_once(world):
    async with Standfast("memory://").add(Trip(world)) as app:
        ids = [(await app.start(Trip, Order(str(number)))).id for number in range(501)]
        assert await app.operations.ids_of(ids) == ids
        with pytest.raises(SagaNotFound):
            await app.operations.ids_of([*ids, new_id()])


async def test_of_those_named_each_kind_is_checked_however_many_there_are(world, monkeypatch):
    class Numbered(Saga[Order]):
        number = wait("approved", type=int)

    monkeypatch.setattr("standfast.saga.operations.PAGE", 1)
    async with Standfast("memory://").add(Approved(world), Numbered()) as app:
        ids = [(await app.start(saga, Order("1"))).id for saga in (Approved, Numbered)]
        with pytest.raises(ConfigurationError, match=r"of saga 'approved' takes .*, and not 7"):
            await app.operations.signal(ids, "approved", b"7")


async def test_what_is_read_in_pages_is_complete(world, monkeypatch):
    monkeypatch.setattr("standfast.saga.finding.PAGE", 2)
    monkeypatch.setattr("standfast.saga.finding.JOURNALS", 2)
    async with Standfast("memory://").add(Trip(world)) as app:
        ops = app.operations
        handles = [await app.start(Trip, Order(str(number))) for number in range(5)]
        newest_first = [handle.id for handle in reversed(handles)]
        rows = [one async for one in ops.each(ops.select())]
        assert [one.id for one in rows] == newest_first
        assert [one.id async for one in ops.each(ops.select(), after=newest_first[1])] == (
            newest_first[2:]
        )
        exported = [one["instance"]["id"] async for one in ops.export(ops.select())]
        assert exported == [str(id) for id in newest_first]
        rest = [one async for one in ops.export(ops.select(), after=newest_first[3])]
        assert [one["instance"]["id"] for one in rest] == exported[4:]
        assert set(await ops.pending(rows)) == set(newest_first)
        assert await ops.ids_of(newest_first) == newest_first
        assert await ops.retry(ops.select(statuses=["parked"])) == 0
        assert await ops.unread(rows) == {}, "none is stuck"
        page = await ops.page(ops.select(), limit=5)
        assert (len(page.instances), page.next) == (5, None)
        assert ops.moved(1, rows, by="ann").by == "ann"
        for handle in handles:
            await handle.cancel("too late")
        stuck = [replace(one, status="parked", wake_at=1.0) for one in rows]
        mails = await ops.unread(stuck)
        assert {id: [mail.subject for mail in told] for id, told in mails.items()} == {
            id: ["cancel"] for id in newest_first
        }
        for other in ({"owner": 7}, {"wake_at": None}, {"wake_at": 1e12}, {"status": "waiting"}):
            assert await ops.unread([replace(one, **other) for one in stuck]) == {}


async def test_what_is_deleted_while_an_act_goes_on_isnt_told_of(work, world):
    app = await work(Trip(world))
    ops = app.operations
    ids = []
    for key in ("first", "second"):
        handle = await app.start(Trip, Order(key), key=key)
        await handle.result(timeout=10)
        await until(lambda: _at_rest(app, handle))
        ids.append(handle.id)
    telling = ops.tell(ev.CancelAsked("late"), ids, batch=1)
    assert await anext(telling) == (1, ids[:1])
    deleted = [number async for number in ops.purge(finished_for="0s")]
    assert deleted
    assert [told async for told in telling] == []


async def test_an_act_on_many_goes_on_where_it_was_stopped(work, world):
    """It reads page by page, newest first, and what comes meanwhile isn't touched."""
    app = await work(Approved(world))
    ops = app.operations
    handles = [await app.start(Approved, Order(str(number))) for number in range(7)]
    await until(lambda: world.log.count("ask") == 7)
    act = ev.CancelAsked(by="ann")
    telling = ops.tell(act, ops.select(), batch=3)
    first = await anext(telling)
    await telling.aclose()
    newest_first = sorted((handle.id for handle in handles), reverse=True)
    assert (first.done, list(first.ids)) == (3, newest_first[:3])
    assert first.last == newest_first[2]
    rest = [one async for one in ops.tell(act, ops.select(), after=first.last, batch=3)]
    assert [id for one in rest for id in one.ids] == newest_first[3:]
    assert [one.done for one in rest] == [3, 4]


async def test_an_end_that_two_ids_have_names_neither(work, world):
    """Lists show the ends of ids: an act must not hit the wrong one."""
    app = await work(Approved(world))
    for key in ("first", "second"):
        id = UUID(int=new_id().int >> 32 << 32 | 0xDECAFBAD)
        await app.sagas.starter.start(Approved, Order(key), key=key, id=id)
    for act in (app.operations.locate, app.operations.cancel):
        with pytest.raises(SagaNotFound, match="several sagas' ids begin or end with 'decafbad'"):
            await act("decafbad")
    assert await app.operations.stuck() == []


async def _all_completed(ops, number):
    return await ops.counts() == {("trip", "completed"): number}


async def _completed(handle):
    return await handle.status() == "completed"


async def _at_rest(app, handle):
    return (await app.sagas.instance(handle.id)).owner is None


@pytest.mark.parametrize("batch", [0, -1, 1.5])
async def test_a_batch_of_less_than_one_is_refused(work, world, batch):
    app = await work(Trip(world))
    ops = app.operations
    acts = (
        ops.tell(ev.RetryAsked(), ops.select(), batch=batch),
        ops.purge(finished_for="0s", batch=batch),
    )
    for act in acts:
        with pytest.raises(ConfigurationError, match=f"batch={batch}"):
            await anext(act)
