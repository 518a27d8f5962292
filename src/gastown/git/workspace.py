"""Directories that agents work in without a repository of their own (contract section 3)."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import trio

from gastown.git.command import run_git
from gastown.git.errors import GitError

__all__ = ["OutsideRoot", "WorkspacePaths", "prepare_workspace", "write_agents_md"]


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


async def prepare_workspace(paths: WorkspacePaths, workdir: str, env: Mapping[str, str]) -> None:
    """Make `workdir` a git repository with one empty commit, unless it is one already."""
    if not paths.contains(workdir):
        raise OutsideRoot
    directory = trio.Path(workdir)
    await directory.mkdir(parents=True, exist_ok=True)
    if await _has_commit(directory):
        return
    identity = ("-c", "user.name=gastown", "-c", "user.email=gastown@gastown.local")
    await run_git("init", "--quiet", "--initial-branch=main", cwd=workdir, env=env)
    await run_git(*identity, "commit", "--quiet", "--allow-empty", "-m", "Empty workspace", cwd=workdir, env=env)


async def _has_commit(directory: trio.Path) -> bool:
    """Asked of the files and not of git: this lies on the mayor's path to readiness."""
    heads = directory / ".git" / "refs" / "heads" / "main"
    return await heads.exists() or await (directory / ".git" / "packed-refs").exists()


async def write_agents_md(workdir: str, text: str) -> None:
    """Write the system prompt where kilo reads it on every turn; never half of it."""
    target = trio.Path(workdir) / "AGENTS.md"
    if await target.exists() and await target.read_text() == text:
        return
    draft = trio.Path(workdir) / ".AGENTS.md.new"
    await draft.write_text(text)
    await draft.replace(target)
