"""Tables of Standfast, written by `standfast migrate --django booking`.

They are for sqlite; on another kind of database nothing is done.
Standfast's migrations only go forward, for their tables hold sagas that are under way: to go
back, restore a backup.
"""

from django.db import migrations

from standfast.integrations.django.revisions import RunSQL


class Migration(migrations.Migration):
    dependencies = [("booking", "0001_initial")]

    operations = [
        # makes the table of what was applied
        RunSQL(
            [
                """\
CREATE TEMP TABLE standfast_guard (holds INTEGER CONSTRAINT "an older version of Standfast made this file: take it over first, with `standfast migrate`, or with what `standfast migrate -a URL --sql --take-over` prints" CHECK (holds))
""",
                """\
INSERT INTO standfast_guard SELECT count(*) = 0 FROM main.sqlite_master
    WHERE type = 'table' AND name = 'standfast_migrations'
""",
                """\
DROP TABLE standfast_guard
""",
                """\
CREATE TABLE IF NOT EXISTS standfast_schema_migrations (
    line TEXT NOT NULL,
    number INTEGER NOT NULL,
    name TEXT NOT NULL,
    applied_at REAL NOT NULL DEFAULT ((julianday('now') - 2440587.5) * 86400.0),
    PRIMARY KEY (line, number)
) STRICT, WITHOUT ROWID
""",
            ],
            dialect="sqlite",
        ),
        # standfast sqlite: coordination 1: leases
        RunSQL(
            [
                """\
CREATE TABLE standfast_leases (
    token INTEGER PRIMARY KEY AUTOINCREMENT,
    name TEXT NOT NULL UNIQUE,
    holder TEXT NOT NULL,
    note TEXT NOT NULL,
    expires_at REAL NOT NULL
) STRICT
""",
                """\
INSERT INTO standfast_schema_migrations (line, number, name) VALUES ('coordination', 1, 'leases')
""",
            ],
            dialect="sqlite",
        ),
        # standfast sqlite: journal 1: instances, journal and mail
        RunSQL(
            [
                """\
CREATE TABLE standfast_instances (
    id BLOB NOT NULL PRIMARY KEY,
    pattern TEXT NOT NULL,
    name TEXT NOT NULL,
    version INTEGER NOT NULL,
    key TEXT NOT NULL,
    correlation_id TEXT NOT NULL,
    input_hash TEXT NOT NULL,
    status TEXT NOT NULL,
    step TEXT NOT NULL,
    cause TEXT NOT NULL,
    owner INTEGER,
    wake_at REAL,
    deadline_at REAL,
    created_at REAL NOT NULL,
    updated_at REAL NOT NULL,
    finished_at REAL
) STRICT, WITHOUT ROWID
""",
                """\
CREATE UNIQUE INDEX standfast_instances_key ON standfast_instances (pattern, name, key)
""",
                """\
CREATE INDEX standfast_instances_work
    ON standfast_instances (owner, pattern, name, version, wake_at)
    WHERE owner IS NOT NULL OR wake_at IS NOT NULL
""",
                """\
CREATE INDEX standfast_instances_finished ON standfast_instances (pattern, finished_at)
    WHERE finished_at IS NOT NULL
""",
                """\
CREATE TABLE standfast_journal (
    id BLOB NOT NULL,
    seq INTEGER NOT NULL,
    fact TEXT NOT NULL,
    PRIMARY KEY (id, seq)
) STRICT, WITHOUT ROWID
""",
                """\
CREATE TABLE standfast_mail (
    number INTEGER PRIMARY KEY AUTOINCREMENT,
    recipient BLOB NOT NULL,
    id TEXT NOT NULL,
    kind TEXT NOT NULL,
    body TEXT,
    at REAL NOT NULL,
    UNIQUE (recipient, id)
) STRICT
""",
                """\
INSERT INTO standfast_schema_migrations (line, number, name) VALUES ('journal', 1, 'instances, journal and mail')
""",
            ],
            dialect="sqlite",
        ),
        # standfast sqlite: journal 2: recoveries
        RunSQL(
            [
                """\
ALTER TABLE standfast_instances ADD COLUMN recoveries INTEGER NOT NULL DEFAULT 0
""",
                """\
ALTER TABLE standfast_instances ADD COLUMN stood_at INTEGER NOT NULL DEFAULT -1
""",
                """\
INSERT INTO standfast_schema_migrations (line, number, name) VALUES ('journal', 2, 'recoveries')
""",
            ],
            dialect="sqlite",
        ),
        # standfast sqlite: journal 3: an index of what is stuck
        RunSQL(
            [
                """\
CREATE INDEX standfast_instances_stuck ON standfast_instances (pattern, name, status)
    WHERE status IN ('parked', 'compensation_failed')
""",
                """\
INSERT INTO standfast_schema_migrations (line, number, name) VALUES ('journal', 3, 'an index of what is stuck')
""",
            ],
            dialect="sqlite",
        ),
    ]
