"""A repository of ours beside an agent's: it borrows the agent's objects and obeys none of its settings.

The agent's own configuration, hooks, filters, attributes, index and replaced objects have no say in it. It is made
and worked in with the rights of the directory's owner, and removed afterwards.
"""

from __future__ import annotations

import os
import re
import secrets
import shutil
import tempfile
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import trio

from gastown.git.errors import GitError, GitFailed
from gastown.git.identity import IDENTITY
from gastown.git.rig import RigGit
from gastown.git.salvage.found import Found, read_index
from gastown.git.salvage.receipt import Job
from gastown.git.workspace import ensure_owned_dir
from gastown.isolation.ownership import read_small, remove_tree
from gastown.isolation.users import run_as

__all__ = ["Store", "keep_objects", "open_store"]

_ROOM = 64 * 1024 * 1024
"""Free space below which another disk is tried."""
_CLEANUP_SECONDS = 15.0
_NO_DATE = "946684800"
_TAKEN_OVER = {
    "core.autocrlf": re.compile(r"true|false|input"),
    "core.eol": re.compile(r"lf|crlf|native"),
    "core.filemode": re.compile(r"true|false"),
    "core.symlinks": re.compile(r"true|false"),
}
"""How files are written to the disk: without these settings every file would differ."""


@dataclass
class Store:
    """git in our repository at `place`, whose working directory is that of `found`."""

    git: RigGit
    place: Path
    found: Found

    @property
    def address(self) -> str:
        """The rig's, of our own settings."""
        return self.git.tools.credentials.address(self.git.rig.rig_id)

    async def run(
        self,
        *arguments: str,
        stdin: bytes | None = None,
        index: str | None = None,
        author: Mapping[str, str] = IDENTITY,
        most: int | None = None,
    ) -> str:
        """As `RigGit.run`. `index` is the name of another index than the usual one. Raises `GitError`."""
        also = {} if index is None else {"GIT_INDEX_FILE": str(self.place / index)}
        return await self.git.run(*arguments, stdin=stdin, identity={**author, **also}, most=most)

    async def says(self, *arguments: str) -> str | None:
        """The first line that git prints; None when it fails."""
        try:
            return (await self.run(*arguments)).strip().partition("\n")[0]
        except GitFailed:
            return None

    async def commit(self, tree: str, parents: tuple[str, ...], job: Job, *, dated: bool = False) -> str:
        """A commit that is the same for the same files, unless it is `dated`: a second stop saves them once."""
        author = dict(job.author)
        if not dated:
            told = await self.says("show", "-s", "--format=%ct", parents[0]) if parents else None
            author |= dict.fromkeys(("GIT_AUTHOR_DATE", "GIT_COMMITTER_DATE"), f"{told or _NO_DATE} +0000")
        parental = [word for parent in parents for word in ("-p", parent)]
        return (await self.run("commit-tree", tree, *parental, "-m", job.message, author=author)).strip()

    async def lacking(self, tips: list[str], known: frozenset[str]) -> set[str]:
        """Those of the commits `tips` that are in none of `known`, which need not be here. Raises `GitFailed`."""
        asked = "".join(f"{one}\n" for one in tips) + "".join(f"^{one}\n" for one in known)
        listed = await self.run("rev-list", "--ignore-missing", "--stdin", stdin=asked.encode())
        return set(tips) & set(listed.split())

    async def kinds(self, objects: list[str]) -> dict[str, str]:
        """What each object is: `commit`, `tag`, `tree`, `blob`; `missing` where it is not there or damaged."""
        asked = "".join(f"{one}\n" for one in objects).encode()
        try:
            listed = await self.run("cat-file", "--batch-check=%(objectname) %(objecttype)", stdin=asked)
        except GitFailed:
            return {one: await self.says("cat-file", "-t", one) or "missing" for one in objects[:100]}
        return {name: kind.strip() for name, _, kind in (line.partition(" ") for line in listed.splitlines())}

    async def borrow_index(self) -> bool:
        """Take a copy of the agent's index as `agent-index`; whether there is one."""
        return await run_as(self.git.user, _copy_index, self.found.git_dir, self.place / "agent-index")

    @asynccontextmanager
    async def asking_the_remote(self) -> AsyncIterator[None]:
        """For the length of the block git asks the rig's remote for objects that neither the clone nor the agent
        has: those of a clone without its files.
        """
        config = self.place / "config"
        before = await run_as(self.git.user, read_small, config) or ""
        also = f'[remote "origin"]\n\turl = {_quoted(self.address)}\n\tpromisor = true\n'
        await run_as(self.git.user, _rewrite, config, before + also)
        try:
            yield
        finally:
            with trio.move_on_after(_CLEANUP_SECONDS, shield=True):
                await run_as(self.git.user, _rewrite, config, before)


