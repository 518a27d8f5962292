-- The hall's whole state. Version 1; store.py holds the steps from one version to the next.

CREATE TABLE towns (
    id                  TEXT PRIMARY KEY,
    name                TEXT NOT NULL,
    created_at          TEXT NOT NULL,
    jwt_secret          TEXT NOT NULL,
    mayor_agent_id      TEXT,
    mayor_session_id    TEXT,                          -- of the last conversation, to tell resumed from new
    kilocode_token      TEXT,
    organization_id     TEXT,
    default_model       TEXT,
    small_model         TEXT,
    role_models         TEXT NOT NULL DEFAULT '{}',    -- JSON: role -> model
    git_auth            TEXT NOT NULL DEFAULT '{}',    -- JSON: github_token, gitlab_token, gitlab_instance_url
    github_cli_pat      TEXT,
    git_author_name     TEXT,
    git_author_email    TEXT,
    disable_ai_coauthor INTEGER NOT NULL DEFAULT 0,
    env_vars            TEXT NOT NULL DEFAULT '{}'     -- JSON: custom variables
) STRICT;

CREATE TABLE rigs (
    town_id        TEXT NOT NULL REFERENCES towns (id) ON DELETE CASCADE,
    id             TEXT NOT NULL,
    git_url        TEXT NOT NULL,
    default_branch TEXT NOT NULL,
    config         TEXT NOT NULL DEFAULT '{}',         -- JSON: model, platform_integration_id
    PRIMARY KEY (town_id, id)
) STRICT, WITHOUT ROWID;

CREATE TABLE registry (
    town_id    TEXT PRIMARY KEY REFERENCES towns (id) ON DELETE CASCADE,
    entries    TEXT NOT NULL,                          -- JSON array, as the container sent it
    updated_at TEXT NOT NULL
) STRICT;

CREATE TABLE snapshots (
    town_id  TEXT NOT NULL REFERENCES towns (id) ON DELETE CASCADE,
    rig_id   TEXT NOT NULL,
    agent_id TEXT NOT NULL,
    saved_at TEXT NOT NULL,
    content  BLOB NOT NULL,
    PRIMARY KEY (town_id, rig_id, agent_id)
) STRICT;

CREATE TABLE container_events (
    id          INTEGER PRIMARY KEY AUTOINCREMENT,
    town_id     TEXT NOT NULL REFERENCES towns (id) ON DELETE CASCADE,
    received_at TEXT NOT NULL,
    event       TEXT NOT NULL,
    body        TEXT NOT NULL                          -- JSON object, as the container sent it
) STRICT;

CREATE INDEX container_events_by_town ON container_events (town_id, id);
