"""A snapshot is a file beside the database: up to 64 MiB each are not for the file that every heartbeat writes."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from alembic import context, op

from gastown.hall.store.migrations.columns import STRICT, key, text, town_key
from gastown.hall.store.snapshots.files import write_file

revision = "4"
down_revision = "3"


def upgrade() -> None:
    new = op.create_table(
        "snapshot_files",
        town_key(),
        key("rig_id"),
        key("agent_id"),
        text("saved_at"),
        text("file"),
        text("sha256"),
        **STRICT,
    )
    names = ("town_id", "rig_id", "agent_id", "saved_at")
    old = sa.table("snapshots", *(sa.column(name) for name in (*names, "content")))
    db, folder = op.get_bind(), context.config.attributes["snapshots"]
    for row in db.execute(sa.select(*(old.c[name] for name in names))).all():  # the contents one at a time
        columns: dict[str, Any] = dict(zip(names, row, strict=True))
        content = sa.select(old.c.content).where(*(old.c[name] == columns[name] for name in names))
        stored = write_file(folder, bytes(db.execute(content).scalar_one()))
        db.execute(sa.insert(new).values(**columns, file=stored.file, sha256=stored.sha256))
    op.drop_table("snapshots")
