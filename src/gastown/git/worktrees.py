"""Worktrees: one per branch for the agents that change it, and one per rig to look at.

Each is a repository of its own that borrows the clone's objects: it belongs to its agent with all that git lets an
owner do, and no other user's git ever runs in it. What the remote has is asked of the clone, which no agent
writes. The rig's lock is held for that only: git in a worktree takes as long as its owner likes, and no start
waits for it.
"""

from __future__ import annotations

import secrets
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal

import structlog
import trio

from gastown.contract.git import is_object_id
from gastown.git.errors import (
    AuthFailed,
    BranchCollides,
    Busy,
    GitError,
    GitFailed,
    GitTimedOut,
    NetworkFailed,
    readable,
)
from gastown.git.init_worktree import Source, init_worktree, made_for_branch, sanitize_git_dir, source_of
from gastown.git.repos import Clone, Enter, Repositories, Start, unreported
from gastown.git.rig import Rig, RigGit
from gastown.git.state.changes import changes_in
from gastown.git.workspace import OutsideRoot, ensure_owned_dir
from gastown.isolation.ownership import remove_tree
from gastown.isolation.users import run_as

__all__ = ["Checkout", "browse", "check_out"]

log = structlog.get_logger()

How = Literal["created", "reused", "forwarded", "begun again", "left alone", "not ours"]


@dataclass(frozen=True)
class Checkout:
    """A worktree that is ready. `forwarded`: it had nothing of its own and was brought to the remote's state;
    `begun again`: it had nothing of its own, the remote has no such branch, and it was brought to where a new one
    starts; `left alone`: it has work of its own, or is behind the remote and cannot be forwarded.
    """

    path: str
    how: How
    commit: str | None = None


async def check_out(
    repositories: Repositories, git: RigGit, branch: str, start_point: str | None, enter: Enter
) -> Checkout:
    """A worktree of `branch` in `git`'s place, made or brought up to date without losing what is in it.

    Raises `GitError` and `OutsideRoot`. Phases: those of `Repositories.hold`, `fetch`, `worktree`.
    """
    rig, path = git.rig, git.place
    async with _enter(repositories, git, enter) as made_for:
        if made_for is None and await run_as(git.user, (Path(path) / ".git").is_dir):
            # A repository of its own, no worktree of ours: an agent's, or its owner's. Nothing in it is touched.
            log.warning("git.not_our_worktree", rig_id=rig.rig_id, branch=branch)
            return Checkout(path, "not ours")
        if made_for not in (None, branch):
            # a/b and a__b have the same directory.
            raise GitError(f"The worktree of branch {branch} would be that of branch {made_for}")
        source, base = None, None
        async with repositories.hold(rig, "fetch", enter) as clone:
            enter("fetch")
            fetched = await _fetch(clone, branch, is_new=made_for is None)
            upstream = await clone.remote_branch(branch)
            if upstream is None:
                await _check_room(clone, branch, is_new=made_for is None)
            if made_for is None:
                source = await source_of(clone, await _base(clone, upstream, start_point))
            elif fetched:
                with suppress(GitError):  # no branch to start from: the trouble of the next new worktree
                    base = await _base(clone, upstream, start_point)
        enter("worktree")
        if source is not None:
            how = await _create(git, branch, source)
        else:
            how = await _reuse(repositories, git, branch, upstream, enter)
            if how == "reused" and upstream is None and base is not None:
                how = await _begin_again(repositories, git, branch, base, enter)
            await _tell_ignored(git, branch, start_point, base)
        with git.operation("worktree"):
            commit = await git.says("rev-parse", "HEAD")
    log.info("git.checked_out", rig_id=rig.rig_id, branch=branch, how=how, commit=commit)
    return Checkout(path, how, commit)


async def _fetch(clone: Clone, branch: str, *, is_new: bool) -> bool:
    """Fetch for a worktree; returns whether that went well. One that is there goes on without."""
    try:
        await clone.fetch()
    except GitFailed as error:
        if is_new:
            raise
        # What is on this disk may be all there is: better to go on with it than not at all.
        log.warning("git.fetch_failed", rig_id=clone.rig.rig_id, branch=branch, reason=str(error))
        return False
    return True


async def browse(repositories: Repositories, rig: Rig) -> Checkout:
    """The rig's browse worktree: the default branch as the remote has it now, detached. Raises as `check_out`."""
    tools, report = repositories.tools, repositories.report(rig.rig_id)
    git = RigGit(tools, rig, report, place=tools.paths.browse(rig.rig_id), user=tools.browse_user)
    async with _enter(repositories, git, unreported) as made_for:
        with report.busy("browse"):
            async with repositories.hold(rig, "fetch") as clone:
                await clone.fetch()
                start = await clone.default()
                source = await source_of(clone, start.commit)
            how = await _create(git, None, source) if made_for is None else await _show(git, start, source)
            with git.operation("browse"):
                commit = await git.says("rev-parse", "HEAD")
    report.browse = git.place
    log.info("git.browse_ready", rig_id=rig.rig_id, how=how, commit=commit)
    return Checkout(git.place, how, commit)


