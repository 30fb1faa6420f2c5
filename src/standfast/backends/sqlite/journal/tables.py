"""The journal's tables."""

from __future__ import annotations

from standfast.ports.schema import SchemaLine, SchemaMigration

# Mail that was folded into the journal stays, with a NULL body, so that a repeated id is known.
# One partial index serves ownership (owner = ?) and waking (owner IS NULL, per kind by wake_at): an
# instance is in it only while it is owned or due some time, so finished ones cost nothing there.
# What is stuck has an index of its own, which costs others nothing. A statement uses it when it
# says the very same condition (`STUCK`).
STUCK = "status IN ('parked', 'compensation_failed')"

LINE = SchemaLine(
    "journal",
    (
        SchemaMigration(
            1,
            "instances, journal and mail",
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
) STRICT, WITHOUT ROWID;
CREATE UNIQUE INDEX standfast_instances_key ON standfast_instances (pattern, name, key);
CREATE INDEX standfast_instances_work
    ON standfast_instances (owner, pattern, name, version, wake_at)
    WHERE owner IS NOT NULL OR wake_at IS NOT NULL;
CREATE INDEX standfast_instances_finished ON standfast_instances (pattern, finished_at)
    WHERE finished_at IS NOT NULL;
CREATE TABLE standfast_journal (
    id BLOB NOT NULL,
    seq INTEGER NOT NULL,
    fact TEXT NOT NULL,
    PRIMARY KEY (id, seq)
) STRICT, WITHOUT ROWID;
CREATE TABLE standfast_mail (
    number INTEGER PRIMARY KEY AUTOINCREMENT,
    recipient BLOB NOT NULL,
    id TEXT NOT NULL,
    kind TEXT NOT NULL,
    body TEXT,
    at REAL NOT NULL,
    UNIQUE (recipient, id)
) STRICT;
""",
        ),
        # How often in a row it was reclaimed, and the number of its last fact then. Nothing but a
        # takeover writes them.
        SchemaMigration(
            2,
            "recoveries",
            """\
ALTER TABLE standfast_instances ADD COLUMN recoveries INTEGER NOT NULL DEFAULT 0;
ALTER TABLE standfast_instances ADD COLUMN stood_at INTEGER NOT NULL DEFAULT -1;
""",
        ),
        SchemaMigration(
            3,
            "an index of what is stuck",
            """\
CREATE INDEX standfast_instances_stuck ON standfast_instances (pattern, name, status)
    WHERE status IN ('parked', 'compensation_failed');
""",
        ),
        # A statement of SQLite's writes to one table; through a view it writes an instance and its
        # first fact at once. What finds its key taken counts as not inserted.
        SchemaMigration(
            4,
            "starts by one statement",
            """\
CREATE VIEW standfast_starts AS
    SELECT i.id, i.pattern, i.name, i.version, i.key, i.correlation_id, i.input_hash, i.status,
           i.step, i.cause, i.wake_at, i.deadline_at, i.created_at, i.updated_at, j.fact
    FROM standfast_instances AS i JOIN standfast_journal AS j ON j.id = i.id AND j.seq = 0;
CREATE TRIGGER standfast_start INSTEAD OF INSERT ON standfast_starts BEGIN
    INSERT INTO standfast_instances (id, pattern, name, version, key, correlation_id, input_hash,
                                     status, step, cause, wake_at, deadline_at, created_at,
                                     updated_at)
    VALUES (NEW.id, NEW.pattern, NEW.name, NEW.version, NEW.key, NEW.correlation_id,
            NEW.input_hash, NEW.status, NEW.step, NEW.cause, NEW.wake_at, NEW.deadline_at,
            NEW.created_at, NEW.updated_at)
    ON CONFLICT (pattern, name, key) DO NOTHING;
    SELECT RAISE(IGNORE) WHERE changes() = 0;
    INSERT INTO standfast_journal (id, seq, fact) VALUES (NEW.id, 0, NEW.fact);
END;
""",
        ),
    ),
)
