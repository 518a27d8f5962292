"""A merge that the worker asked for, and the report of what became of it."""

from __future__ import annotations

import base64
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import partial

import structlog
import trio

from gastown.agents.launch.environment import one_line
from gastown.agents.merge_journal import MergeJournal, MergeRecord
from gastown.agents.services import AgentServices
from gastown.concurrency.signal import Signal
from gastown.concurrency.supervise import Start
from gastown.contract.git import CheckResult, MergeRequest, MergeState, Remote, ReviewResult
from gastown.git.errors import BranchMoved, CheckedOut, Conflict, GitError, GitTimedOut, NetworkFailed
from gastown.git.identity import IDENTITY, identity
from gastown.git.init_worktree import Source
from gastown.git.merging.checks import Checks, ChecksFailed, run_checks
from gastown.git.merging.merge import Judge, Merged, merge
from gastown.git.rig import Rig

__all__ = ["Merges"]

log = structlog.get_logger()


_RESUME_DELAY_SECONDS = 1.0
"""Until hydration has closed the gate, if there is one."""
_CUT = timedelta(hours=1)
"""A merge that was cut is run again if it was asked for no longer ago."""
_UNKNOWN = "Not known to be merged"
"""Of one that may have been pushed. Asked for again, it is merged, or found to be."""


class _Cut(Exception):
    """The container leaves while the result is checked."""


@dataclass(frozen=True)
class _Result:
    """How a merge ended, and what its checks came to."""

    report: ReviewResult
    checks: tuple[CheckResult, ...] = ()


class Merges:
    """The merges of the container. A drain waits for those that have begun, so that their results are reported.
    Only for checks it does not wait, which may take longer than a drain: such a merge begins again after it.
    """

    def __init__(self, journal: MergeJournal, now: Callable[[], datetime]) -> None:
        self._journal = journal
        self._now = now
        self._running: list[MergeRecord] = []
        self._checking: set[trio.CancelScope] = set()
        self._leaving = False
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

    async def accept(self, services: AgentServices, request: MergeRequest, rig: Rig, start: Start) -> None:
        """Begin the merge that was asked for, unless the same one runs already; returns once it is noted down.

        `start` runs it: a caller that leaves meanwhile ends nothing.
        """
        before = self._journal.get(request.entry_id)
        if before is not None and before in self._running and _is_same(before, request):
            return
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
            wanted_head=request.head,
            commands=request.checks,
            check_seconds=request.check_seconds,
        )
        self._running.append(record)
        noted = trio.Event()
        work = partial(self._begin, services, record, rig, request.callback_url, noted)
        start(f"merge {request.entry_id}", work)
        await noted.wait()

    async def resume(self, services: AgentServices, opened: Callable[[], Awaitable[None]], start: Start) -> None:
        """Give the merges of an earlier container on this disk their results, once `opened` returns."""
        unfinished = self._journal.unfinished
        self._running += unfinished
        await trio.sleep(_RESUME_DELAY_SECONDS)
        await opened()
        for record in unfinished:
            log.info("merge.resumed", entry_id=record.entry_id, rig_id=record.rig_id, status=record.status)
            start(f"merge {record.entry_id}", partial(self._resume_one, services, record))

    async def _begin(
        self, services: AgentServices, record: MergeRecord, rig: Rig, callback: str | None, noted: trio.Event
    ) -> None:
        with self._until_over(record):
            await self._journal.keep(record)
            noted.set()
            result = await _result(services, record, rig, self._judge(services, record, rig))
            await self._end(services, record, result, callback)

    async def _resume_one(self, services: AgentServices, record: MergeRecord) -> None:
        with self._until_over(record):
            if record.ended_at is not None:
                await self._report(services, record, None)
                return
            if self._now() - record.began_at > _CUT:
                why = f"{_UNKNOWN}: the container ended during the merge. Ask for it again"
                result = _Result(_failed(record, why))
            else:
                rig = Rig(record.rig_id, Remote.parse(record.git_url), record.target_branch)
                credentials = services.repositories.tools.credentials
                if not credentials.knows(record.rig_id):
                    credentials.register_rig(record.rig_id, rig.remote)
                judge = self._judge(services, record, rig)
                result = await _result(services, record, rig, judge, cut=True)
            await self._end(services, record, result, None)

    def cut_checks(self) -> None:
        """The container leaves: no check goes on or begins any more. The next container runs them again."""
        self._leaving = True
        for scope in self._checking:
            scope.cancel(reason="the container leaves")

    async def finished(self) -> None:
        """Return when no merge runs. Unbounded: put it under a deadline."""
        await self._ended.wait_until(lambda: not self._running)

    def _judge(self, services: AgentServices, record: MergeRecord, rig: Rig) -> Judge | None:
        """What runs the checks of a merge; None where there are none."""
        if not record.commands:
            return None
        checks = Checks(record.commands, record.check_seconds)

        async def judge(source: Source) -> tuple[CheckResult, ...]:
            with self._cut_by_leaving():
                return await run_checks(services.repositories, rig, source, checks)

        return judge

    @contextmanager
    def _cut_by_leaving(self) -> Iterator[None]:
        with trio.CancelScope() as scope:
            self._checking.add(scope)
            try:
                if self._leaving:
                    raise _Cut
                yield
            finally:
                self._checking.discard(scope)
        if scope.cancelled_caught:
            raise _Cut

    @contextmanager
    def _until_over(self, record: MergeRecord) -> Iterator[None]:
        try:
            yield
        except _Cut:
            log.info("merge.cut", rig_id=record.rig_id, entry_id=record.entry_id)
        finally:
            self._running.remove(record)
            self._ended.send()

    async def _end(
        self, services: AgentServices, record: MergeRecord, ended_as: _Result, callback: str | None
    ) -> None:
        result = ended_as.report
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
                "status": result.status if result.reason in (None, "conflict") else "failed",
                "reason": result.reason,
                "head": result.head,
                "nothing_to_merge": result.nothing_to_merge,
                "checks": ended_as.checks or None,
                "message": result.message,
                "commit_sha": result.commit_sha,
                "conflicting_files": result.conflicting_files,
                "conflicting_files_base64": result.conflicting_files_base64,
                "ended_at": self._now(),
            }
        )
        if self._journal.get(record.entry_id) is record:  # else the same entry was asked for with another branch
            await self._journal.keep(ended)
        await self._report(services, ended, callback)

    async def _report(self, services: AgentServices, record: MergeRecord, callback: str | None) -> None:
        await services.reports.room()
        over = services.reports.review_completed(record.rig_id, record.entry_id, _report_of(record), callback)
        await over.wait()
        if self._journal.get(record.entry_id) is record:
            await self._journal.keep(record.model_copy(update={"reported": True}))


