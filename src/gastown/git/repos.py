"""The clones of all rigs: one per rig, shared by its agents, and one git operation at a time for each.

A clone belongs to its rig and not to the start that asked for it first: it goes on when that start runs out of
time, and the next start finds it further on, or done.
"""

from __future__ import annotations

import secrets
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import NamedTuple

import structlog
import trio

from gastown.concurrency.locks import NamedLocks
from gastown.concurrency.strays import end_all_at
from gastown.concurrency.supervise import Supervisor, open_supervisor
from gastown.git.errors import GitError, GitFailed, PushRaced
from gastown.git.rig import Rig, RigGit, RigReport, Tools, limited
from gastown.git.workspace import OutsideRoot
from gastown.isolation.ownership import NotOurs, give_directory, remove_tree
from gastown.isolation.users import User, run_as

__all__ = ["Clone", "Enter", "Repositories", "Start", "open_repositories", "unreported"]

log = structlog.get_logger()

Enter = Callable[[str], None]
"""Hears the name of each phase of an operation."""

CHECKS = ".checks-"
"""How the places are called in which a rig's checks run."""
_CLEANUP_SECONDS = 30.0
_MISSING_LIMIT = 64 * 1024 * 1024
"""The names of a million and a half files."""
_FILES_AT_A_TIME = 20_000
"""git's own time grows with the square of it: 420,000 files in one request take minutes, in these 20 s."""
_REMOTE_HEAD = "refs/remotes/origin/HEAD"
BRANCHES = ("+refs/heads/*:refs/remotes/origin/*", "^refs/heads/HEAD", "^refs/heads/HEAD/*")
"""What is fetched. A branch that stands where a clone keeps the remote's HEAD would stop every fetch."""
_NO_ROOM = ("exists; cannot create", "there are still refs under", "non-empty directory", "File name too long")
"""What git says of a reference that cannot be beside another one."""
_IN_ALL = "some local refs could not be updated"
_BROWSING = 2
"""Browse worktrees that are made side by side: each is a clone, and agents start beside them."""


def unreported(_: str) -> None:
    """For work that no caller waits for: its phases are not reported."""


@dataclass
class _Cloning:
    """A clone on its way. `failure` is how it ended, None for well; known once `done` is set."""

    failure: GitError | None = field(default_factory=lambda: GitError("The container goes down"))
    done: trio.Event = field(default_factory=trio.Event)


@dataclass
class _Known:
    report: RigReport
    cloning: _Cloning | None = None
    fetched_at: float = float("-inf")
    tidied: bool = False


class Start(NamedTuple):
    """A reference that follows the remote, and the commit that it is now."""

    reference: str
    commit: str


