"""The SQL of starts, facts, mail and reads, and the reasons why all of the journal's is safe.

Who runs an instance is told in `claiming`, what is deleted in `purging`.

**Fencing.** Every write of a worker first takes ``FOR KEY SHARE`` on the row of its lease, and
needs to find it; a lease is ended by deleting that row, which waits for those who hold such a lock:
so a write came before the end, or is refused (see `leases`). An instance is taken from a worker
only when its lease was ended (`claiming.RECLAIM`), so from none whose row is locked, and a plain
read tells whether the worker owns it. A snapshot that doesn't find a lease any more sees all that
was written under it.

One may also give back what it owns and keep its lease (`claiming.RELEASE`), in the middle of writes
of its own. What changes the row of an instance (`APPEND_AND_CHANGE`) locks that row and looks
again, for facts and row alike, so it is written whole before that or not at all. A fact alone takes
no such lock: it may come just after, as long as no other owner was first with its number, as
if it had come just before.

**No lost wake-up.** Whoever sends mail and whoever releases an instance update its row, so one
waits for the other, and READ COMMITTED evaluates the expressions of the second anew on the row as
the first left it (`unread`).

**No deadlock among ourselves.** Rows of instances are locked in the order of their ids, new keys
are inserted in their own order, and the victim of a deadlock runs again.

**Flat cost.** Instances come and go, so until a vacuum the index of owners holds many dead entries:
where ids are known, ``owner IS NOT DISTINCT FROM`` says the same as ``=`` but can't use that index.
A plan is made once (`pool`), maybe while the table is small, and the planner takes every list for a
short one. So what a batch writes is looked up row by row (a subquery, or one with a lock that is
joined LATERAL), which can't become a walk through the whole table, and a list meets another one
only as a set (``IN`` where it can't become a join), never each with each.

**Cheap lists.** The driver looks at every element of a list, several times: dearer than all else
that a batch takes in Python. So the lists of the hot statements are handed over as PostgreSQL
writes arrays (`literals`); only those of ids, which the server reads slowly as text, are lists.
What a batch wrote is counted, and told one by one only if something is missing.

The time "now" is the server's, in seconds since the epoch.
"""

from __future__ import annotations

import re

from standfast.backends.postgres.clock import NOW
from standfast.backends.postgres.journal.tables import STUCK as IS_STUCK
from standfast.backends.postgres.leases import HOLDS

# ruff: noqa: S608 - only constants of this module are put into the SQL text

CHANNEL = "standfast"
"""The channel of NOTIFY; the payload is an instance's id, or empty for several."""

COLUMNS = (
    "id, pattern, name, version, key, correlation_id, input_hash, status, step, cause, owner, "
    "wake_at, deadline_at, created_at, updated_at, finished_at"
)

LEASE = f"lease AS MATERIALIZED ({HOLDS})"
"""For a WITH: the lease of $1, held until the end of the transaction, or no row."""

_START = """\
WITH {lease}created AS (
    INSERT INTO standfast.instances ({columns})
    SELECT s.id, s.pattern, s.name, s.version, s.key, s.correlation_id, s.input_hash, s.status,
           s.step, s.cause, $1::bigint, {wake}, s.deadline_at, s.created_at, s.updated_at,
           s.finished_at
    FROM unnest($2::uuid[], $3::text::text[], $4::text::text[], $5::text::int[],
                $6::text::text[], $7::text::text[], $8::text::text[], $9::text::text[],
                $10::text::text[], $11::text::text[], $12::text::float8[], $13::text::float8[],
                $14::text::float8[], $15::text::float8[], $16::text::float8[]) WITH ORDINALITY
         AS s (id, pattern, name, version, key, correlation_id, input_hash, status, step, cause,
               wake_at, deadline_at, created_at, updated_at, finished_at, n){from_lease}
    ORDER BY s.pattern, s.name, s.key, s.n
    ON CONFLICT DO NOTHING
    RETURNING id
), facts AS (
    INSERT INTO standfast.journal (id, seq, fact)
    SELECT s.id, 0, s.fact FROM unnest($2::uuid[], $17::text::text[]) AS s (id, fact)
    WHERE (s.id IN (SELECT id FROM created)) IS TRUE
)
SELECT {alive} AS alive,
       CASE WHEN (SELECT count(*) FROM created) < cardinality($2::uuid[])
            THEN ARRAY(SELECT id FROM created) END AS created{notify}
"""
_NOTIFY_CREATED = f""",
       (SELECT pg_notify('{CHANNEL}', CASE count(*) WHEN 1 THEN min(id::text) ELSE '' END)
        FROM created HAVING count(*) > 0)"""

# $1: the owner; $2 …: columns of the instances; $17: their first facts. Answers whether the lease
# holds, and which were created, NULL for all.
START_OWNED = _START.format(
    lease=f"{LEASE}, ",
    columns=COLUMNS,
    wake="NULL",
    from_lease=", lease",
    alive="EXISTS (SELECT FROM lease)",
    notify="",
)
START_PASSIVE = _START.format(
    lease="",
    columns=COLUMNS,
    wake="s.wake_at",
    from_lease="",
    alive="true",
    notify=_NOTIFY_CREATED,
)

