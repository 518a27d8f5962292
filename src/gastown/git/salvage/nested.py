"""Repositories inside of an agent's directory, each as a bundle: one file with all its branches and open files."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from gastown.git.errors import GitError, GitFailed
from gastown.git.rig import RigGit, limited
from gastown.git.salvage.files import gather
from gastown.git.salvage.found import Found, read_repository
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
    """Bundles of the repositories below `git.place`, collected in `store`. `made` are their blobs by path."""

    store: Store
    git: RigGit
    job: Job
    receipt: Receipt
    made: dict[str, str] = field(default_factory=dict)

    async def add(self, path: str, recorded: str | None, depth: int = 1) -> None:
        """Bundle one repository. `recorded` is the commit that is recorded for a submodule: one that is at it and
        has nothing of its own needs no bundle.
        """
        receipt, place = self.receipt, Path(self.git.place) / path
        receipt.expect(path)
        try:
            with limited("bundle", _BUNDLE_SECONDS):
                found = await run_as(self.git.user, read_repository, place)
                inventory = await run_as(self.git.user, take_inventory, place)
                if found is not None:
                    async with open_store(self.git, found) as inner:
                        await self._bundle(inner, inventory, path, recorded)
            receipt.settle(path)
        except (GitError, OSError) as error:
            receipt.lose(path, f"a repository of its own: {error}")
            return
        for deeper in inventory.nested:
            if depth < _DEPTH:
                await self.add(f"{path}/{deeper}", None, depth + 1)
            else:
                receipt.lose(f"{path}/{deeper}", "a repository too deep inside of others")

    async def tree(self) -> str:
        """A tree with all bundles."""
        store, entries = self.store, "".join(f"100644 {one}\t{path}.bundle\0" for path, one in self.made.items())
        stdin = entries.encode(errors="surrogateescape")
        await store.run("read-tree", "--empty", index="nested-index")
        await store.run("update-index", "--add", "-z", "--index-info", stdin=stdin, index="nested-index")
        return (await store.run("write-tree", index="nested-index")).strip()

    async def _bundle(self, inner: Store, inventory: Inventory, path: str, recorded: str | None) -> None:
        found = inner.found
        for passed, why in [*inventory.unread, *found.problems]:
            self.receipt.lose(f"{path}/{passed}", why)
        changes = await gather(inner, found.head, inventory, self.receipt, f"{path}/")
        refs = await self._present(inner, _refs_of(found), path)
        if changes is None and await _is_elsewhere(inner, recorded, refs):
            return
        if changes is not None:
            parents = (found.head,) if changes.base and found.head else ()
            refs["refs/gastown/open-files"] = await inner.commit(changes.tree, parents, self.job)
        if refs:
            self.made[path] = await self._write_bundle(inner, refs)

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
