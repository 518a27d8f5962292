"""Reading an agent's repository without git: no setting, hook or damage of it has a say in that.

All of it blocks; for a thread with the rights of the directory's owner.
"""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from gastown.isolation.ownership import read_small

__all__ = ["Found", "Linked", "read_index", "read_modules", "read_refs", "read_repository", "repository_of"]

_OBJECT = re.compile(r"[0-9a-f]{40}(?:[0-9a-f]{24})?\Z")
_DOING = (
    "MERGE_HEAD",
    "CHERRY_PICK_HEAD",
    "REVERT_HEAD",
    "MERGE_AUTOSTASH",
    "rebase-merge/autostash",
    "rebase-apply/autostash",
    "rebase-merge/orig-head",
    "rebase-apply/orig-head",
    "rebase-merge/stopped-sha",
)
_DAMAGED = "it is damaged; the last commit that its log names is taken for it, where there is one"
_STASHES = 1000
_REFS = 20_000
_MODULES = 200
_LINKS = 5
_LOGGED = 1000
_INDEX_BYTES = 256 * 1024 * 1024


@dataclass
class Found:
    """What a repository and the worktree `place` hold. `branch` is the full reference that HEAD is on, `head` the
    commit that it is; either may be None. `doing` are the commits of a merge or a rebase in progress.
    `stashes` are the newest first. `problems` are what could not be read, and why.
    `logged` are the commits that HEAD was before, the newest first.
    """

    place: Path
    git_dir: Path
    common: Path
    head: str | None = None
    branch: str | None = None
    refs: dict[str, str] = field(default_factory=dict)
    doing: dict[str, str] = field(default_factory=dict)
    merging: tuple[str, ...] = ()
    stashes: tuple[str, ...] = ()
    linked: list[Linked] = field(default_factory=list)
    problems: list[tuple[str, str]] = field(default_factory=list)
    logged: tuple[str, ...] = ()

    @property
    def objects(self) -> Path:
        return self.common / "objects"


@dataclass(frozen=True)
class Linked:
    """Another worktree of the same repository (`git worktree add`)."""

    name: str
    found: Found


def read_repository(place: Path) -> Found | None:
    """What the repository of the directory `place` holds; None when there is none."""
    git_dir = repository_of(place)
    if git_dir is None:
        return None
    found = _read_worktree(place, git_dir)
    found.refs = read_refs(found.common, found.problems)
    if git_dir != found.common:
        found.refs |= {f"worktree/{name}": one for name, one in read_refs(git_dir, found.problems).items()}
    _resolve_head(found, found.refs)
    found.stashes = _stashes(found.common, found.refs, found.problems)
    found.logged = _logged(git_dir / "logs" / "HEAD")
    for folder in _entries(found.common / "worktrees"):
        if folder.resolve() == git_dir.resolve():
            continue
        where = (read_small(folder / "gitdir") or "").strip()
        other = _read_worktree(Path(where).parent, folder)
        _resolve_head(other, found.refs)
        found.linked.append(Linked(folder.name, other))
    return found


def read_modules(common: Path) -> list[tuple[str, Found]]:
    """The repositories of submodules that are kept in a repository, by name; their worktrees may be gone. Their
    `place` is none of these.
    """
    modules: list[tuple[str, Found]] = []
    places = [common / "modules"]
    while places and len(modules) < _MODULES:
        for folder in _entries(places.pop()):
            if not (folder / "objects").is_dir():
                places.append(folder)
                continue
            found = _read_worktree(folder, folder)
            found.refs = read_refs(folder, found.problems)
            _resolve_head(found, found.refs)
            found.stashes = _stashes(folder, found.refs, found.problems)
            modules.append((str(folder.relative_to(common)), found))
            places.append(folder / "modules")
    return modules


def _read_worktree(place: Path, git_dir: Path) -> Found:
    said = (read_small(git_dir / "commondir") or "").strip()
    common = Path(os.path.normpath(git_dir / said)) if said else git_dir
    found = Found(place, git_dir, common)
    head = (read_small(git_dir / "HEAD") or "").strip()
    if head.startswith("ref: "):
        found.branch = head.removeprefix("ref: ").strip()
    elif _OBJECT.match(head):
        found.head = head
    else:
        found.head = _last_logged(git_dir / "logs" / "HEAD")
        found.problems.append((f"{git_dir.name}/HEAD", _DAMAGED))
    for name in _DOING:
        lines = (read_small(git_dir / name) or "").split()
        for number, line in enumerate(line for line in lines if _OBJECT.match(line)):
            found.doing[f"{name}-{number}" if number else name] = line
        if name == "MERGE_HEAD":
            found.merging = tuple(line for line in lines if _OBJECT.match(line))
    return found


