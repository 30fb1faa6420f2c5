"""The page about logging tells all that is logged, and nothing else."""

import os

from tests.docs import log_calls


def test_the_table_has_each_call_that_logs():
    """With STANDFAST_UPDATE=1 it is rewritten instead."""
    rows = [call.row() for call in log_calls.calls()]
    if os.environ.get("STANDFAST_UPDATE") == "1":
        log_calls.rewrite(rows)
    told = log_calls.told()
    missing = [row for row in rows if row not in told]
    surplus = [row for row in told if row not in rows]
    wrong = [f"missing: {row}" for row in missing] + [f"not logged: {row}" for row in surplus]
    assert not wrong, "\n".join(
        ["docs/reference/logging.md isn't what the code logs; STANDFAST_UPDATE=1 mends it", *wrong]
    )
    assert told == rows, "the rows are sorted by level, logger and message"


def test_what_tells_of_a_saga_has_its_name_and_its_id():
    told = {call.message for call in log_calls.calls() if call.carries.startswith("fields")}
    told = {message for message in told if message.startswith("saga …")}
    told -= {"saga …: … more failed attempts of … weren't logged, of at most … in … s"}
    assert told
    assert [message for message in told if not message.startswith("saga … …")] == []


def test_it_finds_the_calls():
    found = log_calls.calls()
    assert len(found) > 40
    assert any(call.carries == "fields, traceback" for call in found)
    loggers = {call.logger for call in found}
    assert {"standfast.saga", "standfast.coordination", "standfast.clock"} <= loggers
    assert all(name.startswith("standfast") for name in loggers)
