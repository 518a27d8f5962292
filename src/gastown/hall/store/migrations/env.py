"""Run by Alembic: does what it was asked to on the connection that it was given, inside its transaction."""

from __future__ import annotations

from alembic import context

from gastown.hall.store.tables import METADATA

context.configure(
    connection=context.config.attributes["connection"], target_metadata=METADATA, transactional_ddl=True
)
with context.begin_transaction():
    context.run_migrations()