# The same for one that is passive. It is answered with how many first facts it wrote, 1 or 0: a
# count comes with every answer, and rows take most drivers longer than all else about it.
START_ONE_PASSIVE = f"""\
WITH created AS (
    INSERT INTO standfast.instances (id, pattern, name, version, key, correlation_id, input_hash,
                                     status, step, cause, wake_at, deadline_at, created_at,
                                     updated_at)
    VALUES ($1::uuid, $2::text, $3::text, $4::int, $5::text, $6::text, $7::text, $8::text,
            $9::text, $10::text, $11::float8, $12::float8, $13::float8, $14::float8)
    ON CONFLICT DO NOTHING
    RETURNING id
)
INSERT INTO standfast.journal (id, seq, fact)
SELECT id, 0, $15::text FROM created WHERE pg_notify('{CHANNEL}', id::text) IS NOT NULL
"""

HOLDERS = """\
SELECT i.pattern, i.name, i.key, i.id, i.input_hash
FROM unnest($1::text[], $2::text[], $3::text[]) AS s (pattern, name, key)
CROSS JOIN LATERAL (SELECT * FROM standfast.instances i WHERE i.pattern = s.pattern
                    AND i.name = s.name AND i.key = s.key) i
"""

# $1: the owner; $2, $3, $4: instance, number and text of each fact. Answers the instances that were
# written to, NULL for all.
APPEND = f"""\
WITH {LEASE}, written AS (
    INSERT INTO standfast.journal (id, seq, fact)
    SELECT f.id, f.seq, f.fact
    FROM lease, unnest($2::uuid[], $3::text::int[], $4::text::text[]) AS f (id, seq, fact)
    WHERE (SELECT i.owner FROM standfast.instances i WHERE i.id = f.id) = $1
    RETURNING id
)
SELECT CASE WHEN (SELECT count(*) FROM written) < cardinality($2::uuid[])
            THEN ARRAY(SELECT DISTINCT id FROM written) END AS written
"""

# $5: whether the fact is of an instance whose row changes. $6 …: of each of those: id, whether
# the next five replace what is there (else nothing of that was updated), status, step, cause,
# version (NULL: stays), finished_at; whether it is released, and its wake_at then; how many mails
# were folded in.
APPEND_AND_CHANGE = f"""\
WITH {LEASE}, locked AS MATERIALIZED (
    SELECT c.* FROM lease, (
        SELECT * FROM unnest($6::uuid[], $7::text::bool[], $8::text::text[],
                             $9::text::text[], $10::text::text[], $11::text::int[],
                             $12::text::float8[], $13::text::bool[], $14::text::float8[],
                             $15::text::int[])
        AS c (id, replaces, status, step, cause, version, finished_at, release, wake_at, folded)
        ORDER BY c.id
    ) c CROSS JOIN LATERAL (
        SELECT FROM standfast.instances i
        WHERE i.id = c.id AND i.owner IS NOT DISTINCT FROM $1 FOR NO KEY UPDATE
    ) i
), written AS (
    INSERT INTO standfast.journal (id, seq, fact)
    SELECT f.id, f.seq, f.fact
    FROM lease, unnest($2::uuid[], $3::text::int[], $4::text::text[], $5::text::bool[])
         AS f (id, seq, fact, changes)
    WHERE CASE WHEN f.changes THEN f.id IN (SELECT id FROM locked)
          ELSE (SELECT i.owner FROM standfast.instances i WHERE i.id = f.id) = $1 END
    RETURNING id
), changed AS (
    UPDATE standfast.instances i SET
        status = CASE WHEN c.replaces THEN c.status ELSE i.status END,
        step = CASE WHEN c.replaces THEN c.step ELSE i.step END,
        cause = CASE WHEN c.replaces THEN c.cause ELSE i.cause END,
        version = coalesce(c.version, i.version),
        finished_at = CASE WHEN c.replaces THEN c.finished_at ELSE i.finished_at END,
        updated_at = CASE WHEN c.replaces THEN {NOW} ELSE i.updated_at END,
        owner = CASE WHEN c.release THEN NULL ELSE i.owner END,
        wake_at = CASE WHEN NOT c.release THEN i.wake_at
                       WHEN i.unread > c.folded THEN least(c.wake_at, i.mailed_at, {NOW})
                       ELSE c.wake_at END,
        mailed_at = CASE WHEN i.unread > c.folded THEN i.mailed_at END,
        unread = i.unread - c.folded
    FROM locked c WHERE i.id = c.id
    RETURNING i.id, c.release AND i.unread > 0 AS due
)
SELECT CASE WHEN (SELECT count(*) FROM written) < cardinality($2::uuid[])
              OR (SELECT count(*) FROM changed) < cardinality($6::uuid[])
            THEN ARRAY(SELECT id FROM written UNION SELECT id FROM changed) END AS written,
       (SELECT pg_notify('{CHANNEL}', CASE count(*) WHEN 1 THEN min(id::text) ELSE '' END)
        FROM changed WHERE due HAVING count(*) > 0)
"""


