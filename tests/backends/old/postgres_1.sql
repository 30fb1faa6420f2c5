CREATE SCHEMA IF NOT EXISTS standfast;

CREATE TABLE standfast.migrations (
    number     int PRIMARY KEY,
    name       text NOT NULL,
    applied_at timestamptz NOT NULL DEFAULT now()
);

CREATE TABLE standfast.workers (
    token      bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    name       text NOT NULL,
    kinds      jsonb NOT NULL,
    expires_at timestamptz NOT NULL
) WITH (fillfactor = 50);

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

CREATE TABLE standfast.marks (
    key       text NOT NULL,
    operation text NOT NULL,
    reason    text NOT NULL,
    result    text,
    at        double precision NOT NULL,
    PRIMARY KEY (key, operation)
);
CREATE INDEX marks_at ON standfast.marks
    USING brin (at) WITH (autosummarize = on, pages_per_range = 32);

INSERT INTO standfast.migrations (number, name) VALUES (1, 'journal, mail, leases and marks');
