"""What the container reported about its agents: their newest events, and the last heartbeat of each."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

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

AGENT_EVENTS = (
    "SELECT number, received_at, agent_id, event, data FROM agent_events WHERE town_id = ? AND agent_id = ?"
    " AND number > ? ORDER BY number LIMIT ?"
)

MOST_AGENT_EVENTS = 2000
"""How many events are kept of an agent, as in the container itself."""
_MOST_CHARACTERS = 256 * 1024


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


def stored_agent_event(row: Row) -> StoredAgentEvent:
    return StoredAgentEvent(
        row["number"], row["received_at"], row["agent_id"], row["event"], json.loads(row["data"])
    )


def newest_agent_events(transaction: Transaction, agent_id: str, most: int) -> list[StoredAgentEvent]:
    """The newest events that are kept of an agent, oldest first."""
    rows = transaction.rows(
        "SELECT number, received_at, agent_id, event, data FROM agent_events WHERE town_id = ?1 AND agent_id = ?2"
        " ORDER BY number DESC LIMIT ?3",
        *(agent_id, most),
    )
    return [stored_agent_event(row) for row in reversed(rows)]


def has_events(transaction: Transaction, agent_id: str) -> bool:
    sql = "SELECT 1 FROM agent_events WHERE town_id = ?1 AND agent_id = ?2 LIMIT 1"
    return transaction.row(sql, agent_id) is not None


def add_agent_events(transaction: Transaction, rig_id: str, events: Sequence[AgentEventRecord]) -> None:
    """Keep events in their order, and of each agent the newest 2000. Of a huge one only its size is kept."""
    for event in events:
        text = json.dumps(event.data)
        if len(text) > _MOST_CHARACTERS:
            text = json.dumps({"omittedCharacters": len(text)})
        transaction.run(
            "INSERT INTO agent_events (town_id, rig_id, agent_id, received_at, event, data)"
            " VALUES (?1, ?2, ?3, ?4, ?5, ?6)",
            *(rig_id, event.agent_id, transaction.now, event.event, text),
        )
    for agent_id in {event.agent_id for event in events}:
        transaction.run(
            "DELETE FROM agent_events WHERE town_id = ?1 AND agent_id = ?2 AND number <= ("
            " SELECT number FROM agent_events WHERE town_id = ?1 AND agent_id = ?2"
            " ORDER BY number DESC LIMIT 1 OFFSET ?3)",
            *(agent_id, MOST_AGENT_EVENTS),
        )


def keep_heartbeat(transaction: Transaction, rig_id: str, agent_id: str, body: dict[str, Any]) -> None:
    """Keep the last heartbeat of an agent."""
    transaction.run(
        "INSERT OR REPLACE INTO heartbeats (town_id, agent_id, rig_id, received_at, body)"
        " VALUES (?1, ?2, ?3, ?4, ?5)",
        *(agent_id, rig_id, transaction.now, json.dumps(body)),
    )
