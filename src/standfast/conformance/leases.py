"""The contract of `LeaseStore`, as tests."""

from __future__ import annotations

import asyncio

import pytest

from standfast.conformance.samples import (
    LONG,
    Suite,
    Undo,
    acquire,
    another,
    facts,
    journal,
    leases,
    loaded,
    only_lease,
    owned,
    register,
)
from standfast.errors import StaleWriter
from standfast.ports.database import Database, carry_out
from standfast.ports.journal import Append


class LeasesSuite(Suite):
    """Override the fixture `database`."""

    # acquire

    async def test_tokens_grow(self, database: Database) -> None:
        """Each is larger than any before, over all names, also when those are gone."""
        tokens: list[int] = []
        for name in ("a", "b", "a", "c"):
            token = await acquire(database, name)
            assert token is not None
            tokens.append(token)
            await leases(database).release([token])
        assert tokens == sorted(set(tokens))
        kept = [await acquire(database, name) for name in ("a", "b", "c")]
        assert None not in kept
        assert [*tokens, *kept] == sorted({*tokens, *kept})  # type: ignore[type-var]

    async def test_a_name_is_held_by_one(self, database: Database) -> None:
        """None while another's lease of that name runs, also to the same holder."""
        first = await acquire(database, "a")
        assert first is not None
        assert await acquire(database, "a") is None
        assert (await only_lease(database)).token == first
        other = await acquire(database, "b")
        await leases(database).release([first])
        second = await acquire(database, "a")
        assert second is not None
        assert other is not None
        assert first < other < second

    async def test_acquire_again_after_it_ran_out(self, database: Database) -> None:
        """With a larger token; the old one is lost for good."""
        old = await acquire(database, "a", ttl=0.001)
        assert old is not None
        await asyncio.sleep(0.01)
        new = await acquire(database, "a")
        assert new is not None
        assert new > old
        assert await leases(database).renew([old], ttl=LONG) == [False]
        await leases(database).release([old])
        assert (await only_lease(database)).token == new
        assert await leases(database).renew([old, new], ttl=LONG) == [False, True]

    async def test_acquire_several(self, database: Database) -> None:
        """An answer for each name, in their order; some may be taken."""
        taken = await acquire(database, "b")
        answers = await leases(database).acquire(["c", "b", "a"], "me", ttl=LONG, note='{"x":1}')
        assert [answer is None for answer in answers] == [False, True, False]
        held = {lease.name: lease for lease in await leases(database).leases()}
        assert [held[name].token for name in "cba"] == [answers[0], taken, answers[2]]
        assert len({held[name].token for name in "cba"}) == 3
        assert [held[name].holder for name in "cba"] == ["me", "holder", "me"]
        assert [held[name].note for name in "cba"] == ['{"x":1}', "{}", '{"x":1}']
        assert await leases(database).acquire(["a", "c"], "me", ttl=LONG) == [None, None]

    async def test_acquire_a_large_batch(self, database: Database) -> None:
        """Hundreds in one go, and as many are renewed and released."""
        names = [f"shard-{n:03}" for n in range(300)]
        tokens = await leases(database).acquire(names, "me", ttl=LONG)
        held = {lease.name: lease.token for lease in await leases(database).leases()}
        assert [held[name] for name in names] == tokens
        known = list(held.values())
        assert await leases(database).renew(known, ttl=LONG) == [True] * 300
        await leases(database).release(known[:299])
        assert (await only_lease(database)).token == known[299]

    async def test_nothing_at_all(self, database: Database) -> None:
        """Empty batches are answered with empty lists."""
        assert await leases(database).acquire([], "me", ttl=LONG) == []
        assert await leases(database).renew([], ttl=LONG) == []
        await leases(database).release([])
        assert await leases(database).expire() == []
        assert await leases(database).leases() == []

    async def test_acquire_ends_what_ran_out(self, database: Database) -> None:
        """Leases of any name, as by `expire`."""
        old = await register(database, ttl=0.001)
        id = await owned(database, old)
        await asyncio.sleep(0.01)
        new = await acquire(database, "else")
        assert (await only_lease(database)).token == new
        assert await leases(database).renew([old], ttl=LONG) == [False]
        (answer,) = await journal(database).append(old, [Append(id, 0, ["late"])])
        assert isinstance(answer, StaleWriter)

    async def test_many_at_once(self, database: Database) -> None:
        """Of different names: each gets its own token."""
        tokens = await asyncio.gather(*(register(database, f"w{n}") for n in range(8)))
        assert len(set(tokens)) == 8
        assert [lease.token for lease in await leases(database).leases()] == sorted(tokens)

    async def test_one_name_at_once(self, database: Database) -> None:
        """One of those who try gets it, alone and among others."""
        answers = await asyncio.gather(*(acquire(database, "a") for _ in range(10)))
        assert [answer for answer in answers if answer] == [(await only_lease(database)).token]
        batches = await asyncio.gather(
            *(
                leases(database).acquire(["b", "c"] if n % 2 else ["c", "b"], "me", ttl=LONG)
                for n in range(10)
            )
        )
        given = [token for batch in batches for token in batch if token]
        assert len(given) == len(set(given)) == 2

    async def test_one_name_at_once_from_several_processes(self, database: Database) -> None:
        """Nor do two of them get it, also when it has run out just before."""
        others = [another(database) for _ in range(2)]
        await asyncio.gather(*(other.open() for other in others))
        try:
            for round in range(5):
                ttl = 0.001 if round % 2 else LONG
                answers = await asyncio.gather(
                    *(acquire(each, "a", ttl=LONG) for each in (database, *others) * 3)
                )
                (token,) = [answer for answer in answers if answer]
                assert await leases(others[0]).renew([token], ttl=ttl) == [True]
                await asyncio.sleep(0.01)
                if round % 2 == 0:
                    await leases(others[1]).release([token])
        finally:
            await asyncio.gather(*(other.close() for other in others))

    # leases, annotate

    async def test_leases(self, database: Database) -> None:
        """All fields come back as they were, oldest first."""
        assert await leases(database).leases() == []
        note = '{"text": "Grüße 🚚 \'\\" $1 ? %s"}'
        await leases(database).acquire(["z 'ü' $1"], 'host-1 "a" ?', ttl=100, note=note)
        await leases(database).acquire(["a"], "host-2", ttl=200)
        first, second = await leases(database).leases()
        assert (first.name, first.holder, first.note) == ("z 'ü' $1", 'host-1 "a" ?', note)
        assert (second.name, second.holder, second.note) == ("a", "host-2", "{}")
        assert first.token < second.token
        assert 90 < first.expires_in <= 100
        assert 190 < second.expires_in <= 200

    @pytest.mark.parametrize(
        ("prefix", "names"),
        [
            ("", ["member:1", "Member:2", "mem%er:3", "mem_er:4", "x\\y"]),
            ("member:", ["member:1"]),
            ("Member", ["Member:2"]),
            ("mem", ["member:1", "mem%er:3", "mem_er:4"]),
            ("mem%", ["mem%er:3"]),
            ("mem_", ["mem_er:4"]),
            ("x\\", ["x\\y"]),
            ("ember", []),
            ("member:1", ["member:1"]),
            ("member:11", []),
        ],
    )
    async def test_leases_by_prefix(
        self, database: Database, prefix: str, names: list[str]
    ) -> None:
        """Character by character: nothing in it is a pattern."""
        for name in ("member:1", "Member:2", "mem%er:3", "mem_er:4", "x\\y"):
            await acquire(database, name)
        assert [lease.name for lease in await leases(database).leases(prefix)] == names

    async def test_the_overdue_are_listed(self, database: Database) -> None:
        """With a negative `expires_in`, until somebody ends them."""
        await register(database, ttl=0.001)
        await asyncio.sleep(0.01)
        assert (await only_lease(database)).expires_in < 0
        assert (await only_lease(database, "member:")).expires_in < 0

    async def test_annotate(self, database: Database) -> None:
        """Replaces the note, and nothing else; one that was lost is left alone."""
        token, other = await acquire(database, "a"), await acquire(database, "b")
        assert token is not None
        before = await leases(database).leases()
        await leases(database).annotate(token, '{"kinds":[]}')
        after = await leases(database).leases()
        assert [lease.note for lease in after] == ['{"kinds":[]}', "{}"]
        assert [(x.name, x.token, x.holder) for x in after] == [
            (x.name, x.token, x.holder) for x in before
        ]
        assert after[0].expires_in <= before[0].expires_in
        await leases(database).release([token])
        await leases(database).annotate(token, '{"late":1}')
        assert [(lease.token, lease.note) for lease in await leases(database).leases()] == [
            (other, "{}")
        ]

    # renew

    async def test_renew(self, database: Database) -> None:
        """The lease then runs for `ttl` from now."""
        token = await register(database, ttl=0.2)
        assert await leases(database).renew([token], ttl=100) == [True]
        assert 90 < (await only_lease(database)).expires_in <= 100
        await asyncio.sleep(0.25)
        assert await leases(database).expire() == []
        assert await leases(database).renew([token], ttl=0.001) == [True]
        await asyncio.sleep(0.01)
        assert await leases(database).expire() == [token]

    async def test_renew_several(self, database: Database) -> None:
        """An answer for each, in their order; the others aren't extended."""
        a, b, c, d = [await register(database, ttl=50) for _ in range(4)]
        await leases(database).release([b])
        tokens = [c, b, d + 1000, a]
        assert await leases(database).renew(tokens, ttl=LONG) == [True, False, False, True]
        left = {lease.token: lease.expires_in for lease in await leases(database).leases()}
        assert {token: left[token] > 100 for token in left} == {a: True, c: True, d: False}

    async def test_renew_of_a_lost_lease(self, database: Database, stale: int) -> None:
        """False, for good; and for a token that never was."""
        assert await leases(database).renew([stale], ttl=60) == [False]
        assert await leases(database).renew([stale], ttl=60) == [False]
        assert await leases(database).renew([stale + 1000], ttl=60) == [False]
        assert await leases(database).leases() == []

    @pytest.mark.parametrize("end", ["commit", "rollback"])
    async def test_renew_waits_for_no_transaction(self, database: Database, end: str) -> None:
        """Neither for the users' that are open nor for those that wait, and however they end."""
        token = await register(database, ttl=60.0)
        begun, go_on = asyncio.Event(), asyncio.Event()

        async def use() -> None:
            async with database.transaction() as tx:
                await leases(database).within(tx).hold(token)
                begun.set()
                await go_on.wait()
                if end == "rollback":
                    raise Undo

        users = [asyncio.create_task(use()) for _ in range(12)]
        await begun.wait()
        async with asyncio.timeout(10):
            assert await leases(database).renew([token, token + 1], ttl=LONG) == [True, False]
            assert await leases(database).renew([token], ttl=LONG) == [True]
        go_on.set()
        await asyncio.gather(*users, return_exceptions=True)
        assert await leases(database).renew([], ttl=1.0) == []
        assert (await only_lease(database)).expires_in > LONG / 2

    async def test_the_overdue_hold_until_they_are_ended(self, database: Database) -> None:
        """They write, and renew to hold on."""
        token = await register(database, ttl=0.001)
        await asyncio.sleep(0.01)
        id = await owned(database, token)
        (answer,) = await journal(database).append(token, [Append(id, 0, ["slow"])])
        assert answer is None
        assert await leases(database).renew([token], ttl=LONG) == [True]
        assert await leases(database).expire() == []

    # expire, release

    async def test_expire(self, database: Database) -> None:
        """Ends what has run out, nothing else; instances are left to `reclaim`."""
        token = await register(database, ttl=0.05)
        mine = [await owned(database, token) for _ in range(3)]
        assert await leases(database).expire() == []
        await asyncio.sleep(0.06)
        assert await leases(database).expire() == [token]
        assert await leases(database).expire() == []
        assert await leases(database).leases() == []
        assert {it.instance.owner for it in await journal(database).load(mine)} == {token}
        assert await journal(database).reclaim() == 3

    async def test_expire_leaves_the_living(self, database: Database) -> None:
        """And ends all that ran out."""
        alive = await register(database, "alive")
        kept = await owned(database, alive)
        dead = await leases(database).acquire(["a", "b"], "dead", ttl=0.001)
        await asyncio.sleep(0.01)
        assert sorted(await leases(database).expire()) == sorted(dead)  # type: ignore[type-var]
        assert (await loaded(database, kept)).instance.owner == alive
        assert await leases(database).renew([alive], ttl=60) == [True]

    async def test_expire_by_several_at_once(self, database: Database) -> None:
        """Each token is answered to one of them."""
        dead = await leases(database).acquire([f"{n}" for n in range(6)], "dead", ttl=0.001)
        await asyncio.sleep(0.01)
        answers = await asyncio.gather(*(leases(database).expire() for _ in range(5)))
        ended = [token for answer in answers for token in answer]
        assert sorted(ended) == sorted(dead)  # type: ignore[type-var]

    async def test_expire_is_atomic_against_append(self, database: Database) -> None:
        """Each write either came before and is there, or is refused and isn't."""
        token = await register(database, ttl=0.05)
        id = await owned(database, token)

        async def write() -> int:
            for number in range(100_000):
                (answer,) = await journal(database).append(token, [Append(id, number, ["x"])])
                if answer is not None:
                    assert isinstance(answer, StaleWriter)
                    return number
                await asyncio.sleep(0)
            raise AssertionError("the lease never ended")

        async def end() -> int:
            await asyncio.sleep(0.06)
            assert await leases(database).expire() == [token]
            return len(await facts(database, id)) - 1

        accepted, seen = await asyncio.gather(write(), end())
        assert accepted > 0
        assert accepted == seen == len(await facts(database, id)) - 1

    async def test_release(self, database: Database) -> None:
        """The token is stale at once; twice is fine, and so is a token that never was."""
        token, other = await register(database), await register(database)
        id = await owned(database, token)
        await leases(database).release([token, token + 1000])
        await leases(database).release([token])
        assert (await only_lease(database)).token == other
        assert await leases(database).renew([token], ttl=60) == [False]
        (answer,) = await journal(database).append(token, [Append(id, 0, ["late"])])
        assert isinstance(answer, StaleWriter)
        assert len(await facts(database, id)) == 1

    # on_freed

    @pytest.mark.parametrize("by", ["itself", "another process"])
    async def test_on_freed_hints(self, database: Database, by: str) -> None:
        """A lease is ended by anybody: a call, until it is unsubscribed."""
        ender = database if by == "itself" else another(database)
        if ender is not database:
            await ender.open()
        try:
            freed = asyncio.Event()
            unsubscribe = leases(database).on_freed(freed.set)
            await asyncio.sleep(0.3)  # the subscription may take a moment to stand
            for act in ("release", "expire", "acquire"):
                token = await acquire(ender, act, ttl=LONG if act == "release" else 0.05)
                assert token is not None
                await asyncio.sleep(0.2)
                freed.clear()
                if act == "release":
                    await leases(ender).release([token])
                elif act == "expire":
                    assert await leases(ender).expire() == [token]
                else:
                    assert await acquire(ender, "acquire") is not None
                await asyncio.wait_for(freed.wait(), 5)
            unsubscribe()
            await asyncio.sleep(0.3)
            freed.clear()
            token = await acquire(ender, "last")
            assert token is not None
            await leases(ender).release([token])
            await asyncio.sleep(0.3)
            assert not freed.is_set()
        finally:
            if ender is not database:
                await ender.close()

    # inside a transaction

    async def test_hold(self, database: Database) -> None:
        """Passes while the lease holds, also overdue, and refuses once it was ended."""
        token, ended = await register(database), await register(database, ttl=0.001)
        async with database.transaction() as tx:
            await leases(database).within(tx).hold(token)
            await carry_out(tx, leases(database).holding(token))
            await leases(database).within(tx).hold(ended)
        await leases(database).release([ended])
        for refused in (ended, ended + 1000):
            with pytest.raises(StaleWriter):
                async with database.transaction() as tx:
                    await leases(database).within(tx).hold(refused)

    async def test_hold_outlasts_the_release(self, database: Database) -> None:
        """Whoever ends the lease waits for the transaction, or comes before it."""
        token, order = await register(database), list[str]()
        held = asyncio.Event()

        async def write() -> None:
            async with database.transaction() as tx:
                await leases(database).within(tx).hold(token)
                held.set()
                await asyncio.sleep(0.2)
                order.append("written")

        async def release() -> None:
            await held.wait()
            await leases(database).release([token])
            order.append("released")

        await asyncio.gather(write(), release())
        assert order == ["written", "released"]

    async def test_table(self, database: Database) -> None:
        """Has a row with the token of each lease, for SQL of others."""
        if not self.sql:
            pytest.skip("the backend has no SQL")
        token = await register(database)
        async with database.transaction() as tx:
            sql = f"SELECT token FROM {leases(database).table}"  # noqa: S608 - the port's own name
            assert [row[0] for row in await tx.fetch(sql)] == [token]