def _is_same(before: MergeRecord, request: MergeRequest) -> bool:
    asked = (request.rig_id, request.branch, request.target_branch, request.head, request.checks)
    return (before.rig_id, before.branch, before.target_branch, before.wanted_head, before.commands) == asked


def _failed(record: MergeRecord, message: str) -> ReviewResult:
    return ReviewResult(entry_id=record.entry_id, status="conflict", message=message, reason="failed")


def _report_of(record: MergeRecord) -> ReviewResult:
    """The worker's two words for how a merge has ended."""
    merged = record.status == "merged"
    return ReviewResult(
        entry_id=record.entry_id,
        status="merged" if merged else "conflict",
        message=record.message,
        # A record of an older gastown has no reason of its own.
        reason=None if merged else record.reason or ("conflict" if record.status == "conflict" else "failed"),
        commit_sha=record.commit_sha,
        conflicting_files=record.conflicting_files,
        conflicting_files_base64=record.conflicting_files_base64,
        head=record.head,
        nothing_to_merge=record.nothing_to_merge,
    )


async def _result(
    services: AgentServices, record: MergeRecord, rig: Rig, judge: Judge | None, *, cut: bool = False
) -> _Result:
    """Merge. Whatever comes of it is a result, and is not raised; but `_Cut`.

    `cut`: an earlier container may have pushed it.
    """
    branch, target = record.branch, record.target_branch
    try:
        merged = await merge(
            services.repositories,
            rig,
            branch,
            target,
            message=f"Merge branch '{branch}' into {target}\n\nBead: {record.bead_id}\n",
            identity=_identity(services),
            head=record.wanted_head,
            judge=judge,
        )
    except _Cut:
        raise
    except GitError as error:
        why = f"{_UNKNOWN if cut or _may_be_pushed(error) else 'Not merged'}: {error}"
        return _Result(_not_merged(record, error, why), error.results if isinstance(error, ChecksFailed) else ())
    except Exception as error:  # the boundary of a merge: a bug in it is not the end of its entry
        log.exception("git.crashed", what="merge", rig_id=record.rig_id)
        why = f"{_UNKNOWN}: the merge failed with {type(error).__name__}, see the container's log"
        return _Result(_failed(record, why))
    return _Result(_merged(record, merged), merged.checks)


def _merged(record: MergeRecord, merged: Merged) -> ReviewResult:
    branch, target = record.branch, record.target_branch
    return ReviewResult(
        entry_id=record.entry_id,
        status="merged",
        message=f"Merged {branch} into {target}" if merged.pushed else f"{target} had all of {branch} already",
        commit_sha=merged.commit,
        nothing_to_merge=merged.nothing or None,
    )


def _not_merged(record: MergeRecord, error: GitError, why: str) -> ReviewResult:
    if isinstance(error, Conflict):
        return ReviewResult(
            entry_id=record.entry_id,
            status="conflict",
            message=str(error),
            reason="conflict",
            conflicting_files=error.files,
            conflicting_files_base64=_base64(error.names),
        )
    failed = _failed(record, why)
    if isinstance(error, BranchMoved):
        return failed.model_copy(update={"reason": "moved", "head": error.head})
    if isinstance(error, CheckedOut):
        return failed.model_copy(update={"reason": "person"})
    if isinstance(error, ChecksFailed):
        return failed.model_copy(update={"reason": "checks", "message": str(error)})
    return failed


def _may_be_pushed(error: GitError) -> bool:
    """Whether the remote may have taken a push whose answer did not come."""
    return isinstance(error, GitTimedOut) or (isinstance(error, NetworkFailed) and error.verb == "push")


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
    name = one_line(town.git_author_name)
    if not name:
        return IDENTITY
    return identity(name, one_line(town.git_author_email) or IDENTITY["GIT_AUTHOR_EMAIL"])
