"""Agents' conversations at the worker: fetched before a spawn, saved while kilo runs, never overwritten blindly.

A conversation that began while the worker could not be asked for the stored one is *unsettled*: a mark beside its
database says so, over restarts too. It is not uploaded before the worker has answered. When there is none stored,
it becomes the agent's conversation like any other. When there is one, that one stays the agent's: nothing is
uploaded over it, and at the next start of the agent the local database is kept beside it as `kilo.db.apart-N`.
"""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import Literal

import structlog
import trio

from gastown.concurrency.locks import NamedLocks
from gastown.contract.agents import SnapshotState
from gastown.isolation.users import User, run_as
from gastown.metrics.counters import Attempts, Histogram
from gastown.worker.client import WorkerClient, WorkerError
from gastown.worker.snapshots.database import CannotCopy, database_path, install, set_aside
from gastown.worker.snapshots.database_work import DatabaseWork, WorkCutOff

__all__ = ["KeptApart", "NotSaved", "Restored", "Snapshots"]

log = structlog.get_logger()

Restored = Literal["local", "restored", "fresh", "unavailable"]
"""What the agent starts with: its own database, the stored one, none, or whatever is there, unsettled."""

_ASK_SECONDS = 10.0
_COPY_SECONDS = 60.0
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
    saved database may have, and a stored one that is fetched. `user` is whose the home is: all that is done in it
    is done with that user's rights. `operations` counts and times them, `sizes` has the bytes that were moved.
    """

    def __init__(self, worker: WorkerClient, limit: int, work: DatabaseWork = DatabaseWork()) -> None:  # noqa: B008 - it is frozen
        self._worker = worker
        self._limit = limit
        self._work = work
        self._locks = NamedLocks()
        self._copies = trio.Semaphore(_COPIES)
        self._apart: set[str] = set()
        self.operations = Attempts("gastown_snapshot_operations_total", "gastown_snapshot_duration_seconds")
        self.sizes = Histogram("gastown_snapshot_size_bytes")

    async def is_unsettled(self, home: str, user: User | None = None) -> bool:
        return await run_as(user, _mark(home).exists)

    async def restore(
        self, home: str, rig_id: str, agent_id: str, *, unused: bool = False, user: User | None = None
    ) -> Restored:
        """Leave a usable database, or none, in `home`. A settled local one stays: it is the newer one.

        A database that fails its check is set aside; a stored one is deleted too. `unused` says that no server
        has the home open: then an unsettled local one gives way to the stored one.
        """
        with self.operations.attempt("restore") as operation:
            try:
                restored = await self._restore(home, rig_id, agent_id, user, unused=unused)
            except OSError:
                operation.outcome = "failed"
                raise
            operation.outcome = restored
            return restored

    async def _restore(
        self, home: str, rig_id: str, agent_id: str, user: User | None, *, unused: bool
    ) -> Restored:
        async with self._locks.of(home):
            path = database_path(home)
            outcome: Restored = "fresh"
            if await run_as(user, _is_there, path):
                if not await self._work.is_sound(user, path):
                    await self._set_aside(path, user)
                elif not self._worker.is_configured or not await self.is_unsettled(home, user):
                    return "local"
                elif not unused:
                    return "unavailable"
                else:
                    outcome = "local"
            if not self._worker.is_configured:
                return outcome
            return await self._fetch(home, rig_id, agent_id, outcome, user)

    async def save(self, home: str, rig_id: str, agent_id: str, user: User | None = None) -> bool:
        """Upload a consistent copy; False when there is nothing to save, or no worker. Raises `NotSaved`.

        Only whole and sound copies are sent: what is stored is replaced by something better or not at all.
        """
        if not self._worker.is_configured:
            return False
        with self.operations.attempt("save") as operation:
            try:
                saved = await self._save(home, rig_id, agent_id, user)
            except NotSaved as error:
                operation.outcome = error.state
                raise
            operation.outcome = "saved" if saved else "nothing"
            return saved

    async def _save(self, home: str, rig_id: str, agent_id: str, user: User | None) -> bool:
        async with self._locks.of(home):
            state = SnapshotState.FAILED
            try:
                if await self.is_unsettled(home, user):
                    state = SnapshotState.UNSETTLED
                    await self._settle(home, rig_id, agent_id, user)
                    state = SnapshotState.FAILED
                async with self._copies:
                    content = await self._copy(home, user)
                    if content is None:
                        return False
                    with trio.fail_after(_UPLOAD_SECONDS):
                        await self._worker.save_snapshot(rig_id, agent_id, content)
            except WorkerError as error:
                raise NotSaved(str(error), transient=error.transient, state=state) from error
            except trio.TooSlowError as error:
                raise NotSaved("worker API: no answer in time", transient=True, state=state) from error
            except (CannotCopy, OSError) as error:
                transient = isinstance(error, (WorkCutOff, BlockingIOError))
                raise NotSaved(str(error), transient=transient) from error
            self.sizes.observe(len(content), "save")
            log.info("snapshot.saved", agent_id=agent_id, size=len(content))
            return True

    async def _copy(self, home: str, user: User | None) -> bytes | None:
        """With a deadline of its own: an agent can stop the process that copies, and others wait for its place."""
        try:
            with trio.fail_after(_COPY_SECONDS):
                return await self._work.copy(user, database_path(home), self._limit)
        except trio.TooSlowError as error:
            raise NotSaved(f"no copy of the database in {_COPY_SECONDS:g} s", transient=True) from error

    async def reject(self, home: str, rig_id: str, agent_id: str, user: User | None = None) -> None:
        """kilo could not open the database: set it aside and delete the stored one, so that a start can.

        What is stored is left alone while it is not known to be the same.
        """
        async with self._locks.of(home):
            await self._set_aside(database_path(home), user)
            if not await self.is_unsettled(home, user):
                await self._delete_stored(rig_id, agent_id)

    async def _fetch(
        self, home: str, rig_id: str, agent_id: str, outcome: Restored, user: User | None
    ) -> Restored:
        """Ask for the stored one and put it in place; `outcome` is what there is without it.

        Until there is an answer the home is marked.
        """
        path = database_path(home)
        await run_as(user, _mark(home).touch)
        try:
            with trio.fail_after(_ASK_SECONDS):
                stored = await self._worker.snapshot(rig_id, agent_id, most_bytes=self._limit)
        except (WorkerError, trio.TooSlowError) as error:
            log.warning("snapshot.unavailable", agent_id=agent_id, reason=str(error) or "no answer in 10 s")
            return "unavailable"
        draft = await self._work.unpack(user, stored, path) if stored is not None else None
        if draft is not None:
            self.sizes.observe(len(stored or b""), "restore")
            return await self._replace(home, agent_id, draft, user, local=outcome == "local")
        if stored is not None:
            log.warning("snapshot.unreadable", agent_id=agent_id, size=len(stored))
            await self._delete_stored(rig_id, agent_id)
        await self._unmark(home, user)
        return outcome

    async def _replace(self, home: str, agent_id: str, draft: Path, user: User | None, *, local: bool) -> Restored:
        path = database_path(home)
        try:
            kept = await run_as(user, _put_in_place, path, draft, _mark(home), local)
        except FileExistsError:
            log.warning("snapshot.too_late", agent_id=agent_id)
            return "unavailable"
        self._apart.discard(home)
        log.info("snapshot.fetched", agent_id=agent_id, kept_apart_as=kept)
        return "restored"

    async def _settle(self, home: str, rig_id: str, agent_id: str, user: User | None) -> None:
        """Find out whether the conversation in `home` may be uploaded. Raises `KeptApart` when not."""
        if home in self._apart:
            raise KeptApart
        with trio.fail_after(_ASK_SECONDS):
            stored = await self._worker.snapshot(rig_id, agent_id, most_bytes=self._limit)
        if stored is not None:
            self._apart.add(home)
            log.warning("snapshot.apart", agent_id=agent_id, stored=len(stored))
            raise KeptApart
        await self._unmark(home, user)

    async def _unmark(self, home: str, user: User | None) -> None:
        await run_as(user, _mark(home).unlink, True)
        self._apart.discard(home)

    async def _set_aside(self, path: Path, user: User | None) -> None:
        with suppress(FileNotFoundError):
            log.warning("snapshot.set_aside", kept_as=await run_as(user, set_aside, path, "broken"))

    async def _delete_stored(self, rig_id: str, agent_id: str) -> None:
        try:
            with trio.fail_after(_ASK_SECONDS):
                await self._worker.delete_snapshot(rig_id, agent_id)
        except (WorkerError, trio.TooSlowError) as error:
            log.warning("snapshot.not_deleted", agent_id=agent_id, reason=str(error) or "no answer in 10 s")


def _is_there(path: Path) -> bool:
    """Whether there is a database, or what stands in its place; its directory is there, after this."""
    path.parent.mkdir(parents=True, exist_ok=True)
    return path.is_symlink() or path.exists()


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
