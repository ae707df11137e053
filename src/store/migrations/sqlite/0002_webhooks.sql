-- Webhooks, deadlines, retention, and how a prediction was created.
ALTER TABLE predictions ADD COLUMN source TEXT NOT NULL DEFAULT 'api' CHECK (source IN ('api', 'web'));
ALTER TABLE predictions ADD COLUMN origin TEXT NOT NULL DEFAULT ''; -- scheme, host and port that its creator used
ALTER TABLE predictions ADD COLUMN webhook TEXT;                    -- URL, as sent
ALTER TABLE predictions ADD COLUMN webhook_events TEXT;             -- JSON array, as sent
ALTER TABLE predictions ADD COLUMN webhook_quiet_until INTEGER NOT NULL DEFAULT 0; -- no output or logs before
ALTER TABLE predictions ADD COLUMN deadline INTEGER;
-- The output of a succeeded one is then an empty array, as the checks of the table want it.
ALTER TABLE predictions ADD COLUMN data_removed INTEGER NOT NULL DEFAULT 0 CHECK (data_removed IN (0, 1));

CREATE INDEX predictions_deadlines ON predictions (deadline) WHERE deadline IS NOT NULL AND completed_at IS NULL;
CREATE INDEX predictions_kept ON predictions (completed_at) WHERE completed_at IS NOT NULL AND data_removed = 0;

-- The outbox: what is still to be told. Bodies are made when they are sent.
CREATE TABLE webhooks (
    seq         INTEGER PRIMARY KEY AUTOINCREMENT,
    id          TEXT    NOT NULL UNIQUE,            -- the webhook-id, the same for each attempt
    prediction  TEXT    NOT NULL,
    host        TEXT    NOT NULL,
    event       TEXT    NOT NULL CHECK (event IN ('start', 'output', 'logs', 'completed')),
    due_at      INTEGER NOT NULL,                   -- an attempt in progress pushes it back
    attempts    INTEGER NOT NULL DEFAULT 0
) STRICT;

CREATE INDEX webhooks_due ON webhooks (due_at);
CREATE INDEX webhooks_of_prediction ON webhooks (prediction, seq);
-- One throttled message waits at most: it will show the newest state.
CREATE UNIQUE INDEX webhooks_throttled ON webhooks (prediction) WHERE event IN ('output', 'logs');

-- Small things of the whole server, such as the key that webhooks are signed with.
CREATE TABLE keepsakes (
    name   TEXT PRIMARY KEY,
    value  TEXT NOT NULL
) STRICT;