@asynccontextmanager
async def _enter(repositories: Repositories, git: RigGit, enter: Enter) -> AsyncIterator[str | None]:
    """Keep other operations out of a worktree for the length of the block; yields for which branch we made it."""
    if not repositories.tools.paths.contains(git.place):
        raise OutsideRoot
    lock = repositories.worktrees.of(git.place)
    if lock.locked():
        enter("git_queue")
    async with lock:
        if await trio.Path(git.place).is_dir():
            address = git.tools.credentials.address(git.rig.rig_id)
            await ensure_owned_dir(git.place, git.user, settle=partial(sanitize_git_dir, Path(git.place), address))
        yield await run_as(git.user, made_for_branch, Path(git.place))


async def _create(git: RigGit, branch: str | None, source: Source) -> How:
    """Make the worktree beside its place, and move it there when it is one; then write its files."""
    place = trio.Path(git.place)
    with git.operation("worktree"):
        await _make_room(git, place)
        draft = place.parent / f".draft-{secrets.token_hex(4)}"
        try:
            await ensure_owned_dir(str(draft), git.user)
            await init_worktree(git.at(str(draft), git.user), branch, source)
            with suppress(FileNotFoundError):
                await place.rmdir()  # _make_room left an empty one at most
            await draft.rename(place)
        except BaseException:
            with trio.move_on_after(30, shield=True):
                await trio.to_thread.run_sync(remove_tree, str(draft))
            raise
        await _fill(git)
    return "created"


async def _reuse(repositories: Repositories, git: RigGit, branch: str, upstream: str | None, enter: Enter) -> How:
    with git.operation("worktree"):
        address = git.tools.credentials.address(git.rig.rig_id)
        if await git.says("config", "--get", "remote.origin.url") != address:
            await git.run("config", "remote.origin.url", address)
        if not await _is_filled(git):
            await _fill(git)
        how = await _compare(git, branch, upstream)
    if how is not None or upstream is None:
        return how or "reused"
    try:
        async with repositories.hold(git.rig, "fetch", enter) as clone:
            await clone.bring_files(upstream)
        enter("worktree")
        with git.operation("worktree"):
            changes = await changes_in(git)
            if changes.real:
                return "left alone"
            # What differs by filters only would stop a merge.
            forward = ("reset", "--hard") if changes.phantom else ("merge", "--ff-only")
            await git.query(*forward, "--quiet", upstream)
    except GitFailed as error:
        log.warning("git.not_forwarded", rig_id=git.rig.rig_id, branch=branch, reason=str(error))
        return "left alone"
    return "forwarded"


async def _begin_again(repositories: Repositories, git: RigGit, branch: str, base: str, enter: Enter) -> How:
    """Bring a worktree whose branch the remote does not have to where a new one would start.

    Only one that has nothing of its own: it is clean, on its branch, and its commits are on the remote, as after
    a merge that deleted the branch.
    """
    with git.operation("worktree"):
        here = await git.says("rev-parse", "HEAD")
        is_on = await git.says("symbolic-ref", "--quiet", "HEAD") == f"refs/heads/{branch}"
        if here is None or here == base or not is_on or await _has_changes(git):
            return "reused"
    try:
        async with repositories.hold(git.rig, "fetch", enter) as clone:
            if not await clone.says("for-each-ref", "--count=1", f"--contains={here}", "refs/remotes/origin"):
                return "reused"
            await clone.bring_files(base)
        enter("worktree")
        with git.operation("worktree"):
            if await _has_changes(git):
                return "reused"
            await git.query("reset", "--quiet", "--hard", base)
            await git.says("update-ref", "-d", f"refs/remotes/origin/{branch}")
    except GitFailed as error:
        log.warning("git.not_forwarded", rig_id=git.rig.rig_id, branch=branch, reason=str(error))
        return "reused"
    return "begun again"


async def _tell_ignored(git: RigGit, branch: str, start_point: str | None, base: str | None) -> None:
    """Log that a worktree goes on without what its start point has; nothing of its own is thrown away for that."""
    if start_point is None or base is None:
        return
    with git.operation("worktree"):
        if await git.says("merge-base", "--is-ancestor", base, "HEAD") is None:
            log.warning("git.start_point_ignored", rig_id=git.rig.rig_id, branch=branch, start_point=start_point)


async def _check_room(clone: Clone, branch: str, *, is_new: bool) -> None:
    """Refuse a new branch that could never be pushed. One that has a worktree goes on: there may be work in it."""
    other = await clone.colliding(branch)
    if other is None:
        return
    if is_new:
        raise BranchCollides(branch, readable(other))
    log.warning("git.branch_collides", rig_id=clone.rig.rig_id, branch=branch, other=readable(other))


