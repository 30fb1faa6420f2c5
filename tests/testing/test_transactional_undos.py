"""Undos whose rows commit together with the journal, under every fault that `simulate` knows."""

import pytest

from standfast import Context, Refused, Saga, step
from standfast.saga.runner import Runner
from standfast.testing import InvariantViolated, World, run_saga, simulate

SCHEMA = "CREATE TABLE moves (account TEXT NOT NULL, amount INTEGER NOT NULL)"


class Transfer(Saga[int]):
    """Takes from two accounts, in rows of its own, and gives back what it took."""

    async def _move(self, tx, account: str, amount: int) -> None:
        await tx.execute("INSERT INTO moves (account, amount) VALUES ($1, $2)", account, amount)

    @step(after=(), transactional=True, timeout="5s")
    async def one(self, amount: int, ctx: Context, tx) -> None:
        await self._move(tx, "one", -amount)

    @one.compensation(transactional=True, timeout="5s")
    async def undo_one(self, amount: int, ctx: Context, tx) -> None:
        if ctx.has_result(self.one):
            await self._move(tx, "one", amount)

    @step(after=(), transactional=True, timeout="5s")
    async def two(self, amount: int, ctx: Context, tx) -> None:
        await self._move(tx, "two", -amount)

    @two.compensation(transactional=True, timeout="5s")
    async def undo_two(self, amount: int, ctx: Context, tx) -> None:
        if ctx.has_result(self.two):
            await self._move(tx, "two", amount)

    @step(after=[one, two], each=lambda self, amount, ctx: ["a", "b"])
    async def pack(self, amount: int, ctx: Context, item: str) -> None: ...

    @pack.compensation(transactional=True)
    async def unpack(self, amount: int, ctx: Context, item: str, tx) -> None:
        await self._move(tx, f"unpacked {item}", 0)

    @step(transactional=True, no_compensation="the last one")
    async def end(self, amount: int, ctx: Context, tx) -> None:
        if amount > 100:
            raise Refused("too much")
        await self._move(tx, "end", 2 * amount)


class Forgetful(Transfer):
    """Gives back what it may not have taken: its rows are gone when an attempt failed."""

    @step(after=(), transactional=True, timeout="5s")
    async def one(self, amount: int, ctx: Context, tx) -> None:
        await self._move(tx, "one", -amount)

    @one.compensation(transactional=True, timeout="5s")
    async def undo_one(self, amount: int, ctx: Context, tx) -> None:
        await self._move(tx, "one", amount)


def adds_up(world: World) -> None:
    """Each account was moved once, or there and back; each undo has written once."""
    if not (world.completed or world.compensated):
        return
    found: dict[str, list[int]] = {}
    for account, amount in world.rows("SELECT account, amount FROM moves"):
        found.setdefault(account, []).append(amount)
    assert all(len(moves) <= 2 for moves in found.values()), found
    total = sum(sum(moves) for moves in found.values())
    assert total == 0, found
    for account, moves in found.items():
        if account.startswith("unpacked"):
            assert moves == [0], found
        if account in ("one", "two") and world.compensated:
            assert sorted(moves) == sorted([-world.input, world.input]), found


@pytest.mark.slow
@pytest.mark.parametrize("amount", [50, 500])
def test_they_happen_exactly_once_whatever_goes_wrong(amount):
    report = simulate(Transfer, amount, seeds=1500, invariants=adds_up, schema=SCHEMA)
    assert report.outcomes["compensated"] > 300
    assert report.missed == []
    for fault in ("crash before its commit", "crash after its commit", "commit's answer lost"):
        assert report.faults[fault] > 20
    undos = {fault for place, fault in report.coverage if place.startswith("undo")}
    assert undos >= {"crash before the call", "crash after the call", "answer lost"}
    assert not undos & {"late", "duplicate"}, "what happens in a transaction comes once"


def test_an_undo_of_what_was_rolled_back_is_found():
    with pytest.raises(InvariantViolated, match="one"):
        simulate(Forgetful, 50, seeds=1500, invariants=adds_up, schema=SCHEMA)


def test_an_engine_that_commits_the_two_apart_is_found(monkeypatch):
    async def apart(self, active, command):
        async with self._home.host.transaction() as tx:
            value = await self.attempts.call(active, command, tx)
        success = self.attempts.success(active, command, value)
        return active.machine.handle(success, self._clock.now())

    monkeypatch.setattr(Runner, "_transact", apart)
    with pytest.raises(InvariantViolated):
        simulate(Transfer, 500, seeds=1500, invariants=adds_up, schema=SCHEMA)


def test_one_run_of_it():
    run = run_saga(Transfer(), 500, schema=SCHEMA, raises={"undo two": OSError("once")})
    assert run.status == "compensated"
    assert run.trace.count("undo two failed") == 1
    assert run.trace.count("undo two") == 1
