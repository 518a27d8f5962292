"""What has been changed in a worktree, as its owner sees it.

git compares what a file would be stored as with what is stored. Where the stored file is not as `.gitattributes`
wants it (`text eol=lf`, and CRLF in the repository), an untouched file counts as changed for ever. So a file that
holds what a checkout would write is none of the changes.
"""

from __future__ import annotations

import secrets
import shutil
import stat
from dataclasses import dataclass
from pathlib import Path

import trio

from gastown.git.rig import RigGit
from gastown.isolation.users import run_as

__all__ = ["Changes", "changes_in"]

_ALL = ("--porcelain", "-z", "--untracked-files=normal", "--ignore-submodules=none")
"""Whatever the repository's own configuration hides."""
_RENAMED = ("R", "C")
_REMOVE_SECONDS = 30.0
"""For the copies that files were compared with, also when the comparison is cut."""


@dataclass(frozen=True)
class Changes:
    """Paths as git has them (`surrogateescape`). `phantom` ones differ by filters only; `real` are all others."""

    real: tuple[str, ...]
    phantom: tuple[str, ...]


async def changes_in(git: RigGit, worktree: str | None = None) -> Changes:
    """What is changed, new, staged or unmerged in a worktree, git's own in its place if none is named. Raises
    `GitError`, `OSError`.
    """
    place = worktree or git.place
    real, doubtful = _entries(await git.query("status", *_ALL, cwd=place))
    if not doubtful:
        return Changes(tuple(real), ())
    same = await _as_checked_out(git, place, doubtful)
    real += [path for path in doubtful if path not in same]
    return Changes(tuple(real), tuple(path for path in doubtful if path in same))


def _entries(status: str) -> tuple[list[str], list[str]]:
    """The paths that are changed for certain, and those whose files only differ from what is staged."""
    real: list[str] = []
    doubtful: list[str] = []
    entries = iter(status.split("\0"))
    for entry in entries:
        if not entry:
            continue
        (doubtful if entry.startswith(" M ") else real).append(entry[3:])
        if entry[0] in _RENAMED or entry[1] in _RENAMED:
            next(entries, None)  # the name that it had before
    return real, doubtful


async def _as_checked_out(git: RigGit, place: str, paths: list[str]) -> set[str]:
    """Those of `paths` whose files are what a checkout writes: one is made of them beside, and compared."""
    room = Path(place) / ".git" / f"gastown-compare-{secrets.token_hex(4)}"
    wanted = "".join(f"{path}\0" for path in paths).encode(errors="surrogateescape")
    try:
        await git.query("checkout-index", "-z", "--stdin", f"--prefix={room}/", cwd=place, stdin=wanted)
        return await run_as(git.user, _same, Path(place), room, paths)
    finally:
        with trio.move_on_after(_REMOVE_SECONDS, shield=True):
            await run_as(git.user, _remove, room)


def _same(place: Path, room: Path, paths: list[str]) -> set[str]:
    return {path for path in paths if _content(place / path) == _content(room / path) is not None}


def _content(path: Path) -> tuple[int, bytes] | None:
    """Type, right to run and bytes of a file or link; None for anything else."""
    try:
        mode = path.lstat().st_mode
        if stat.S_ISLNK(mode):
            return stat.S_IFLNK, str(path.readlink()).encode(errors="surrogateescape")
        if not stat.S_ISREG(mode):
            return None
        return stat.S_IFREG | mode & stat.S_IXUSR, path.read_bytes()
    except OSError:
        return None


def _remove(room: Path) -> None:
    shutil.rmtree(room, ignore_errors=True)
