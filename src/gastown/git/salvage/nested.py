"""Repositories inside of an agent's directory, each as a bundle: one file with all its branches and open files."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from gastown.git.errors import GitError, GitFailed
from gastown.git.rig import RigGit, limited
from gastown.git.salvage.files import gather, name_ignored, staged_tree
from gastown.git.salvage.found import Found, Linked, read_modules, read_repository
from gastown.git.salvage.inventory import Inventory, take_inventory
from gastown.git.salvage.receipt import Job, Receipt
from gastown.git.salvage.store import Store, open_store
from gastown.isolation.users import run_as

__all__ = ["Bundles"]

_MOST_BYTES = 50 * 1024 * 1024
_BUNDLE_SECONDS = 30.0
_DEPTH = 3


@dataclass
class Bundles:
    """Bundles of the repositories below `git.place`, collected in `store`. `made` are their blobs by path.

    `prefix` goes before each path in the receipt. `seen` are the repositories and worktrees that had their turn.
    """

    store: Store
    git: RigGit
    job: Job
    receipt: Receipt
    prefix: str = ""
    made: dict[str, str] = field(default_factory=dict)
    seen: set[Path] = field(default_factory=set)

    async def add(self, path: str, recorded: str | None, depth: int = 1) -> None:
        """Bundle one repository. `recorded` is the commit that is recorded for a submodule: one that is at it and
        has nothing of its own needs no bundle.
        """
        place, inventory = Path(self.git.place) / path, Inventory()
        with self._named(path):
            found = await run_as(self.git.user, read_repository, place)
            inventory = await run_as(self.git.user, take_inventory, place)
            if found is None:
                return
            self.seen |= {found.git_dir.resolve(), place.resolve()}
            with limited("bundle", _BUNDLE_SECONDS):
                async with open_store(self.git, found) as inner:
                    await self._bundle(inner, inventory, path, recorded)
        for deeper in inventory.nested:
            if depth < _DEPTH:
                await self.add(f"{path}/{deeper}", None, depth + 1)
            else:
                self.receipt.lose(f"{self.prefix}{path}/{deeper}", "a repository too deep inside of others")
        for linked in found.linked:
            await self._add_linked(linked, path)
        await self.add_modules(found.common, f"{path}/")

    async def _add_linked(self, linked: Linked, path: str) -> None:
        """Bundle another worktree of a repository in the directory, wherever that worktree is."""
        found, name = linked.found, f"{path}.worktrees/{linked.name}"
        if found.place.resolve() in self.seen or found.git_dir.resolve() in self.seen:
            return
        self.seen |= {found.git_dir.resolve(), found.place.resolve()}
        with self._named(name), limited("bundle", _BUNDLE_SECONDS):
            there = await run_as(self.git.user, found.place.is_dir)
            inventory = await run_as(self.git.user, take_inventory, found.place) if there else None
            async with open_store(self.git, found) as inner:
                await self._bundle(inner, inventory, name, None)
            for deeper in inventory.nested if inventory else ():
                if (found.place / deeper).resolve() not in self.seen:
                    self.receipt.lose(f"{found.place / deeper}", "a repository too deep inside of others")

    async def add_modules(self, common: Path, path: str = "") -> None:
        """Bundle the repositories of submodules whose worktrees are gone: commits in them may be nowhere else."""
        for name, found in await run_as(self.git.user, read_modules, common):
            if found.git_dir.resolve() in self.seen:
                continue
            with self._named(f"{path}{name}"), limited("bundle", _BUNDLE_SECONDS):
                async with open_store(self.git, found) as inner:
                    await self._bundle(inner, None, f"{path}{name}", found.head)

    @contextmanager
    def _named(self, path: str) -> Iterator[None]:
        """What fails in the block is said of `path`, and of nothing else."""
        what = f"{self.prefix}{path}"
        self.receipt.expect(what)
        try:
            yield
        except (GitError, OSError) as error:
            self.receipt.lose(what, f"a repository of its own: {error}")
        else:
            self.receipt.settle(what)

    async def tree(self) -> str:
        """A tree with all bundles."""
        store, names = self.store, _names(self.made)
        entries = "".join(f"100644 {one}\t{names[path]}\0" for path, one in self.made.items())
        stdin = entries.encode(errors="surrogateescape")
        await store.run("read-tree", "--empty", index="nested-index")
        await store.run("update-index", "--add", "-z", "--index-info", stdin=stdin, index="nested-index")
        return (await store.run("write-tree", index="nested-index")).strip()

    async def _bundle(self, inner: Store, inventory: Inventory | None, path: str, recorded: str | None) -> None:
        """`inventory`: of its worktree; None when it has none."""
        found, prefix = inner.found, f"{self.prefix}{path}"
        for passed, why in [*(inventory.unread if inventory else ()), *found.problems]:
            self.receipt.lose(f"{prefix}/{passed}", why)
        refs = await self._present(inner, _refs_of(found), prefix)
        own = {} if inventory is None else await self._open_files(inner, inventory, f"{prefix}/")
        if not own and await _is_elsewhere(inner, recorded, refs):
            return
        refs |= own
        if refs:
            self.made[path] = await self._write_bundle(inner, refs)

    async def _open_files(self, inner: Store, inventory: Inventory, prefix: str) -> dict[str, str]:
        """Commits of what is in a worktree and in no commit, and of what is only staged."""
        head = inner.found.head
        changes = await gather(inner, head, inventory, self.receipt, prefix)
        await name_ignored(inner, self.receipt, prefix)
        base = changes.base if changes else head
        staged = await staged_tree(inner, base, changes.tree if changes else None)
        parents = (base,) if base else ()
        trees = {"open-files": changes.tree if changes else None, "staged": staged}
        return {
            f"refs/gastown/{name}": await inner.commit(tree, parents, self.job)
            for name, tree in trees.items()
            if tree is not None
        }

    async def _present(self, inner: Store, refs: dict[str, str], path: str) -> dict[str, str]:
        kinds = await inner.kinds(sorted(set(refs.values()))) if refs else {}
        for name, one in refs.items():
            if kinds.get(one, "missing") == "missing":
                self.receipt.lose(f"{path}: {name}", "what it refers to is missing or damaged")
        return {name: one for name, one in refs.items() if kinds.get(one, "missing") != "missing"}

    async def _write_bundle(self, inner: Store, refs: Mapping[str, str]) -> str:
        packed = "# pack-refs with:\n" + "".join(f"{refs[name]} {name}\n" for name in sorted(refs))
        await run_as(inner.git.user, _write, inner.place / "packed-refs", packed)
        file = inner.place / "bundle"
        # One thread: the same repository gives the same bytes, and a second stop nothing new to push.
        await inner.run("config", "pack.threads", "1")
        await inner.run("bundle", "create", "--quiet", str(file), "--all")
        if (size := await run_as(inner.git.user, _size, file)) > _MOST_BYTES:
            raise GitError(f"its bundle of {size >> 20} MB is larger than {_MOST_BYTES >> 20} MB")
        return (await self.store.run("hash-object", "-w", "--no-filters", "--", str(file))).strip()


def _names(paths: Iterable[str]) -> dict[str, str]:
    """The files of the bundles: none has the name of another one, or of a folder that another one is in."""
    names: dict[str, str] = {}
    taken = {f"{path}.bundle" for path in paths}
    for path in paths:
        name = own = f"{path}.bundle"
        while any(other.startswith(f"{name}/") for other in taken) or (name != own and name in taken):
            name += ".bundle"
        taken.add(name)
        names[path] = name
    return names


def _refs_of(found: Found) -> dict[str, str]:
    """All that a bundle of the repository holds, under the names that it has there."""
    refs = {name: one for name, one in found.refs.items() if name.startswith("refs/")}
    refs = {
        name: one for name, one in refs.items() if not name.startswith("refs/remotes/") and name != "refs/stash"
    }
    refs |= {f"refs/gastown/stash-{number}": one for number, one in enumerate(found.stashes)}
    refs |= {f"refs/gastown/{name}": one for name, one in found.doing.items()}
    return refs if found.head is None else refs | {"refs/gastown/HEAD": found.head}


async def _is_elsewhere(inner: Store, recorded: str | None, refs: Mapping[str, str]) -> bool:
    """Whether a submodule is at the commit that is recorded, and has nothing that its own remote has not."""
    if recorded is None or inner.found.head != recorded:
        return False
    theirs = frozenset(one for name, one in inner.found.refs.items() if name.startswith("refs/remotes/"))
    try:
        return not await inner.lacking(sorted(set(refs.values())), theirs)
    except GitFailed:
        return False


def _write(path: Path, text: str) -> None:
    path.write_text(text, encoding="utf-8", errors="surrogateescape")


def _size(path: Path) -> int:
    return path.stat().st_size
