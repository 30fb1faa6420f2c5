"""The SQL of who runs an instance: claimed, set aside, given back, or taken from who is gone.

Why it is safe is told in `statements`.
"""

from __future__ import annotations

from standfast.backends.postgres.clock import NOW
from standfast.backends.postgres.journal.statements import CHANNEL, COLUMNS, LEASE

# ruff: noqa: S608 - only constants of these modules are put into the SQL text

# $2, $3, $4: kinds; $5 now; $6 limit.
CLAIM = f"""\
WITH {LEASE}, due AS MATERIALIZED (
    SELECT d.id, d.wake_at
    FROM lease, unnest($2::text[], $3::text[], $4::int[]) AS k (pattern, name, version)
    CROSS JOIN LATERAL (
        SELECT i.id, i.wake_at FROM standfast.instances i
        WHERE i.pattern = k.pattern AND i.name = k.name AND i.version = k.version
          AND i.owner IS NULL AND i.wake_at <= $5
        ORDER BY i.wake_at LIMIT $6 FOR NO KEY UPDATE SKIP LOCKED
    ) d ORDER BY d.wake_at LIMIT $6
), claimed AS (
    UPDATE standfast.instances i SET owner = $1, wake_at = NULL
    FROM due WHERE i.id = due.id RETURNING i.id, due.wake_at
)
SELECT EXISTS (SELECT FROM lease) AS alive,
       ARRAY(SELECT id FROM claimed ORDER BY claimed.wake_at) AS ids
"""

TAKE = f"""\
WITH {LEASE}, taken AS (
    UPDATE standfast.instances i SET owner = $1, wake_at = NULL
    FROM lease WHERE i.id = $2 AND i.owner IS NULL RETURNING i.id
)
SELECT EXISTS (SELECT FROM lease) AS alive, EXISTS (SELECT FROM taken) AS taken
"""

OWNED_BY = "SELECT id FROM standfast.instances WHERE owner = $1"

NEXT_WAKE = """\
SELECT min(w.wake_at) FROM unnest($1::text[], $2::text[], $3::int[]) AS k (pattern, name, version)
CROSS JOIN LATERAL (
    SELECT i.wake_at FROM standfast.instances i
    WHERE i.pattern = k.pattern AND i.name = k.name AND i.version = k.version
      AND i.owner IS NULL AND i.wake_at IS NOT NULL
    ORDER BY i.wake_at LIMIT 1
) w
"""

SET_ASIDE = f"""\
WITH {LEASE}
UPDATE standfast.instances i
SET status = $3, cause = $4, owner = NULL, wake_at = NULL, updated_at = {NOW}
FROM lease WHERE i.id = $2 AND i.owner = lease.token
RETURNING i.id
"""

REASSIGN = f"""\
WITH passive AS (
    SELECT id FROM standfast.instances
    WHERE id = ANY($1::uuid[]) AND owner IS NULL AND finished_at IS NULL
    ORDER BY id FOR UPDATE
)
UPDATE standfast.instances i SET version = $2, updated_at = {NOW}
FROM passive WHERE i.id = passive.id
RETURNING i.id
"""

# The kinds that wait, by hopping from one to the next in the index, less those of live workers.
FLAG = f"""\
WITH RECURSIVE kind (name, version) AS (
    (SELECT i.name, i.version FROM standfast.instances i
     WHERE i.pattern = $1 AND i.owner IS NULL AND i.wake_at IS NOT NULL
     ORDER BY i.name, i.version LIMIT 1)
    UNION ALL
    SELECT n.name, n.version FROM kind k CROSS JOIN LATERAL (
        SELECT i.name, i.version FROM standfast.instances i
        WHERE i.pattern = $1 AND i.owner IS NULL AND i.wake_at IS NOT NULL
          AND (i.name, i.version) > (k.name, k.version)
        ORDER BY i.name, i.version LIMIT 1) n
), orphan AS MATERIALIZED (
    SELECT k.name, k.version FROM kind k WHERE NOT EXISTS (
        SELECT FROM standfast.leases l WHERE l.expires_at > clock_timestamp()
        AND (l.note -> 'kinds')::jsonb
            @> jsonb_build_array(jsonb_build_array($1::text, k.name, k.version)))
), found AS MATERIALIZED (
    SELECT f.id FROM orphan o CROSS JOIN LATERAL (
        SELECT i.id FROM standfast.instances i
        WHERE i.pattern = $1 AND i.name = o.name AND i.version = o.version
          AND i.owner IS NULL AND i.wake_at < $2 AND i.status <> $3
          AND i.finished_at IS NULL
        FOR NO KEY UPDATE SKIP LOCKED) f
)
UPDATE standfast.instances i SET status = $3, updated_at = {NOW},
    cause = replace(replace($4, '{{name}}', i.name), '{{version}}', i.version::text)
FROM found WHERE i.id = found.id
RETURNING {", ".join("i." + column for column in COLUMNS.split(", "))}
"""

RELEASE = f"""\
WITH mine AS MATERIALIZED (
    SELECT id FROM standfast.instances WHERE owner = $1 ORDER BY id FOR NO KEY UPDATE
), freed AS (
    UPDATE standfast.instances i SET owner = NULL, wake_at = {NOW}
    FROM mine WHERE i.id = mine.id RETURNING i.id
)
SELECT pg_notify('{CHANNEL}', '') FROM freed HAVING count(*) > 0
"""

# The owners of instances, by hopping from one to the next in the index. A token is never given
# again, so an owner without a lease stays one.
_ORPHANED = """\
WITH RECURSIVE owner (token) AS (
    (SELECT i.owner FROM standfast.instances i WHERE i.owner IS NOT NULL ORDER BY i.owner LIMIT 1)
    UNION ALL
    SELECT n.owner FROM owner o CROSS JOIN LATERAL (
        SELECT i.owner FROM standfast.instances i WHERE i.owner > o.token
        ORDER BY i.owner LIMIT 1) n
), gone AS MATERIALIZED (
    SELECT o.token FROM owner o
    WHERE NOT EXISTS (SELECT FROM standfast.leases l WHERE l.token = o.token)
)"""
_RECLAIM = f"""\
{_ORPHANED}, mine AS MATERIALIZED (
    SELECT i.id FROM gone JOIN standfast.instances i ON i.owner = gone.token
    ORDER BY i.id FOR NO KEY UPDATE OF i{{unless_locked}}
), stood AS (
    SELECT m.id, (SELECT max(j.seq) FROM standfast.journal j WHERE j.id = m.id) AS at FROM mine m
), freed AS (
    UPDATE standfast.instances i SET owner = NULL, stood_at = stood.at,
        recoveries = CASE WHEN i.stood_at = stood.at THEN i.recoveries + 1 ELSE 1 END,
        wake_at = {NOW} + CASE WHEN i.stood_at = stood.at
            THEN least($2, $1 * power(2, least(i.recoveries - 1, 60))) * (1 + random()) / 2
            ELSE 0 END
    FROM stood WHERE i.id = stood.id RETURNING i.id
)
SELECT (SELECT count(*) FROM gone) AS owners, (SELECT count(*) FROM freed) AS freed,
       (SELECT pg_notify('{CHANNEL}', '') FROM freed HAVING count(*) > 0)
"""
# $1, $2: the pause after the second time in a row, and the longest. Those that nobody is about to
# change come first, and wait for none of the others.
RECLAIM_AT_ONCE = _RECLAIM.format(unless_locked=" SKIP LOCKED")
RECLAIM = _RECLAIM.format(unless_locked="")

OWNED = "SELECT owner, count(*) FROM standfast.instances WHERE owner IS NOT NULL GROUP BY owner"
