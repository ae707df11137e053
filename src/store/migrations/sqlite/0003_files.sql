-- Uploaded files; their bytes are blobs. Times are microseconds since 1970, UTC.
CREATE TABLE files (
    seq           INTEGER PRIMARY KEY AUTOINCREMENT,
    id            TEXT    NOT NULL UNIQUE,
    name          TEXT    NOT NULL,
    content_type  TEXT    NOT NULL,
    size          INTEGER NOT NULL CHECK (size >= 0),
    sha256        TEXT    NOT NULL,
    md5           TEXT    NOT NULL,
    metadata      TEXT    NOT NULL, -- JSON object, as sent
    folder        TEXT    NOT NULL, -- the blob folder
    created_at    INTEGER NOT NULL,
    expires_at    INTEGER NOT NULL
) STRICT;

CREATE INDEX files_expiry ON files (expires_at);

-- What download URLs are signed with: one random secret, made when it is first asked for.
CREATE TABLE files_secret (
    one     INTEGER PRIMARY KEY CHECK (one = 1),
    secret  BLOB    NOT NULL
) STRICT;
