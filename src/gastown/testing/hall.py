"""What the hall has kept of the container's agents, for tests that look at both sides."""

from __future__ import annotations

import json
from typing import Any

from sqlalchemy import bindparam, select

from gastown.hall.store import tables
from gastown.hall.store.tables import TOWN
from gastown.hall.store.transaction import Transaction

__all__ = ["agent_events", "heartbeats"]

_OF_AGENTS = tables.agent_events.c
_EVENTS = (
    select(_OF_AGENTS.event, _OF_AGENTS.data)
    .where(_OF_AGENTS.town_id == TOWN, _OF_AGENTS.agent_id == bindparam("agent"))
    .order_by(_OF_AGENTS.number)
)
_HEARTBEATS = select(tables.heartbeats.c.agent_id, tables.heartbeats.c.body).where(
    tables.heartbeats.c.town_id == TOWN
)


def agent_events(transaction: Transaction, agent_id: str) -> list[tuple[str, dict[str, Any]]]:
    """The kept events of an agent, oldest first."""
    rows = transaction.rows(_EVENTS, agent=agent_id)
    return [(row.event, json.loads(row.data)) for row in rows]


def heartbeats(transaction: Transaction) -> dict[str, dict[str, Any]]:
    """The last heartbeat of each agent, by its id."""
    return {row.agent_id: json.loads(row.body) for row in transaction.rows(_HEARTBEATS)}
