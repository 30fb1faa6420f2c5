"""Whether a database has an app's tables: gaps, and what a newer version made."""

import logging

import pytest

from standfast import Barrier, Standfast
from standfast.errors import MigrationNeeded
from standfast.ports.leases import LeaseStore
from standfast.ports.marks import MarkStore
from standfast.ports.schema import SchemaLine, SchemaMigration
from standfast.tables import LineStatus, check_tables

LINE = SchemaLine("x", tuple(SchemaMigration(number, f"the {number}.", "") for number in (1, 2, 3)))


@pytest.mark.parametrize(
    ("numbers", "applied", "missing", "is_newer"),
    [
        ((), 0, [1, 2, 3], False),
        ((1,), 1, [2, 3], False),
        ((1, 3), 1, [2], False),
        ((2, 3), 0, [1], False),
        ((1, 2, 3), 3, [], False),
        ((1, 2, 3, 4), 4, [], True),
        ((1, 3, 7), 1, [2], True),
        ((9,), 0, [1, 2, 3], True),
    ],
)
def test_how_far_a_line_is(numbers, applied, missing, is_newer):
    status = LineStatus(LINE, frozenset(numbers))
    assert status.applied == applied
    assert [each.number for each in status.missing] == missing
    assert status.is_complete == (not missing)
    assert status.is_newer == is_newer


async def note(app, sql):
    async with app, app.transaction() as tx:
        await tx.execute(sql)


async def test_what_a_newer_version_made_is_used_with_one_warning(tmp_path, caplog):
    url = f"sqlite:///{tmp_path}/app.db"
    await note(
        Standfast(url).add(Barrier()),
        "INSERT INTO standfast_schema_migrations (line, number, name) VALUES"
        " ('marks', 2, 'more'), ('marks', 3, 'even more'), ('outbox', 9, 'not of this app')",
    )
    assert caplog.records == []
    with caplog.at_level(logging.WARNING):
        async with Standfast(url, migrate=False).add(Barrier()):
            pass
    (record,) = caplog.records
    assert record.levelname == "WARNING"
    assert url in record.getMessage()
    assert "newer version" in record.getMessage()
    assert "marks is at 3, this version knows 1" in record.getMessage()


async def test_a_migration_that_was_left_out_is_missed_and_made(tmp_path):
    app = Standfast(f"sqlite:///{tmp_path}/app.db").add(Barrier())
    await note(
        app,
        "UPDATE standfast_schema_migrations SET number = 2 WHERE line = 'marks'",
    )
    await app.database.open()
    try:
        with pytest.raises(MigrationNeeded, match=r"marks is at 0; this version needs 1"):
            await check_tables(app.database, [MarkStore], migrate=False)
        async with app.database.transaction() as tx:
            await tx.execute("DROP TABLE standfast_marks")
        done = await check_tables(app.database, [LeaseStore, MarkStore], migrate=True)
        assert [(one.line, one.migration.number) for one in done] == [
            ("coordination", 1),
            ("marks", 1),
        ]
    finally:
        await app.database.close()
