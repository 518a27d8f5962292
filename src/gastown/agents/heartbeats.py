"""The heartbeats of all active agents: what the worker gets each half minute, with the evidence for it."""

from __future__ import annotations

from datetime import timedelta

import structlog
import trio

from gastown.agents.agent import Agent
from gastown.agents.roster import Roster
from gastown.contract.worker import Heartbeat
from gastown.metrics.counters import Counter

__all__ = ["Heartbeats"]

log = structlog.get_logger()


class Heartbeats:
    """Makes the heartbeats of the agents in `roster`. `instance_id` tells containers apart.

    `not_built` counts the heartbeats that could not be made.
    """

    def __init__(self, roster: Roster, instance_id: str) -> None:
        self._roster = roster
        self._instance_id = instance_id
        self.not_built = Counter("gastown_heartbeats_not_built_total")

    def beats(self) -> list[Heartbeat]:
        """A heartbeat of each agent that is starting or running; one that cannot be made is left out."""
        found = (self._try_beat(agent) for agent in self._roster.active())
        return [beat for beat in found if beat is not None]

    def _try_beat(self, agent: Agent) -> Heartbeat | None:
        try:
            return _beat(agent, self._roster, self._instance_id)
        except Exception:  # a boundary: the other agents and the container go on
            self.not_built.add()
            log.exception("heartbeat.not_built", agent_id=agent.id)
            return None


def _beat(agent: Agent, roster: Roster, instance_id: str) -> Heartbeat:
    now = roster.services.now()
    known = agent.public()
    probed_at = agent.progress.probed_at
    return Heartbeat(
        agent_id=known.agent_id,
        rig_id=known.rig_id,
        town_id=known.town_id,
        status=known.status,
        timestamp=now,
        last_event_type=known.last_event_type,
        last_event_at=known.last_event_at,
        active_tools=known.active_tools,
        message_count=known.message_count,
        container_instance_id=instance_id,
        process_alive=agent.runtime is not None and not agent.runtime.server.ended.is_set(),
        event_age_ms=None
        if known.last_event_at is None
        else (now - known.last_event_at) // timedelta(milliseconds=1),
        attempt_id=agent.attempt,
        last_probe_age_ms=None if probed_at is None else round((trio.current_time() - probed_at) * 1000),
    )
