"""`kilo.db`: fetched before a spawn, checked before kilo sees it, set aside when it is broken."""

from __future__ import annotations

import sqlite3
from pathlib import Path
from typing import Literal

import structlog
import trio

from gastown.concurrency.locks import NamedLocks
from gastown.worker.client import WorkerClient, WorkerError

__all__ = ["Restored", "Snapshots", "database_path"]

log = structlog.get_logger()

Restored = Literal["local", "restored", "fresh", "unavailable"]
"""What the agent starts with: its own database, the stored one, none, or none because nobody could be asked."""

_HEADER = b"SQLite format 3\x00"


def database_path(home: str) -> Path:
    return Path(home) / ".local" / "share" / "kilo" / "kilo.db"


class Snapshots:
    """Databases of agents. One operation at a time per home, so a prewarm and a start never fetch twice."""

    def __init__(self, worker: WorkerClient | None) -> None:
        self._worker = worker
        self._locks = NamedLocks()

    async def restore(self, home: str, rig_id: str, agent_id: str) -> Restored:
        """Leave a usable database, or none, in `home`. A local one is never replaced: it is the newer one.

        A database that fails its check is set aside; a stored one is deleted too. Deadlines are the caller's.
        """
        async with self._locks.of(home):
            path = database_path(home)
            await trio.to_thread.run_sync(lambda: path.parent.mkdir(parents=True, exist_ok=True))
            if await trio.Path(path).exists():
                if await trio.to_thread.run_sync(_is_sound, path):
                    return "local"
                await self._set_aside(path)
            if self._worker is None:
                return "fresh"
            try:
                with trio.fail_after(10):
                    stored = await self._worker.snapshot(rig_id, agent_id)
            except (WorkerError, trio.TooSlowError) as error:
                log.warning("snapshot.unavailable", agent_id=agent_id, reason=str(error) or "no answer in 10 s")
                return "unavailable"
            if stored is None:
                return "fresh"
            if await trio.to_thread.run_sync(_install, stored, path):
                return "restored"
            await self._delete_stored(rig_id, agent_id)
            return "fresh"

    async def reject(self, home: str, rig_id: str, agent_id: str) -> None:
        """kilo could not open the database: set it aside and delete the stored one, so that a start can."""
        async with self._locks.of(home):
            await self._set_aside(database_path(home))
            await self._delete_stored(rig_id, agent_id)

    async def _set_aside(self, path: Path) -> None:
        if await trio.Path(path).exists():
            broken = await trio.to_thread.run_sync(_move_away, path)
            log.warning("snapshot.set_aside", kept_as=broken)

    async def _delete_stored(self, rig_id: str, agent_id: str) -> None:
        if self._worker is None:
            return
        try:
            with trio.fail_after(10):
                await self._worker.delete_snapshot(rig_id, agent_id)
        except (WorkerError, trio.TooSlowError) as error:
            log.warning("snapshot.not_deleted", agent_id=agent_id, reason=str(error) or "no answer in 10 s")


def _is_sound(path: Path) -> bool:
    """Whether kilo can open it and read all of it. An empty file counts as new (kilo-facts 6)."""
    if path.stat().st_size == 0:
        return True
    try:
        # Not read-only: the write-ahead log that a killed server left behind must be replayed.
        connection = sqlite3.connect(path, timeout=5)
        try:
            return connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        finally:
            connection.close()
    except sqlite3.DatabaseError:
        return False


def _install(content: bytes, path: Path) -> bool:
    """Put a fetched database in place if it is sound; it becomes visible only whole."""
    draft = path.with_name("kilo.db.fetched")
    draft.write_bytes(content)
    try:
        if not content.startswith(_HEADER) or not _is_sound(draft):
            log.warning("snapshot.unreadable", size=len(content))
            return False
        _drop_companions(draft)
        draft.replace(path)
        return True
    finally:
        draft.unlink(missing_ok=True)


def _drop_companions(path: Path) -> None:
    for suffix in ("-wal", "-shm"):
        path.with_name(path.name + suffix).unlink(missing_ok=True)


def _move_away(path: Path) -> str:
    """Rename a database and its companions to the first free `kilo.db.broken-N`; returns that name."""
    number = 1
    while path.with_name(f"kilo.db.broken-{number}").exists():
        number += 1
    target = path.with_name(f"kilo.db.broken-{number}")
    path.rename(target)
    for suffix in ("-wal", "-shm"):
        companion = path.with_name(path.name + suffix)
        if companion.exists():
            companion.rename(target.with_name(target.name + suffix))
    return target.name
