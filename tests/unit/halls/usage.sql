-- What model calls came to. Run at every opening, so each statement says IF NOT EXISTS.

-- Sums. attempt_id and bead_id are '' where there is none, as of the mayor's bead.
CREATE TABLE IF NOT EXISTS usage (
    town_id    TEXT NOT NULL REFERENCES towns (id) ON DELETE CASCADE,
    epoch      INTEGER NOT NULL DEFAULT 0,
    agent_id   TEXT NOT NULL,
    attempt_id TEXT NOT NULL,
    bead_id    TEXT NOT NULL,
    day        TEXT NOT NULL,                          -- YYYY-MM-DD, in the town's time zone
    source     TEXT NOT NULL,                          -- gateway, kilo
    calls      INTEGER NOT NULL,
    unpriced   INTEGER NOT NULL,                       -- calls of which the cost is not known
    input      INTEGER NOT NULL,
    output     INTEGER NOT NULL,
    cached     INTEGER NOT NULL,
    reasoning  INTEGER NOT NULL,
    cost       REAL NOT NULL,                          -- USD, as far as it is known
    PRIMARY KEY (town_id, agent_id, attempt_id, bead_id, day, source)
) STRICT, WITHOUT ROWID;

CREATE INDEX IF NOT EXISTS usage_by_bead ON usage (town_id, bead_id);

CREATE INDEX IF NOT EXISTS usage_by_day ON usage (town_id, day);

-- The newest calls that were counted, so that an event that comes a second time is not.
CREATE TABLE IF NOT EXISTS usage_seen (
    number   INTEGER PRIMARY KEY AUTOINCREMENT,
    town_id  TEXT NOT NULL REFERENCES towns (id) ON DELETE CASCADE,
    epoch    INTEGER NOT NULL DEFAULT 0,
    agent_id TEXT NOT NULL,
    call_id  TEXT NOT NULL,
    UNIQUE (town_id, agent_id, call_id)
) STRICT;
