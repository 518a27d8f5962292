"""Agents' conversations at the worker: fetched before a spawn, saved while kilo runs, never overwritten blindly.

A conversation that began while the worker could not be asked for the stored one is *unsettled*: a mark beside its
database says so, over restarts too. It is not uploaded before the worker has answered. When there is none stored,
it becomes the agent's conversation like any other. When there is one, that one stays the agent's: nothing is
uploaded over it, and at the next start of the agent the local database is kept beside it as `kilo.db.apart-N`.
"""

from __future__ import annotations

from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Literal

import structlog
import trio

from gastown.concurrency.locks import NamedLocks
from gastown.contract.agents import SnapshotState
from gastown.metrics.figures import Attempts, Histogram
from gastown.worker.client import WorkerClient, WorkerError
from gastown.worker.database import CannotCopy, copy, database_path, install, is_sound, set_aside, unpack

__all__ = ["KeptApart", "NotSaved", "Restored", "Snapshots"]

log = structlog.get_logger()

Restored = Literal["local", "restored", "fresh", "unavailable"]
"""What the agent starts with: its own database, the stored one, none, or whatever is there, unsettled."""

_ASK_SECONDS = 10.0
_UPLOAD_SECONDS = 60.0
_COPIES = 4
"""Copies that are in memory at a time."""


class NotSaved(Exception):
    """The conversation is here and not at the worker; the message says why. `transient`: it may work later."""

    def __init__(self, reason: str, *, transient: bool, state: SnapshotState = SnapshotState.FAILED) -> None:
        super().__init__(reason)
        self.transient = transient
        self.state = state


class KeptApart(NotSaved):
    """Another conversation of this agent is stored, and stays so."""

    def __init__(self) -> None:
        super().__init__(
            "another conversation of this agent is stored, which could not be asked for when this one began; "
            "the stored one goes on at the next start, and this one is kept beside it",
            transient=False,
            state=SnapshotState.APART,
        )


