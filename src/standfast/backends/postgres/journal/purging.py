"""The SQL that deletes what finished long ago, but not what an unfinished parent may undo."""

from __future__ import annotations

# ruff: noqa: S608 - only constants of this module are put into the SQL text

# A key that begins with an id and a colon is that of a child: `ports.journal.parent_of`.
_PARENT = """\
CASE WHEN {0}.key ~ '^[0-9a-f]{{8}}(-[0-9a-f]{{4}}){{3}}-[0-9a-f]{{12}}:'
    THEN left({0}.key, 36)::uuid END"""
# It goes from one place in the table to the next, so that it can go on behind the last: as do all
# scans that these settings leave (by BRIN, by range of places, of the whole table).
IN_PLACE = (
    "SET LOCAL enable_indexscan = off; SET LOCAL enable_indexonlyscan = off; "
    "SET LOCAL synchronize_seqscans = off; SET LOCAL max_parallel_workers_per_gather = 0"
)
DOOMED = f"""\
WITH old AS MATERIALIZED (
    SELECT i.id, i.ctid AS place, {_PARENT.format("i")} AS parent FROM standfast.instances i
    WHERE i.pattern = $1 AND i.finished_at < $2 AND i.owner IS NULL AND i.ctid > $4::tid
    LIMIT $3
)
SELECT o.id, o.place, (SELECT p.id FROM standfast.instances p WHERE p.id = o.parent) IS NULL
FROM old o ORDER BY o.place
"""
DOOMED_OF = DOOMED.replace("LIMIT", "AND i.id = ANY($5::uuid[]) LIMIT")
BEFORE_ALL = (0, 0)
"""A place before the first row of a table."""

_OLD = "{0}.pattern = $1 AND {0}.finished_at < $2 AND {0}.owner IS NULL"
LOCK_DOOMED = f"""\
SELECT i.id FROM standfast.instances i
WHERE {_OLD.format("i")} AND i.id = ANY($3::uuid[]) FOR UPDATE SKIP LOCKED
"""
COUNT_FINISHED = f"""\
SELECT count(*) FROM standfast.instances i
WHERE {_OLD.format("i")} AND NOT EXISTS (
    WITH RECURSIVE above (key, goes) AS (
        SELECT p.key, coalesce({_OLD.format("p")}, false) FROM standfast.instances p
        WHERE p.id = {_PARENT.format("i")}
        UNION ALL
        SELECT p.key, coalesce({_OLD.format("p")}, false)
        FROM above a JOIN standfast.instances p ON p.id = {_PARENT.format("a")} WHERE a.goes)
    SELECT FROM above WHERE NOT goes)
"""
PURGE = (
    "DELETE FROM standfast.journal WHERE id = ANY($1::uuid[])",
    "DELETE FROM standfast.mail WHERE instance = ANY($1::uuid[])",
    "DELETE FROM standfast.instances WHERE id = ANY($1::uuid[])",
)