class Clone(RigGit):
    """A rig's clone while its lock is held. Made by `Repositories.hold`."""

    def __init__(self, tools: Tools, rig: Rig, known: _Known, arrived: float) -> None:
        super().__init__(tools, rig, known.report, user=tools.repo_owner)
        self._known = known
        self._arrived = arrived

    async def fetch(self, *, again: bool = False) -> None:
        """Learn what the remote has, unless a fetch that began after this holder arrived has done it already."""
        if self._known.fetched_at >= self._arrived and not again:
            return
        address = self.tools.credentials.address(self.rig.rig_id)
        if await self.says("config", "--get", "remote.origin.url") != address:
            await self.run("config", "remote.origin.url", address)
        began = trio.current_time()
        try:
            await self.query("fetch", "--prune", "--progress", "origin", *BRANCHES)
        except GitFailed as error:
            if not _is_all_but_some(error):
                raise
            log.warning("git.refs_not_fetched", rig_id=self.rig.rig_id, reason=str(error))
        self._known.fetched_at = began

    async def object_id(self, revision: str) -> str | None:
        """The commit that `revision` is; None when there is none."""
        return await self.says("rev-parse", "--verify", "--quiet", f"{revision}^{{commit}}")

    async def remote_branch(self, name: str) -> str | None:
        """The commit of the remote's branch, as far as is known here."""
        return await self.object_id(f"refs/remotes/origin/{name}")

    async def colliding(self, name: str) -> str | None:
        """A branch of the remote beside which it has no room for `name`: one of a part of it, or one below it."""
        above = [name[:at] for at, character in enumerate(name) if character == "/"]
        room = "refs/remotes/origin/"
        patterns = (f"{room}{part}" for part in (*above, name))
        found = (await self.run("for-each-ref", "--format=%(refname)", *patterns)).split("\n")
        branches = (line.removeprefix(room) for line in found)
        return next((one for one in branches if one in above or one.startswith(f"{name}/")), None)

    async def bring_files(self, commit: str) -> None:
        """Have all files of `commit` here, in few requests or none, so that no worktree fetches them itself."""
        # Quiet, git prints the names of what is missing and of nothing else: a line for each file at most.
        objects = ("--objects", "--no-walk", "--missing=print", "--quiet")
        listed = await self.run("rev-list", *objects, commit, most=_MISSING_LIMIT)
        missing = listed.replace("?", "").splitlines()
        # As git itself does it when it misses objects.
        quiet = ("--no-tags", "--no-write-fetch-head", "--recurse-submodules=no", "--filter=blob:none")
        negotiation = ("-c", "fetch.negotiationAlgorithm=noop")
        for first in range(0, len(missing), _FILES_AT_A_TIME):
            wanted = "\n".join([*missing[first : first + _FILES_AT_A_TIME], ""]).encode()
            await self.query(*negotiation, "fetch", "--progress", *quiet, "--stdin", "origin", stdin=wanted)

    async def default(self) -> Start:
        """Where new work starts. Raises `GitError` when the remote has no such branch, and no other one for it."""
        wanted = f"refs/remotes/origin/{self.rig.default_branch}"
        self.report.notice = None
        if (found := await self.object_id(wanted)) is not None:
            return Start(wanted, found)
        log.warning("git.default_branch_missing", rig_id=self.rig.rig_id, branch=self.rig.default_branch)
        if (found := await self.object_id(_REMOTE_HEAD)) is not None:
            branch = self.rig.default_branch
            self.report.notice = f"The repository has no branch {branch}; the one that its HEAD names is used"
            return Start(_REMOTE_HEAD, found)
        raise GitError(f"The repository has no branch {self.rig.default_branch}")


