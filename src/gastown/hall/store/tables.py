"""The tables of the hall's database, declared once. How a file comes to them is said by migrations/versions.

Times are ISO 8601, in UTC; what is JSON is text. Each row belongs to a town.
"""

from __future__ import annotations

from sqlalchemy import (
    ForeignKeyConstraint,
    Index,
    MetaData,
    Table,
    Text,
    UniqueConstraint,
    bindparam,
)

from gastown.hall.store.migrations.columns import (
    KEYED,
    NUMBERED,
    STRICT,
    bead,
    count,
    key,
    maybe,
    number,
    real,
    text,
    town,
    town_key,
    whole,
)

__all__ = [
    "METADATA",
    "TOWN",
    "agent_events",
    "attempts",
    "beads",
    "blockers",
    "container_events",
    "convoys",
    "facts",
    "heartbeats",
    "nudges",
    "policies",
    "reconcilers",
    "registry",
    "rig_agents",
    "rigs",
    "snapshot_files",
    "towns",
    "usage",
    "usage_seen",
    "work",
]

METADATA = MetaData()
TOWN = bindparam("town", type_=Text)
"""Stands in a statement for the town that it is about."""

# What a town is.

towns = Table(
    "towns",
    METADATA,
    key("id"),
    text("name"),
    text("created_at"),
    text("jwt_secret"),
    maybe("mayor_agent_id"),
    maybe("mayor_session_id"),  # of the last conversation, to tell resumed from new
    maybe("default_model"),
    maybe("small_model"),
    text("role_models", "{}"),  # JSON: role -> model
    text("git_auth", "{}"),  # JSON: github_token, gitlab_token, gitlab_instance_url
    maybe("github_cli_pat"),
    maybe("git_author_name"),
    maybe("git_author_email"),
    whole("disable_ai_coauthor", "0"),
    text("env_vars", "{}"),  # JSON: custom variables
    **STRICT,
)

rigs = Table(
    "rigs",
    METADATA,
    town_key(),
    key("id"),
    text("git_url"),
    text("default_branch"),
    text("config", "{}"),  # JSON: model, platform_integration_id, folder
    **KEYED,
)

# Settings that a person changes while the town runs; rig_id is '' for those of the town.
policies = Table(
    "policies",
    METADATA,
    town_key(),
    key("rig_id"),
    text("body"),  # JSON: a Policy, or a RigPolicy
    **KEYED,
)

# What the container has reported.

registry = Table(
    "registry",
    METADATA,
    town_key(),
    text("entries"),  # JSON array, as the container sent it
    text("updated_at"),
    **STRICT,
)

# The newest database snapshot of each agent, a file in the folder `snapshots` beside the database.
snapshot_files = Table(
    "snapshot_files",
    METADATA,
    town_key(),
    key("rig_id"),
    key("agent_id"),
    text("saved_at"),
    text("file"),
    text("sha256"),
    **STRICT,
)

container_events = Table(
    "container_events",
    METADATA,
    number("id"),
    town(),
    text("received_at"),
    text("event"),
    text("body"),  # JSON object, as the container sent it
    Index("container_events_by_town", "town_id", "id"),
    **NUMBERED,
)

agent_events = Table(
    "agent_events",
    METADATA,
    number(),
    town(),
    text("rig_id"),
    text("agent_id"),
    text("received_at"),
    text("event"),
    text("data"),  # JSON object; only its size where that is too much
    Index("agent_events_by_agent", "town_id", "agent_id", "number"),
    **NUMBERED,
)

heartbeats = Table(
    "heartbeats",
    METADATA,
    town_key(),
    key("agent_id"),
    text("rig_id"),
    text("received_at"),
    text("body"),  # JSON object: the last one
    **KEYED,
)

# What the agents' tools work on: convoys, beads, agents, nudges.

convoys = Table(
    "convoys",
    METADATA,
    number(),
    town(),
    text("id"),
    text("rig_id"),
    text("title"),
    whole("staged"),
    text("merge_mode"),
    maybe("feature_branch"),
    text("metadata", "{}"),
    text("created_at"),
    maybe("landed_at"),  # every bead of it is closed
    UniqueConstraint("town_id", "id"),
    **NUMBERED,
)

