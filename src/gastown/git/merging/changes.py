"""What a merge would bring: the files that a branch changes, and the patch, for somebody to look at before it."""

from __future__ import annotations

from gastown.contract.git import ChangedFile, Changes
from gastown.git.errors import BranchMissing, GitError, PrintedTooMuch, readable
from gastown.git.repos import Clone, Repositories
from gastown.git.rig import Rig, RigGit

__all__ = ["PATCH_BYTES", "look_at_changes"]

PATCH_BYTES = 512 * 1024
"""Of a patch; a person reads no more."""
_LIST_BYTES = 4 * 1024 * 1024
_MOST_FILES = 2000
_DIFF = ("diff", "--no-ext-diff", "--no-textconv", "--no-color", "--no-renames")
"""Nothing that a repository names is run for it."""


async def look_at_changes(repositories: Repositories, rig: Rig, branch: str, target: str) -> Changes:
    """What the remote's `branch` has that its `target` has not.

    The rig's lock is held for the fetch only. Raises `BranchMissing`, any other `GitError`, `OutsideRoot`.
    """
    async with repositories.hold(rig, "fetch") as clone:
        await clone.fetch()
        head, tip = await _commit(clone, branch), await _commit(clone, target)
        base = await clone.says("merge-base", tip, head)
    if base is None:
        raise GitError(f"{branch} and {target} have no commit in common")
    git = repositories.git(rig, user=repositories.tools.repo_owner)
    with git.operation("diff"):
        listed, more = await _start_of(git, _LIST_BYTES, *_DIFF, "--numstat", "-z", base, head)
        patch, cut = await _start_of(git, PATCH_BYTES, *_DIFF, "--patch", base, head)
    files = [_file(one) for one in listed.split("\0")[:-1]]
    return Changes(
        rig_id=rig.rig_id,
        branch=branch,
        target=target,
        head=head,
        base=base,
        files=tuple(files[:_MOST_FILES]),
        files_cut=more or len(files) > _MOST_FILES,
        patch=readable(patch),
        patch_cut=cut,
    )


async def _commit(clone: Clone, branch: str) -> str:
    found = await clone.remote_branch(branch)
    if found is None:
        raise BranchMissing(branch)
    return found


async def _start_of(git: RigGit, most: int, *arguments: str) -> tuple[str, bool]:
    """What git prints, up to `most` bytes in whole lines or names, and whether there is more."""
    try:
        return await git.run(*arguments, most=most), False
    except PrintedTooMuch as error:
        whole = error.stdout[: max(error.stdout.rfind(b"\n"), error.stdout.rfind(b"\0")) + 1]
        return whole.decode(errors="surrogateescape"), True


def _file(listed: str) -> ChangedFile:
    added, removed, path = listed.split("\t", 2)
    if added == "-":  # no text
        return ChangedFile(path=readable(path))
    return ChangedFile(path=readable(path), added=int(added), removed=int(removed))
