"""Merging a branch into another one and pushing the result, without a checkout of either.

A checkout would run filters over every file: what differs only by line endings then counts as a local change,
and no merge that touches it goes through. Here git merges the trees themselves. Of the target nothing is written
to the disk but its `.gitattributes`, which say how files are merged.
"""

from __future__ import annotations

import secrets
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, replace

import structlog
import trio

from gastown.contract.git import CheckResult
from gastown.git.errors import (
    AuthFailed,
    BranchMissing,
    BranchMoved,
    Conflict,
    GitError,
    GitFailed,
    NetworkFailed,
    PushRaced,
    RepositoryNotFound,
)
from gastown.git.identity import IDENTITY
from gastown.git.init_worktree import Source, source_of
from gastown.git.merging.push import push_commit
from gastown.git.repos import Clone, Repositories
from gastown.git.rig import Rig
from gastown.git.workspace import ensure_owned_dir
from gastown.isolation.ownership import remove_tree

__all__ = ["Judge", "Merged", "merge"]

log = structlog.get_logger()

_PUSHES = 5
"""How often another push may come first."""
_CHECKED_PUSHES = 3
"""The same where each time the checks have to run."""
_CLEANUP_SECONDS = 15.0
_CONFLICT = 1
_USAGE = 129
"""What git exits with for an option that it does not know."""


Judge = Callable[[Source], Awaitable[tuple[CheckResult, ...]]]
"""Says whether the result of a merge may be pushed, with no lock held; raises a `GitError` where it may not."""


@dataclass(frozen=True)
class Merged:
    """The target branch has the branch in it. `pushed` is False when it had it before, and `nothing` is True when
    the branch never had anything of its own. `checks` are those that the result has passed.
    """

    commit: str
    pushed: bool
    nothing: bool = False
    checks: tuple[CheckResult, ...] = ()


@dataclass(frozen=True)
class _Wanted:
    branch: str
    target: str
    message: str
    identity: Mapping[str, str]
    head: str | None


class _LostRaces(GitError):
    of_rig = False


async def merge(  # noqa: PLR0913 - keywords
    repositories: Repositories,
    rig: Rig,
    branch: str,
    target: str,
    *,
    message: str,
    identity: Mapping[str, str] = IDENTITY,
    head: str | None = None,
    judge: Judge | None = None,
) -> Merged:
    """Merge the remote's `branch` into its `target` with a merge commit, and push.

    A push that lost a race is merged again on what won, a bounded number of times; nothing is ever forced. `head`
    is the commit that the branch must have; None: it is merged as it is. While `judge` judges the result, the rig
    is free for others.

    Raises `Conflict`, `BranchMoved`, what the judge raises, any other `GitError`, `OutsideRoot`.
    """
    wanted = _Wanted(branch, target, message, identity, head)
    tries = _PUSHES if judge is None else _CHECKED_PUSHES
    for attempt in range(1, tries + 1):
        if judge is None:
            async with repositories.hold(rig, "merge") as clone:
                found = await _prepare(clone, wanted, again=attempt > 1)
                merged = found if isinstance(found, Merged) else await _push(clone, found, wanted, attempt)
        else:
            merged = await _judged(repositories, rig, wanted, judge, attempt)
        if merged is not None:
            return merged
    raise _LostRaces(f"Somebody else pushed to {wanted.target} first, {tries} times")


async def _judged(
    repositories: Repositories, rig: Rig, wanted: _Wanted, judge: Judge, attempt: int
) -> Merged | None:
    async with repositories.hold(rig, "merge") as clone:
        found = await _prepare(clone, wanted, again=attempt > 1)
        if isinstance(found, Merged):
            return found
        with _of_this_merge():
            source = await source_of(clone, found)
    checks = await judge(source)
    async with repositories.hold(rig, "push") as clone:
        merged = await _push(clone, found, wanted, attempt)
    return merged and replace(merged, checks=checks)


async def _prepare(clone: Clone, wanted: _Wanted, *, again: bool) -> Merged | str:
    """The commit that merges the branch into the newest target, in the clone only; or why none is to be made."""
    await clone.fetch(again=again)
    ours = await _remote_branch(clone, wanted.target)
    if wanted.head is not None and await _has(clone, wanted.head, ours):
        return await _had(clone, wanted.head, ours)  # the branch may have moved or gone since
    theirs = await _remote_branch(clone, wanted.branch)
    if wanted.head not in (None, theirs):
        raise BranchMoved(wanted.branch, wanted.head, theirs)
    if await _has(clone, theirs, ours):
        return await _had(clone, theirs, ours)
    with _of_this_merge():
        tree = await _merged_tree(clone, ours, theirs)
        return await _commit(clone, tree, (ours, theirs), wanted.message, wanted.identity)


