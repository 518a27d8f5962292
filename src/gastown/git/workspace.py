"""Where all that belongs to a town lies below its workspace root, and directories given to users at work there."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path

import trio

from gastown.git.command import GitRunner, run_git
from gastown.git.errors import GitError
from gastown.isolation.ownership import NotOurs, give_directory, read_small, write_whole
from gastown.isolation.users import User, run_as

__all__ = ["OutsideRoot", "WorkspacePaths", "ensure_owned_dir", "prepare_workspace", "write_agents_md"]


async def ensure_owned_dir(
    path: str, user: User | None, mode: int = 0o700, settle: Callable[[], None] | None = None
) -> None:
    """Make a directory that is `user`'s, or make one that is there the user's. Raises `GitError` if it cannot.

    `settle`: see `give_directory`.
    """
    try:
        await trio.to_thread.run_sync(partial(give_directory, path, user, mode, settle))
    except (OSError, NotOurs) as error:
        raise GitError(f"The directory cannot be made: {error}") from error


class OutsideRoot(GitError):
    """A path that leads out of the workspace root, by `..` or by a symbolic link."""

    def __init__(self) -> None:
        super().__init__("the working directory lies outside the workspace root")


class WorkspacePaths:
    """Where each agent works below `root`."""

    def __init__(self, root: str) -> None:
        self.root = Path(root)

    def mayor(self, town_id: str) -> str:
        return str(self.root / f"mayor-{town_id}" / "mayor-workspace")

    def triage(self, rig_id: str) -> str:
        return str(self.root / rig_id / "triage-workspace")

    def worktree(self, rig_id: str, branch: str) -> str:
        return str(self.root / rig_id / "worktrees" / branch.replace("/", "__"))

    def rig(self, rig_id: str) -> str:
        return str(self.root / rig_id)

    def clone(self, rig_id: str) -> str:
        return str(self.root / rig_id / "repo")

    def browse(self, rig_id: str) -> str:
        return str(self.root / rig_id / "browse")

    def contains(self, path: str) -> bool:
        """Whether the real path of `path`, which need not exist, stays below the root."""
        real = Path(path).resolve()
        return path.startswith("/") and real.is_relative_to(self.root.resolve()) and real != self.root.resolve()


async def prepare_workspace(
    paths: WorkspacePaths,
    workdir: str,
    env: Mapping[str, str],
    user: User | None = None,
    mode: int = 0o700,
    *,
    run: GitRunner = run_git,
) -> None:
    """Make `workdir` a git repository of `user`'s with one empty commit, unless it is one already."""
    if not paths.contains(workdir):
        raise OutsideRoot
    await ensure_owned_dir(workdir, user, mode)
    if await run_as(user, _has_commit, Path(workdir)):
        return
    name = ("-c", "user.name=gastown", "-c", "user.email=gastown@gastown.local")
    commit = ("commit", "--quiet", "--allow-empty", "-m", "Empty workspace")
    await run("init", "--quiet", "--initial-branch=main", cwd=workdir, env=env, user=user)
    await run(*name, *commit, cwd=workdir, env=env, user=user)


def _has_commit(directory: Path) -> bool:
    """Asked of the files and not of git: this lies on the mayor's path to readiness."""
    heads = directory / ".git" / "refs" / "heads" / "main"
    return heads.exists() or (directory / ".git" / "packed-refs").exists()


async def write_agents_md(workdir: str, text: str, user: User | None = None) -> None:
    """Write the system prompt, as `user`, where kilo reads it on every turn; never half of it.

    Raises `GitError`.
    """
    try:
        await run_as(user, _write_agents_md, Path(workdir) / "AGENTS.md", text)
    except OSError as error:
        raise GitError(f"AGENTS.md cannot be written: {error.strerror or type(error).__name__}") from error


def _write_agents_md(target: Path, text: str) -> None:
    if read_small(target) != text:
        write_whole(target, text)
