"""Keeping the work of an agent that has to leave: a commit of all that is there, and a push that never forces."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import structlog

from gastown.git.rig import RigGit
from gastown.isolation.users import run_as

__all__ = ["commit_all", "has_unpushed", "push", "unlock"]

log = structlog.get_logger()


async def unlock(git: RigGit, worktree: str) -> None:
    """Remove the index lock that a killed git left. Only for a worktree in which no agent works any more."""
    lock = Path(worktree) / (await git.run("rev-parse", "--git-path", "index.lock", cwd=worktree)).strip()
    if await run_as(git.user, _remove, lock):
        log.warning("worktree.unlocked", rig_id=git.rig.rig_id, worktree=worktree)


def _remove(lock: Path) -> bool:
    if not lock.exists():
        return False
    lock.unlink(missing_ok=True)
    return True


async def commit_all(git: RigGit, worktree: str, message: str, identity: Mapping[str, str]) -> str | None:
    """Commit everything that git does not ignore, unfinished merges as they are; returns the commit, if any.

    `identity` holds the GIT_AUTHOR_* and GIT_COMMITTER_* of the agent. Raises `GitError`.
    """
    if not await git.run("status", "--porcelain", cwd=worktree):
        return None
    await git.run("add", "--all", cwd=worktree)
    if not await git.run("status", "--porcelain", cwd=worktree):
        return None  # it differed in nothing that a commit can hold
    await git.run("commit", "--quiet", "--no-verify", "-m", message, cwd=worktree, identity=identity)
    return (await git.run("rev-parse", "HEAD", cwd=worktree)).strip()


async def has_unpushed(git: RigGit, worktree: str) -> bool:
    """Whether there are commits that no branch of the remote has, as far as is known here."""
    count = await git.run("rev-list", "--count", "HEAD", "--not", "--remotes=origin", cwd=worktree)
    return count.strip() != "0"


async def push(git: RigGit, worktree: str, branch: str) -> None:
    """Push what is checked out to the remote's `branch`. Raises `PushRaced` when others have pushed there."""
    await git.query("push", "--quiet", "--no-verify", "origin", f"HEAD:refs/heads/{branch}", cwd=worktree)
