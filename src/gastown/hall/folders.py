"""Folders of this machine as repositories of a town. Finding one blocks while git answers a few questions."""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from subprocess import DEVNULL, CompletedProcess, TimeoutExpired, run

from gastown.contract.git import is_branch_name

__all__ = ["Folder", "NoFolder", "find_folder", "git_environment"]

_SECONDS = 20
_QUIET = {
    "GIT_TERMINAL_PROMPT": "0",
    "GIT_CONFIG_NOSYSTEM": "1",
    "GIT_CONFIG_GLOBAL": "/dev/null",
    "GIT_ATTR_NOSYSTEM": "1",
    "GIT_LFS_SKIP_SMUDGE": "1",
    "GIT_NO_LAZY_FETCH": "1",
    "HOME": "/nonexistent",
    "LC_ALL": "C.UTF-8",
    "LANGUAGE": "C",
}
_SETTINGS = (
    ("core.hooksPath", "/dev/null"),  # hooks are for what the folder's owner does there, and not for what we do
    ("core.fsmonitor", "false"),
    ("core.alternateRefsCommand", "true"),
    ("gc.auto", "0"),
    ("maintenance.auto", "false"),
    ("submodule.recurse", "false"),
)


class NoFolder(ValueError):
    """A folder that cannot be a rig. The text follows its name in a sentence, and says what to do."""


@dataclass(frozen=True)
class Folder:
    """A repository on this machine: the top level of a work tree, or a bare one. `branch` is what its HEAD names,
    or the one that was asked for.
    """

    place: str
    branch: str

    @property
    def name(self) -> str:
        """The last part of its path."""
        return Path(self.place).name.removesuffix(".git")


def git_environment(settings: Iterable[tuple[str, str]] = ()) -> dict[str, str]:
    """All variables of a git of ours in somebody's repository. It reads the repository's own configuration and no
    other; `settings` and ours win over it.
    """
    variables = {"PATH": os.pathsep.join(os.get_exec_path()), **_QUIET}
    number = 0
    for name, value in (*_SETTINGS, *settings):
        variables |= {f"GIT_CONFIG_KEY_{number}": name, f"GIT_CONFIG_VALUE_{number}": value}
        number += 1
    return {**variables, "GIT_CONFIG_COUNT": str(number)}


def find_folder(given: str, branch: str | None = None) -> Folder:
    """The repository that `given`, a path with or without ~, lies in. Raises `NoFolder`."""
    try:
        place = Path(given).expanduser().resolve(strict=True)
    except (OSError, RuntimeError):  # the latter: there is no home, or links lead round in a circle
        raise NoFolder("is no folder of this machine") from None
    if not place.is_dir():
        raise NoFolder("is a file: give the folder of a git repository")
    top = _top_of(str(place))
    try:
        top.encode()
    except UnicodeEncodeError:
        raise NoFolder("has a path that is no text in UTF-8") from None
    return Folder(top, _branch_of(top, branch))


def _top_of(place: str) -> str:
    asked = _git(place, "rev-parse", "--is-inside-work-tree", "--is-bare-repository", "--absolute-git-dir")
    if asked.returncode:
        if "dubious ownership" in asked.stderr:
            raise NoFolder("belongs to another user, and git works in a repository for its owner only")
        raise NoFolder("is not a git repository: git init makes it one")
    in_tree, is_bare, git_folder = asked.stdout.split("\n")[:3]
    if in_tree == "true":
        return _git(place, "rev-parse", "--show-toplevel").stdout.removesuffix("\n")
    if is_bare == "true":
        return git_folder
    raise NoFolder("is git's own folder inside a repository: give the one above it")


def _branch_of(top: str, wanted: str | None) -> str:
    head = _git(top, "symbolic-ref", "--quiet", "HEAD").stdout.removesuffix("\n")
    branch = wanted or head.removeprefix("refs/heads/")
    if not branch:
        raise NoFolder(
            "has no branch checked out (HEAD is detached): check one out, or name one as in PLACE#BRANCH"
        )
    if not is_branch_name(branch):
        raise NoFolder("has a branch checked out that is not a name that git takes for one everywhere")
    name = f"refs/heads/{branch}"
    if name != head and _git(top, "show-ref", "--verify", "--quiet", name).returncode:
        raise NoFolder(f"has no branch {branch}")
    return branch


def _git(place: str, *arguments: str) -> CompletedProcess[str]:
    try:
        return run(
            ("git", *arguments),
            cwd=place,
            env=git_environment(),
            stdin=DEVNULL,
            capture_output=True,
            text=True,
            errors="surrogateescape",
            timeout=_SECONDS,
            check=False,
        )
    except FileNotFoundError:
        raise NoFolder("needs git, which is not installed") from None
    except (OSError, TimeoutExpired):
        raise NoFolder("cannot be read by git") from None