def _of_one(statement: str) -> str:
    def values(match: re.Match[str]) -> str:
        return f"(SELECT {match[1]}{', 1' if match[2] else ''})"

    statement = re.sub(r"cardinality\([^()]*\)", "1", statement)
    statement = re.sub(r"unnest\(([^()]*)\)( WITH ORDINALITY)?", values, statement)
    return re.sub(r"(?:::text)?::(\w+)\[\]", r"::\1", statement)


# The same for lists of one, given as their elements: nothing to unpack, sort or pair, a good part
# of what a lone write takes.
OF_ONE = {statement: _of_one(statement) for statement in (START_OWNED, APPEND, APPEND_AND_CHANGE)}

EXISTING_FACTS = """\
SELECT DISTINCT f.id FROM unnest($1::uuid[], $2::int[]) AS f (id, seq)
CROSS JOIN LATERAL (SELECT FROM standfast.journal j WHERE j.id = f.id AND j.seq = f.seq) j
"""

# Locks what a batch with mail touches, before anything is written: $2 its own, $3 all of them.
LOCK = f"""\
WITH {LEASE},
locked AS MATERIALIZED (
    SELECT i.id, i.owner FROM standfast.instances i
    WHERE i.id = ANY($3::uuid[]) AND EXISTS (SELECT FROM lease) ORDER BY i.id FOR NO KEY UPDATE
)
SELECT id FROM locked WHERE owner = $1 AND id = ANY($2::uuid[])
"""

FOLD = """\
WITH folded AS (
    UPDATE standfast.mail m SET body = NULL
    FROM unnest($1::uuid[], $2::bigint[]) AS f (instance, number)
    WHERE m.instance = f.instance AND m.number = f.number AND m.body IS NOT NULL
    RETURNING m.instance
)
SELECT instance, count(*)::int AS folded FROM folded GROUP BY instance
"""

SEND = f"""\
WITH input AS MATERIALIZED (
    SELECT m.*, i.last_mail FROM (
        SELECT * FROM unnest($1::uuid[], $2::text[], $3::text[], $4::text[], $5::float8[])
        WITH ORDINALITY AS m (instance, id, kind, body, at, n) ORDER BY instance
    ) m CROSS JOIN LATERAL (
        SELECT i.last_mail FROM standfast.instances i WHERE i.id = m.instance FOR NO KEY UPDATE
    ) i
), sent AS (
    INSERT INTO standfast.mail (instance, number, id, kind, body, at)
    SELECT m.instance, m.last_mail + m.n, m.id, m.kind, m.body, m.at
    FROM input m ORDER BY m.instance, m.id, m.n
    ON CONFLICT DO NOTHING
    RETURNING instance, number, at
), woken AS (
    UPDATE standfast.instances i SET
        last_mail = s.last,
        unread = i.unread + s.arrived,
        mailed_at = least(i.mailed_at, s.at),
        wake_at = CASE WHEN i.owner IS NULL THEN least(i.wake_at, s.at, {NOW}) ELSE i.wake_at END
    FROM (SELECT instance, max(number) AS last, count(*)::int AS arrived, min(at) AS at
          FROM sent GROUP BY instance) s
    WHERE i.id = s.instance
    RETURNING i.id
)
SELECT ARRAY(SELECT DISTINCT instance FROM input) AS known,
       (SELECT pg_notify('{CHANNEL}', CASE count(*) WHEN 1 THEN min(id::text) ELSE '' END)
        FROM woken HAVING count(*) > 0)
"""

_MAIL = "m.instance, m.id, m.kind, m.body, m.at, m.number"

COLLECT = f"""\
SELECT {_MAIL} FROM unnest($2::uuid[]) AS a (id)
JOIN standfast.instances i
     ON i.id = a.id AND i.owner IS NOT DISTINCT FROM $1 AND i.unread > 0
JOIN standfast.mail m ON m.instance = i.id AND m.body IS NOT NULL
ORDER BY m.instance, m.number
"""

UNREAD = f"""\
SELECT {_MAIL} FROM standfast.mail m
WHERE m.instance = ANY($1::uuid[]) AND m.body IS NOT NULL ORDER BY m.instance, m.number
"""

LOAD = f"""\
SELECT {", ".join("i." + column for column in COLUMNS.split(", "))},
       ARRAY(SELECT j.fact FROM standfast.journal j WHERE j.id = i.id ORDER BY j.seq) AS facts,
       i.unread, i.recoveries, i.stood_at
FROM unnest($1::uuid[]) WITH ORDINALITY AS a (id, n)
JOIN standfast.instances i ON i.id = a.id ORDER BY a.n
"""

BY_KEY = f"SELECT {COLUMNS} FROM standfast.instances WHERE pattern = $1 AND name = $2 AND key = $3"

BY_ID = f"SELECT {COLUMNS} FROM standfast.instances WHERE id = $1"

COUNT = (
    "SELECT name, status, count(*) FROM standfast.instances WHERE pattern = $1 "
    "GROUP BY name, status"
)

STUCK = f"""\
SELECT name, status, count(*), min(updated_at) FROM standfast.instances
WHERE pattern = $1 AND {IS_STUCK} GROUP BY name, status
"""
