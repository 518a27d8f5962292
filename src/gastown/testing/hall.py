"""What the hall has kept of the container's agents, for tests that look at both sides."""

from __future__ import annotations

import json
from typing import Any

from gastown.hall.store.transaction import Transaction

__all__ = ["agent_events", "heartbeats"]


def agent_events(transaction: Transaction, agent_id: str) -> list[tuple[str, dict[str, Any]]]:
    """The kept events of an agent, oldest first."""
    rows = transaction.rows(
        "SELECT event, data FROM agent_events WHERE town_id = ?1 AND agent_id = ?2 ORDER BY number", agent_id
    )
    return [(row["event"], json.loads(row["data"])) for row in rows]


def heartbeats(transaction: Transaction) -> dict[str, dict[str, Any]]:
    """The last heartbeat of each agent, by its id."""
    rows = transaction.rows("SELECT agent_id, body FROM heartbeats WHERE town_id = ?1")
    return {row["agent_id"]: json.loads(row["body"]) for row in rows}
