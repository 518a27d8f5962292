"""What the container reported about its agents: their newest events, and the last heartbeat of each."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Integer, bindparam, delete, select

from gastown.hall.store import tables
from gastown.hall.store.tables import TOWN
from gastown.hall.store.transaction import Row, Transaction

__all__ = [
    "AGENT_EVENTS",
    "MOST_AGENT_EVENTS",
    "AgentEventRecord",
    "StoredAgentEvent",
    "add_agent_events",
    "has_events",
    "keep_heartbeat",
    "newest_agent_events",
    "stored_agent_event",
]

MOST_AGENT_EVENTS = 2000
"""How many events are kept of an agent, as in the container itself."""
_MOST_CHARACTERS = 256 * 1024
_EVENTS = tables.agent_events.c
_OF_AGENT = (_EVENTS.town_id == TOWN, _EVENTS.agent_id == bindparam("agent"))
_FIRST_TOO_MANY = (
    select(_EVENTS.number)
    .where(*_OF_AGENT)
    .order_by(_EVENTS.number.desc())
    .limit(1)
    .offset(MOST_AGENT_EVENTS)
    .scalar_subquery()
)
_KEPT = select(_EVENTS.number, _EVENTS.received_at, _EVENTS.agent_id, _EVENTS.event, _EVENTS.data).where(
    *_OF_AGENT
)
AGENT_EVENTS = (
    _KEPT.where(_EVENTS.number > bindparam("after"))
    .order_by(_EVENTS.number)
    .limit(bindparam("most", type_=Integer))
)
"""The events of an agent after one, at most so many."""
_NEWEST = _KEPT.order_by(_EVENTS.number.desc()).limit(bindparam("most", type_=Integer))
_ANY = select(_EVENTS.number).where(*_OF_AGENT).limit(1)
_PRUNE = delete(tables.agent_events).where(*_OF_AGENT, _EVENTS.number <= _FIRST_TOO_MANY)


@dataclass(frozen=True)
class AgentEventRecord:
    """An event of an agent as the container sent it."""

    agent_id: str
    event: str
    data: dict[str, Any]


@dataclass(frozen=True)
class StoredAgentEvent:
    """An event of an agent as it is kept. Numbers grow over the whole town, and none comes twice."""

    number: int
    at: str
    agent_id: str
    event: str
    data: dict[str, Any]


def stored_agent_event(row: Row[Any]) -> StoredAgentEvent:
    return StoredAgentEvent(row.number, row.received_at, row.agent_id, row.event, json.loads(row.data))


def newest_agent_events(transaction: Transaction, agent_id: str, most: int) -> list[StoredAgentEvent]:
    """The newest events that are kept of an agent, oldest first."""
    rows = transaction.rows(_NEWEST, agent=agent_id, most=most)
    return [stored_agent_event(row) for row in reversed(rows)]


def has_events(transaction: Transaction, agent_id: str) -> bool:
    return transaction.row(_ANY, agent=agent_id) is not None


def add_agent_events(transaction: Transaction, rig_id: str, events: Sequence[AgentEventRecord]) -> None:
    """Keep events in their order, and of each agent the newest 2000. Of a huge one only its size is kept."""
    for event in events:
        text = json.dumps(event.data)
        if len(text) > _MOST_CHARACTERS:
            text = json.dumps({"omittedCharacters": len(text)})
        transaction.insert(
            tables.agent_events,
            rig_id=rig_id,
            agent_id=event.agent_id,
            received_at=transaction.now,
            event=event.event,
            data=text,
        )
    for agent_id in {event.agent_id for event in events}:
        transaction.run(_PRUNE, agent=agent_id)


def keep_heartbeat(transaction: Transaction, rig_id: str, agent_id: str, body: dict[str, Any]) -> None:
    """Keep the last heartbeat of an agent."""
    transaction.put(
        tables.heartbeats, agent_id=agent_id, rig_id=rig_id, received_at=transaction.now, body=json.dumps(body)
    )
