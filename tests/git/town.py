"""A whole town on fakes, but with real git and a real git server."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import trio

from gastown.git.command import run_git
from gastown.testing.kilo import Script
from gastown.testing.launchers import FakeLauncher
from gastown.testing.town import FakeTown, open_fake_town, start_request
from tests.git.server import GitServer

__all__ = ["TIMES", "GitTown", "OpenTown", "open_git_town"]

TIMES = 4
"""How many seconds of the town's clock pass in one real second. The fakes wait on that clock, git does not."""

QUICK = Script(instance_seconds=0.0, open_seconds=0.0, word_seconds=0.0, turn_seconds=0.1)


class GitTown:
    """`town` and short ways to say what has to do with repositories."""

    def __init__(self, town: FakeTown, server: GitServer) -> None:
        self.town = town
        self.server = server
        self.root = Path(town.settings.gastown_workspace_root)

    def request(self, agent_id: str = "pole-1", rig: str = "r", **changes: Any) -> dict[str, Any]:
        """The body of a polecat's start on a repository of the server."""
        usual = {"rigId": rig, "gitUrl": self.server.url(rig), "branch": f"work/{agent_id}"}
        return start_request(agent_id, **usual | changes)

    async def start(self, agent_id: str = "pole-1", rig: str = "r", **changes: Any) -> Any:
        return await self.town.client.post("/agents/start", json=self.request(agent_id, rig, **changes))

    def worktree(self, agent_id: str = "pole-1", rig: str = "r") -> Path:
        return self.root / rig / "worktrees" / f"work__{agent_id}"

    async def git(self, agent_id: str, *arguments: str) -> str:
        """git as the agent's server would run it: in its worktree, with its whole environment. What it says."""
        spec = self.town.kilo.server(agent_id).spec
        done = await trio.run_process(
            ["git", *arguments], cwd=spec.cwd, env=spec.env, capture_stdout=True, capture_stderr=True, check=False
        )
        return (done.stdout + done.stderr).decode()

    async def rig(self, rig_id: str = "r") -> dict[str, Any]:
        """What /health says of a rig."""
        rigs = (await self.town.health()).get("rigs", [])
        return next((rig for rig in rigs if rig["rigId"] == rig_id), {})

    async def until(self, look: Callable[[], Any]) -> Any:
        """The first true answer of `look`, which may be a coroutine: a bounded poll of what really runs."""
        with trio.fail_after(30 * TIMES):
            while True:
                found = look()
                found = await found if hasattr(found, "__await__") else found
                if found:
                    return found
                await trio.sleep(0.02 * TIMES)

    def settled_rig(self, rig_id: str = "r") -> Callable[[], Any]:
        """For `until`: the rig's report, once nothing is being done."""

        async def look() -> dict[str, Any] | None:
            rig = await self.rig(rig_id)
            return rig if rig.get("state") in ("ready", "failed") else None

        return look


@dataclass(frozen=True)
class OpenTown:
    """Opens towns in `folder` whose rigs come from `server`; see `open_git_town`."""

    folder: Path
    server: GitServer

    def __call__(self, **options: Any) -> AbstractAsyncContextManager[GitTown]:
        return open_git_town(self.folder, self.server, **options)


@asynccontextmanager
async def open_git_town(folder: Path, server: GitServer, **options: Any) -> AsyncIterator[GitTown]:
    """A town for the length of the block; a second one in the same folder is its next container."""
    base = {"PATH": os.environ["PATH"]}
    launcher = partial(FakeLauncher, spawn_seconds=0.0, script=QUICK)
    # Work for threads really goes to threads: nothing here runs under a clock that jumps.
    async with open_fake_town(folder, kilo=launcher, git=run_git, base_env=base, **options) as town:
        yield GitTown(town, server)
