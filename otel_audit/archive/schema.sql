-- The archive, version 2. Records are only ever inserted; every other table can be derived from them or is a cursor.

CREATE TABLE meta (
    key   TEXT PRIMARY KEY,
    value ANY NOT NULL
) STRICT, WITHOUT ROWID;

-- What a batch of records is shipped under: OTLP bytes of its Resource and InstrumentationScope.
CREATE TABLE resource (
    id       INTEGER PRIMARY KEY,
    resource BLOB NOT NULL,
    scope    BLOB NOT NULL,
    digest   BLOB NOT NULL UNIQUE
) STRICT;

-- `sequence` is the row id, given inside the transaction: commit order is sequence order, without gaps from 1.
-- `otlp` holds the record; the columns from `time` to `trace` are derived from it, for queries. Erasure and pruning leave
-- a tombstone: the commitment to the content takes its place, and every column that no hash covers is NULL.
CREATE TABLE record (
    sequence   INTEGER PRIMARY KEY,
    kind       INTEGER NOT NULL,
    time       INTEGER NOT NULL,
    observed   INTEGER NOT NULL,
    host       TEXT NOT NULL,
    user       TEXT,
    source     TEXT,
    type       TEXT NOT NULL,
    outcome    TEXT,
    session    TEXT,
    address    TEXT,
    trace      BLOB,
    record_id  BLOB NOT NULL,
    resource   INTEGER,
    leaf       BLOB NOT NULL,
    node       BLOB,  -- root of the largest complete subtree that ends here; NULL where that is the leaf
    salt       BLOB,
    otlp       BLOB,
    commitment BLOB
) STRICT;

-- The archive's own records, which are few: checkpoints, erasures, reads.
CREATE INDEX own ON record (kind) WHERE kind > 1;

-- Records that were made elsewhere, by the id that they came with: each is kept once, however often it comes. Version 1
-- lacks this index.
CREATE INDEX received ON record (record_id) WHERE kind = 0;

-- Which records hold a value, folded in later in sorted slices: inserting costs the same at any size. A run covers
-- 131,072 sequences, so that a slice lands in few, warm pages, and a look-up probes one place a run.
CREATE TABLE posting (
    run      INTEGER NOT NULL,
    field    INTEGER NOT NULL,
    value    ANY NOT NULL,
    sequence INTEGER NOT NULL,
    PRIMARY KEY (run, field, value, sequence)
) STRICT, WITHOUT ROWID;

-- The range of times in each 1,024 sequences: in place of an index on time, which records follow nearly anyway.
CREATE TABLE zone (
    zone           INTEGER PRIMARY KEY,
    records        INTEGER NOT NULL,
    first_time     INTEGER NOT NULL,
    last_time      INTEGER NOT NULL,
    first_observed INTEGER NOT NULL,
    last_observed  INTEGER NOT NULL
) STRICT;

-- Where the outbox ships to: everything up to `cursor` was accepted, or is a dead letter.
CREATE TABLE destination (
    name            TEXT PRIMARY KEY,
    endpoint        TEXT NOT NULL,
    cursor          INTEGER NOT NULL DEFAULT 0,
    last_success    INTEGER,
    last_error      TEXT,
    last_error_time INTEGER,
    blocked         TEXT
) STRICT, WITHOUT ROWID;

CREATE TABLE dead_letter (
    destination TEXT NOT NULL,
    sequence    INTEGER NOT NULL,
    time        INTEGER NOT NULL,
    reason      TEXT NOT NULL,
    requeued    INTEGER NOT NULL DEFAULT 0,
    PRIMARY KEY (destination, sequence)
) STRICT, WITHOUT ROWID;
