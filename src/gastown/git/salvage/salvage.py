"""One agent's directory, saved: what is committed, then what is in no commit, then repositories inside of it."""

from __future__ import annotations

import shutil
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Protocol

import structlog
import trio

from gastown.git.errors import GitError, GitFailed
from gastown.git.rig import RigGit, limited
from gastown.git.salvage.commits import Commits
from gastown.git.salvage.files import Changes, gather, name_ignored, staged_tree, without
from gastown.git.salvage.found import Found, Linked, read_refs, read_repository
from gastown.git.salvage.inventory import Inventory, take_inventory
from gastown.git.salvage.nested import Bundles
from gastown.git.salvage.receipt import Job, Receipt
from gastown.git.salvage.remote import Target, Wanted
from gastown.git.salvage.store import Store, keep_objects, open_store
from gastown.isolation.users import run_as

__all__ = ["Salvager", "salvage"]

log = structlog.get_logger()

_FILES_SECONDS = 30.0
_OPEN = "files that are in no commit"
_COMMITS = "commits, branches and stashes"
_GONE = "the repository is gone or damaged: what was only in its commits, branches and stashes"
_STATE = ("MERGE_HEAD", "MERGE_MSG", "MERGE_MODE", "CHERRY_PICK_HEAD", "REVERT_HEAD")


class Salvager(Protocol):
    """What `salvage` is. Tests in virtual time have one that runs no git."""

    async def __call__(self, git: RigGit, job: Job, receipt: Receipt) -> None: ...


async def salvage(git: RigGit, job: Job, receipt: Receipt) -> None:
    """Save all that is in the directory `git.place`. Raises nothing but a cancellation: `receipt` has it all.

    For a directory in which no process of the agent is left. Put it under a deadline: each part has its own, and
    there may be many of them.
    """
    place = Path(git.place)
    receipt.expect(_COMMITS)
    receipt.expect(_OPEN)
    try:
        inventory = await run_as(git.user, take_inventory, place)
        found = await run_as(git.user, _read, place)
        for path, why in inventory.unread:
            receipt.lose(path, why)
        if found is None:
            receipt.lose(_COMMITS, _GONE)
        else:
            for what, why in found.problems:
                receipt.lose(what, why)
        cloned = await _cloned(git)
        async with open_store(git, found or Found(place, place / ".git", place / ".git")) as store:
            target = Target(job, receipt, cloned)
            commits = Commits(job, receipt, store, target)
            await _Work(git, job, receipt, store, inventory, target, commits, is_whole=found is not None).run()
    except (GitError, OSError) as error:
        receipt.close(str(error))
    finally:
        receipt.close()


def _read(place: Path) -> Found | None:
    try:
        return read_repository(place)
    except OSError:
        return None


async def _cloned(git: RigGit) -> dict[str, str]:
    """The remote's branches and tags at the last fetch into the rig's clone, under the names that it has."""
    clone = Path(git.tools.paths.clone(git.rig.rig_id)) / ".git"
    refs = await run_as(git.tools.repo_owner, read_refs, clone)
    tracked = {name: one for name, one in refs.items() if name.startswith(("refs/remotes/origin/", "refs/tags/"))}
    return {name.replace("refs/remotes/origin/", "refs/heads/", 1): one for name, one in tracked.items()}


