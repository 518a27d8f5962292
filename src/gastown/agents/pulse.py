"""What the worker is told of every active agent each half minute, with the evidence for it."""

from __future__ import annotations

from datetime import timedelta

import trio

from gastown.agents.model import Agent
from gastown.agents.roster import Roster
from gastown.contract.worker import Heartbeat

__all__ = ["pulse"]


def pulse(roster: Roster, instance_id: str) -> list[Heartbeat]:
    """A heartbeat of each agent that is starting or running. `instance_id` tells containers apart."""
    return [_beat(agent, roster, instance_id) for agent in roster.active()]


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
        process_alive=agent.lease is not None and not agent.lease.server.ended.is_set(),
        event_age_ms=None
        if known.last_event_at is None
        else (now - known.last_event_at) // timedelta(milliseconds=1),
        last_probe_age_ms=None if probed_at is None else round((trio.current_time() - probed_at) * 1000),
    )
