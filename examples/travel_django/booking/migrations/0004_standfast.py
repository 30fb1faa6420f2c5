"""Tables of Standfast, written by `standfast migrate --django booking`.

They are for sqlite; on another kind of database nothing is done.
Standfast's migrations only go forward, for their tables hold sagas that are under way: to go
back, restore a backup.
"""

from django.db import migrations

from standfast.integrations.django.revisions import RunSQL


class Migration(migrations.Migration):
    dependencies = [("booking", "0003_standfast")]

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
        # standfast sqlite: journal 4: starts by one statement
        RunSQL(
            [
                """\
CREATE VIEW standfast_starts AS
    SELECT i.id, i.pattern, i.name, i.version, i.key, i.correlation_id, i.input_hash, i.status,
           i.step, i.cause, i.wake_at, i.deadline_at, i.created_at, i.updated_at, j.fact
    FROM standfast_instances AS i JOIN standfast_journal AS j ON j.id = i.id AND j.seq = 0
""",
                """\
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
END
""",
                """\
INSERT INTO standfast_schema_migrations (line, number, name) VALUES ('journal', 4, 'starts by one statement')
""",
            ],
            dialect="sqlite",
        ),
    ]
