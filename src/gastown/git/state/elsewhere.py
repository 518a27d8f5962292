"""What a worktree holds that the remote does not have."""

from __future__ import annotations

import os
from pathlib import Path

from gastown.git.errors import GitFailed, readable
from gastown.git.init_worktree import made_for_branch
from gastown.git.repos import Repositories
from gastown.git.rig import RigGit
from gastown.git.state.changes import changes_in
from gastown.isolation.users import run_as

__all__ = ["only_here"]

_LISTED = 64 * 1024 * 1024
_HIDES = ("core.worktree", "core.excludesFile", "core.ignoreStat")


async def only_here(repositories: Repositories, git: RigGit) -> str | None:
    """What of a worktree is nowhere else, in words; None when all is on the remote, as it is now.

    Changes, untracked files, commits of any reference, other repositories below it. What git ignores is no
    work. Raises `GitError`, `OSError`.
    """
    with git.operation("worktree"):
        if await run_as(git.user, made_for_branch, Path(git.place)) is None:
            return "it is no worktree of ours"
        if (why := await _not_committed(git)) is not None:
            return why
        tips = await _tips(git)
    async with repositories.hold(git.rig, "fetch") as clone:
        await clone.fetch()
        known = ("--not", "--remotes=origin", "--tags")
        try:
            wanted = "".join(f"{tip}\n" for tip in tips).encode()
            missing = await clone.run("rev-list", "--max-count=1", "--stdin", *known, stdin=wanted)
        except GitFailed:
            return "commits that the remote does not have"
    return "commits that the remote does not have" if missing else None


async def _not_committed(git: RigGit) -> str | None:
    """What is in no commit of the worktree's repository, or may be, in words."""
    if (other := await run_as(git.user, _other_repository, Path(git.place))) is not None:
        return f"there is another repository in it: {readable(other)}"
    for name in _HIDES:
        if await git.says("config", "--get", name):
            return f"{name} is set in it, which may hide what is there"
    if real := (await changes_in(git)).real:
        return f"{len(real)} files are not committed: {', '.join(readable(path) for path in real[:5])}"
    listed = await git.run("ls-files", "-v", "-z", most=_LISTED)
    if any(entry and not entry.startswith("H ") for entry in listed.split("\0")):
        return "git was told to overlook changes of some files"
    return None


async def _tips(git: RigGit) -> set[str]:
    """The commits of everything that is named in a worktree but the branches of the remote, and of its HEAD."""
    listed = await git.run("for-each-ref", "--format=%(objectname) %(refname)")
    named = (line.split(" ", 1) for line in listed.splitlines())
    tips = {commit for commit, name in named if not name.startswith("refs/remotes/origin/")}
    if await git.says("rev-parse", "--quiet", "--verify", "refs/stash"):  # all but the newest are in its log only
        tips |= set((await git.run("rev-list", "--walk-reflogs", "refs/stash")).split())
    return tips | {(await git.run("rev-parse", "--verify", "HEAD")).strip()}


def _other_repository(top: Path) -> str | None:
    """A repository below `top`, a submodule without its files, or a linked worktree; None when there is none."""
    for kept in (top / ".git" / "worktrees", top / ".git" / "modules"):
        if kept.is_dir() and any(kept.iterdir()):
            return str(kept)
    for folder, folders, files in os.walk(top, onerror=_raise):
        if folder == str(top):
            folders.remove(".git")
        elif ".git" in folders or ".git" in files:
            return folder
    return None


def _raise(error: OSError) -> None:
    raise error
