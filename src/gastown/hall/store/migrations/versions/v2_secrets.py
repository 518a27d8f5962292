"""The gateway's token and its organisation are for one run: neither is kept, and no registry has one."""

from __future__ import annotations

import json
from typing import Any

import sqlalchemy as sa
from alembic import op

revision = "2"
down_revision = "1"


def upgrade() -> None:
    db = op.get_bind()
    if db.dialect.name == "sqlite":
        db.exec_driver_sql("PRAGMA secure_delete = ON")  # what is dropped is overwritten
    op.drop_column("towns", "kilocode_token")
    op.drop_column("towns", "organization_id")
    registry = sa.table("registry", sa.column("town_id"), sa.column("entries"))
    for row in db.execute(sa.select(registry)).all():
        kept = json.dumps([_without_token(entry) for entry in json.loads(row.entries)])
        db.execute(sa.update(registry).where(registry.c.town_id == row.town_id).values(entries=kept))


def _without_token(entry: Any) -> Any:
    if isinstance(entry, dict):
        request = entry.get("request")
        for variables in (entry.get("env"), request.get("envVars") if isinstance(request, dict) else None):
            if isinstance(variables, dict):
                variables.pop("KILOCODE_TOKEN", None)
    return entry
