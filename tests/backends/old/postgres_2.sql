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