@asynccontextmanager
async def open_store(git: RigGit, found: Found) -> AsyncIterator[Store]:
    """The repository for the length of the block. Raises `GitError` when it can be put nowhere."""
    path = await _make_place(git)
    try:
        clone = Path(git.tools.paths.clone(git.rig.rig_id)) / ".git" / "objects"
        settings = await _taken_over(git, found)
        await run_as(git.user, _write, path, found, clone, settings)
        yield Store(git.at(str(path), git.user), path, found)
    except OSError as error:
        raise GitError(f"the work cannot be prepared: {error.strerror or error}") from error
    finally:
        with trio.move_on_after(_CLEANUP_SECONDS, shield=True):
            await trio.to_thread.run_sync(remove_tree, str(path))


async def _make_place(git: RigGit) -> Path:
    """A directory of the user's where there is room: beside the rig's clone, else where temporary files go."""
    folders = (git.tools.paths.rig(git.rig.rig_id), tempfile.gettempdir(), "/dev/shm")  # noqa: S108 - made below
    problem: GitError | None = None
    for folder in sorted(folders, key=lambda folder: _free(folder) < _ROOM):
        path = str(Path(folder) / f".salvage-{secrets.token_hex(8)}")
        try:
            await ensure_owned_dir(path, git.user)
            return Path(path)
        except GitError as error:
            problem = problem or error
    raise problem or GitError("the work cannot be prepared: there is no directory for it")


def _free(folder: str) -> int:
    with suppress(OSError):
        return shutil.disk_usage(folder).free
    return -1


async def _taken_over(git: RigGit, found: Found) -> dict[str, str]:
    """The few settings of the agent's repository that say how its files were written."""
    config = str(found.common / "config")
    if await run_as(git.user, read_small, Path(config)) is None:
        return {}
    try:
        listed = await git.run("config", "--file", config, "--null", "--list", cwd="/")
    except GitFailed:
        return {}
    pairs = {name: value for name, _, value in (line.partition("\n") for line in listed.split("\0"))}
    return {name: pairs[name] for name, fit in _TAKEN_OVER.items() if name in pairs and fit.fullmatch(pairs[name])}


def _write(path: Path, found: Found, clone: Path, settings: Mapping[str, str]) -> None:
    for folder in ("objects/info", "objects/pack", "refs", "info"):
        (path / folder).mkdir(parents=True)
    (path / "HEAD").write_text("ref: refs/heads/salvage\n")
    borrowed = [str(one) for one in (found.objects, clone) if one.is_dir()]
    (path / "objects" / "info" / "alternates").write_text(
        "".join(f"{_as_line(one)}\n" for one in borrowed), errors="surrogateescape"
    )
    wide = any(len(one) > 40 for one in (found.head or "", *found.refs.values()))
    lines = [
        "[core]",
        f"\trepositoryformatversion = {int(wide)}",
        "\tbare = false",
        f"\tworktree = {_quoted(str(found.place))}",
    ]
    lines += [f"\t{name.removeprefix('core.')} = {value}" for name, value in settings.items()]
    lines += ["[extensions]", "\tobjectFormat = sha256"] if wide else []
    (path / "config").write_text("\n".join([*lines, ""]), errors="surrogateescape")
    for name in ("info/exclude", "shallow"):
        source = found.common / name
        if (text := read_small(source)) is not None:
            (path / name).write_text(text, errors="surrogateescape")


def _as_line(path: str) -> str:
    return _quoted(path) if "\n" in path else path


def _quoted(text: str) -> str:
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n") + '"'


def _copy_index(git_dir: Path, target: Path) -> bool:
    index = read_index(git_dir)
    if index is None:
        return False
    target.write_bytes(index)
    return True


def _rewrite(path: Path, text: str) -> None:
    path.write_text(text, encoding="utf-8", errors="surrogateescape")


def keep_objects(store: Path, objects: Path) -> None:
    """Move what was made in the store to the agent's own objects. It blocks."""
    for here, _, names in os.walk(store / "objects"):
        folder = Path(here).relative_to(store / "objects")
        if folder.parts[:1] == ("info",):
            continue
        for name in names:
            target = objects / folder / name
            if not target.exists():
                target.parent.mkdir(exist_ok=True)
                shutil.copy2(Path(here) / name, target)
