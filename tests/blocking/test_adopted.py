"""Handles that come out of an adopted transaction."""

import sqlite3
from pathlib import Path

from standfast.blocking import BlockingSagaHandle
from tests.blocking.sagas import Visit, app_on


def test_they_open_nothing_before_they_are_used(tmp_path: Path) -> None:
    path = tmp_path / "adopted.db"
    app = app_on(f"sqlite:///{path}")
    with app.blocking:
        pass  # its tables are there
    con = sqlite3.connect(path)
    with con:
        handle = app.adopt(con).start(Visit, "lamp", key="1")
    con.close()
    assert isinstance(handle, BlockingSagaHandle)
    assert (handle.created, app.affinity) == (True, None)
    with app.blocking, app.blocking.running():
        assert handle.result(20)["note"] == "lamp"
