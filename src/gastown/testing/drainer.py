"""A town that drains, and short ways to say what is left of it."""

from __future__ import annotations

import sqlite3
from collections import defaultdict
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import trio

from gastown.agents.drain.town import run_drain
from gastown.assembly import drain_parts
from gastown.git.rig import RigGit
from gastown.git.salvage.receipt import Job, Receipt
from gastown.testing.town import FakeTown
from gastown.testing.worktree import FakeWorktree
from gastown.worker.snapshots.database import database_path

__all__ = ["Drainer", "converse", "home_database", "kept"]


class Drainer:
    """A town that drains as `serve` does once it is told. `took` is how long it took, None while it goes on."""

    def __init__(self, town: FakeTown) -> None:
        self.town = town
        self.drain = town.opened.town.drain
        self.worktrees: defaultdict[str, FakeWorktree] = defaultdict(FakeWorktree)
        self.took: float | None = None
        self.over = trio.Event()
        town.nursery.start_soon(self._run)

    async def _run(self) -> None:
        await self.drain.shutdown.requested.wait()
        began = trio.current_time()
        parts = drain_parts(self.town.opened)
        services = replace(parts.agent_drain.services, salvage=self._salvage)
        await run_drain(self.drain, replace(parts, agent_drain=replace(parts.agent_drain, services=services)))
        self.took = trio.current_time() - began
        self.over.set()

    async def _salvage(self, git: RigGit, job: Job, receipt: Receipt) -> None:
        await self.worktrees[job.agent_id].salvage(git, job, receipt)

    async def post(self, **body: Any) -> dict[str, Any]:
        """Ask for a drain; what is answered."""
        answer = await self.town.client.post("/drain", json=body)
        assert answer.status_code == 202
        state: dict[str, Any] = answer.json()
        return state

    async def left(self) -> dict[str, dict[str, Any]]:
        """Wait for the end; the receipts by agent."""
        await self.over.wait()
        return await self.receipts()

    async def receipts(self) -> dict[str, dict[str, Any]]:
        """The receipts by agent, as they are now."""
        return {receipt["agentId"]: receipt for receipt in (await self.state())["agents"]}

    async def state(self) -> dict[str, Any]:
        """What GET /drain says."""
        body: dict[str, Any] = (await self.town.client.get("/drain")).json()
        return body


def home_database(town: FakeTown, agent_id: str) -> Path:
    """Where the agent's kilo keeps its conversation."""
    return database_path(f"{town.settings.gastown_agent_home_root}/agent-home-{agent_id}")


def converse(town: FakeTown, agent_id: str) -> None:
    """Let the agent's home have a database."""
    path = home_database(town, agent_id)
    path.parent.mkdir(parents=True, exist_ok=True)
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("CREATE TABLE message (word TEXT)")


def kept(town: FakeTown) -> list[str]:
    """The agents of the last registry that was written."""
    return sorted(entry["agentId"] for entry in town.worker.registries[-1])
