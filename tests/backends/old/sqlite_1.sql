-- Made and filled by the last version that had one line of migrations, and dumped. Never edit it.
BEGIN TRANSACTION;
CREATE TABLE orders (id INTEGER PRIMARY KEY, text TEXT);
INSERT INTO "orders" VALUES(1,'mine');
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
INSERT INTO "standfast_instances" VALUES(X'01900000000070008000000000000001','saga','order',1,'k1','trace-1','hash-1','completed','','',NULL,NULL,1700003600.0,1700000001.0,1700000000.0,1700000009.0);
INSERT INTO "standfast_instances" VALUES(X'01900000000070008000000000000002','saga','order',1,'k2','trace-2','hash-2','parked','charge','no funds',NULL,NULL,1700003600.0,1700000002.0,1700000000.0,NULL);
INSERT INTO "standfast_instances" VALUES(X'01900000000070008000000000000003','saga','order',1,'k3','trace-3','hash-3','running','','',2,NULL,1700003600.0,1700000003.0,1700000003.0,NULL);
INSERT INTO "standfast_instances" VALUES(X'01900000000070008000000000000004','saga','invoice',2,'k4','trace-4','hash-4','running','','',2,NULL,1700003600.0,1700000004.0,1700000004.0,NULL);
INSERT INTO "standfast_instances" VALUES(X'01900000000070008000000000000005','saga','order',1,'k5','trace-5','hash-5','running','','',NULL,1700000000.0,1700003600.0,1700000005.0,1700000005.0,NULL);
INSERT INTO "standfast_instances" VALUES(X'01900000000070008000000000000006','saga','order',1,'k6','trace-6','hash-6','running','','',NULL,1700086400.0,1700003600.0,1700000006.0,1700000006.0,NULL);
CREATE TABLE standfast_journal (
    id BLOB NOT NULL,
    seq INTEGER NOT NULL,
    fact TEXT NOT NULL,
    PRIMARY KEY (id, seq)
) STRICT, WITHOUT ROWID;
INSERT INTO "standfast_journal" VALUES(X'01900000000070008000000000000001',0,'{"type":"started","n":1}');
INSERT INTO "standfast_journal" VALUES(X'01900000000070008000000000000001',1,'{"type":"done"}');
INSERT INTO "standfast_journal" VALUES(X'01900000000070008000000000000001',2,'{"type":"completed"}');
INSERT INTO "standfast_journal" VALUES(X'01900000000070008000000000000002',0,'{"type":"started","n":2}');
INSERT INTO "standfast_journal" VALUES(X'01900000000070008000000000000002',1,'{"type":"failed"}');
INSERT INTO "standfast_journal" VALUES(X'01900000000070008000000000000003',0,'{"type":"started","n":3}');
INSERT INTO "standfast_journal" VALUES(X'01900000000070008000000000000003',1,'{"type":"signalled"}');
INSERT INTO "standfast_journal" VALUES(X'01900000000070008000000000000004',0,'{"type":"started","n":4}');
INSERT INTO "standfast_journal" VALUES(X'01900000000070008000000000000005',0,'{"type":"started","n":5}');
INSERT INTO "standfast_journal" VALUES(X'01900000000070008000000000000006',0,'{"type":"started","n":6}');
CREATE TABLE standfast_mail (
    number INTEGER PRIMARY KEY AUTOINCREMENT,
    recipient BLOB NOT NULL,
    id TEXT NOT NULL,
    kind TEXT NOT NULL,
    body TEXT,
    at REAL NOT NULL,
    UNIQUE (recipient, id)
) STRICT;
INSERT INTO "standfast_mail" VALUES(1,X'01900000000070008000000000000003','m1','signal',NULL,1700000001.0);
INSERT INTO "standfast_mail" VALUES(2,X'01900000000070008000000000000003','m2','signal','{"text":"Grüße"}',1700000002.0);
CREATE TABLE standfast_marks (
    key TEXT NOT NULL,
    operation TEXT NOT NULL,
    reason TEXT NOT NULL,
    result TEXT,
    at REAL NOT NULL,
    PRIMARY KEY (key, operation)
) STRICT, WITHOUT ROWID;
INSERT INTO "standfast_marks" VALUES('k1','charge','done','{"paid":1}',1700000000.0);
INSERT INTO "standfast_marks" VALUES('k1','charge/undo','refused',NULL,1700000001.0);
CREATE TABLE standfast_migrations (
    number INTEGER PRIMARY KEY,
    name TEXT NOT NULL,
    applied_at REAL NOT NULL DEFAULT ((julianday('now') - 2440587.5) * 86400.0)
) STRICT;
INSERT INTO "standfast_migrations" VALUES(1,'journal, leases and marks',1.79575755472998619083e+09);
CREATE TABLE standfast_workers (
    token INTEGER PRIMARY KEY AUTOINCREMENT,
    name TEXT NOT NULL,
    kinds TEXT NOT NULL,
    expires_at REAL NOT NULL
) STRICT;
INSERT INTO "standfast_workers" VALUES(2,'host-1 ''a''','[["saga", "order", 1], ["saga", "invoice", 2]]',1700000030.0);
CREATE UNIQUE INDEX standfast_instances_key ON standfast_instances (pattern, name, key);
CREATE INDEX standfast_instances_work
    ON standfast_instances (owner, pattern, name, version, wake_at)
    WHERE owner IS NOT NULL OR wake_at IS NOT NULL;
CREATE INDEX standfast_instances_finished ON standfast_instances (pattern, finished_at)
    WHERE finished_at IS NOT NULL;
CREATE INDEX standfast_marks_at ON standfast_marks (at);
DELETE FROM "sqlite_sequence";
INSERT INTO "sqlite_sequence" VALUES('standfast_workers',2);
INSERT INTO "sqlite_sequence" VALUES('standfast_mail',2);
COMMIT;