beads = Table(
    "beads",
    METADATA,
    number(),
    town(),
    text("id"),
    text("rig_id"),
    text("type"),  # issue, message, escalation, merge_request
    text("status", "open"),  # open, in_progress, in_review, closed, failed
    text("title"),
    maybe("body"),
    text("priority", "medium"),
    text("labels", "[]"),  # JSON array
    text("metadata", "{}"),  # JSON object; "steps" in it make a molecule
    whole("step", "0"),  # of those steps, how many are finished
    maybe("assignee"),  # an agent; of a message, its recipient
    maybe("created_by"),  # an agent
    maybe("convoy_id"),
    text("created_at"),
    text("updated_at"),
    maybe("closed_at"),
    UniqueConstraint("town_id", "id"),
    ForeignKeyConstraint(["town_id", "convoy_id"], ["convoys.town_id", "convoys.id"]),
    Index("beads_by_rig", "town_id", "rig_id", "number"),
    Index("beads_by_convoy", "town_id", "convoy_id"),
    **NUMBERED,
)

blockers = Table(
    "blockers",
    METADATA,
    key("town_id"),
    key("bead_id"),
    key("blocker_id"),  # must be closed before bead_id begins
    bead("bead_id", ondelete="CASCADE"),
    bead("blocker_id", ondelete="CASCADE"),
    Index("blockers_by_blocker", "town_id", "blocker_id"),
    **KEYED,
)

rig_agents = Table(
    "rig_agents",
    METADATA,
    number(),
    town(),
    text("rig_id"),
    text("id"),
    text("role"),
    text("name"),
    maybe("bead_id"),  # what it works on
    maybe("status_message"),
    maybe("checkpoint"),  # JSON
    text("created_at"),
    maybe("last_activity_at"),
    UniqueConstraint("town_id", "id"),
    bead("bead_id"),
    **NUMBERED,
)

nudges = Table(
    "nudges",
    METADATA,
    number(),
    town(),
    text("rig_id"),
    text("agent_id"),
    text("id"),
    text("message"),
    text("mode"),  # wait-idle, immediate, queue
    maybe("source"),  # the agent that sent it
    text("created_at"),
    maybe("delivered_at"),
    UniqueConstraint("town_id", "id"),
    **NUMBERED,
)

# What the reconciler knows of a town.

work = Table(
    "work",
    METADATA,
    key("town_id"),
    whole("epoch", "0"),
    key("bead_id"),
    text("state"),  # JSON: a Work
    bead("bead_id", ondelete="CASCADE"),
    **KEYED,
)

# Every attempt that was ever begun. Those of deleted beads stay.
attempts = Table(
    "attempts",
    METADATA,
    number(),
    town(),
    whole("epoch", "0"),
    text("id"),
    text("bead_id"),
    text("agent_id"),
    text("role"),  # polecat, refinery
    maybe("cause"),  # why there is one after the first
    text("started_at"),
    text("phase"),  # starting, running, ended
    maybe("outcome"),  # once it has ended
    maybe("ended_at"),
    maybe("reason"),
    UniqueConstraint("town_id", "id"),
    Index("attempts_by_bead", "town_id", "bead_id", "number"),
    Index("attempts_by_agent", "town_id", "agent_id", "number"),
    **NUMBERED,
)

reconcilers = Table(
    "reconcilers",
    METADATA,
    town_key(),
    whole("epoch", "0"),
    text("state"),  # JSON: names, breaker, stops
    **STRICT,
)

# What has happened, in the order in which it was folded; the newest of a town.
facts = Table(
    "facts",
    METADATA,
    number(),
    town(),
    whole("epoch", "0"),
    text("at"),
    text("kind"),
    maybe("bead_id"),
    text("body"),  # JSON
    Index("facts_by_town", "town_id", "number"),
    Index("facts_by_bead", "town_id", "bead_id", "number"),
    **NUMBERED,
)

# What model calls came to: sums. attempt_id and bead_id are '' where there is none, as of the mayor's bead.
usage = Table(
    "usage",
    METADATA,
    town_key(),
    whole("epoch", "0"),
    key("agent_id"),
    key("attempt_id"),
    key("bead_id"),
    key("day"),  # YYYY-MM-DD, in the town's time zone
    key("source"),  # gateway, kilo
    count("calls"),
    count("unpriced"),  # calls of which the cost is not known
    count("input"),
    count("output"),
    count("cached"),
    count("reasoning"),
    real("cost"),  # USD, as far as it is known
    Index("usage_by_bead", "town_id", "bead_id"),
    Index("usage_by_day", "town_id", "day"),
    **KEYED,
)

# The newest calls that were counted, so that an event that comes a second time is not.
usage_seen = Table(
    "usage_seen",
    METADATA,
    number(),
    town(),
    whole("epoch", "0"),
    text("agent_id"),
    text("call_id"),
    UniqueConstraint("town_id", "agent_id", "call_id"),
    Index("usage_seen_by_town", "town_id", "number"),
    **NUMBERED,
)
