-- What the reconciler knows of a town. Run at every opening, so each statement says IF NOT EXISTS.

CREATE TABLE IF NOT EXISTS work (
    town_id TEXT NOT NULL,
    epoch   INTEGER NOT NULL DEFAULT 0,
    bead_id TEXT NOT NULL,
    state   TEXT NOT NULL,                             -- JSON: a Work
    PRIMARY KEY (town_id, bead_id),
    FOREIGN KEY (town_id, bead_id) REFERENCES beads (town_id, id) ON DELETE CASCADE
) STRICT, WITHOUT ROWID;

-- Every attempt that was ever begun. Those of deleted beads stay.
CREATE TABLE IF NOT EXISTS attempts (
    number     INTEGER PRIMARY KEY AUTOINCREMENT,
    town_id    TEXT NOT NULL REFERENCES towns (id) ON DELETE CASCADE,
    epoch      INTEGER NOT NULL DEFAULT 0,
    id         TEXT NOT NULL,
    bead_id    TEXT NOT NULL,
    agent_id   TEXT NOT NULL,
    role       TEXT NOT NULL,                          -- polecat, refinery
    cause      TEXT,                                   -- why there is one after the first
    started_at TEXT NOT NULL,
    phase      TEXT NOT NULL,                          -- starting, running, ended
    outcome    TEXT,                                   -- once it has ended
    ended_at   TEXT,
    reason     TEXT,
    UNIQUE (town_id, id)
) STRICT;

CREATE INDEX IF NOT EXISTS attempts_by_bead ON attempts (town_id, bead_id, number);

CREATE TABLE IF NOT EXISTS reconcilers (
    town_id TEXT PRIMARY KEY REFERENCES towns (id) ON DELETE CASCADE,
    epoch   INTEGER NOT NULL DEFAULT 0,
    state   TEXT NOT NULL                              -- JSON: names, breaker, stops
) STRICT;

-- What has happened, in the order in which it was folded; the newest of a town.
CREATE TABLE IF NOT EXISTS facts (
    number  INTEGER PRIMARY KEY AUTOINCREMENT,
    town_id TEXT NOT NULL REFERENCES towns (id) ON DELETE CASCADE,
    epoch   INTEGER NOT NULL DEFAULT 0,
    at      TEXT NOT NULL,
    kind    TEXT NOT NULL,
    bead_id TEXT,
    body    TEXT NOT NULL                              -- JSON
) STRICT;

CREATE INDEX IF NOT EXISTS facts_by_bead ON facts (town_id, bead_id, number);

-- Settings that a person changes while the town runs; rig_id is '' for those of the town.
CREATE TABLE IF NOT EXISTS policies (
    town_id TEXT NOT NULL REFERENCES towns (id) ON DELETE CASCADE,
    rig_id  TEXT NOT NULL,
    body    TEXT NOT NULL,                             -- JSON: a Policy, or a RigPolicy
    PRIMARY KEY (town_id, rig_id)
) STRICT, WITHOUT ROWID;
