"""What a worktree's repository is made of: the clone's objects, what the remote has, a configuration of ours."""

from __future__ import annotations

import secrets
import stat
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from gastown.git.repos import BRANCHES, Clone
from gastown.git.rig import RigGit
from gastown.isolation.ownership import read_small, write_whole
from gastown.isolation.users import run_as

__all__ = ["Source", "init_worktree", "made_for_branch", "sanitize_git_dir", "source_of"]

_OWNER = "gastown-branch"
"""In a worktree's `.git`: for which branch we made it. Empty for one to look at."""
_CODE = ("config", "config.worktree", "commondir", "hooks", "info/attributes")
"""What makes git run something, or look for such a thing elsewhere."""
_CORE = """\
[core]
	filemode = true
	bare = false
	logallrefupdates = true
"""
_REMOTE = """\
[core]
	repositoryformatversion = 1
[extensions]
	partialClone = origin
[remote "origin"]
	url = "{url}"
{fetch}
	promisor = true
	partialclonefilter = blob:none
"""
_WIDE = """\
[extensions]
	objectFormat = sha256
"""


@dataclass(frozen=True)
class Source:
    """What a worktree is made from: a commit whose files the clone has, the remote's references, its address."""

    commit: str
    listed: str
    address: str


async def source_of(clone: Clone, commit: str) -> Source:
    """`commit` to make a worktree from, with all its files here."""
    await clone.bring_files(commit)
    what = "--format=%(objectname) %(refname) %(symref)"
    listed = await clone.run("for-each-ref", what, "refs/remotes/origin", "refs/tags")
    return Source(commit, listed, clone.tools.credentials.address(clone.rig.rig_id))


async def init_worktree(git: RigGit, branch: str | None, source: Source) -> None:
    """A repository with the clone's objects, its remote and what that has; on `branch`, or on none."""
    wide = ("--object-format=sha256",) if len(source.commit) > 40 else ()
    await git.run("init", "--quiet", "--template=", f"--initial-branch={branch or 'main'}", *wide)
    objects = Path(git.tools.paths.clone(git.rig.rig_id)) / ".git" / "objects"
    await run_as(git.user, _write, Path(git.place) / ".git", objects, source, branch)
    if branch is None:
        await git.run("update-ref", "--no-deref", "HEAD", source.commit)
    else:
        await git.run("update-ref", f"refs/heads/{branch}", source.commit)


def _write(git: Path, objects: Path, source: Source, branch: str | None) -> None:
    refs = [line.split(" ") for line in source.listed.splitlines()]
    packed = "".join(f"{commit} {name}\n" for commit, name, target in refs if not target)
    (git / "packed-refs").write_text("# pack-refs with:\n" + packed, "utf-8", "surrogateescape")
    for _, name, target in refs:
        if target:
            (git / name).parent.mkdir(parents=True, exist_ok=True)
            (git / name).write_text(f"ref: {target}\n", "utf-8", "surrogateescape")
    (git / "objects" / "info").mkdir(exist_ok=True)
    (git / "objects" / "info" / "alternates").write_text(f"{objects}\n", "utf-8", "surrogateescape")
    with (git / "config").open("a", encoding="utf-8", errors="surrogateescape") as config:
        config.write(_config(source.address))
    (git / _OWNER).write_text(branch or "", "utf-8")


def _config(address: str) -> str:
    fetch = "\n".join(f"\tfetch = {refspec}" for refspec in BRANCHES)
    return _REMOTE.format(url=address.replace("\\", "\\\\").replace('"', '\\"'), fetch=fetch)


def made_for_branch(place: Path) -> str | None:
    """The branch for which we made the worktree at `place`; None when we made none."""
    return read_small(place / ".git" / _OWNER)


def sanitize_git_dir(place: Path, address: str) -> None:
    """Rewrite the configuration of a repository that another agent has left, and put aside what would make its
    next owner's git run something. For that owner to call; it blocks.

    A `.git` that leads elsewhere is put aside itself.
    """
    git, token = place / ".git", secrets.token_hex(4)
    if not _is_directory(git):
        with suppress(FileNotFoundError):
            git.rename(place / f".git-aside-{token}")
        return
    wide = "sha256" in (read_small(git / "config") or "")
    for folder in (git, git / "info", git / "hooks"):
        if _is_directory(folder):
            folder.chmod(0o700)
    aside = git / f"gastown-aside-{token}"
    aside.mkdir()
    for name in _CODE:
        with suppress(FileNotFoundError, NotADirectoryError):
            (git / name).rename(aside / Path(name).name)
    write_whole(git / "config", _CORE + _config(address) + (_WIDE if wide else ""))


def _is_directory(path: Path) -> bool:
    """Whether it is one itself, and no link to one."""
    try:
        return stat.S_ISDIR(path.lstat().st_mode)
    except FileNotFoundError:
        return False
