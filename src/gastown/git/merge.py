"""Merging a branch into another one and pushing the result, in a worktree made for that alone."""

from __future__ import annotations

import secrets
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass

import structlog
import trio

from gastown.git.errors import AuthFailed, Conflict, GitError, GitFailed, PushRaced
from gastown.git.identity import IDENTITY
from gastown.git.repos import Clone, Repositories
from gastown.git.rig import Rig
from gastown.git.workspace import ensure_owned_dir
from gastown.isolation.ownership import remove_tree

__all__ = ["Merged", "merge"]

log = structlog.get_logger()

_PUSHES = 5
"""How often another push may come first."""
_CLEANUP_SECONDS = 15.0


@dataclass(frozen=True)
class Merged:
    """The target branch has the branch in it. `pushed` is False when it had it before."""

    commit: str
    pushed: bool


async def merge(
    repositories: Repositories,
    rig: Rig,
    branch: str,
    target: str,
    *,
    message: str,
    identity: Mapping[str, str] = IDENTITY,
) -> Merged:
    """Merge the remote's `branch` into its `target` with a merge commit, and push.

    A push that lost a race is merged again on what won, a bounded number of times; nothing is ever forced.
    Raises `Conflict`, any other `GitError`, `OutsideRoot`.
    """
    async with repositories.hold(rig, "merge") as clone, _worktree(clone) as path:
        for attempt in range(1, _PUSHES + 1):
            await clone.fetch(again=attempt > 1)
            theirs = await _remote_branch(clone, branch)
            ours = await _remote_branch(clone, target)
            await clone.query("checkout", "--quiet", "--force", "--detach", ours, cwd=path)
            if await clone.says("merge-base", "--is-ancestor", theirs, ours) is not None:
                return Merged(ours, pushed=False)
            commit = await _merge_once(clone, path, theirs, message, identity)
            try:
                await clone.query("push", "origin", f"HEAD:refs/heads/{target}", cwd=path)
            except PushRaced:
                log.info("git.push_raced", rig_id=rig.rig_id, target=target, attempt=attempt)
                continue
            log.info("git.merged", rig_id=rig.rig_id, branch=branch, target=target, commit=commit)
            return Merged(commit, pushed=True)
    raise GitError(f"Somebody else pushed to {target} first, {_PUSHES} times")


async def _remote_branch(clone: Clone, name: str) -> str:
    found = await clone.object_id(f"refs/remotes/origin/{name}")
    if found is None:
        raise GitError(f"The repository has no branch {name}")
    return found


async def _merge_once(clone: Clone, path: str, theirs: str, message: str, identity: Mapping[str, str]) -> str:
    command = ("merge", "--no-ff", "--no-edit", "-m", message, theirs)
    for last in (False, True):
        try:
            await clone.run(*command, cwd=path, identity=identity)
            break
        except GitFailed as error:
            problem = error
        # Files that only the merge needs are fetched while it runs.
        if isinstance(problem, AuthFailed) and not last and await clone.renew(problem):
            await clone.run("reset", "--quiet", "--hard", cwd=path)
            continue
        files = await clone.run("diff", "--name-only", "--diff-filter=U", "-z", cwd=path)
        if not files:
            raise problem
        raise Conflict(tuple(sorted({name for name in files.split("\0") if name})))
    return str(await clone.says("rev-parse", "HEAD", cwd=path))


@asynccontextmanager
async def _worktree(clone: Clone) -> AsyncIterator[str]:
    """A detached worktree for the length of the block, removed however it ends."""
    path = str(trio.Path(clone.tools.paths.rig(clone.rig.rig_id)) / f".merge-{secrets.token_hex(4)}")
    await ensure_owned_dir(path, clone.user)  # its room is ours, and no user's
    try:
        await clone.run("worktree", "add", "--quiet", "--no-checkout", "--detach", path, "HEAD")
        yield path
    finally:
        with trio.move_on_after(_CLEANUP_SECONDS, shield=True):
            await trio.to_thread.run_sync(remove_tree, path)
            await clone.run("worktree", "prune")
