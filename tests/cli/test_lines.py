"""Commands against a database that has some lines of migrations, not all."""

import json

from tests.cli.conftest import in_process


def test_run_makes_no_tables_unless_it_is_told_to(shop, standfast):
    """A file that lacked a line of migrations was migrated by `standfast run`."""
    standfast("migrate", "--app", "sqlite:///shop.db", "--line", "journal")
    process = in_process("run", "--app", "shop:app")
    try:
        _, err = process.communicate(timeout=20)
    finally:
        process.kill()
        process.communicate()
    assert process.returncode == 1
    assert "marks is at 0" in err
    assert "standfast migrate" in err
    lines = json.loads(
        standfast("migrate", "--app", "shop:app", "--status", "--json", code=1).stdout
    )
    assert {one["line"]: one["applied"] for one in lines}["marks"] == 0


def test_workers_of_a_database_without_a_journal(folder, standfast):
    """It asked a table that isn't there."""
    standfast("migrate", "--app", "sqlite:///shop.db", "--line", "coordination")
    assert json.loads(standfast("workers", "--app", "sqlite:///shop.db", "--json").stdout) == []
