-- A prediction's row is also its queue entry. Times are microseconds since 1970, UTC.
CREATE TABLE predictions (
    seq               INTEGER PRIMARY KEY AUTOINCREMENT,
    id                TEXT    NOT NULL UNIQUE,
    model             TEXT    NOT NULL,
    version           TEXT    NOT NULL,
    input             TEXT    NOT NULL, -- JSON object, as sent
    seed              INTEGER NOT NULL, -- 64 bits, read as unsigned
    status            TEXT    NOT NULL DEFAULT 'starting'
        CHECK (status IN ('starting', 'processing', 'succeeded', 'failed', 'canceled', 'aborted')),
    logs              TEXT    NOT NULL DEFAULT '',
    output            TEXT,             -- JSON array of blob paths
    error             TEXT,

    worker            TEXT,             -- the lease: who, the how-manieth claim, until when
    attempt           INTEGER NOT NULL DEFAULT 0,
    lease_until       INTEGER,
    interruptions     INTEGER NOT NULL DEFAULT 0, -- leases whose worker died
    cancel_requested  INTEGER NOT NULL DEFAULT 0 CHECK (cancel_requested IN (0, 1)),

    created_at        INTEGER NOT NULL,
    started_at        INTEGER,
    completed_at      INTEGER,

    CHECK ((completed_at IS NOT NULL) = (status IN ('succeeded', 'failed', 'canceled', 'aborted'))),
    CHECK ((worker IS NOT NULL) = (status = 'processing')),
    CHECK ((lease_until IS NOT NULL) = (status = 'processing')),
    CHECK (status <> 'processing' OR started_at IS NOT NULL),
    CHECK (status <> 'starting' OR started_at IS NULL),
    CHECK ((output IS NOT NULL) = (status = 'succeeded')),
    CHECK ((error IS NOT NULL) = (status = 'failed'))
) STRICT;

CREATE INDEX predictions_queue  ON predictions (seq)         WHERE status = 'starting';
CREATE INDEX predictions_leases ON predictions (lease_until) WHERE status = 'processing';
