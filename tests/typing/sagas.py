"""A saga's types come through: its input, its results, its handles."""
# pyright: reportUnnecessaryTypeIgnoreComment=true

import sqlite3
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Generic, TypeVar, assert_type

import psycopg
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import Session

from standfast import (
    BranchKey,
    Context,
    Saga,
    SagaHandle,
    SagaResult,
    Standfast,
    Transaction,
    barrier,
    child,
    step,
    wait,
)
from standfast.doors.blocking import BlockingTransaction

T = TypeVar("T")


@dataclass(frozen=True)
class Order:
    id: str


class Pack(Saga[str]):
    @step(no_compensation="only paper")
    async def wrap(self, sku: str, ctx: Context) -> int:
        return len(sku)


class PlaceOrder(Saga[Order]):
    @step
    async def reserve(self, order: Order, ctx: Context) -> str:
        return order.id

    @reserve.compensation
    async def release(self, order: Order, ctx: Context) -> None:
        assert_type(ctx.result(self.reserve), str)

    packed = child(Pack, lambda self, order, ctx: "lamp")
    approved = wait("approved", type=bool, timeout="1h")

    @step(each=lambda self, order, ctx: ["a"], no_compensation="only paper")
    async def label(self, order: Order, ctx: Context, item: str) -> float:
        return 1.5

    @step(transactional=True, no_compensation="only paper")
    async def record(self, order: Order, ctx: Context, tx: Transaction) -> int:
        assert_type(ctx.result(self.approved), bool)
        assert_type(ctx.result(self.label), list[float])
        return 1


class Blocking(Saga[Order]):
    @step
    def reserve(self, order: Order, ctx: Context) -> str:
        return order.id

    @reserve.compensation
    def release(self, order: Order, ctx: Context) -> None:
        assert_type(ctx.result(self.reserve), str)

    @step(timeout="5s")
    def charge(self, order: Order, ctx: Context) -> int:
        return 1

    @charge.compensation(timeout="5s")
    async def refund(self, order: Order, ctx: Context) -> None: ...

    @step(each=lambda self, order, ctx: ["a"], no_compensation="only paper")
    def label(self, order: Order, ctx: Context, item: str) -> float:
        return 1.5

    @step(transactional=True, no_compensation="only paper")
    def record(self, order: Order, ctx: Context, tx: BlockingTransaction) -> int:
        assert_type(ctx.result(self.label), list[float])
        return tx.execute("SELECT 1")


async def of_def_steps(app: Standfast, ctx: Context) -> None:
    result = await (await app.start(Blocking, Order("1"))).result()
    assert_type(result[Blocking.reserve], str)
    assert_type(result[Blocking.charge], int)
    assert_type(result[Blocking.label], list[float])
    assert_type(result[Blocking.record], int)
    saga = Blocking()
    assert_type(saga.reserve(Order("1"), ctx), str)
    assert_type(saga.charge(Order("1"), ctx), int)
    assert_type(await PlaceOrder().reserve(Order("1"), ctx), str)
    await saga.reserve(Order("1"), ctx)  # type: ignore[misc]


class Keep(Saga[T], Generic[T]):
    @step(no_compensation="only a note")
    async def note(self, thing: T, ctx: Context) -> T:
        return thing


class KeepOrder(Keep[Order]):
    pass


async def started(app: Standfast, tx: Transaction) -> None:
    handle = await app.start(PlaceOrder, Order("1"), key="1")
    assert_type(handle, SagaHandle[PlaceOrder])
    result = await handle.result("10s")
    assert_type(result, SagaResult[PlaceOrder])
    assert_type(result[PlaceOrder.reserve], str)
    assert_type(result[PlaceOrder.label], list[float])
    assert_type(result[PlaceOrder.approved], bool)
    assert_type(result[PlaceOrder.packed], dict[str, Any])
    assert_type(result["reserve"], Any)
    shipped = result["reserve"]
    print(shipped.upper())
    await handle.signal(PlaceOrder.approved, True)
    await handle.signal("approved", True)
    await tx.signal(handle, PlaceOrder.approved, True)
    assert_type(await tx.start(PlaceOrder, Order("1")), SagaHandle[PlaceOrder])
    assert_type(await app.start(PlaceOrder, Order("1"), after="3d"), SagaHandle[PlaceOrder])
    await tx.start(PlaceOrder, Order("1"), at=datetime.now(UTC))
    assert_type(await app.saga(PlaceOrder, "1"), SagaHandle[PlaceOrder])
    assert_type(await app.saga("place-order", "1"), SagaHandle[Any])
    assert_type(await app.start("place-order", {"id": "1"}), SagaHandle[Any])
    assert_type(await app.start(KeepOrder, Order("1")), SagaHandle[KeepOrder])


async def of_any(app: Standfast, some: type[Saga[Any]]) -> None:
    await app.start(some, 7)


class TakesAnother(Saga[Order]):
    @step(no_compensation="only paper")
    async def wrap(self, sku: str, ctx: Context) -> int:
        return len(sku)


def read(result: SagaResult[TakesAnother]) -> None:
    result[TakesAnother.wrap]  # type: ignore[arg-type]
    assert "wrap" in result
    assert 5 in result  # type: ignore[operator]
    list(result)  # type: ignore[call-overload]


def blocking(app: Standfast, session: Session, connection: sqlite3.Connection) -> None:
    for tx in (app.adopt(session), app.adopt(connection), app.adopt("default"), app.adopt()):
        assert_type(tx, BlockingTransaction)
    tx.start(PlaceOrder, Order("1"), key="1")
    tx.signal("01a21da2-d326-73a9-9d17-f189e7b595c7", PlaceOrder.approved, True)
    with barrier(tx, BranchKey("1/pay")) as gate:
        assert_type(gate.first, bool)
    tx.start(PlaceOrder, "1")  # type: ignore[call-overload]
    tx.signal("01a2", PlaceOrder.approved, "yes")  # type: ignore[misc]


async def adopted(
    app: Standfast, session: AsyncSession, connection: psycopg.AsyncConnection[Any]
) -> None:
    for tx in (app.adopt(session), app.adopt(connection)):
        assert_type(tx, Transaction)
    async with barrier(tx, BranchKey("1/pay")) as gate:
        assert_type(gate.first, bool)


async def refused(app: Standfast, tx: Transaction, handle: SagaHandle[PlaceOrder]) -> None:
    # Each of these must be an error: an ignore that isn't needed is one itself.
    await handle.signal(PlaceOrder.approved, "yes")  # type: ignore[misc]
    await tx.signal(handle, PlaceOrder.approved, 7)  # type: ignore[misc]
    app.adopt(7)  # type: ignore[call-overload]
    await app.start(PlaceOrder, "1")  # type: ignore[call-overload]
    await tx.start(PlaceOrder, "1")  # type: ignore[call-overload]
    await app.start(KeepOrder, 7)  # type: ignore[call-overload]
    await app.start(PlaceOrder)  # type: ignore[call-overload]
    child(Pack, lambda self, order, ctx: 7)  # type: ignore[arg-type, return-value]