def repository_of(place: Path) -> Path | None:
    """The repository's own directory, of which `.git` in `place` may be a link or a file that names it."""
    candidate = place / ".git"
    for _ in range(_LINKS):
        if candidate.is_dir():
            return candidate if (candidate / "HEAD").exists() or (candidate / "objects").is_dir() else None
        said = (read_small(candidate) or "").strip()
        if not said.startswith("gitdir: "):
            return None
        candidate = Path(os.path.normpath(place / said.removeprefix("gitdir: ")))
    return None


def _resolve_head(found: Found, refs: dict[str, str]) -> None:
    name = found.branch
    for _ in range(_LINKS):
        if name is None or name in refs:
            break
        said = (read_small(found.common / name) or "").strip()
        name = said.removeprefix("ref: ") if said.startswith("ref: ") else None
    if name is not None and name in refs:
        found.head = refs[name]


def read_refs(common: Path, problems: list[tuple[str, str]] | None = None) -> dict[str, str]:
    """The references of a repository and the objects that they are; those that follow another one are left out."""
    refs: dict[str, str] = {}
    problems = [] if problems is None else problems
    packed = read_small(common / "packed-refs")
    if packed is None and os.path.lexists(common / "packed-refs"):
        problems.append(("packed-refs", "it is no plain file of at most 4 MiB, and what it names was not saved"))
    for line in (packed or "").splitlines():
        commit, _, name = line.partition(" ")
        if _OBJECT.match(commit) and name.startswith("refs/"):
            refs[name] = commit
    for path in _files(common / "refs", problems):
        name, said = f"refs/{path.relative_to(common / 'refs')}", (read_small(path) or "").strip()
        if _OBJECT.match(said):
            refs[name] = said
        elif not said.startswith("ref: ") and not name.endswith(".lock"):
            problems.append((name, _DAMAGED))
            if (last := _last_logged(common / "logs" / name)) is not None:
                refs[name] = last
    return refs


def _logged(log: Path) -> tuple[str, ...]:
    words = [line.split(" ", 2) for line in reversed((read_small(log) or "").splitlines())]
    return tuple(dict.fromkeys(one[1] for one in words if len(one) == 3 and _OBJECT.match(one[1])))[:_LOGGED]


def _last_logged(log: Path) -> str | None:
    lines = (read_small(log) or "").splitlines()
    words = lines[-1].split(" ", 2) if lines else []
    return words[1] if len(words) == 3 and _OBJECT.match(words[1]) else None


def _stashes(common: Path, refs: dict[str, str], problems: list[tuple[str, str]]) -> tuple[str, ...]:
    """Each line of the stash's log is one stash, the newest last; the reference itself is the newest."""
    lines = (read_small(common / "logs" / "refs" / "stash") or "").splitlines()
    newest = [parts[1] for line in reversed(lines) if len(parts := line.split(" ", 2)) == 3]
    known = [one for one in newest if _OBJECT.match(one)]
    top = refs.get("refs/stash")
    if top is not None and top not in known:
        known.insert(0, top)
    stashes = tuple(dict.fromkeys(known))
    if len(stashes) > _STASHES:
        problems.append(("refs/stash", f"of {len(stashes)} stashes only the newest {_STASHES} were looked at"))
    return stashes[:_STASHES]


def _files(folder: Path, problems: list[tuple[str, str]]) -> Iterator[Path]:
    seen = 0
    for here, _, names in os.walk(folder):
        for name in names:
            seen += 1
            if seen > _REFS:
                problems.append(("refs", f"of its references only {_REFS} were looked at"))
                return
            yield Path(here) / name


def _entries(folder: Path) -> list[Path]:
    try:
        return sorted(path for path in folder.iterdir() if path.is_dir())
    except OSError:
        return []


def read_index(git_dir: Path) -> bytes | None:
    """The index of a worktree as it is; None when there is none that can be read."""
    try:
        file = os.open(git_dir / "index", os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return None
    with os.fdopen(file, "rb") as index:
        found = os.fstat(index.fileno())
        if not stat.S_ISREG(found.st_mode) or found.st_size > _INDEX_BYTES:
            return None
        return index.read()
