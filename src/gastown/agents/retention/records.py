"""Which agents have files on this disk: a small record each, which outlives the container."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from pathlib import Path

from gastown.agents.records import Records
from gastown.contract.git import BranchName
from gastown.contract.identifiers import AgentId, RigId
from gastown.contract.wire import Timestamp, Wire

__all__ = ["KeptFiles", "KeptRecords"]


class KeptFiles(Wire):
    """An agent's worktree and home. `git_url` is without credentials.

    `final_at` is when the orchestrator said that the agent is final; None: it has not. `only_here` is what is
    known to be in the home and nowhere else, in words.
    """

    agent_id: AgentId
    rig_id: RigId
    branch: BranchName
    git_url: str
    default_branch: str
    workdir: str
    home: str
    final_at: Timestamp | None = None
    only_here: str | None = None


class KeptRecords:
    """The records of a town, by agent. `now` is the wall clock."""

    def __init__(self, folder: Path, now: Callable[[], datetime]) -> None:
        self._records = Records(folder, KeptFiles, lambda record: record.agent_id)
        self._now = now

    async def load(self) -> None:
        """Read what earlier containers on this disk have noted down."""
        await self._records.load()

    async def note(self, record: KeptFiles) -> None:
        """An agent begins to work: it has files, and is not final (any more)."""
        if self._records.get(record.agent_id) != record:
            await self._records.keep(record)

    async def finish(self, agent_id: str, only_here: str | None) -> bool:
        """The orchestrator has called an agent final; returns whether anything is known of it."""
        record = self._records.get(agent_id)
        if record is None:
            return False
        if record.final_at is None:
            await self._records.keep(record.model_copy(update={"final_at": self._now(), "only_here": only_here}))
        return True

    async def forget(self, record: KeptFiles) -> None:
        """Nothing of an agent is left."""
        await self._records.forget(record)

    @property
    def final(self) -> list[KeptFiles]:
        """Those of agents that are final, the newest first."""
        found = [(record.final_at, record) for record in self._records if record.final_at is not None]
        return [record for _, record in sorted(found, key=lambda pair: pair[0], reverse=True)]

    def is_wanted(self, workdir: str) -> bool:
        """Whether an agent that is not final has worked in that directory."""
        return any(one.workdir == workdir and one.final_at is None for one in self._records)
