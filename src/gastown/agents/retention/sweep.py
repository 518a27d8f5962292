"""Removing the files of ended agents: of those that are final and whose work is elsewhere, beyond a bound."""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path

import structlog
import trio

from gastown.agents.launch.environment import home_of
from gastown.agents.retention.disk import bytes_of
from gastown.agents.retention.records import KeptFiles
from gastown.agents.roster import Roster
from gastown.agents.services import AgentServices
from gastown.concurrency.signal import Signal
from gastown.contract.agents import SnapshotState
from gastown.contract.git import Remote
from gastown.git.errors import GitError
from gastown.git.rig import Rig
from gastown.git.state.elsewhere import only_here
from gastown.isolation.ownership import remove_tree

__all__ = ["KeepLimits", "Retention"]

log = structlog.get_logger()

_AGAIN_SECONDS = 3600.0
"""What could not be removed, or was not old enough, is looked at again."""
_GONE = ".gone-"


@dataclass(frozen=True)
class KeepLimits:
    """How much of ended agents is kept: for how long, of how many agents, and how many bytes."""

    age: timedelta
    agents: int
    size: int


class Retention:
    """The files of a town's ended agents. One that the orchestrator has not called final keeps all of them."""

    def __init__(self, roster: Roster, limits: KeepLimits) -> None:
        self._roster = roster
        self._limits = limits
        self._sweeping = trio.Lock()
        self._said = Signal()

    @property
    def _services(self) -> AgentServices:
        return self._roster.services

    async def finish(self, agent_id: str) -> bool:
        """The orchestrator says that an agent, which has ended, is final; returns whether it has files here."""
        agent = self._roster.find(agent_id)
        saving = agent.saving.status if agent is not None else None
        unsaved = saving is not None and saving.state is not SnapshotState.SAVED
        known = await self._services.kept.finish(agent_id, "its conversation is not stored" if unsaved else None)
        self._said.send()
        return known

    async def run(self) -> None:
        """Sweep now, and again while there is something that will have to go. One at a time."""
        if self._sweeping.locked():
            return
        async with self._sweeping:
            while self._services.kept.final:
                heard = self._said.count
                await self.sweep(self._services.now())
                with trio.move_on_after(_AGAIN_SECONDS):
                    await self._said.wait(after=heard)

    async def sweep(self, now: datetime) -> None:
        """Remove what is beyond the limits, the oldest first; what is only here stays, and the log says why."""
        sizes = await trio.to_thread.run_sync(_sizes, self._services.kept.final)
        for record in reversed(list(self._beyond(sizes, now))):
            await self._remove(record, sizes[record.agent_id])

    def _beyond(self, sizes: dict[str, int], now: datetime) -> Iterator[KeptFiles]:
        agents, size = 0, 0
        for record in self._services.kept.final:
            agents, size = agents + 1, size + sizes.get(record.agent_id, 0)
            is_old = record.final_at is not None and now - record.final_at > self._limits.age
            if is_old or agents > self._limits.agents or size > self._limits.size:
                yield record

    async def _remove(self, record: KeptFiles, size: int) -> None:
        async with self._services.repositories.worktrees.of(record.workdir):
            reason = await self._why_kept(record)
            # Nothing is awaited between this look and the moves: an agent that starts now begins without them.
            if reason is None and self._is_busy(record):
                reason = "an agent works with it"
            if reason is not None:
                log.info("retention.kept", agent_id=record.agent_id, rig_id=record.rig_id, reason=reason)
                return
            gone = [_put_away(Path(place)) for place in (record.workdir, record.home)]
        for place in gone:
            if place is not None and not await trio.to_thread.run_sync(remove_tree, place):
                log.warning("git.not_removed", directory=str(place))
        await self._services.kept.forget(record)
        log.info("retention.removed", agent_id=record.agent_id, rig_id=record.rig_id, bytes=size)

    async def _why_kept(self, record: KeptFiles) -> str | None:
        """What speaks against removing an agent's files; None when nothing does."""
        if self._is_busy(record):
            return "an agent works with it"
        if record.only_here is not None:
            return record.only_here
        services = self._services
        places = (
            services.paths.worktree(record.rig_id, record.branch),
            home_of(services.defaults, record.agent_id),
        )
        if (record.workdir, record.home) != places:
            return "it did not work where its kind of agent does"
        if not await trio.Path(record.workdir).exists():
            return None
        try:
            rig = Rig(record.rig_id, Remote.parse(record.git_url), record.default_branch)
            credentials = self._services.repositories.tools.credentials
            if not credentials.knows(record.rig_id):
                credentials.register_rig(record.rig_id, rig.remote)
            git = self._services.repositories.git(rig, record.workdir, self._services.users.of_id(record.agent_id))
            return await only_here(self._services.repositories, git)
        except (GitError, OSError, ValueError) as error:
            return f"it cannot be told what is only here: {error}"

    def _is_busy(self, record: KeptFiles) -> bool:
        living = [agent for agent in self._roster.known() if not agent.ended.is_set()]
        here = any(record.agent_id == agent.id or record.workdir == agent.workdir for agent in living)
        return here or self._services.kept.is_wanted(record.workdir)


def _sizes(records: list[KeptFiles]) -> dict[str, int]:
    return {record.agent_id: bytes_of(record.workdir) + bytes_of(record.home) for record in records}


def _put_away(place: Path) -> Path | None:
    """Take a directory out of its place at once; what is left of it if we are killed has a name of its own."""
    gone = place.with_name(f"{_GONE}{place.name[:100]}-{secrets.token_hex(4)}")
    try:
        place.rename(gone)
    except FileNotFoundError:
        return None
    return gone
