"""A merge that the worker asked for, and the report of what became of it."""

from __future__ import annotations

import base64
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta
from functools import partial

import structlog
import trio

from gastown.agents.merge_journal import MergeJournal, MergeRecord
from gastown.agents.services import AgentServices
from gastown.concurrency.signal import Signal
from gastown.contract.git import MergeRequest, MergeState, Remote, ReviewResult
from gastown.git.errors import Conflict, GitError
from gastown.git.identity import IDENTITY, identity
from gastown.git.merging.merge import merge
from gastown.git.rig import Rig

__all__ = ["Merges"]

log = structlog.get_logger()


_RESUME_DELAY_SECONDS = 1.0
"""Until hydration has closed the gate, if there is one."""
_CUT = timedelta(hours=1)
"""A merge that was cut is run again if it was asked for no longer ago."""


class Merges:
    """The merges of the container. A drain waits for those that have begun, so that their results are reported."""

    def __init__(self, journal: MergeJournal, now: Callable[[], datetime]) -> None:
        self._journal = journal
        self._now = now
        self._running: list[MergeRecord] = []
        self._ended = Signal()

    async def load(self) -> bool:
        """Read what an earlier container has left; returns whether there is something to `resume`."""
        await self._journal.load()
        return bool(self._journal.unfinished)

    def state(self, entry_id: str) -> MergeState | None:
        """How the newest merge of an entry stands; None for one that is not known."""
        record = self._journal.get(entry_id)
        if record is None:
            return None
        return MergeState.model_validate(record.model_dump(include=set(MergeState.model_fields)))

    async def accept(
        self, services: AgentServices, request: MergeRequest, rig: Rig
    ) -> Callable[[], Awaitable[None]] | None:
        """Note down that a merge was asked for; returns what runs it, or None when the same one runs already."""
        before = self._journal.get(request.entry_id)
        if before is not None and before in self._running and _is_same(before, request):
            return None
        record = MergeRecord(
            entry_id=request.entry_id,
            rig_id=request.rig_id,
            branch=request.branch,
            target_branch=request.target_branch,
            status="pending",
            message=f"{request.branch} is being merged into {request.target_branch}",
            began_at=self._now(),
            git_url=rig.remote.url,
            bead_id=request.bead_id,
        )
        self._running.append(record)
        await self._journal.keep(record)
        return partial(self._run, services, record, rig, request.callback_url)

    async def resume(self, services: AgentServices, opened: Callable[[], Awaitable[None]]) -> None:
        """Give the merges of an earlier container on this disk their results, once `opened` returns."""
        unfinished = self._journal.unfinished
        self._running += unfinished
        await trio.sleep(_RESUME_DELAY_SECONDS)
        await opened()
        async with trio.open_nursery() as nursery:
            for record in unfinished:
                log.info("merge.resumed", entry_id=record.entry_id, rig_id=record.rig_id, status=record.status)
                nursery.start_soon(self._resume_one, services, record, name=f"merge {record.entry_id}")

    async def _resume_one(self, services: AgentServices, record: MergeRecord) -> None:
        if record.ended_at is not None:
            with self._until_over(record):
                await self._report(services, record, None)
            return
        rig = Rig(record.rig_id, Remote.parse(record.git_url), record.target_branch)
        credentials = services.repositories.tools.credentials
        if not credentials.knows(record.rig_id):
            credentials.register_rig(record.rig_id, rig.remote)
        await self._run(services, record, rig, None)

    async def finished(self) -> None:
        """Return when no merge runs. Unbounded: put it under a deadline."""
        await self._ended.wait_until(lambda: not self._running)

    async def _run(self, services: AgentServices, record: MergeRecord, rig: Rig, callback: str | None) -> None:
        """Merge, and report the result. A failure of git is a result, too, and is not raised."""
        with self._until_over(record):
            if self._now() - record.began_at > _CUT:
                result = _failed(record, "Not merged: the container ended during the merge. Ask for it again")
            else:
                result = await _result(services, record, rig)
            await self._end(services, record, result, callback)

    @contextmanager
    def _until_over(self, record: MergeRecord) -> Iterator[None]:
        try:
            yield
        finally:
            self._running.remove(record)
            self._ended.send()

    async def _end(
        self, services: AgentServices, record: MergeRecord, result: ReviewResult, callback: str | None
    ) -> None:
        log.info(
            "merge.ended",
            rig_id=record.rig_id,
            entry_id=record.entry_id,
            status=result.status,
            reason=result.reason,
            commit=result.commit_sha,
        )
        ended = record.model_copy(
            update={
                "status": "failed" if result.reason == "failed" else result.status,
                "message": result.message,
                "commit_sha": result.commit_sha,
                "conflicting_files": result.conflicting_files,
                "conflicting_files_base64": result.conflicting_files_base64,
                "ended_at": self._now(),
            }
        )
        await self._journal.keep(ended)
        await self._report(services, ended, callback)

    async def _report(self, services: AgentServices, record: MergeRecord, callback: str | None) -> None:
        over = services.reports.review_completed(record.rig_id, record.entry_id, _report_of(record), callback)
        await over.wait()
        if self._journal.get(record.entry_id) is record:
            await self._journal.keep(record.model_copy(update={"reported": True}))


def _is_same(before: MergeRecord, request: MergeRequest) -> bool:
    asked = (request.rig_id, request.branch, request.target_branch)
    return (before.rig_id, before.branch, before.target_branch) == asked


def _failed(record: MergeRecord, message: str) -> ReviewResult:
    return ReviewResult(entry_id=record.entry_id, status="conflict", message=message, reason="failed")


def _report_of(record: MergeRecord) -> ReviewResult:
    """The worker's two words for how a merge has ended."""
    merged = record.status == "merged"
    return ReviewResult(
        entry_id=record.entry_id,
        status="merged" if merged else "conflict",
        message=record.message,
        reason=None if merged else ("conflict" if record.status == "conflict" else "failed"),
        commit_sha=record.commit_sha,
        conflicting_files=record.conflicting_files,
        conflicting_files_base64=record.conflicting_files_base64,
    )


async def _result(services: AgentServices, record: MergeRecord, rig: Rig) -> ReviewResult:
    branch, target = record.branch, record.target_branch
    try:
        merged = await merge(
            services.repositories,
            rig,
            branch,
            target,
            message=f"Merge branch '{branch}' into {target}\n\nBead: {record.bead_id}\n",
            identity=_identity(services),
        )
    except Conflict as error:
        return ReviewResult(
            entry_id=record.entry_id,
            status="conflict",
            message=str(error),
            reason="conflict",
            conflicting_files=error.files,
            conflicting_files_base64=_base64(error.names),
        )
    except GitError as error:
        return _failed(record, f"Not merged: {error}")
    said = f"Merged {branch} into {target}" if merged.pushed else f"{target} had all of {branch} already"
    return ReviewResult(entry_id=record.entry_id, status="merged", message=said, commit_sha=merged.commit)


def _base64(names: tuple[bytes, ...]) -> tuple[str, ...] | None:
    """The names as bytes, where one of them cannot be written as text."""
    try:
        for name in names:
            name.decode()
    except UnicodeDecodeError:
        return tuple(base64.b64encode(name).decode() for name in names)
    return None


def _identity(services: AgentServices) -> dict[str, str]:
    """The town's author, where it has one."""
    town = services.credentials.current.town
    if not town.git_author_name:
        return IDENTITY
    return identity(town.git_author_name, town.git_author_email or IDENTITY["GIT_AUTHOR_EMAIL"])
