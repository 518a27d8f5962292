"""Which agents have files on this disk: a small record each, which outlives the container."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from datetime import datetime
from pathlib import Path

import structlog
import trio

from gastown.contract.git import BranchName
from gastown.contract.identifiers import AgentId, RigId
from gastown.contract.wire import Timestamp, Wire
from gastown.isolation.ownership import read_small, write_whole

__all__ = ["KeptFiles", "KeptRecords"]

log = structlog.get_logger()


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
    """The records of a town, by agent. `folder` is made when the first one is written; `now` is the wall clock."""

    def __init__(self, folder: Path, now: Callable[[], datetime]) -> None:
        self._folder = folder
        self._now = now
        self._records: dict[str, KeptFiles] = {}
        self._writing = trio.Lock()

    async def load(self) -> None:
        """Read what earlier containers on this disk have noted down."""
        for record in await trio.to_thread.run_sync(lambda: list(self._read())):
            self._records.setdefault(record.agent_id, record)

    async def note(self, record: KeptFiles) -> None:
        """An agent begins to work: it has files, and is not final (any more)."""
        if self._records.get(record.agent_id) != record:
            await self._keep(record)

    async def finish(self, agent_id: str, only_here: str | None) -> bool:
        """The orchestrator has called an agent final; returns whether anything is known of it."""
        record = self._records.get(agent_id)
        if record is None:
            return False
        if record.final_at is None:
            await self._keep(record.model_copy(update={"final_at": self._now(), "only_here": only_here}))
        return True

    async def forget(self, record: KeptFiles) -> None:
        """Nothing of an agent is left."""
        if self._records.get(record.agent_id) is record:
            del self._records[record.agent_id]
            await trio.to_thread.run_sync(_remove, self._folder / _name(record.agent_id))

    @property
    def final(self) -> list[KeptFiles]:
        """Those of agents that are final, the newest first."""
        found = [(record.final_at, record) for record in self._records.values() if record.final_at is not None]
        return [record for _, record in sorted(found, key=lambda pair: pair[0], reverse=True)]

    def is_wanted(self, workdir: str) -> bool:
        """Whether an agent that is not final has worked in that directory."""
        return any(one.workdir == workdir and one.final_at is None for one in self._records.values())

    async def _keep(self, record: KeptFiles) -> None:
        self._records[record.agent_id] = record
        async with self._writing:
            if self._records.get(record.agent_id) is not record:
                return  # a newer one has come meanwhile
            try:
                await trio.to_thread.run_sync(_write, self._folder, record)
            except (OSError, ValueError) as error:
                log.warning("retention.not_recorded", agent_id=record.agent_id, reason=str(error))

    def _read(self) -> Iterator[KeptFiles]:
        for file in sorted(self._folder.glob("*.json")):
            try:
                record = KeptFiles.model_validate(json.loads(read_small(file) or ""))
            except (ValueError, RecursionError) as error:
                log.warning("retention.record_unusable", file=file.name, reason=type(error).__name__)
                continue
            if file.name == _name(record.agent_id):
                yield record


def _name(agent_id: str) -> str:
    return f"{agent_id}.json"


def _write(folder: Path, record: KeptFiles) -> None:
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    text = record.model_dump_json(by_alias=True, exclude_none=True)
    write_whole(folder / _name(record.agent_id), text, 0o600)


def _remove(file: Path) -> None:
    try:
        file.unlink(missing_ok=True)
    except OSError as error:
        log.warning("retention.not_recorded", agent_id=file.stem, reason=error.strerror)
