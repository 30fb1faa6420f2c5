"""Tables of Standfast, written by `standfast migrate --django booking`.

They are for postgresql; on another kind of database nothing is done.
Standfast's migrations only go forward, for their tables hold sagas that are under way: to go
back, restore a backup.
"""

from django.db import migrations

from standfast.integrations.django.revisions import RunSQL


class Migration(migrations.Migration):
    dependencies = [("booking", "0002_standfast")]

    operations = [
        # makes the table of what was applied
        RunSQL(
            [
                """\
DO $standfast$ BEGIN
    PERFORM pg_advisory_xact_lock(6004501462242120532);
    IF to_regclass('standfast.migrations') IS NOT NULL THEN
        RAISE EXCEPTION 'an older version of Standfast made this database: nothing was changed'
            USING HINT = 'Take it over first, with `standfast migrate` or with the SQL that '
                '`standfast migrate -a URL --sql --take-over` prints.';
    END IF;
END $standfast$
""",
                """\
DO $standfast$ BEGIN
    -- IF NOT EXISTS would ask for CREATE on the database even where there is nothing to create.
    IF to_regnamespace('standfast') IS NULL THEN
        CREATE SCHEMA standfast;
    END IF;
END $standfast$
""",
                """\
CREATE TABLE IF NOT EXISTS standfast.schema_migrations (
    line       text NOT NULL,
    number     int NOT NULL,
    name       text NOT NULL,
    applied_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (line, number)
)
""",
            ],
            dialect="postgresql",
        ),
        # standfast postgresql: coordination 1: leases
        RunSQL(
            [
                """\
CREATE TABLE standfast.leases (
    token      bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    name       text NOT NULL UNIQUE,
    holder     text NOT NULL,
    note       json NOT NULL,
    expires_at timestamptz NOT NULL
) WITH (fillfactor = 50)
""",
                """\
INSERT INTO standfast.schema_migrations (line, number, name)
VALUES ('coordination', 1, 'leases')
""",
            ],
            dialect="postgresql",
        ),
        # standfast postgresql: journal 1: instances, journal and mail
        RunSQL(
            [
                """\
CREATE TABLE standfast.instances (
    id             uuid PRIMARY KEY,
    pattern        text NOT NULL,
    name           text NOT NULL,
    version        int NOT NULL,
    key            text NOT NULL,
    correlation_id text NOT NULL,
    input_hash     text NOT NULL,
    status         text NOT NULL,
    step           text NOT NULL,
    cause          text NOT NULL,
    owner          bigint,
    wake_at        double precision,
    deadline_at    double precision,
    created_at     double precision NOT NULL,
    updated_at     double precision NOT NULL,
    finished_at    double precision,
    claim          bigint,
    last_mail      bigint NOT NULL DEFAULT 0,
    unread         int NOT NULL DEFAULT 0,
    mailed_at      double precision,
    UNIQUE (pattern, name, key)
)
""",
                """\
COMMENT ON COLUMN standfast.instances.claim IS
    'which call claimed it: lets a worker find what it claimed when the answer was lost'
""",
                """\
COMMENT ON COLUMN standfast.instances.last_mail IS 'the number of the last mail that arrived'
""",
                """\
COMMENT ON COLUMN standfast.instances.unread IS 'how many mails wait to be folded in'
""",
                """\
COMMENT ON COLUMN standfast.instances.mailed_at IS 'since when mail waits, NULL if none does'
""",
                """\
CREATE INDEX instances_passive ON standfast.instances (pattern, name, version, wake_at)
    WHERE owner IS NULL AND wake_at IS NOT NULL
""",
                """\
CREATE INDEX instances_owner ON standfast.instances (owner) WHERE owner IS NOT NULL
""",
                """\
CREATE INDEX instances_finished ON standfast.instances
    USING brin (finished_at) WITH (autosummarize = on, pages_per_range = 32)
""",
                """\
CREATE TABLE standfast.journal (
    id   uuid NOT NULL,
    seq  int NOT NULL,
    fact text NOT NULL,
    PRIMARY KEY (id, seq)
)
""",
                """\
CREATE TABLE standfast.mail (
    instance uuid NOT NULL,
    id       text NOT NULL,
    number   bigint NOT NULL,
    kind     text NOT NULL,
    body     text,
    at       double precision NOT NULL,
    PRIMARY KEY (instance, id)
)
""",
                """\
COMMENT ON COLUMN standfast.mail.body IS
    'NULL once folded into the journal: the row stays, so that a repeated id is known'
""",
                """\
CREATE INDEX mail_unread ON standfast.mail (instance, number) WHERE body IS NOT NULL
""",
                """\
INSERT INTO standfast.schema_migrations (line, number, name)
VALUES ('journal', 1, 'instances, journal and mail')
""",
            ],
            dialect="postgresql",
        ),
        # standfast postgresql: journal 2: recoveries
        RunSQL(
            [
                """\
ALTER TABLE standfast.instances
    ADD COLUMN recoveries int NOT NULL DEFAULT 0,
    ADD COLUMN stood_at int NOT NULL DEFAULT -1
""",
                """\
COMMENT ON COLUMN standfast.instances.recoveries IS
    'how often in a row it was reclaimed without a fact since; only a takeover writes it'
""",
                """\
COMMENT ON COLUMN standfast.instances.stood_at IS 'the number of its last fact then'
""",
                """\
COMMENT ON COLUMN standfast.instances.claim IS 'not used any more'
""",
                """\
INSERT INTO standfast.schema_migrations (line, number, name)
VALUES ('journal', 2, 'recoveries')
""",
            ],
            dialect="postgresql",
        ),
        # standfast postgresql: journal 3: an index of what is stuck
        RunSQL(
            [
                """\
CREATE INDEX IF NOT EXISTS instances_stuck ON standfast.instances (pattern, name, status)
    WHERE status IN ('parked', 'compensation_failed')
""",
                """\
INSERT INTO standfast.schema_migrations (line, number, name)
VALUES ('journal', 3, 'an index of what is stuck')
""",
            ],
            dialect="postgresql",
        ),
    ]
