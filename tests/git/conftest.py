"""Rigs on a real git server: what tests of git ask for."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import trio
import trio.testing

from gastown.contract.git import Remote
from gastown.contract.secret import Secret
from gastown.contract.town import GitAuth
from gastown.git.command import GitRunner, run_git
from gastown.git.credentials import GitCredentials
from gastown.git.helper_service import open_helper_service
from gastown.git.repos import Repositories, open_repositories
from gastown.git.rig import GitLimits, Rig, Tools
from gastown.git.workspace import WorkspacePaths
from tests.git.desk import Desk, open_desk
from tests.git.server import GitServer, open_git_server
from tests.git.town import TIMES, OpenTown

LONGEST_SECONDS = 60
"""What no test needs: a hang becomes a failure."""


@dataclass
class Source:
    """What the worker and the platform would say. `renewals` are the rigs that asked, oldest first."""

    fresh: list[str] = field(default_factory=list)
    integrations: dict[str, GitAuth] = field(default_factory=dict)
    renewals: list[str] = field(default_factory=list)
    asked: list[str] = field(default_factory=list)

    async def renewed(self, rig_id: str) -> Secret | None:
        self.renewals.append(rig_id)
        return Secret(self.fresh.pop(0)) if self.fresh else None

    async def integration(self, integration_id: str) -> GitAuth | None:
        self.asked.append(integration_id)
        return self.integrations.get(integration_id)


@dataclass
class Life:
    """One container's life with its repositories."""

    repositories: Repositories
    credentials: GitCredentials
    tools: Tools


class Place:
    """A workspace root, a git server, and one container after the other on them."""

    def __init__(self, folder: Path, server: GitServer) -> None:
        self.folder = folder
        self.server = server
        self.source = Source()
        self.town = GitAuth()
        self.limits = GitLimits(clone=60, operation=60)
        self.run: GitRunner = run_git
        self.paths = WorkspacePaths(str(folder / "rigs"))

    def rig(self, name: str, default_branch: str = "main") -> Rig:
        return Rig(name, Remote.parse(self.server.url(name)), default_branch)

    def worktree(self, rig: str, branch: str) -> Path:
        return Path(self.paths.worktree(rig, branch))

    def clone(self, rig: str = "r") -> Path:
        return Path(self.paths.clone(rig))

    def room(self, rig: str = "r") -> Path:
        """The rig's directory, in which its clone and its worktrees are."""
        return Path(self.paths.rig(rig))

    def names(self, rig: str = "r") -> set[str]:
        """What is in the rig's directory."""
        return {entry.name for entry in self.room(rig).iterdir()}

    @asynccontextmanager
    async def life(self, **tokens: str) -> AsyncIterator[Life]:
        """A container. `tokens` are what requests gave for rigs."""
        credentials = GitCredentials(lambda: self.town, self.source)
        async with open_helper_service(credentials) as access:
            env = {"PATH": os.environ["PATH"]}
            tools = Tools(self.run, env, self.paths, credentials, access, self.limits)
            async with open_repositories(tools) as repositories:
                with trio.fail_after(LONGEST_SECONDS):  # noqa: ASYNC100 - the test is inside
                    yield Life(repositories, credentials, tools)

    async def git(self, cwd: Path, *arguments: str, life: Life | None = None, check: bool = True) -> str:
        """git as an agent runs it in its worktree."""
        env = {"PATH": os.environ["PATH"], "HOME": str(self.folder)}
        env |= {f"GIT_{who}_{what}": "agent@test" for who in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")}
        if life is not None:
            env |= life.tools.access.agent_variables(cwd.parent.parent.name, "agent-1")
        done = await trio.run_process(
            ["git", *arguments], cwd=cwd, env=env, capture_stdout=True, capture_stderr=True, check=False
        )
        if check:
            assert done.returncode == 0, done.stderr.decode()
        return (done.stdout if check else done.stdout + done.stderr).decode()


@pytest.fixture
async def place(tmp_path: Path) -> AsyncIterator[Place]:
    async with open_git_server(tmp_path / "served") as server:
        yield Place(tmp_path, server)


@pytest.fixture
async def desk(place: Place) -> AsyncIterator[Desk]:
    """An agent's worktree, to be saved."""
    async with open_desk(place) as desk:
        yield desk


@pytest.fixture
def quick_clock() -> trio.testing.MockClock:
    """A clock that runs four times as fast as real time, for tests with fakes that wait and a git that works."""
    return trio.testing.MockClock(rate=TIMES)


@pytest.fixture
async def git_town(tmp_path: Path, quick_clock: trio.testing.MockClock) -> AsyncIterator[OpenTown]:
    """`async with git_town(...) as town`: see `open_git_town`. Needs `quick_clock` among the test's arguments."""
    async with open_git_server(tmp_path / "served") as server:
        yield OpenTown(tmp_path, server)