class Snapshots:
    """Databases of agents. One operation at a time per home, so a prewarm and a start never fetch twice.

    Deadlines are the caller's. Without a worker nothing is fetched or saved. `limit` is the most bytes that a
    saved database may have. `operations` counts and times them, `sizes` has the bytes that were moved.
    """

    def __init__(self, worker: WorkerClient | None, limit: int) -> None:
        self._worker = worker
        self._limit = limit
        self._locks = NamedLocks()
        self._copies = trio.Semaphore(_COPIES)
        self._apart: set[str] = set()
        self.operations = Attempts("gastown_snapshot_operations_total", "gastown_snapshot_duration_seconds")
        self.sizes = Histogram("gastown_snapshot_size_bytes")

    async def is_unsettled(self, home: str) -> bool:
        return await trio.Path(_mark(home)).exists()

    async def restore(self, home: str, rig_id: str, agent_id: str, *, unused: bool = False) -> Restored:
        """Leave a usable database, or none, in `home`. A settled local one stays: it is the newer one.

        A database that fails its check is set aside; a stored one is deleted too. `unused` says that no server
        has the home open: then an unsettled local one gives way to the stored one.
        """
        with self.operations.attempt("restore") as operation:
            try:
                restored = await self._restore(home, rig_id, agent_id, unused=unused)
            except OSError:
                operation.outcome = "failed"
                raise
            operation.outcome = restored
            return restored

    async def _restore(self, home: str, rig_id: str, agent_id: str, *, unused: bool) -> Restored:
        async with self._locks.of(home):
            path = database_path(home)
            await trio.Path(path.parent).mkdir(parents=True, exist_ok=True)
            outcome: Restored = "fresh"
            if await trio.Path(path).exists():
                if not await trio.to_thread.run_sync(is_sound, path):
                    await self._set_aside(path)
                elif self._worker is None or not await self.is_unsettled(home):
                    return "local"
                elif not unused:
                    return "unavailable"
                else:
                    outcome = "local"
            if self._worker is None:
                return outcome
            return await self._fetch(self._worker, home, rig_id, agent_id, outcome)

    async def save(self, home: str, rig_id: str, agent_id: str) -> bool:
        """Upload a consistent copy; False when there is nothing to save, or no worker. Raises `NotSaved`.

        Only whole and sound copies are sent: what is stored is replaced by something better or not at all.
        """
        if self._worker is None:
            return False
        with self.operations.attempt("save") as operation:
            try:
                saved = await self._save(self._worker, home, rig_id, agent_id)
            except NotSaved as error:
                operation.outcome = error.state
                raise
            operation.outcome = "saved" if saved else "nothing"
            return saved

    async def _save(self, worker: WorkerClient, home: str, rig_id: str, agent_id: str) -> bool:
        async with self._locks.of(home):
            state = SnapshotState.FAILED
            try:
                if await self.is_unsettled(home):
                    state = SnapshotState.UNSETTLED
                    await self._settle(worker, home, rig_id, agent_id)
                    state = SnapshotState.FAILED
                async with self._copies:
                    work = partial(copy, database_path(home), self._limit)
                    content = await trio.to_thread.run_sync(work, abandon_on_cancel=True)
                    if content is None:
                        return False
                    with trio.fail_after(_UPLOAD_SECONDS):
                        await worker.save_snapshot(rig_id, agent_id, content)
            except WorkerError as error:
                raise NotSaved(str(error), transient=error.transient, state=state) from error
            except trio.TooSlowError as error:
                raise NotSaved("worker API: no answer in time", transient=True, state=state) from error
            except (CannotCopy, OSError) as error:
                raise NotSaved(str(error), transient=False) from error
            self.sizes.observe(len(content), "save")
            log.info("snapshot.saved", agent_id=agent_id, size=len(content))
            return True

    async def reject(self, home: str, rig_id: str, agent_id: str) -> None:
        """kilo could not open the database: set it aside and delete the stored one, so that a start can.

        What is stored is left alone while it is not known to be the same.
        """
        async with self._locks.of(home):
            await self._set_aside(database_path(home))
            if not await self.is_unsettled(home):
                await self._delete_stored(rig_id, agent_id)

    async def _fetch(
        self, worker: WorkerClient, home: str, rig_id: str, agent_id: str, outcome: Restored
    ) -> Restored:
        """Ask for the stored one and put it in place; `outcome` is what there is without it.

        Until there is an answer the home is marked.
        """
        path = database_path(home)
        await trio.Path(_mark(home)).touch()
        try:
            with trio.fail_after(_ASK_SECONDS):
                stored = await worker.snapshot(rig_id, agent_id)
        except (WorkerError, trio.TooSlowError) as error:
            log.warning("snapshot.unavailable", agent_id=agent_id, reason=str(error) or "no answer in 10 s")
            return "unavailable"
        draft = await trio.to_thread.run_sync(unpack, stored, path) if stored is not None else None
        if draft is not None:
            self.sizes.observe(len(stored or b""), "restore")
            return await self._replace(home, agent_id, draft, local=outcome == "local")
        if stored is not None:
            log.warning("snapshot.unreadable", agent_id=agent_id, size=len(stored))
            await self._delete_stored(rig_id, agent_id)
        await self._unmark(home)
        return outcome

    async def _replace(self, home: str, agent_id: str, draft: Path, *, local: bool) -> Restored:
        path = database_path(home)
        try:
            kept = await trio.to_thread.run_sync(_put_in_place, path, draft, _mark(home), local)
        except FileExistsError:
            log.warning("snapshot.too_late", agent_id=agent_id)
            return "unavailable"
        self._apart.discard(home)
        log.info("snapshot.fetched", agent_id=agent_id, kept_apart_as=kept)
        return "restored"

    async def _settle(self, worker: WorkerClient, home: str, rig_id: str, agent_id: str) -> None:
        """Find out whether the conversation in `home` may be uploaded. Raises `KeptApart` when not."""
        if home in self._apart:
            raise KeptApart
        with trio.fail_after(_ASK_SECONDS):
            stored = await worker.snapshot(rig_id, agent_id)
        if stored is not None:
            self._apart.add(home)
            log.warning("snapshot.apart", agent_id=agent_id, stored=len(stored))
            raise KeptApart
        await self._unmark(home)

    async def _unmark(self, home: str) -> None:
        await trio.Path(_mark(home)).unlink(missing_ok=True)
        self._apart.discard(home)

    async def _set_aside(self, path: Path) -> None:
        with suppress(FileNotFoundError):
            log.warning("snapshot.set_aside", kept_as=await trio.to_thread.run_sync(set_aside, path, "broken"))

    async def _delete_stored(self, rig_id: str, agent_id: str) -> None:
        if self._worker is None:
            return
        try:
            with trio.fail_after(_ASK_SECONDS):
                await self._worker.delete_snapshot(rig_id, agent_id)
        except (WorkerError, trio.TooSlowError) as error:
            log.warning("snapshot.not_deleted", agent_id=agent_id, reason=str(error) or "no answer in 10 s")


def _put_in_place(path: Path, draft: Path, mark: Path, apart: bool) -> str | None:
    """Put a fetched database in place, the one before it aside, and take the mark away.

    One call in a thread: whoever is cancelled meanwhile leaves all of it done. Returns the other one's new name.
    """
    kept = set_aside(path, "apart") if apart else None
    install(draft, path)
    mark.unlink()
    return kept


def _mark(home: str) -> Path:
    path = database_path(home)
    return path.with_name(f"{path.name}.unsettled")
