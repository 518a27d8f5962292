"""The rows of the snapshots, and what is done with them and their files."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import NamedTuple

import trio
from sqlalchemy import Connection, bindparam, delete, select

from gastown.hall.store import tables
from gastown.hall.store.lane import Lane, StoreBusy
from gastown.hall.store.snapshots.files import (
    Stored,
    folder_beside,
    keep_only,
    read_file,
    remove_file,
    write_file,
)
from gastown.hall.store.tables import TOWN
from gastown.hall.store.transaction import put

__all__ = ["Place", "Snapshots", "remove_leftovers"]

_LOG = logging.getLogger("gastown.hall.store")
_ROWS = tables.snapshot_files.c
_IT = (_ROWS.town_id == TOWN, _ROWS.rig_id == bindparam("rig"), _ROWS.agent_id == bindparam("agent"))
_ONE = select(_ROWS.file, _ROWS.sha256).where(*_IT)
_FORGET = delete(tables.snapshot_files).where(*_IT)
_NAMES = select(_ROWS.file)


class Place(NamedTuple):
    """Whose snapshot it is: an agent of a rig of a town."""

    town: str
    rig: str
    agent: str


class Snapshots:
    """The newest snapshot of each agent. The files are written and read beside the lanes: they may be large."""

    def __init__(self, database: Path, writes: Lane, reads: Lane) -> None:
        self._folder = folder_beside(database)
        self._writes, self._reads = writes, reads

    async def read(self, place: Place) -> bytes | None:
        """None when there is none, or its file is missing or damaged."""
        seen: Stored | None = None
        while (stored := await self._reads.run(lambda connection: _find(connection, place))) is not None:
            content = await trio.to_thread.run_sync(read_file, self._folder, stored)
            if content is not None:
                return content
            if stored == seen:
                _LOG.warning("the snapshot of agent %s, %s, is missing or damaged", place.agent, stored.file)
                return None
            seen = stored  # another may have taken its place while this one was opened
        return None

    async def save(self, place: Place, saved_at: str, content: bytes) -> None:
        """Keep `content`, which is on the disk when this returns, in place of what there was. OSError when the
        disk does not take it: then what there was stays.
        """
        stored = await trio.to_thread.run_sync(write_file, self._folder, content)
        try:
            old = await self._writes.run(lambda connection: _replace(connection, place, saved_at, stored))
        except (StoreBusy, trio.Cancelled):  # before anything was done
            remove_file(self._folder, stored.file)
            raise
        if old is not None:
            await trio.to_thread.run_sync(remove_file, self._folder, old.file)

    async def forget(self, place: Place) -> bool:
        """False when there was none."""
        old = await self._writes.run(lambda connection: _forget(connection, place))
        if old is not None:
            await trio.to_thread.run_sync(remove_file, self._folder, old.file)
        return old is not None


def remove_leftovers(connection: Connection, database: Path) -> None:
    """Remove the files that no row names. Blocks; OSError."""
    with connection.begin():
        names = set(connection.scalars(_NAMES))
    keep_only(folder_beside(database), names)


def _find(connection: Connection, place: Place) -> Stored | None:
    with connection.begin():
        return _stored(connection, place)


def _replace(connection: Connection, place: Place, saved_at: str, stored: Stored) -> Stored | None:
    key = {"town_id": place.town, "rig_id": place.rig, "agent_id": place.agent}
    columns = key | {"saved_at": saved_at, **stored._asdict()}
    with connection.begin():
        old = _stored(connection, place)
        connection.execute(put(tables.snapshot_files, *columns), columns)
    return old


def _forget(connection: Connection, place: Place) -> Stored | None:
    with connection.begin():
        old = _stored(connection, place)
        connection.execute(_FORGET, place._asdict())
    return old


def _stored(connection: Connection, place: Place) -> Stored | None:
    row = connection.execute(_ONE, place._asdict()).first()
    return None if row is None else Stored(row.file, row.sha256)
