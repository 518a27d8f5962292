"""What is not committed, as one tree: all that git does not ignore, and nothing that only a filter changed."""

from __future__ import annotations

import hashlib
import os
import re
import stat
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from gastown.git.errors import GitFailed
from gastown.git.salvage.inventory import Inventory
from gastown.git.salvage.receipt import IGNORED, Receipt
from gastown.git.salvage.store import Store
from gastown.isolation.users import run_as

__all__ = ["Changes", "gather", "name_ignored", "staged_tree", "without"]

_LISTED = 64 * 1024 * 1024
_NAMED = 50
_PIECES = 200
"""How often `git add` is called for ever smaller parts of a directory of which it refuses some path."""
_PLAIN = ("100644", "100755")
_ENCRYPTS = re.compile(r"crypt|secret|vault|gpg|sops|\bage\b", re.IGNORECASE)
_POINTER = re.compile(rb"version https://git-lfs\.github\.com/spec/v1\n(?:.*\n)*?oid sha256:([0-9a-f]{64})\n")


@dataclass(frozen=True)
class _Change:
    old_mode: str
    mode: str
    old: str
    new: str
    path: str

    @property
    def same_file(self) -> bool:
        return self.old_mode in _PLAIN and self.mode == self.old_mode


@dataclass(frozen=True)
class Changes:
    """`tree` holds the directory as it is, `paths` are what differs in it from `base`."""

    tree: str
    base: str | None
    paths: tuple[str, ...]


async def gather(
    store: Store, base: str | None, inventory: Inventory, receipt: Receipt, prefix: str
) -> Changes | None:
    """The directory as a tree; None when it is that of `base`. What git refuses is named and left out.

    `prefix` goes before each path in the receipt. Raises `GitError`.
    """
    if base is None or await store.says("read-tree", base) is None:
        base = None
        await store.run("read-tree", "--empty")
    if await store.borrow_index():
        await _pass_over_sparse(store, receipt, prefix)
    elif base is not None:
        await _pass_over_absent(store)
    nested = {path.rstrip("/") for path in inventory.nested}
    await _add(store, nested, receipt, prefix)
    changes = await _changes(store, base)
    if changes and await _undo(store, changes, receipt, prefix):
        changes = await _changes(store, base)
    if not changes:
        return None
    tree = (await store.run("write-tree")).strip()
    return Changes(tree, base, tuple(change.path for change in changes))


async def _pass_over_sparse(store: Store, receipt: Receipt, prefix: str) -> None:
    """Files that a sparse checkout left out are not deleted."""
    try:
        listed = await store.run("ls-files", "-t", "-z", index="agent-index", most=_LISTED)
    except GitFailed:
        receipt.lose(f"{prefix}.git/index", "it is damaged: what was staged and is in no file any more")
        return
    await _leave_out(store, [entry[2:] for entry in listed.split("\0") if entry.startswith("S ")])


async def _pass_over_absent(store: Store) -> None:
    """git writes an index when all files are there: without one they were not deleted, but not written yet."""
    listed = await store.run("ls-files", "-z", most=_LISTED)
    await _leave_out(store, [name for name in listed.split("\0") if name])


async def _leave_out(store: Store, names: list[str]) -> None:
    left_out = await run_as(store.git.user, _absent, store.found.place, names)
    if left_out:
        await store.run("update-index", "--skip-worktree", "-z", "--stdin", stdin=_nul(left_out))


def _absent(place: Path, names: list[str]) -> list[str]:
    return [name for name in names if not os.path.lexists(place / name)]


async def _add(store: Store, nested: set[str], receipt: Receipt, prefix: str) -> None:
    paths = [".", *(f":(exclude,top,literal){path}" for path in sorted(nested))]
    try:
        await _add_paths(store, paths)
        return
    except GitFailed as error:
        problem = error
    left = await _left(store, nested)
    if problem.returncode != 1:  # git has given up, and added nothing
        await _add_pieces(store, [f":(top,literal){path}" for path in left])
        left = await _left(store, nested)
    for path in left:
        if not await _add_raw(store, path):
            receipt.lose(f"{prefix}{path}", _reason(problem.stderr, path))


async def _add_paths(store: Store, paths: Iterable[str]) -> None:
    where = ("--pathspec-from-file=-", "--pathspec-file-nul")
    await store.run("add", "--all", "--ignore-errors", *where, stdin=_nul(paths))


