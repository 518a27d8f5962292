"""The board, what the container reports of agents, and the reconciler. A file of version 1 or 2 may have some of
it: they made the tables of the board, the records and the reconciler at each opening, where these were missing.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

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

revision = "3"
down_revision = "2"

_TABLES = (
    ("agent_events", NUMBERED, (
        number(),
        town(),
        text("rig_id"),
        text("agent_id"),
        text("received_at"),
        text("event"),
        text("data"),
    )),
    ("heartbeats", KEYED, (
        town_key(),
        key("agent_id"),
        text("rig_id"),
        text("received_at"),
        text("body"),
    )),
    ("convoys", NUMBERED, (
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
        maybe("landed_at"),
        sa.UniqueConstraint("town_id", "id"),
    )),
    ("beads", NUMBERED, (
        number(),
        town(),
        text("id"),
        text("rig_id"),
        text("type"),
        text("status", "open"),
        text("title"),
        maybe("body"),
        text("priority", "medium"),
        text("labels", "[]"),
        text("metadata", "{}"),
        whole("step", "0"),
        maybe("assignee"),
        maybe("created_by"),
        maybe("convoy_id"),
        text("created_at"),
        text("updated_at"),
        maybe("closed_at"),
        sa.UniqueConstraint("town_id", "id"),
        sa.ForeignKeyConstraint(["town_id", "convoy_id"], ["convoys.town_id", "convoys.id"]),
    )),
    ("blockers", KEYED, (
        key("town_id"),
        key("bead_id"),
        key("blocker_id"),
        bead("bead_id", ondelete="CASCADE"),
        bead("blocker_id", ondelete="CASCADE"),
    )),
    ("rig_agents", NUMBERED, (
        number(),
        town(),
        text("rig_id"),
        text("id"),
        text("role"),
        text("name"),
        maybe("bead_id"),
        maybe("status_message"),
        maybe("checkpoint"),
        text("created_at"),
        maybe("last_activity_at"),
        sa.UniqueConstraint("town_id", "id"),
        bead("bead_id"),
    )),
    ("nudges", NUMBERED, (
        number(),
        town(),
        text("rig_id"),
        text("agent_id"),
        text("id"),
        text("message"),
        text("mode"),
        maybe("source"),
        text("created_at"),
        maybe("delivered_at"),
        sa.UniqueConstraint("town_id", "id"),
    )),
    ("work", KEYED, (
        key("town_id"),
        whole("epoch", "0"),
        key("bead_id"),
        text("state"),
        bead("bead_id", ondelete="CASCADE"),
    )),
    ("attempts", NUMBERED, (
        number(),
        town(),
        whole("epoch", "0"),
        text("id"),
        text("bead_id"),
        text("agent_id"),
        text("role"),
        maybe("cause"),
        text("started_at"),
        text("phase"),
        maybe("outcome"),
        maybe("ended_at"),
        maybe("reason"),
        sa.UniqueConstraint("town_id", "id"),
    )),
    ("reconcilers", STRICT, (
        town_key(),
        whole("epoch", "0"),
        text("state"),
    )),
    ("facts", NUMBERED, (
        number(),
        town(),
        whole("epoch", "0"),
        text("at"),
        text("kind"),
        maybe("bead_id"),
        text("body"),
    )),
    ("policies", KEYED, (
        town_key(),
        key("rig_id"),
        text("body"),
    )),
    ("usage", KEYED, (
        town_key(),
        whole("epoch", "0"),
        key("agent_id"),
        key("attempt_id"),
        key("bead_id"),
        key("day"),
        key("source"),
        count("calls"),
        count("unpriced"),
        count("input"),
        count("output"),
        count("cached"),
        count("reasoning"),
        real("cost"),
    )),
    ("usage_seen", NUMBERED, (
        number(),
        town(),
        whole("epoch", "0"),
        text("agent_id"),
        text("call_id"),
        sa.UniqueConstraint("town_id", "agent_id", "call_id"),
    )),
)  # fmt: skip
_INDEXES = (
    ("usage_by_bead", "usage", ["town_id", "bead_id"]),
    ("usage_by_day", "usage", ["town_id", "day"]),
    ("agent_events_by_agent", "agent_events", ["town_id", "agent_id", "number"]),
    ("beads_by_rig", "beads", ["town_id", "rig_id", "number"]),
    ("beads_by_convoy", "beads", ["town_id", "convoy_id"]),
    ("blockers_by_blocker", "blockers", ["town_id", "blocker_id"]),
    ("attempts_by_bead", "attempts", ["town_id", "bead_id", "number"]),
    ("attempts_by_agent", "attempts", ["town_id", "agent_id", "number"]),
    ("usage_seen_by_town", "usage_seen", ["town_id", "number"]),
    ("facts_by_town", "facts", ["town_id", "number"]),
    ("facts_by_bead", "facts", ["town_id", "bead_id", "number"]),
)


def upgrade() -> None:
    op.drop_table("reworks", if_exists=True)  # of reviews before the reconciler; nothing reads it
    for name, kind, parts in _TABLES:
        op.create_table(name, *parts, **kind, if_not_exists=True)
    for name, table, columns in _INDEXES:
        op.create_index(name, table, columns, if_not_exists=True)
