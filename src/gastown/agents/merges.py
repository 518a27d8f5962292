"""A merge that the worker asked for, and the report of what became of it."""

from __future__ import annotations

import base64

import structlog
import trio

from gastown.agents.services import AgentServices
from gastown.contract.git import MergeRequest, ReviewResult
from gastown.git.errors import Conflict, GitError
from gastown.git.identity import IDENTITY, identity
from gastown.git.merging.merge import merge
from gastown.git.rig import Rig

__all__ = ["Merges"]

log = structlog.get_logger()


class Merges:
    """The merges of the container. A drain waits for those that have begun, so that their results are reported."""

    def __init__(self) -> None:
        self._running = 0
        self._none_runs = trio.Event()
        self._none_runs.set()

    async def run(self, services: AgentServices, request: MergeRequest, rig: Rig) -> None:
        """Merge, and report the result. A failure of git is a result, too, and is not raised."""
        if self._running == 0:
            self._none_runs = trio.Event()
        self._running += 1
        try:
            await _merge_and_report(services, request, rig)
        finally:
            self._running -= 1
            if self._running == 0:
                self._none_runs.set()

    async def finished(self) -> None:
        """Return when no merge runs. Unbounded: put it under a deadline."""
        await self._none_runs.wait()


async def _merge_and_report(services: AgentServices, request: MergeRequest, rig: Rig) -> None:
    result = await _result(services, request, rig)
    log.info(
        "merge.ended",
        rig_id=request.rig_id,
        entry_id=request.entry_id,
        status=result.status,
        reason=result.reason,
        commit=result.commit_sha,
    )
    services.reports.review_completed(request.rig_id, request.entry_id, result, request.callback_url)


async def _result(services: AgentServices, request: MergeRequest, rig: Rig) -> ReviewResult:
    branch, target = request.branch, request.target_branch
    try:
        merged = await merge(
            services.repositories,
            rig,
            branch,
            target,
            message=f"Merge branch '{branch}' into {target}\n\nBead: {request.bead_id}\n",
            identity=_identity(services),
        )
    except Conflict as error:
        return ReviewResult(
            entry_id=request.entry_id,
            status="conflict",
            message=str(error),
            reason="conflict",
            conflicting_files=error.files,
            conflicting_files_base64=_base64(error.names),
        )
    except GitError as error:
        return ReviewResult(
            entry_id=request.entry_id, status="conflict", message=f"Not merged: {error}", reason="failed"
        )
    said = f"Merged {branch} into {target}" if merged.pushed else f"{target} had all of {branch} already"
    return ReviewResult(entry_id=request.entry_id, status="merged", message=said, commit_sha=merged.commit)


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
