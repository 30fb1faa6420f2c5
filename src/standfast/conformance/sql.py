"""The contract of a `StoreTransaction`'s SQL, as tests."""

# ruff: noqa: S608, PT012 - names of the tests' own tables; blocks that raise are what is tested

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from standfast.conformance.samples import Suite, Undo
from standfast.errors import ConstraintViolated, StoreError, Unsupported
from standfast.ports.database import Database


class SqlSuite(Suite):
    """Override the fixture `database`, and `sql` where there is no SQL."""

    async def test_commit_and_rollback_of_rows(self, database: Database, table: str) -> None:
        """Rows are there after the block, or not at all if it raises."""
        insert = f"INSERT INTO {table} (id) VALUES ($1)"
        async with database.transaction() as tx:
            await tx.execute(insert, 1)
        with pytest.raises(Undo):
            async with database.transaction() as tx:
                await tx.execute(insert, 2)
                raise Undo
        async with database.transaction() as tx:
            assert [row["id"] for row in await tx.fetch(f"SELECT id FROM {table}")] == [1]

    @pytest.mark.parametrize(
        "control",
        [
            "COMMIT",
            "rollback",
            "/* a /* b */ */ END",
            "-- at last\nBegin",
            "ABORT",
            "START TRANSACTION",
            "PREPARE TRANSACTION 'x'",
            "ROLLBACK WORK",
        ],
    )
    @pytest.mark.parametrize("how", ["execute", "fetch", "fetch_one", "fetch_value"])
    async def test_control_of_the_transaction(
        self, database: Database, table: str, control: str, how: str
    ) -> None:
        """Only the block ends it: raw SQL that would is refused, and nothing is written."""
        with pytest.raises(StoreError, match="block"):
            async with database.transaction() as tx:
                await tx.execute(f"INSERT INTO {table} (id) VALUES ($1)", 1)
                await getattr(tx, how)(control)
        async with database.transaction() as tx:
            assert await tx.fetch_value(f"SELECT count(*) FROM {table}") == 0

    async def test_savepoints(self, database: Database, table: str) -> None:
        """Part of a transaction can be undone, and the rest of it goes on."""
        insert = f"INSERT INTO {table} (id) VALUES ($1)"
        async with database.transaction() as tx:
            await tx.execute(insert, 1)
            await tx.execute("SAVEPOINT mine")
            with pytest.raises(ConstraintViolated):
                await tx.execute(insert, 1)
            await tx.execute("ROLLBACK TO SAVEPOINT mine")
            await tx.execute(insert, 2)
            await tx.execute("RELEASE SAVEPOINT mine")
        async with database.transaction() as tx:
            assert await tx.fetch_value(f"SELECT count(*) FROM {table}") == 2

    async def test_use_after_the_block(self, database: Database, table: str) -> None:
        """A clear error, and nothing is written."""
        async with database.transaction() as tx:
            pass
        for call in (tx.execute, tx.fetch, tx.fetch_one, tx.fetch_value):
            with pytest.raises(StoreError):
                await call(f"INSERT INTO {table} (id) VALUES ($1)", 1)
        async with database.transaction() as tx:
            assert await tx.fetch_value(f"SELECT count(*) FROM {table}") == 0

    async def test_no_sql(self, database: Database) -> None:
        """Where there is no SQL, `Unsupported` says what to use."""
        if self.sql:
            pytest.skip("the backend has SQL")
        async with database.transaction() as tx:
            calls: list[Callable[[str], Awaitable[Any]]]
            calls = [tx.execute, tx.fetch, tx.fetch_one, tx.fetch_value]
            for call in calls:
                with pytest.raises(Unsupported, match="sqlite"):
                    await call("SELECT 1")

    async def test_rows(self, database: Database, table: str) -> None:
        """How many were touched; rows by name and position; first row, first value, or None."""
        async with database.transaction() as tx:
            insert = f"INSERT INTO {table} (id, text) VALUES ($1, $2)"
            assert await tx.execute(insert, 1, "one") == 1
            assert await tx.execute(insert, 2, "two") == 1
            assert await tx.execute(f"UPDATE {table} SET text = text") == 2
            assert await tx.execute(f"DELETE FROM {table} WHERE id = $1", 9) == 0
            rows = await tx.fetch(f"SELECT id, text FROM {table} ORDER BY id")
            assert [(row[0], row["text"]) for row in rows] == [(1, "one"), (2, "two")]
            assert list(rows[0].keys()) == ["id", "text"]
            one = f"SELECT text, id FROM {table} WHERE id = $1"
            row = await tx.fetch_one(one, 2)
            assert row is not None
            assert row["id"] == 2
            assert await tx.fetch_value(one, 1) == "one"
            assert await tx.fetch_one(one, 9) is None
            assert await tx.fetch_value(one, 9) is None
            assert list(await tx.fetch(one, 9)) == []

    async def test_touched_rows(self, database: Database, table: str) -> None:
        """Are counted for all statements, those that answer with rows and those with a WITH too."""
        chosen = "WITH chosen AS (SELECT 1 AS one)"
        where = "WHERE id IN (SELECT one FROM chosen)"
        async with database.transaction() as tx:
            insert = f"INSERT INTO {table} (id) VALUES ($1), ($2) RETURNING id"
            assert await tx.execute(insert, 1, 2) == 2
            assert await tx.execute(f"UPDATE {table} SET text = 'a' RETURNING id") == 2
            assert await tx.execute(f"{chosen} UPDATE {table} SET text = 'b' {where}") == 1
            assert await tx.execute(f"{chosen} DELETE FROM {table} {where} RETURNING id") == 1
            assert await tx.execute(f"{chosen} DELETE FROM {table} {where}") == 0
            assert await tx.execute(f"-- all\n{chosen} DELETE FROM {table}") == 1

    @pytest.mark.parametrize(
        ("column", "value"),
        [
            ("text", None),
            ("text", ""),
            ("text", "Grüße 🚚 '\"; -- $1 ? %s"),
            ("data", b"\x00\xff$1"),
            ("data", b""),
            ("data", None),
            ("id", 2**63 - 1),
            ("id", -(2**63)),
        ],
    )
    async def test_values(self, database: Database, table: str, column: str, value: Any) -> None:
        """Come back as they went in."""
        async with database.transaction() as tx:
            row = {"id": 1, "text": None, "data": None, column: value}
            await tx.execute(
                f"INSERT INTO {table} (id, text, data) VALUES ($1, $2, $3)",
                row["id"],
                row["text"],
                row["data"],
            )
        async with database.transaction() as tx:
            assert await tx.fetch_value(f"SELECT {column} FROM {table}") == value

    async def test_placeholders(self, database: Database, table: str) -> None:
        """Repeated, out of order, and more than nine."""
        async with database.transaction() as tx:
            await tx.execute(f"INSERT INTO {table} (text, id) VALUES ($2, $1)", 1, "one")
            found = f"SELECT id FROM {table} WHERE text = $1 OR (id = $2 AND text = $1)"
            assert await tx.fetch_value(found, "one", 1) == 1
            numbers = ", ".join(f"CAST(${n} AS BIGINT)" for n in range(12, 0, -1))
            row = await tx.fetch_one(f"SELECT {numbers}", *range(1, 13))
            assert row is not None
            assert [row[n] for n in range(12)] == list(range(12, 0, -1))

    async def test_wrong_number_of_arguments(self, database: Database, table: str) -> None:
        """`StoreError` for too few and too many."""
        for args in ((), (1, 2)):
            with pytest.raises(StoreError):
                async with database.transaction() as tx:
                    await tx.fetch(f"SELECT text FROM {table} WHERE id = $1", *args)

    async def test_constraints(self, database: Database, table: str) -> None:
        """`ConstraintViolated`, and the block rolls back."""
        insert = f"INSERT INTO {table} (id) VALUES ($1)"
        for bad in (1, 13):
            with pytest.raises(ConstraintViolated) as caught:
                async with database.transaction() as tx:
                    await tx.execute(f"DELETE FROM {table}")
                    await tx.execute(insert, 1)
                    await tx.execute(insert, bad)
            assert caught.value.__cause__ is not None
        async with database.transaction() as tx:
            assert await tx.fetch_value(f"SELECT count(*) FROM {table}") == 0

    async def test_foreign_keys(self, database: Database, table: str) -> None:
        """Are enforced."""
        async with database.transaction() as tx:
            await tx.execute(
                f"CREATE TABLE conformance_children (id BIGINT REFERENCES {table} (id))"
            )
        try:
            with pytest.raises(ConstraintViolated):
                async with database.transaction() as tx:
                    await tx.execute("INSERT INTO conformance_children (id) VALUES ($1)", 5)
        finally:
            async with database.transaction() as tx:
                await tx.execute("DROP TABLE conformance_children")

    async def test_bad_sql(self, database: Database, table: str) -> None:
        """`StoreError` with the driver's error as its cause; the database goes on."""
        for sql in ("SELEKT 1", "SELECT * FROM conformance_missing", f"SELECT no FROM {table}"):
            with pytest.raises(StoreError) as caught:
                async with database.transaction() as tx:
                    await tx.fetch(sql)
            assert type(caught.value) is StoreError
            assert caught.value.__cause__ is not None
        async with database.transaction() as tx:
            assert await tx.fetch_value("SELECT 1") == 1

    async def test_text_that_can_not_be_sent(self, database: Database, table: str) -> None:
        """`StoreError`, not what Python raises, and the next transaction has no harm of it."""
        with pytest.raises(StoreError):
            async with database.transaction() as tx:
                await tx.fetch(f"SELECT '\ud800' FROM {table}")
        async with database.transaction() as tx:
            assert await tx.fetch_value("SELECT 1") == 1

    async def test_bad_argument(self, database: Database, table: str) -> None:
        """A value that the engine can't store is a `StoreError`, whatever the driver calls it."""
        for value in (2**63, object()):
            with pytest.raises(StoreError):
                async with database.transaction() as tx:
                    await tx.execute(f"INSERT INTO {table} (id) VALUES ($1)", value)
