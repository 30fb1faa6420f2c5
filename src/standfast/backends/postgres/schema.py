"""The tables, as numbered migrations of plain SQL.

Indexes are few, because each one is paid on every start. `instances_passive` holds only passive
instances with a time to wake, ordered within their kind, so that neither the finished ones nor
those of other kinds cost a worker anything. `instances_owner` holds only active ones. The two BRIN
indexes serve retention and are a few pages whatever the size of the table.

No foreign keys: journal and mail are only written beside a check of their instance's row, and the
checks of a foreign key would lock that row on every append.
"""

from __future__ import annotations

from standfast.ports.database import Migration

LOCK_KEY = 0x5354_4644_4641_5354
"""The advisory lock that migrations hold."""

MIGRATIONS: tuple[Migration, ...] = (
    Migration(
        1,
        "journal, mail, leases and marks",
        """\
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
""",
    ),
    Migration(
        2,
        "rate limits",
        """\
CREATE UNLOGGED TABLE standfast.rate_limits (
    key        text PRIMARY KEY,
    full_at    double precision,
    number     double precision,
    current    bigint,
    previous   bigint,
    expires_at double precision NOT NULL
) WITH (fillfactor = 50);
COMMENT ON TABLE standfast.rate_limits IS
    'unlogged: after a crash of the server every key starts anew';
COMMENT ON COLUMN standfast.rate_limits.full_at IS 'GCRA: when its bucket is full again';
COMMENT ON COLUMN standfast.rate_limits.number IS
    'sliding window: the window that current belongs to; previous is of the one before';

-- The machines of resilience/ratelimit/machine.py. Keys are locked in their order, so that batches
-- don't deadlock; each is read once and written once, however often it is asked for.
CREATE FUNCTION standfast.check_rates(
    keys text[], sliding bool[], limits bigint[], windows double precision[],
    capacities bigint[], costs bigint[]
) RETURNS TABLE (
    n bigint, allowed bool, remaining bigint, retry_after double precision,
    reset_after double precision
) LANGUAGE plpgsql AS $$
DECLARE
    r record;
    state standfast.rate_limits;
    key_before text;
    at double precision;
    span double precision;
    room double precision;
    after double precision;
    spare double precision;
    passed double precision;
    weighted double precision;
BEGIN
    FOR r IN
        SELECT * FROM unnest(keys, sliding, limits, windows, capacities, costs) WITH ORDINALITY
            AS t (key, sliding, quota, per, capacity, cost, n)
        ORDER BY t.key COLLATE "C", t.n
    LOOP
        IF r.key IS DISTINCT FROM key_before THEN
            IF key_before IS NOT NULL THEN
                PERFORM standfast.keep_rate(state);
            END IF;
            key_before := r.key;
            -- Makes the row if need be, and locks it: two transactions take turns.
            INSERT INTO standfast.rate_limits AS l (key, expires_at) VALUES (r.key, 0)
                ON CONFLICT (key) DO UPDATE SET expires_at = l.expires_at
                RETURNING l.* INTO state;
            at := extract(epoch FROM clock_timestamp());
        END IF;
        n := r.n;
        retry_after := 0;
        IF NOT r.sliding THEN
            span := r.per / r.quota;
            room := r.capacity * span;
            state.full_at := least(greatest(coalesce(state.full_at, at), at), at + room);
            after := state.full_at + r.cost * span;
            spare := at + room - after;
            allowed := spare >= -5e-7 OR r.cost <= 0;
            IF allowed THEN
                state.full_at := greatest(after, at);
                spare := least(spare, room);
            ELSE
                retry_after := -spare;
                spare := at + room - state.full_at;
            END IF;
            remaining := floor((spare + 5e-7) / span);
            reset_after := state.full_at - at;
        ELSE
            passed := at - floor(at / r.per) * r.per;
            IF state.number IS NULL OR state.number < floor(at / r.per) - 1 THEN
                state.current := 0;
                state.previous := 0;
            ELSIF state.number < floor(at / r.per) THEN
                state.previous := state.current;
                state.current := 0;
            END IF;
            state.number := floor(at / r.per);
            weighted := state.previous * (1 - passed / r.per);
            allowed := r.cost <= 0 OR weighted + state.current + r.cost <= r.quota + 5e-7;
            IF allowed THEN
                state.current := greatest(0, state.current + r.cost);
            ELSIF r.cost > r.quota THEN
                retry_after := r.per;
            ELSIF state.current <= r.quota - r.cost THEN
                retry_after := greatest(0, r.per * (1 - (r.quota - r.cost - state.current)
                    / state.previous::double precision) - passed);
            ELSE
                retry_after := r.per - passed
                    + r.per * (1 - (r.quota - r.cost) / state.current::double precision);
            END IF;
            remaining := greatest(0, floor(r.quota - weighted - state.current + 5e-7));
            reset_after := CASE WHEN state.current > 0 THEN 2 * r.per - passed
                WHEN state.previous > 0 THEN r.per - passed ELSE 0 END;
        END IF;
        state.expires_at := at + reset_after;
        RETURN NEXT;
    END LOOP;
    IF key_before IS NOT NULL THEN
        PERFORM standfast.keep_rate(state);
    END IF;
END $$;

CREATE FUNCTION standfast.keep_rate(state standfast.rate_limits) RETURNS void
LANGUAGE sql AS $$
    UPDATE standfast.rate_limits SET full_at = state.full_at, number = state.number,
        current = state.current, previous = state.previous, expires_at = state.expires_at
    WHERE key = state.key
$$;

INSERT INTO standfast.migrations (number, name) VALUES (2, 'rate limits');
""",
    ),
)
