"""What sync code gets is as typed as what async code gets."""
# pyright: reportUnnecessaryTypeIgnoreComment=true

import sqlite3
from collections.abc import Iterator
from typing import Any, assert_type
from uuid import UUID

import standfast
import standfast.blocking
import standfast.resilience
import standfast.testing
from standfast import BlockingSagaHandle, BlockingTransaction, SagaResult, Standfast, Transaction
from standfast.blocking import BlockingClient, BlockingOperations
from standfast.ports.journal import Instance
from standfast.saga import Change
from standfast.saga.operations import Progress
from tests.typing.sagas import KeepOrder, Order, PlaceOrder


def started(app: Standfast) -> None:
    assert_type(app.blocking, BlockingClient)
    handle = app.blocking.start(PlaceOrder, Order("1"), key="1")
    assert_type(handle, BlockingSagaHandle[PlaceOrder])
    assert_type(handle.id, UUID)
    assert_type(handle.created, bool)
    result = handle.result("10s")
    assert_type(result, SagaResult[PlaceOrder])
    assert_type(result[PlaceOrder.reserve], str)
    assert_type(result[PlaceOrder.label], list[float])
    assert_type(app.blocking.start(KeepOrder, Order("1")), BlockingSagaHandle[KeepOrder])
    assert_type(app.blocking.start("place-order", {"id": "1"}), BlockingSagaHandle[Any])
    assert_type(app.blocking.saga(PlaceOrder, "1"), BlockingSagaHandle[PlaceOrder])
    assert_type(app.blocking.saga("place-order", "1"), BlockingSagaHandle[Any])
    assert_type(app.blocking.progress(handle), Iterator[Change])
    assert_type(app.blocking.handle("1"), BlockingSagaHandle[Any])


async def act(tx: Transaction) -> int:
    return await tx.execute("SELECT 1")


def written(app: Standfast) -> None:
    with app.blocking as client, client.running(drain=1), app.blocking.transaction() as tx:
        assert_type(tx, BlockingTransaction)
        assert_type(tx.execute("SELECT 1"), int)
        assert_type(tx.start(PlaceOrder, Order("1")), BlockingSagaHandle[PlaceOrder])
        assert_type(tx.saga(PlaceOrder, "1"), BlockingSagaHandle[PlaceOrder])
        tx.signal(tx.start(PlaceOrder, Order("1")), "approved", True)
        tx.signal(tx.start(PlaceOrder, Order("1")), PlaceOrder.approved, True)
        tx.signal("some id", PlaceOrder.approved, 7)  # type: ignore[misc]
        tx.cancel("some id")
        assert_type(tx.complete(act), int)


def adopted(app: Standfast, con: sqlite3.Connection) -> None:
    tx = app.adopt(con)
    assert_type(tx, BlockingTransaction)
    assert_type(tx.start(PlaceOrder, Order("1")), BlockingSagaHandle[PlaceOrder])


def operated(app: Standfast, handle: BlockingSagaHandle[PlaceOrder]) -> None:
    operations = app.blocking.operations
    assert_type(operations, BlockingOperations)
    assert_type(operations.each(operations.select(name=PlaceOrder)), Iterator[Instance])
    assert_type(operations.retry(handle, at=PlaceOrder.reserve), int)
    assert_type(operations.cancel([handle, handle.id, "place-order/1"]), int)
    assert_type(operations.fork(handle), BlockingSagaHandle[Any])
    assert_type(operations.purge(finished_for="30d"), Iterator[int])
    for progress in operations.tell(object(), handle):  # type: ignore[arg-type]
        assert_type(progress, Progress)


async def refused(app: Standfast) -> None:
    # Each of these must be an error: an ignore that isn't needed is one itself.
    app.blocking.start(PlaceOrder, "1")  # type: ignore[call-overload]
    app.blocking.start(PlaceOrder)  # type: ignore[call-overload]
    await app.blocking.start(PlaceOrder, Order("1"))  # type: ignore[misc]
    async with app.blocking.transaction():  # type: ignore[attr-defined]
        pass
    with app.blocking.transaction() as tx:
        await tx.execute("SELECT 1")  # type: ignore[misc]
        tx.start(PlaceOrder, 7)  # type: ignore[call-overload]


def packages_have_no_other_names() -> list[Any]:
    return [
        standfast.Nonsense,  # type: ignore[attr-defined]
        standfast.blocking.Nonsense,  # type: ignore[attr-defined]
        standfast.resilience.Nonsense,  # type: ignore[attr-defined]
        standfast.testing.Nonsense,  # type: ignore[attr-defined]
    ]