async def _push(clone: Clone, commit: str, wanted: _Wanted, attempt: int) -> Merged | None:
    """Push the commit; None when another push came first."""
    rig_id, target = clone.rig.rig_id, wanted.target
    try:
        with _of_this_merge():
            await push_commit(clone, commit, target)
    except PushRaced:
        log.info("git.push_raced", rig_id=rig_id, target=target, attempt=attempt)
        return None
    log.info("git.merged", rig_id=rig_id, branch=wanted.branch, target=target, commit=commit)
    return Merged(commit, pushed=True)


async def _has(clone: Clone, commit: str, target: str) -> bool:
    return await clone.says("merge-base", "--is-ancestor", commit, target) is not None


async def _had(clone: Clone, theirs: str, ours: str) -> Merged:
    """The target has the branch already: by a merge, whose commit it is then, or since it began nothing."""
    listed = await clone.run("rev-list", "--first-parent", "--merges", "--parents", f"{theirs}..{ours}")
    for line in listed.splitlines():
        commit, _, *others = line.split()
        if theirs in others:
            return Merged(commit, pushed=False)
    return Merged(ours, pushed=False, nothing=True)


async def _remote_branch(clone: Clone, name: str) -> str:
    found = await clone.remote_branch(name)
    if found is None:
        raise BranchMissing(name)
    return found


async def _merged_tree(clone: Clone, ours: str, theirs: str) -> str:
    """The tree of both; its files that are merged are fetched meanwhile, where they are not here."""
    async with _attributes(clone, ours) as path:
        try:
            answer = await clone.query("merge-tree", "--write-tree", "-z", "--name-only", ours, theirs, cwd=path)
        except GitFailed as error:
            if error.returncode == _USAGE:
                raise GitError("Merges need git 2.38 or newer (git merge-tree --write-tree)") from None
            if error.returncode != _CONFLICT or not error.stdout:
                raise
            raise Conflict(_conflicts(error.stdout)) from None
    return answer.partition("\0")[0].strip()


def _conflicts(answer: bytes) -> tuple[bytes, ...]:
    """The files that `merge-tree` names: a tree, the names, and after an empty one its messages.

    A conflict may lie in no file that is left (a directory that both sides renamed): then its messages name paths.
    """
    listed, _, said = answer.partition(b"\0\0")
    names = {name for name in listed.split(b"\0")[1:] if name}
    words = said.split(b"\0")
    while not names and len(words) > 2 and words[0].isdigit():
        count = int(words[0])
        paths, (kind, *_) = words[1 : count + 1], words[count + 1 :] or [b""]
        if kind.startswith(b"CONFLICT"):
            names |= set(paths)
        words = words[count + 3 :]
    return tuple(sorted(names))


async def _commit(
    clone: Clone, tree: str, parents: tuple[str, ...], message: str, identity: Mapping[str, str]
) -> str:
    named = [argument for parent in parents for argument in ("-p", parent)]
    commit = await clone.run("commit-tree", tree, *named, "-F", "-", identity=identity, stdin=message.encode())
    return commit.strip()


@contextmanager
def _of_this_merge() -> Iterator[None]:
    """The rig has just been fetched: what fails now (a protected branch, say) is no failure of it."""
    try:
        yield
    except GitFailed as error:
        error.of_rig = isinstance(error, (AuthFailed, NetworkFailed, RepositoryNotFound))
        raise


@asynccontextmanager
async def _attributes(clone: Clone, commit: str) -> AsyncIterator[str]:
    """A worktree with the `.gitattributes` of `commit` in it, removed however the block ends."""
    path = str(trio.Path(clone.tools.paths.rig(clone.rig.rig_id)) / f".merge-{secrets.token_hex(4)}")
    await ensure_owned_dir(path, clone.user)  # its room is ours, and no user's
    try:
        await clone.run("worktree", "add", "--quiet", "--no-checkout", "--detach", path, "HEAD")
        await _write_attributes(clone, commit, path)
        yield path
    finally:
        with trio.move_on_after(_CLEANUP_SECONDS, shield=True):
            await trio.to_thread.run_sync(remove_tree, path)
            await clone.run("worktree", "prune")


async def _write_attributes(clone: Clone, commit: str, path: str) -> None:
    try:
        await clone.query("checkout", "--quiet", commit, "--", ":(top,glob)**/.gitattributes", cwd=path)
    except GitFailed as error:
        if "did not match any file" not in error.stderr:
            raise
