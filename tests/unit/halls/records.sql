-- What the container reports about its agents. Run at every opening, so each statement says IF NOT EXISTS.

CREATE TABLE IF NOT EXISTS agent_events (
    number      INTEGER PRIMARY KEY AUTOINCREMENT,
    town_id     TEXT NOT NULL REFERENCES towns (id) ON DELETE CASCADE,
    rig_id      TEXT NOT NULL,
    agent_id    TEXT NOT NULL,
    received_at TEXT NOT NULL,
    event       TEXT NOT NULL,
    data        TEXT NOT NULL                          -- JSON object; only its size where that is too much
) STRICT;

CREATE INDEX IF NOT EXISTS agent_events_by_agent ON agent_events (town_id, agent_id, number);

CREATE TABLE IF NOT EXISTS heartbeats (
    town_id     TEXT NOT NULL REFERENCES towns (id) ON DELETE CASCADE,
    agent_id    TEXT NOT NULL,
    rig_id      TEXT NOT NULL,
    received_at TEXT NOT NULL,
    body        TEXT NOT NULL,                         -- JSON object: the last one
    PRIMARY KEY (town_id, agent_id)
) STRICT, WITHOUT ROWID;