async def _add_pieces(store: Store, paths: list[str]) -> None:
    pieces, calls = [paths] if paths else [], 0
    while pieces and calls < _PIECES:
        piece, calls = pieces.pop(0), calls + 1
        try:
            await _add_paths(store, piece)
        except GitFailed:
            if len(piece) > 1:
                half = len(piece) // 2
                pieces += [piece[:half], piece[half:]]


async def _left(store: Store, nested: set[str]) -> list[str]:
    """What differs from the index still, and is no repository of its own."""
    listed = await store.run("ls-files", "-z", "-m", "-o", "--exclude-standard", most=_LISTED)
    names = dict.fromkeys(name.rstrip("/") for name in listed.split("\0") if name)
    return [name for name in names if name not in nested]


async def _add_raw(store: Store, path: str) -> bool:
    """Take a file as its bytes are, where git cannot convert it as its attributes say."""
    where = store.found.place / path
    mode = await run_as(store.git.user, _mode_of, where)
    if mode is None:
        return False
    made = await store.says("hash-object", "-w", "--no-filters", "--", str(where))
    if not made:
        return False
    await store.run("update-index", "--add", "-z", "--index-info", stdin=_nul([f"{mode} {made}\t{path}"]))
    return True


def _mode_of(path: Path) -> str | None:
    try:
        found = path.lstat()
    except OSError:
        return None
    if not stat.S_ISREG(found.st_mode):
        return None
    return "100755" if found.st_mode & stat.S_IXUSR else "100644"


async def _changes(store: Store, base: str | None) -> list[_Change]:
    compared = base or (await store.run("mktree", stdin=b"")).strip()
    listed = await store.run(
        "diff-index", "--cached", "--raw", "-z", "--no-renames", "--no-abbrev", compared, most=_LISTED
    )
    words = listed.split("\0")
    changes = []
    for told, path in zip(words[::2], words[1::2], strict=False):
        old_mode, mode, old, new, _ = told.removeprefix(":").split(" ")
        changes.append(_Change(old_mode, mode, old, new, path))
    return changes


async def _undo(store: Store, changes: list[_Change], receipt: Receipt, prefix: str) -> bool:
    """Take back what only a filter changed, and what a filter would have encrypted; whether there was any."""
    undone = await run_as(store.git.user, _same_bytes, store.found.place, [c for c in changes if c.same_file])
    filtered = await _filtered(store, [change for change in changes if change.mode in _PLAIN])
    if filtered:
        clean = await _clean_for_the_agent(store, [change for change in changes if change.path in filtered])
        for change in changes:
            driver = filtered.get(change.path)
            if driver is None or change.path in undone:
                continue
            if change.path in clean or (driver == "lfs" and await _is_of_pointer(store, change)):
                undone.add(change.path)
            elif await _encrypts(store, driver):
                undone.add(change.path)
                why = f"its filter {driver} encrypts, and filters of an agent are not run here"
                receipt.lose(f"{prefix}{change.path}", why)
    back = [
        f"{change.old_mode} {change.old}\t{change.path}"
        if int(change.old, 16)
        else f"0 {change.old}\t{change.path}"
        for change in changes
        if change.path in undone
    ]
    if back:
        await store.run("update-index", "-z", "--index-info", stdin=_nul(back))
    return bool(back)


def _same_bytes(place: Path, changes: list[_Change]) -> set[str]:
    """The paths whose bytes are those that are committed. git may only say that they would be stored otherwise."""
    return {change.path for change in changes if _blob_id(place / change.path, change.old) == change.old}


def _blob_id(path: Path, like: str) -> str | None:
    try:
        with path.open("rb") as file:
            size = os.fstat(file.fileno()).st_size
            begun = hashlib.new("sha256" if len(like) > 40 else "sha1", b"blob %d\0" % size, usedforsecurity=False)
            while chunk := file.read(1 << 20):
                begun.update(chunk)
    except OSError:
        return None
    return begun.hexdigest()


async def _filtered(store: Store, changes: list[_Change]) -> dict[str, str]:
    """The filter that the attributes name for each path that has one."""
    if not changes:
        return {}
    asked = _nul(change.path for change in changes)
    words = (await store.run("check-attr", "-z", "--stdin", "filter", stdin=asked, most=_LISTED)).split("\0")
    named = zip(words[::3], words[2::3], strict=False)
    return {path: value for path, value in named if value not in ("unspecified", "unset", "set", "")}


