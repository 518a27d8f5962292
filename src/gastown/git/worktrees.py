"""Worktrees: one per branch for the agents that change it, and one per rig to look at."""

from __future__ import annotations

import secrets
from dataclasses import dataclass
from typing import Literal

import structlog
import trio

from gastown.git.errors import GitError, GitFailed
from gastown.git.repos import Clone, Enter, Repositories
from gastown.git.rig import Rig
from gastown.git.workspace import OutsideRoot

__all__ = ["Checkout", "browse", "check_out"]

log = structlog.get_logger()

_OWNER = "gastown-branch"
"""In a worktree's administrative directory: for which branch it was made."""

How = Literal["created", "reused", "forwarded", "left alone", "not ours"]


@dataclass(frozen=True)
class Checkout:
    """A worktree that is ready. `forwarded`: it had nothing of its own and was brought to the remote's state;
    `left alone`: it has work of its own, or is behind the remote and cannot be forwarded.
    """

    path: str
    how: How
    commit: str | None = None


async def check_out(
    repositories: Repositories, rig: Rig, path: str, branch: str, start_point: str | None, enter: Enter
) -> Checkout:
    """A worktree of `branch` at `path`, made or brought up to date, without losing what is in it.

    Raises `GitError` and `OutsideRoot`. Phases: those of `Repositories.hold`, `fetch`, `worktree`.
    """
    if not repositories.tools.paths.contains(path):
        raise OutsideRoot
    if await (trio.Path(path) / ".git").is_dir():
        # A repository of its own, no worktree of ours: an agent's, or its owner's. Nothing in it is touched.
        log.warning("git.not_our_worktree", rig_id=rig.rig_id, branch=branch)
        return Checkout(path, "not ours")
    async with repositories.hold(rig, "worktree", enter) as clone:
        enter("fetch")
        admin = await _admin_of(clone, path)
        known = admin is not None or await clone.object_id(f"refs/heads/{branch}") is not None
        try:
            await clone.fetch()
        except GitFailed as error:
            if not known:
                raise
            # What is on this disk may be all there is: better to go on with it than not at all.
            log.warning("git.fetch_failed", rig_id=rig.rig_id, branch=branch, reason=str(error))
        enter("worktree")
        if admin is None:
            how: How = await _create(clone, path, branch, start_point)
        else:
            how = await _reuse(clone, path, branch, admin)
        commit = await clone.says("rev-parse", "HEAD", cwd=path)
    log.info("git.checked_out", rig_id=rig.rig_id, branch=branch, how=how, commit=commit)
    return Checkout(path, how, commit)


async def browse(repositories: Repositories, rig: Rig) -> Checkout:
    """The rig's browse worktree: the default branch as the remote has it now, detached. Raises as `check_out`."""
    path = repositories.tools.paths.browse(rig.rig_id)
    if not repositories.tools.paths.contains(path):
        raise OutsideRoot
    async with repositories.hold(rig, "browse") as clone:
        await clone.fetch()
        target = await clone.default()
        admin = await _admin_of(clone, path)
        how: How = "created"
        if admin is None:
            await _make_room(clone, path)
            await clone.run("worktree", "add", "--no-checkout", "--detach", path, target)
            await _fill(clone, path)
        elif not await (admin / "index").exists():
            await _fill(clone, path)
        elif await _has_changes(clone, path) or await clone.says("symbolic-ref", "--quiet", "HEAD", cwd=path):
            how = "left alone"
        else:
            how = "forwarded"
            await clone.talk("checkout", "--quiet", "--detach", target, cwd=path)
        commit = await clone.says("rev-parse", "HEAD", cwd=path)
    clone.report.browse = path
    log.info("git.browse_ready", rig_id=rig.rig_id, how=how, commit=commit)
    return Checkout(path, how, commit)


async def _create(clone: Clone, path: str, branch: str, start_point: str | None) -> How:
    await _make_room(clone, path)
    if await clone.object_id(f"refs/heads/{branch}") is not None:
        await clone.run("worktree", "add", "--no-checkout", path, branch)
        made = "reused"
    else:
        base = await _base(clone, branch, start_point)
        await clone.run("worktree", "add", "--no-checkout", "--no-track", "-b", branch, path, base)
        made = "created"
    admin = await _admin_of(clone, path)
    if admin is None:
        raise GitError("git worktree add made no worktree")
    await (admin / _OWNER).write_text(branch)
    await _fill(clone, path)
    return "created" if made == "created" else await _bring_up_to_date(clone, path, branch)


