"""A town, its rigs, and what its container sent."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from gastown.hall.store.migrations.columns import (
    KEYED,
    NUMBERED,
    STRICT,
    key,
    maybe,
    number,
    text,
    town,
    town_key,
    whole,
)

revision = "1"
down_revision = None

_TABLES = (
    ("towns", STRICT, (
        key("id"),
        text("name"),
        text("created_at"),
        text("jwt_secret"),
        maybe("mayor_agent_id"),
        maybe("mayor_session_id"),
        maybe("kilocode_token"),
        maybe("organization_id"),
        maybe("default_model"),
        maybe("small_model"),
        text("role_models", "{}"),
        text("git_auth", "{}"),
        maybe("github_cli_pat"),
        maybe("git_author_name"),
        maybe("git_author_email"),
        whole("disable_ai_coauthor", "0"),
        text("env_vars", "{}"),
    )),
    ("rigs", KEYED, (
        town_key(),
        key("id"),
        text("git_url"),
        text("default_branch"),
        text("config", "{}"),
    )),
    ("registry", STRICT, (
        town_key(),
        text("entries"),
        text("updated_at"),
    )),
    ("snapshots", STRICT, (
        town_key(),
        key("rig_id"),
        key("agent_id"),
        text("saved_at"),
        sa.Column("content", sa.LargeBinary, nullable=False),
    )),
    ("container_events", NUMBERED, (
        number("id"),
        town(),
        text("received_at"),
        text("event"),
        text("body"),
    )),
)  # fmt: skip
_INDEXES = (("container_events_by_town", "container_events", ["town_id", "id"]),)


def upgrade() -> None:
    for name, kind, parts in _TABLES:
        op.create_table(name, *parts, **kind)
    for name, table, columns in _INDEXES:
        op.create_index(name, table, columns)
