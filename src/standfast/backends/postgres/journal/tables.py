"""The tables of the journal, as numbered migrations of plain SQL.

Indexes are few, because each one is paid on every start. `instances_passive` holds only passive
instances with a time to wake, ordered within their kind, so that neither the finished ones nor
those of other kinds cost a worker anything. `instances_owner` holds only active ones. The BRIN
index serves retention and is a few pages whatever the size of the table. `instances_stuck`
holds only what waits for an operator; a statement uses it when it says the very same condition
(`STUCK`), for a plan that is made once can't look into a parameter. No column of it changes while
an instance runs well, so that nothing is written twice for it (HOT).

No foreign keys: journal and mail are only written beside a check of their instance's row, and the
checks of a foreign key would lock that row on every append.
"""

from __future__ import annotations

from standfast.ports.schema import SchemaLine, SchemaMigration

STUCK = "status IN ('parked', 'compensation_failed')"

LINE = SchemaLine(
    "journal",
    (
        SchemaMigration(
            1,
            "instances, journal and mail",
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
);
COMMENT ON COLUMN standfast.instances.claim IS
    'which call claimed it: lets a worker find what it claimed when the answer was lost';
COMMENT ON COLUMN standfast.instances.last_mail IS 'the number of the last mail that arrived';
COMMENT ON COLUMN standfast.instances.unread IS 'how many mails wait to be folded in';
COMMENT ON COLUMN standfast.instances.mailed_at IS 'since when mail waits, NULL if none does';
CREATE INDEX instances_passive ON standfast.instances (pattern, name, version, wake_at)
    WHERE owner IS NULL AND wake_at IS NOT NULL;
CREATE INDEX instances_owner ON standfast.instances (owner) WHERE owner IS NOT NULL;
CREATE INDEX instances_finished ON standfast.instances
    USING brin (finished_at) WITH (autosummarize = on, pages_per_range = 32);

CREATE TABLE standfast.journal (
    id   uuid NOT NULL,
    seq  int NOT NULL,
    fact text NOT NULL,
    PRIMARY KEY (id, seq)
);

CREATE TABLE standfast.mail (
    instance uuid NOT NULL,
    id       text NOT NULL,
    number   bigint NOT NULL,
    kind     text NOT NULL,
    body     text,
    at       double precision NOT NULL,
    PRIMARY KEY (instance, id)
);
COMMENT ON COLUMN standfast.mail.body IS
    'NULL once folded into the journal: the row stays, so that a repeated id is known';
CREATE INDEX mail_unread ON standfast.mail (instance, number) WHERE body IS NOT NULL;
""",
        ),
        SchemaMigration(
            2,
            "recoveries",
            """\
ALTER TABLE standfast.instances
    ADD COLUMN recoveries int NOT NULL DEFAULT 0,
    ADD COLUMN stood_at int NOT NULL DEFAULT -1;
COMMENT ON COLUMN standfast.instances.recoveries IS
    'how often in a row it was reclaimed without a fact since; only a takeover writes it';
COMMENT ON COLUMN standfast.instances.stood_at IS 'the number of its last fact then';
COMMENT ON COLUMN standfast.instances.claim IS 'not used any more';
""",
        ),
        SchemaMigration(
            3,
            "an index of what is stuck",
            """\
CREATE INDEX instances_stuck ON standfast.instances (pattern, name, status)
    WHERE status IN ('parked', 'compensation_failed');
""",
        ),
    ),
)
