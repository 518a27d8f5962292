-- What the agents' tools work on: beads, convoys, agents, nudges. Run at every opening, so each statement says IF NOT EXISTS.

CREATE TABLE IF NOT EXISTS beads (
    number     INTEGER PRIMARY KEY AUTOINCREMENT,      -- the order in which they were made
    town_id    TEXT NOT NULL REFERENCES towns (id) ON DELETE CASCADE,
    id         TEXT NOT NULL,
    rig_id     TEXT NOT NULL,
    type       TEXT NOT NULL,                          -- issue, message, escalation, merge_request
    status     TEXT NOT NULL DEFAULT 'open',           -- open, in_progress, in_review, closed, failed
    title      TEXT NOT NULL,
    body       TEXT,
    priority   TEXT NOT NULL DEFAULT 'medium',
    labels     TEXT NOT NULL DEFAULT '[]',             -- JSON array
    metadata   TEXT NOT NULL DEFAULT '{}',             -- JSON object; "steps" in it make a molecule
    step       INTEGER NOT NULL DEFAULT 0,             -- of those steps, how many are finished
    assignee   TEXT,                                   -- an agent; of a message, who gets it
    created_by TEXT,                                   -- an agent
    convoy_id  TEXT,
    created_at TEXT NOT NULL,
    updated_at TEXT NOT NULL,
    closed_at  TEXT,
    UNIQUE (town_id, id),
    FOREIGN KEY (town_id, convoy_id) REFERENCES convoys (town_id, id)
) STRICT;

CREATE INDEX IF NOT EXISTS beads_by_rig ON beads (town_id, rig_id, number);

CREATE INDEX IF NOT EXISTS beads_by_convoy ON beads (town_id, convoy_id);

CREATE TABLE IF NOT EXISTS blockers (
    town_id    TEXT NOT NULL,
    bead_id    TEXT NOT NULL,
    blocker_id TEXT NOT NULL,                          -- must be closed before bead_id begins
    PRIMARY KEY (town_id, bead_id, blocker_id),
    FOREIGN KEY (town_id, bead_id) REFERENCES beads (town_id, id) ON DELETE CASCADE,
    FOREIGN KEY (town_id, blocker_id) REFERENCES beads (town_id, id) ON DELETE CASCADE
) STRICT, WITHOUT ROWID;

CREATE INDEX IF NOT EXISTS blockers_by_blocker ON blockers (town_id, blocker_id);

CREATE TABLE IF NOT EXISTS convoys (
    number         INTEGER PRIMARY KEY AUTOINCREMENT,
    town_id        TEXT NOT NULL REFERENCES towns (id) ON DELETE CASCADE,
    id             TEXT NOT NULL,
    rig_id         TEXT NOT NULL,
    title          TEXT NOT NULL,
    staged         INTEGER NOT NULL,
    merge_mode     TEXT NOT NULL,
    feature_branch TEXT,
    metadata       TEXT NOT NULL DEFAULT '{}',
    created_at     TEXT NOT NULL,
    landed_at      TEXT,                               -- every bead of it is closed
    UNIQUE (town_id, id)
) STRICT;

CREATE TABLE IF NOT EXISTS rig_agents (
    number           INTEGER PRIMARY KEY AUTOINCREMENT,
    town_id          TEXT NOT NULL REFERENCES towns (id) ON DELETE CASCADE,
    rig_id           TEXT NOT NULL,
    id               TEXT NOT NULL,
    role             TEXT NOT NULL,
    name             TEXT NOT NULL,
    bead_id          TEXT,                             -- what it works on
    status_message   TEXT,
    checkpoint       TEXT,                             -- JSON
    created_at       TEXT NOT NULL,
    last_activity_at TEXT,
    UNIQUE (town_id, id),
    FOREIGN KEY (town_id, bead_id) REFERENCES beads (town_id, id)
) STRICT;

CREATE TABLE IF NOT EXISTS nudges (
    number       INTEGER PRIMARY KEY AUTOINCREMENT,
    town_id      TEXT NOT NULL REFERENCES towns (id) ON DELETE CASCADE,
    rig_id       TEXT NOT NULL,
    agent_id     TEXT NOT NULL,
    id           TEXT NOT NULL,
    message      TEXT NOT NULL,
    mode         TEXT NOT NULL,                        -- wait-idle, immediate, queue
    source       TEXT,                                 -- the agent that sent it
    created_at   TEXT NOT NULL,
    delivered_at TEXT,
    UNIQUE (town_id, id)
) STRICT;