async def _clean_for_the_agent(store: Store, changes: list[_Change]) -> set[str]:
    """Of committed files with a filter: those that have not been touched since the agent's git wrote them."""
    known = [change for change in changes if change.same_file]
    if not known:
        return set()
    paths = [f":(top,literal){change.path}" for change in known]
    try:
        listed = await store.run("ls-files", "-s", "-z", "--", *paths[:1000], index="agent-index", most=_LISTED)
        touched = await store.run("diff-files", "--name-only", "-z", index="agent-index", most=_LISTED)
    except GitFailed:
        return set()
    staged = {
        path: told.split(" ")[1]
        for told, _, path in (entry.partition("\t") for entry in listed.split("\0"))
        if path
    }
    dirty = set(touched.split("\0"))
    return {change.path for change in known if staged.get(change.path) == change.old and change.path not in dirty}


async def _is_of_pointer(store: Store, change: _Change) -> bool:
    """Whether a file is the one of which a pointer of Git LFS is committed."""
    if not change.same_file:
        return False
    pointer = _POINTER.match((await store.run("cat-file", "blob", change.old)).encode(errors="surrogateescape"))
    if pointer is None:
        return False
    return await run_as(store.git.user, _sha256, store.found.place / change.path) == pointer[1].decode()


def _sha256(path: Path) -> str | None:
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError:
        return None


async def _encrypts(store: Store, driver: str) -> bool:
    if _ENCRYPTS.search(driver):
        return True
    config = str(store.found.common / "config")
    clean = await store.says("config", "--file", config, "--get", f"filter.{driver}.clean") or ""
    process = await store.says("config", "--file", config, "--get", f"filter.{driver}.process") or ""
    return _ENCRYPTS.search(f"{clean} {process}") is not None


async def without(store: Store, changes: Changes, paths: list[str]) -> str:
    """The tree of `changes` with some paths as they are in its base."""
    base = changes.base or (await store.run("mktree", stdin=b"")).strip()
    listed = await store.run("ls-tree", "-r", "-z", "--full-tree", base, most=_LISTED)
    there = {
        path: told.split(" ") for told, _, path in (one.partition("\t") for one in listed.split("\0")) if path
    }
    nothing = "0" * len(base)
    back = [
        f"{there[path][0]} {there[path][2]}\t{path}" if path in there else f"0 {nothing}\t{path}" for path in paths
    ]
    await store.run("update-index", "-z", "--index-info", stdin=_nul(back))
    return (await store.run("write-tree")).strip()


async def staged_tree(store: Store, base: str | None, saved: str | None) -> str | None:
    """The tree of what was staged, where it has contents that neither `base` nor the tree `saved` has."""
    try:
        tree = (await store.run("write-tree", index="agent-index")).strip()
    except GitFailed:  # none, or a merge that is not resolved: its sides are commits
        return None
    empty = (await store.run("mktree", stdin=b"")).strip()
    staged = await _contents(store, base or empty, tree)
    return tree if staged - await _contents(store, base or empty, saved or base or empty) else None


async def _contents(store: Store, base: str, tree: str) -> set[str]:
    listed = await store.run(
        "diff-tree", "-r", "--raw", "-z", "--no-renames", "--no-abbrev", base, tree, most=_LISTED
    )
    told = [word.split(" ") for word in listed.split("\0") if word.startswith(":")]
    return {words[3] for words in told if words[1] != "160000" and int(words[3], 16)}


async def name_ignored(store: Store, receipt: Receipt, prefix: str) -> None:
    """Name the files that git ignores; folders of nothing else as one."""
    listed = await store.run(
        "ls-files", "-z", "-o", "-i", "--exclude-standard", "--directory", "--no-empty-directory", most=_LISTED
    )
    names = sorted(name for name in listed.split("\0") if name)
    for name in names[:_NAMED]:
        receipt.lose(f"{prefix}{name}", IGNORED)
    if len(names) > _NAMED:
        receipt.lose(f"{prefix}(and {len(names) - _NAMED} more paths)", IGNORED)


def _nul(words: Iterable[str]) -> bytes:
    return b"".join(word.encode(errors="surrogateescape") + b"\0" for word in words)


def _line(text: str) -> str:
    return next((line for line in text.splitlines() if line.strip()), "no message")[:200]


def _reason(stderr: str, path: str) -> str:
    lines = [line for line in stderr.splitlines() if path in line] or stderr.splitlines()
    return f"git does not take it: {_line(chr(10).join(lines))}"