async def _base(clone: Clone, remote: str | None, start_point: str | None) -> str:
    """Where a new branch starts: its start point, else the remote branch of its name, else the default.

    A remote branch that already has the start point in it is the same branch, pushed by an earlier life.
    """
    start = await _start(clone, start_point) if start_point else None
    if start is None:
        return remote or (await clone.default()).commit
    if remote is not None and await clone.says("merge-base", "--is-ancestor", start, remote) is not None:
        return remote
    return start


async def _start(clone: Clone, start_point: str) -> str | None:
    names = dict.fromkeys((start_point, start_point.removeprefix("origin/")))
    candidates = [f"refs/remotes/origin/{name}" for name in names] + [f"refs/tags/{start_point}"]
    # Never a short name: git takes it for whatever it finds first.
    for candidate in (*candidates, *([start_point] if is_object_id(start_point) else ())):
        if (found := await clone.object_id(candidate)) is not None:
            return found
    log.warning("git.start_point_missing", rig_id=clone.rig.rig_id, start_point=start_point)
    return None


async def _compare(git: RigGit, branch: str, upstream: str | None) -> How | None:
    """What a worktree is, seen from its branch on the remote; None for one that is clean and only behind.

    Only such a one is forwarded; what is or may be somebody's work stays as it is.
    """
    if upstream is None:
        return "reused"
    await _tell_remote(git, Start(f"refs/remotes/origin/{branch}", upstream))
    # Not its short name, which is another one where a tag is named so, too.
    if await git.says("symbolic-ref", "--quiet", "HEAD") != f"refs/heads/{branch}":
        return "left alone"
    counted = await git.says("rev-list", "--left-right", "--count", f"HEAD...{upstream}")
    ahead, _, behind = (counted or "0\t0").partition("\t")
    if behind == "0":
        return "reused"
    return "left alone" if ahead != "0" or await _has_changes(git) else None


async def _show(git: RigGit, start: Start, source: Source) -> How:
    """Bring a browse worktree to where new work starts. What somebody has left in it is kept beside that: changes
    in its stash, commits on a branch of their own, and what git cannot put away with the whole directory.
    """
    try:
        with git.operation("browse"):
            if await _is_filled(git):
                await _keep(git)
            await _tell_remote(git, start)
            await git.query("checkout", "--quiet", "--force", "--detach", start.commit)
        return "forwarded"
    except (GitTimedOut, AuthFailed, NetworkFailed, Busy):
        raise
    except GitError as error:
        log.warning("git.browse_stuck", rig_id=git.rig.rig_id, reason=str(error))
    return await _create(git, None, source)


async def _keep(git: RigGit) -> None:
    """Put away what would be lost, or would be in the way, when a browse worktree moves on."""
    changes = await changes_in(git)
    if changes.real:
        why = "Kept when the browse copy moved on"
        await git.run("stash", "push", "--quiet", "--include-untracked", "-m", why)
        log.warning("git.browse_kept", rig_id=git.rig.rig_id, what="changes", files=len(changes.real))
    apart = await git.says("rev-list", "--max-count=1", "HEAD", "--not", "--branches", "--remotes", "--tags")
    if apart:
        await git.run("branch", "--force", f"gastown-kept-{apart[:12]}", apart)
        log.warning("git.browse_kept", rig_id=git.rig.rig_id, what="commits", commit=apart)


async def _tell_remote(git: RigGit, told: Start) -> None:
    """Let the worktree know what the clone's fetch has learnt of a branch of the remote."""
    if await git.says("rev-parse", "--verify", "--quiet", told.reference) == told.commit:
        return
    try:
        await git.run("update-ref", told.reference, told.commit)
    except GitFailed as error:  # its owner's doing: a name in the way, a lock
        log.warning("git.ref_not_told", rig_id=git.rig.rig_id, reference=told.reference, reason=str(error))


async def _has_changes(git: RigGit) -> bool:
    return bool((await changes_in(git)).real)


async def _fill(git: RigGit) -> Literal["created"]:
    """Write all files of a worktree that was made without them, or whose checkout was cut."""
    await git.query("checkout", "--force", "--progress", "HEAD")
    return "created"


async def _is_filled(git: RigGit) -> bool:
    """git writes the index when all files are there."""
    return await run_as(git.user, (Path(git.place) / ".git" / "index").exists)


async def _make_room(git: RigGit, place: trio.Path) -> None:
    """Make sure that a worktree can be put at `place`: what stands there is set aside, never removed."""
    await place.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
    if await place.exists() and any(await place.iterdir()):
        aside = place.parent / f".aside-{place.name[:100]}-{secrets.token_hex(4)}"
        await place.rename(aside)
        log.warning("git.set_aside", rig_id=git.rig.rig_id, name=place.name, aside=aside.name)