class Repositories:
    """Made by `open_repositories`. Clones are tasks of `tasks`, limited by `limits.clone`.

    `worktrees` are the locks of the worktrees, by path. Whatever needs both takes the worktree's first. `checking`
    lets the checks of a rig run one after the other, and holds up nothing else. `rigs` are those that requests
    have named, as the last one did.
    """

    def __init__(self, tasks: Supervisor, tools: Tools) -> None:
        self.tools = tools
        self.tasks = tasks
        self.browsing = trio.CapacityLimiter(_BROWSING)
        self.worktrees = NamedLocks()
        self.checking = NamedLocks()
        self.rigs: dict[str, Rig] = {}
        self._locks = NamedLocks()
        self._known: dict[str, _Known] = {}

    def report(self, rig_id: str) -> RigReport:
        """What is known of a rig; made at the first question."""
        return self._of(rig_id).report

    @property
    def reports(self) -> list[RigReport]:
        return [known.report for known in self._known.values()]

    def git(self, rig: Rig, place: str | None = None, user: User | None = None) -> RigGit:
        """git for a rig without its lock, in a worktree that `user` has for himself; its report is its own."""
        return RigGit(self.tools, rig, RigReport(rig.rig_id), place=place, user=user)

    @asynccontextmanager
    async def hold(self, rig: Rig, doing: str, enter: Enter = unreported) -> AsyncIterator[Clone]:
        """The rig's clone, cloned now if need be, with no other git in it for the length of the block.

        All agents of the rig wait for the block, so nothing that an agent can hold up belongs in it. It may take
        `limits.operation` seconds from the moment in which the rig is free, and raises `GitTimedOut` then. Raises
        `GitError`, `OutsideRoot`. Phases: `credentials`, `clone`, `git_queue`.
        """
        arrived, known = trio.current_time(), self._of(rig.rig_id)
        if not self.tools.paths.contains(self.tools.paths.clone(rig.rig_id)):
            raise OutsideRoot
        enter("credentials")
        await self.tools.credentials.resolve(rig.rig_id)
        lock = self._locks.of(rig.rig_id)
        await self._cloned(rig, known, enter)
        if lock.locked():
            enter("git_queue")
        async with lock:
            clone = Clone(self.tools, rig, known, arrived)
            with known.report.busy(doing), clone.operation(doing):
                await self._tidy(clone, known)
                yield clone

    async def _is_whole(self, rig_id: str) -> bool:
        return await trio.to_thread.run_sync(_is_whole, Path(self.tools.paths.clone(rig_id)))

    def _of(self, rig_id: str) -> _Known:
        return self._known.setdefault(rig_id, _Known(RigReport(rig_id)))

    async def _cloned(self, rig: Rig, known: _Known, enter: Enter) -> None:
        """Return when the clone is there; raises `GitError` when it cannot be made."""
        whole = await self._is_whole(rig.rig_id)
        if known.cloning is None and not whole:
            known.cloning = _Cloning()
            self.tasks.start(f"clone {rig.rig_id}", partial(self._clone, rig, known, known.cloning))
        if (cloning := known.cloning) is not None:
            enter("clone")
            await cloning.done.wait()
            if cloning.failure is not None:
                raise cloning.failure

    async def _clone(self, rig: Rig, known: _Known, cloning: _Cloning) -> None:
        began = trio.current_time()
        try:
            async with self._locks.of(rig.rig_id):
                clone = Clone(self.tools, rig, known, began)
                # Another caller's clone may have ended since this one looked; then nothing is left to do.
                if not await self._is_whole(rig.rig_id):
                    with known.report.busy("clone"), limited("clone", self.tools.limits.clone):
                        await self._clone_anew(clone)
                    known.fetched_at = began
                    log.info("git.cloned", rig_id=rig.rig_id, seconds=round(trio.current_time() - began, 3))
            cloning.failure = None
        except (OSError, NotOurs) as error:
            cloning.failure = GitError(f"git clone: {getattr(error, 'strerror', None) or error}")
        except GitError as error:
            cloning.failure = error
        except Exception as error:  # the boundary of a clone: a bug in it is not the container's end
            cloning.failure = GitError(f"The clone failed: {type(error).__name__}")
            log.exception("git.crashed", what="clone", rig_id=rig.rig_id)
        finally:
            known.cloning = None
            cloning.done.set()
        if cloning.failure is not None:
            log.warning("git.clone_failed", rig_id=rig.rig_id, reason=str(cloning.failure))

    async def _clone_anew(self, clone: Clone) -> None:
        """Clone beside the clone's place and move it there whole: what is in its place is never half a clone."""
        room, place = trio.Path(self.tools.paths.rig(clone.rig.rig_id)), trio.Path(clone.place)
        await room.mkdir(mode=0o755, parents=True, exist_ok=True)
        for leftover in await room.glob(".repo-*"):
            log.info("git.leftover_removed", rig_id=clone.rig.rig_id, name=leftover.name)
            await _remove(leftover)
        draft = room / f".repo-{secrets.token_hex(4)}"
        clone.place = str(draft)
        try:
            await trio.to_thread.run_sync(give_directory, str(draft), clone.user, 0o750)
            address = self.tools.credentials.address(clone.rig.rig_id)
            await _bring_all(clone, address)
            await _fill_empty(clone)
            await _let_go_of_branches(clone)
            if await place.exists():
                log.warning("git.broken_clone_removed", rig_id=clone.rig.rig_id)
                await _remove(place)
            await draft.rename(place)
            clone.place = str(place)
        finally:
            with trio.move_on_after(_CLEANUP_SECONDS, shield=True):
                await _remove(draft)

    async def _tidy(self, clone: Clone, known: _Known) -> None:
        """Once in a container's life: remove what git processes of an earlier one have left."""
        if known.tidied:
            return
        room = trio.Path(self.tools.paths.rig(clone.rig.rig_id))
        place = self.tools.paths.clone(clone.rig.rig_id)
        # It may be another one's from an earlier life of the container.
        await trio.to_thread.run_sync(give_directory, place, clone.user, 0o750)
        await run_as(clone.user, _unlock, Path(place) / ".git")
        for leftover in (
            *await self._left_checks(clone.rig.rig_id),
            *await room.glob(".merge-*"),
            *await room.glob(".salvage-*"),
            *await room.glob("worktrees/.draft-*"),
            *await room.glob("worktrees/.gone-*"),
        ):
            await _remove(leftover)
        await clone.run("worktree", "prune")
        known.tidied = True

    async def _left_checks(self, rig_id: str) -> list[trio.Path]:
        """Where an earlier container ran the rig's checks. Whatever of them still runs there is ended."""
        left = list(await trio.Path(self.tools.paths.rig(rig_id)).glob(f"{CHECKS}*"))
        for place in left:
            if found := await end_all_at(str(place), self.tools.checks_user(rig_id)):
                log.warning("git.checks_not_ended", rig_id=rig_id, pids=found)
        return left


