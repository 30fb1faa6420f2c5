BEGIN TRANSACTION;
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
INSERT INTO "standfast_instances" VALUES(X'01A21BC2B6CE7357859012F11B3092AE','saga','send-parcel',1,'done','done','3bcfc4537a01d8ffd7e638df','completed','','',NULL,NULL,NULL,1.79576207534215140336e+09,1795762075.38053,1.79576207538052129743e+09);
INSERT INTO "standfast_instances" VALUES(X'01A21BC2B6D7767092912FEE3407C887','saga','send-parcel',1,'waits','waits','e8ca6037d3387cc3079bc577','waiting','','',NULL,2.11112207535832238202e+09,NULL,1.79576207535147929191e+09,1.79576207536047530175e+09,NULL);
INSERT INTO "standfast_instances" VALUES(X'01A21BC2B6DE75E181075714AFD1B4CA','saga','send-parcel',1,'held','held','b173fd53d9ca63c9300c81ae','running','','',1,NULL,NULL,1.79576207535820627208e+09,1.79576207538688325886e+09,NULL);
CREATE TABLE standfast_journal (
    id BLOB NOT NULL,
    seq INTEGER NOT NULL,
    fact TEXT NOT NULL,
    PRIMARY KEY (id, seq)
) STRICT, WITHOUT ROWID;
INSERT INTO "standfast_journal" VALUES(X'01A21BC2B6CE7357859012F11B3092AE',0,'{"kind":"started","input":{"id":"done","weight":1},"version":1,"key":"done","correlation_id":"done","at":1795762075.3421514}');
INSERT INTO "standfast_journal" VALUES(X'01A21BC2B6CE7357859012F11B3092AE',1,'{"kind":"step_completed","branch":"label","result":"label of done","at":1795762075.3516345}');
INSERT INTO "standfast_journal" VALUES(X'01A21BC2B6CE7357859012F11B3092AE',2,'{"kind":"signal_received","name":"collected","payload":"by ann","at":1795762075.3794613}');
INSERT INTO "standfast_journal" VALUES(X'01A21BC2B6CE7357859012F11B3092AE',3,'{"kind":"step_completed","branch":"collected","result":"by ann","at":1795762075.3794613}');
INSERT INTO "standfast_journal" VALUES(X'01A21BC2B6CE7357859012F11B3092AE',4,'{"kind":"step_completed","branch":"deliver","result":"label of done, by ann","at":1795762075.3804965}');
INSERT INTO "standfast_journal" VALUES(X'01A21BC2B6D7767092912FEE3407C887',0,'{"kind":"started","input":{"id":"waits","weight":1},"version":1,"key":"waits","correlation_id":"waits","at":1795762075.3514793}');
INSERT INTO "standfast_journal" VALUES(X'01A21BC2B6D7767092912FEE3407C887',1,'{"kind":"step_completed","branch":"label","result":"label of waits","at":1795762075.3583224}');
INSERT INTO "standfast_journal" VALUES(X'01A21BC2B6DE75E181075714AFD1B4CA',0,'{"kind":"started","input":{"id":"held","weight":1},"version":1,"key":"held","correlation_id":"held","at":1795762075.3582063}');
INSERT INTO "standfast_journal" VALUES(X'01A21BC2B6DE75E181075714AFD1B4CA',1,'{"kind":"step_completed","branch":"label","result":"label of held","at":1795762075.3738952}');
INSERT INTO "standfast_journal" VALUES(X'01A21BC2B6DE75E181075714AFD1B4CA',2,'{"kind":"signal_received","name":"collected","payload":"by bob","at":1795762075.3868246}');
INSERT INTO "standfast_journal" VALUES(X'01A21BC2B6DE75E181075714AFD1B4CA',3,'{"kind":"step_completed","branch":"collected","result":"by bob","at":1795762075.3868246}');
CREATE TABLE standfast_mail (
    number INTEGER PRIMARY KEY AUTOINCREMENT,
    recipient BLOB NOT NULL,
    id TEXT NOT NULL,
    kind TEXT NOT NULL,
    body TEXT,
    at REAL NOT NULL,
    UNIQUE (recipient, id)
) STRICT;
INSERT INTO "standfast_mail" VALUES(1,X'01A21BC2B6CE7357859012F11B3092AE','01a21bc2-b6ee-74f3-9e63-ee5e5221cc14','signal',NULL,1.79576207537423610687e+09);
INSERT INTO "standfast_mail" VALUES(2,X'01A21BC2B6DE75E181075714AFD1B4CA','01a21bc2-b6f9-7317-b2ef-24ffdd2f19ea','signal',NULL,1.79576207538573336596e+09);
CREATE TABLE standfast_marks (
    key TEXT NOT NULL,
    operation TEXT NOT NULL,
    reason TEXT NOT NULL,
    result TEXT,
    at REAL NOT NULL,
    PRIMARY KEY (key, operation)
) STRICT, WITHOUT ROWID;
CREATE TABLE standfast_migrations (
    number INTEGER PRIMARY KEY,
    name TEXT NOT NULL,
    applied_at REAL NOT NULL DEFAULT ((julianday('now') - 2440587.5) * 86400.0)
) STRICT;
INSERT INTO "standfast_migrations" VALUES(1,'journal, leases and marks',1.79576207533000850678e+09);
CREATE TABLE standfast_workers (
    token INTEGER PRIMARY KEY AUTOINCREMENT,
    name TEXT NOT NULL,
    kinds TEXT NOT NULL,
    expires_at REAL NOT NULL
) STRICT;
INSERT INTO "standfast_workers" VALUES(1,'host-1:1210','[["saga", "send-parcel", 1]]',1.7957620828334918022e+09);
CREATE UNIQUE INDEX standfast_instances_key ON standfast_instances (pattern, name, key);
CREATE INDEX standfast_instances_work
    ON standfast_instances (owner, pattern, name, version, wake_at)
    WHERE owner IS NOT NULL OR wake_at IS NOT NULL;
CREATE INDEX standfast_instances_finished ON standfast_instances (pattern, finished_at)
    WHERE finished_at IS NOT NULL;
CREATE INDEX standfast_marks_at ON standfast_marks (at);
DELETE FROM "sqlite_sequence";
INSERT INTO "sqlite_sequence" VALUES('standfast_workers',1);
INSERT INTO "sqlite_sequence" VALUES('standfast_mail',2);
COMMIT;