@dataclass
class _Work:
    """The parts of one salvage. `is_whole`: the directory has a repository."""

    git: RigGit
    job: Job
    receipt: Receipt
    store: Store
    inventory: Inventory
    target: Target
    commits: Commits
    is_whole: bool

    @property
    def found(self) -> Found:
        return self.store.found

    async def run(self) -> None:
        """Do one part after the other; one that fails is named, and the next one has its turn."""
        if self.is_whole:
            await self._contained(_COMMITS, self.commits.save)
        linked = [one for one in self.found.linked if await trio.Path(one.found.place).is_dir()]
        inside = await run_as(self.git.user, self._repositories, linked)
        self.inventory.nested = [
            *inside,
            *(path for path in self.inventory.nested if self._is_linked(path, linked)),
        ]
        await self._contained(_OPEN, self._save_files)
        for one in linked:
            await self._contained(f"files of the worktree {one.name}", partial(self._save_linked, one))
        await self._contained("repositories in the directory", partial(self._save_nested, self.store, inside))

    async def _contained(self, what: str, part: Callable[[], Awaitable[None]]) -> None:
        self.receipt.expect(what)
        try:
            await part()
        except (GitError, OSError) as error:
            self.receipt.lose(what, str(error))
        else:
            self.receipt.settle(what)

    # ---- files

    async def _save_files(self) -> None:
        store, receipt = self.store, self.receipt
        base = self.found.head if self.is_whole else self._start()
        if not self.is_whole and not self.inventory.any_file:
            receipt.lose(_OPEN, "the directory is empty or gone")
            return
        with limited("add", _FILES_SECONDS):
            changes = await gather(store, base, self.inventory, receipt, "")
            await name_ignored(store, receipt, "")
            base = changes.base if changes else base
            staged = await staged_tree(store, base, changes.tree if changes else None)
        if changes is not None:
            await self._save_changes(changes)
        if staged is not None:
            commit = await store.commit(staged, (base,) if base else (), self.job)
            await self.target.ask(store)
            await self.target.rescue(store, Wanted("what is staged and in no file", commit, "index"))

    def _start(self) -> str | None:
        """What the files of a directory without a repository are compared with."""
        names = (self.job.branch, self.git.rig.default_branch)
        cloned = self.target.cloned
        return next((one for name in names if (one := cloned.get(f"refs/heads/{name}"))), None)

    async def _save_changes(self, changes: Changes) -> None:
        found, base, head_is_main = self.found, changes.base, self.commits.head_is_main
        on_branch = self.job.on_branch and head_is_main and self.is_whole and base == found.head
        commit = await self.store.commit(changes.tree, _parents(changes, found), self.job, dated=on_branch)
        self.receipt.commit = commit
        if on_branch:
            await self._settle(commit)
        await self.target.ask(self.store)
        if on_branch:
            await self.target.push_branch(self.store, _OPEN, commit)
        else:
            await self.target.rescue(self.store, Wanted(_OPEN, commit, ""))
        why = self.receipt.withdraw(_OPEN)
        if why is not None:
            await self._save_without_refused(changes, why)

    async def _save_without_refused(self, changes: Changes, why: str) -> None:
        """The remote took none of it: save what it does not name. One file over its limit costs no other one."""
        named = [path for path in changes.paths if path in why]
        if not named or len(named) == len(changes.paths):
            self.receipt.lose(_OPEN, why)
            return
        for path in named:
            self.receipt.lose(path, why)
        tree = await without(self.store, changes, named)
        self.receipt.commit = await self.store.commit(tree, _parents(changes, self.found), self.job)
        await self.target.rescue(self.store, Wanted(_OPEN, self.receipt.commit, ""))

    async def _settle(self, commit: str) -> None:
        """Let the agent's own repository have the commit, so that work in it goes on from there."""
        found, user = self.found, self.git.user
        try:
            await run_as(user, keep_objects, self.store.place, found.objects)
            await run_as(user, _unlock, found)
            await self.git.run(
                "update-ref", "-m", "gastown: saved", "HEAD", commit, *((found.head,) if found.head else ())
            )
            await run_as(user, _take_index, self.store.place, found.git_dir)
        except (GitError, OSError) as error:
            log.warning(
                "worktree.not_settled", rig_id=self.git.rig.rig_id, worktree=self.git.place, reason=str(error)
            )

    # ---- other worktrees, other repositories

    async def _save_linked(self, linked: Linked) -> None:
        prefix, found = f"{linked.found.place}/", linked.found
        inventory = await run_as(self.git.user, take_inventory, found.place)
        for path, why in [*inventory.unread, *found.problems]:
            self.receipt.lose(f"{prefix}{path}", why)
        async with open_store(self.git, found) as store:
            with limited("add", _FILES_SECONDS):
                changes = await gather(store, found.head, inventory, self.receipt, prefix)
                await name_ignored(store, self.receipt, prefix)
                base = changes.base if changes else found.head
                staged = await staged_tree(store, base, changes.tree if changes else None)
            if changes is not None:
                commit = await store.commit(changes.tree, _parents(changes, found), self.job)
                await self.target.ask(store)
                what, name = f"files of the worktree {linked.name}", f"worktrees/{linked.name}/files"
                await self.target.rescue(store, Wanted(what, commit, name))
            if staged is not None:
                commit = await store.commit(staged, (base,) if base else (), self.job)
                await self.target.ask(store)
                what, name = f"what is staged in the worktree {linked.name}", f"worktrees/{linked.name}/index"
                await self.target.rescue(store, Wanted(what, commit, name))
            inside = [one for one in inventory.nested if not self._is_linked(one, self.found.linked, found.place)]
            await self._save_nested(store, inside, linked)

    def _repositories(self, linked: list[Linked]) -> list[str]:
        """What in the directory is a repository of its own, and not only called `.git`. It blocks."""
        place, nested = Path(self.git.place), self.inventory.nested
        return [path for path in nested if not self._is_linked(path, linked) and _read(place / path) is not None]

    def _is_linked(self, path: str, linked: list[Linked], top: Path | None = None) -> bool:
        place = ((top or Path(self.git.place)) / path).resolve()
        return any(one.found.place.resolve() == place for one in linked)

    async def _save_nested(self, store: Store, paths: list[str], linked: Linked | None = None) -> None:
        """Save the repositories at `paths` of the directory, or of another worktree of its repository."""
        ignored = await self._ignored(store, paths)
        recorded = await self._recorded(store, paths)
        others = [self.found, *(one.found for one in self.found.linked)]
        bundles = Bundles(
            store,
            self.git.at(str(store.found.place), self.git.user),
            self.job,
            self.receipt,
            prefix=f"{store.found.place}/" if linked else "",
            seen={place.resolve() for one in others for place in (one.place, one.git_dir)},
        )
        for path in paths:
            if path not in ignored:
                await bundles.add(path, recorded.get(path))
        await bundles.add_modules(store.found.git_dir)
        if bundles.made:
            commit = await store.commit(await bundles.tree(), (), self.job)
            where, folder = ("the directory", "") if linked is None else (linked.name, f"worktrees/{linked.name}/")
            names = ", ".join(sorted(bundles.made)[:20])
            await self.target.ask(store)
            wanted = Wanted(f"repositories in {where}: {names}", commit, f"{folder}nested")
            await self.target.rescue(store, wanted)

    async def _ignored(self, store: Store, paths: list[str]) -> set[str]:
        """Those that git ignores: they are named as such already."""
        if not paths:
            return set()
        asked = b"".join(path.encode(errors="surrogateescape") + b"\0" for path in paths)
        try:
            listed = await store.run("check-ignore", "-z", "--stdin", stdin=asked)
        except GitFailed:  # it ignores none
            return set()
        return set(listed.split("\0"))

    async def _recorded(self, store: Store, paths: list[str]) -> dict[str, str]:
        """The commits that are recorded for submodules."""
        if store.found.head is None or not paths:
            return {}
        try:
            listed = await store.run("ls-tree", "-z", "--full-tree", store.found.head, "--", *paths)
        except GitFailed:
            return {}
        entries = [entry.partition("\t") for entry in listed.split("\0") if entry.startswith("160000 ")]
        return {path: told.split(" ")[2] for told, _, path in entries}


def _parents(changes: Changes, found: Found) -> tuple[str, ...]:
    """What is checked out, and what is being merged into it."""
    return (changes.base, *found.merging) if changes.base else ()


def _unlock(found: Found) -> None:
    """Remove the locks that a killed git has left; no process of the agent is there any more."""
    for lock in (found.git_dir / "HEAD.lock", found.git_dir / "index.lock", found.common / f"{found.branch}.lock"):
        lock.unlink(missing_ok=True)


def _take_index(store: Path, git_dir: Path) -> None:
    """The index is that of the commit, and a merge is not in progress any more."""
    draft = git_dir / "index.gastown"
    shutil.copyfile(store / "index", draft)
    draft.replace(git_dir / "index")
    for name in _STATE:
        (git_dir / name).unlink(missing_ok=True)