async def _bring_all(clone: Clone, address: str) -> None:
    """Clone into `clone`'s place, which is an empty directory."""
    try:
        # Its trees without its files: those that a worktree needs come in one request when it is checked out.
        partial = ("--no-checkout", "--filter=blob:none", "--progress")
        await clone.query("clone", *partial, "--", address, clone.place)
    except GitFailed as error:
        # git clone leaves no branch out, and fails for one that is called HEAD/x.
        if "refs/remotes/origin/HEAD" not in error.stderr:
            raise
        log.warning("git.refs_not_fetched", rig_id=clone.rig.rig_id, reason=str(error))
        await _bring_what_has_room(clone, address)


async def _bring_what_has_room(clone: Clone, address: str) -> None:
    await clone.run("init", "--quiet", "--template=")
    await clone.run("remote", "add", "origin", address)
    for name, value in (("promisor", "true"), ("partialclonefilter", "blob:none")):
        await clone.run("config", f"remote.origin.{name}", value)
    await clone.run("config", "core.repositoryformatversion", "1")
    await clone.run("config", "extensions.partialClone", "origin")
    await clone.fetch(again=True)
    with suppress(GitFailed):  # it may have none
        await clone.query("remote", "set-head", "origin", "--auto")


async def _fill_empty(clone: Clone) -> None:
    """Give an empty repository its first commit, so that there is something to branch from."""
    if await clone.run("for-each-ref", "--count=1", "refs/remotes/origin"):
        return
    tree = await clone.says("mktree")
    commit = await clone.says("commit-tree", "-m", "Initial commit", str(tree))
    try:
        await clone.query("push", "--quiet", "origin", f"{commit}:refs/heads/{clone.rig.default_branch}")
        log.info("git.first_commit_pushed", rig_id=clone.rig.rig_id)
    except PushRaced:
        log.info("git.first_commit_was_there", rig_id=clone.rig.rig_id)
    await clone.query("fetch", "--progress", "origin", *BRANCHES)


async def _let_go_of_branches(clone: Clone) -> None:
    """Detach the clone's own HEAD and forget its local branch: a branch can be in one worktree only."""
    branch = await clone.says("symbolic-ref", "--quiet", "HEAD")
    await clone.run("update-ref", "--no-deref", "HEAD", (await clone.default()).commit)
    if branch is not None:
        await clone.run("update-ref", "-d", branch)


def _is_all_but_some(error: GitFailed) -> bool:
    """Whether a fetch brought everything but references that there is no room for here, whoever made them."""
    said = error.stderr
    lines = [line for line in said.splitlines() if line.startswith("error: ") and _IN_ALL not in line]
    roomless = [line for line in lines if any(words in line for words in _NO_ROOM)]
    # A lock that was left, or a full disk, is no matter of names.
    return "(unable to update local ref)" in said and bool(roomless) and len(roomless) == len(lines)


def _is_whole(place: Path) -> bool:
    """Whether a clone got as far as its references, which git writes last."""
    git = place / ".git"
    if not (git / "HEAD").exists():
        return False
    return (git / "packed-refs").exists() or (git / "refs" / "remotes" / "origin").exists()


def _unlock(git: Path) -> None:
    for lock in (*git.glob("*.lock"), *(git / "refs").glob("**/*.lock")):
        lock.unlink(missing_ok=True)


async def _remove(directory: trio.Path) -> None:
    if not await trio.to_thread.run_sync(remove_tree, str(directory)):
        log.warning("git.not_removed", directory=str(directory))


@asynccontextmanager
async def open_repositories(tools: Tools) -> AsyncIterator[Repositories]:
    """All rigs for the length of the block; leaving it ends what git still does."""
    async with open_supervisor() as tasks:
        yield Repositories(tasks, tools)
