"""How a database of any earlier gastown comes to the tables of this one: the steps in versions/, by Alembic.

A change to a table is made in tables.py, in a new file of versions/, and in `NEWEST`.
"""

from __future__ import annotations

from pathlib import Path

from sqlalchemy import Connection, inspect, text

from gastown.hall.store.lane import StoreError, usable
from gastown.hall.store.snapshots.files import folder_beside

__all__ = ["NEWEST", "bring_up_to_date"]

NEWEST = "4"
"""The revision of this gastown: the last of versions/."""
_MARK = 3
"""What SQLite's own `user_version` says of a file that Alembic looks after. A gastown that knows only version 1 or
2, which it wrote there, refuses it by that."""


def bring_up_to_date(connection: Connection, path: Path) -> None:
    """Make the tables, or go from those of an earlier gastown to ours: whole, or not at all. Blocks.

    StoreError when the file was written by a later one.
    """
    with usable(path), connection.begin():
        found = _revision(connection, path)
        if found == NEWEST:
            return
        _upgrade(connection, found, folder_beside(path))
        connection.exec_driver_sql(f"PRAGMA user_version = {_MARK}")


def _revision(connection: Connection, path: Path) -> str | None:
    """The revision that the tables have; None of an empty file."""
    mark = connection.exec_driver_sql("PRAGMA user_version").scalar_one()
    found = str(mark) if mark else None
    if mark == _MARK:
        found = str(connection.execute(text("SELECT version_num FROM alembic_version")).scalar_one())
    if found is not None and (mark > _MARK or not found.isdecimal() or int(found) > int(NEWEST)):
        raise StoreError(f"{path} was written by a newer gastown (version {found}, this one knows {NEWEST})")
    return found


def _upgrade(connection: Connection, found: str | None, snapshots: Path) -> None:
    # Only here: what is up to date needs nothing of Alembic, which takes a tenth of a second to load.
    from alembic import command  # noqa: PLC0415
    from alembic.config import Config  # noqa: PLC0415

    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent).replace("%", "%%"))
    config.attributes |= {"connection": connection, "snapshots": snapshots}
    if found is not None and not inspect(connection).has_table("alembic_version"):
        command.stamp(config, found)
    command.upgrade(config, "head")