async def _reuse(clone: Clone, path: str, branch: str, admin: trio.Path) -> How:
    owner = admin / _OWNER
    if not await owner.exists():
        await owner.write_text(branch)
    elif (made_for := await owner.read_text()) != branch:
        # a/b and a__b have the same directory.
        raise GitError(f"The worktree of branch {branch} would be that of branch {made_for}")
    if not await (admin / "index").exists():
        # The checkout was cut: git writes the index when all files are there.
        await _fill(clone, path)
    return await _bring_up_to_date(clone, path, branch)


async def _base(clone: Clone, branch: str, start_point: str | None) -> str:
    """Where a new branch starts: its start point, else the remote branch of that name, else the default.

    A remote branch that already has the start point in it is the same branch, pushed by an earlier life.
    """
    remote = await clone.object_id(f"refs/remotes/origin/{branch}")
    start = await _start(clone, start_point) if start_point else None
    if start is None:
        return remote or await clone.default()
    if remote is not None and await clone.says("merge-base", "--is-ancestor", start, remote) is not None:
        return remote
    return start


async def _start(clone: Clone, start_point: str) -> str | None:
    name = start_point.removeprefix("origin/")
    for candidate in (f"refs/remotes/origin/{name}", f"refs/heads/{name}", start_point):
        if (found := await clone.object_id(candidate)) is not None:
            return found
    log.warning("git.start_point_missing", rig_id=clone.rig.rig_id, start_point=start_point)
    return None


async def _bring_up_to_date(clone: Clone, path: str, branch: str) -> How:
    """Forward a clean worktree that is only behind; what is or may be somebody's work stays as it is."""
    upstream = await clone.object_id(f"refs/remotes/origin/{branch}")
    if upstream is None:
        return "reused"
    if await clone.says("symbolic-ref", "--quiet", "--short", "HEAD", cwd=path) != branch:
        return "left alone"
    counted = await clone.says("rev-list", "--left-right", "--count", f"HEAD...{upstream}", cwd=path)
    ahead, _, behind = (counted or "0\t0").partition("\t")
    if behind == "0":
        return "reused"
    if ahead != "0" or await _has_changes(clone, path):
        return "left alone"
    try:
        await clone.talk("merge", "--quiet", "--ff-only", upstream, cwd=path)
    except GitFailed as error:
        log.warning("git.not_forwarded", rig_id=clone.rig.rig_id, branch=branch, reason=str(error))
        return "left alone"
    return "forwarded"


async def _has_changes(clone: Clone, path: str) -> bool:
    return bool(await clone.talk("status", "--porcelain", cwd=path))


async def _fill(clone: Clone, path: str) -> None:
    """Write all files of a worktree that was added without them, or whose checkout was cut."""
    await clone.talk("checkout", "--force", "--progress", "HEAD", cwd=path)


async def _make_room(clone: Clone, path: str) -> None:
    """Make sure that a worktree can be added at `path`: what stands there is set aside, never removed."""
    place = trio.Path(path)
    await place.parent.mkdir(parents=True, exist_ok=True)
    if await place.exists() and any(await place.iterdir()):
        aside = place.parent / f".aside-{place.name[:100]}-{secrets.token_hex(4)}"
        await place.rename(aside)
        log.warning("git.set_aside", rig_id=clone.rig.rig_id, name=place.name, aside=aside.name)
    await clone.run("worktree", "prune")


async def _admin_of(clone: Clone, path: str) -> trio.Path | None:
    """Where the clone keeps what it knows of the worktree at `path`; None when that is none of its."""
    link = trio.Path(path) / ".git"
    if not await link.is_file():
        return None
    text = (await link.read_text(errors="surrogateescape")).strip()
    admin = trio.Path(text.removeprefix("gitdir: "))
    expected = await (trio.Path(clone.clone) / ".git" / "worktrees").resolve()
    if (
        text.startswith("gitdir: ")
        and await (admin / "HEAD").exists()
        and (await admin.resolve()).parent == expected
    ):
        return admin
    return None
