"""The agents of the rigs on the board: their work, their mail, their nudges."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from gastown.contract.worker import Nudge
from gastown.hall.domain.bead import Bead, BeadState, BeadType
from gastown.hall.domain.errors import NotFound
from gastown.hall.domain.rig_agent import (
    NUDGE_PRIORITIES,
    UNKNOWN_ROLE,
    Letter,
    RigAgent,
    name_for,
)
from gastown.hall.store.beads import make_bead, move_bead, unread_messages
from gastown.hall.store.transaction import Row, Transaction, new_id

HALL = "hall"
"""The source of what the hall itself says."""
_MOST_OF_A_NUDGE = 8000

__all__ = [
    "HALL",
    "agent",
    "agents",
    "all_agents",
    "caller",
    "find_agent",
    "keep_checkpoint",
    "make_agent",
    "mark_delivered",
    "nudge",
    "nudge_mayor",
    "pending_nudges",
    "read_mail",
    "send_mail",
    "set_agent",
    "unread_mail",
]


def agent(transaction: Transaction, rig_id: str, agent_id: str) -> RigAgent:
    """The agent; NotFound when the rig has none of that id."""
    found = find_agent(transaction, agent_id)
    if found is None or found.rig_id != rig_id:
        raise NotFound(f"There is no agent {agent_id} in rig {rig_id}")
    return found


def caller(transaction: Transaction, rig_id: str, agent_id: str) -> RigAgent:
    """The agent that calls. One that the hall did not make, started by hand, is known after its first call.

    Its role is unknown, so it gets no work except what is assigned to it by name.
    """
    transaction.require_rig(rig_id)
    if find_agent(transaction, agent_id) is None:
        _make(transaction, rig_id, agent_id, UNKNOWN_ROLE, agent_id)
    set_agent(transaction, agent_id, "last_activity_at", transaction.now)
    return agent(transaction, rig_id, agent_id)


def agents(transaction: Transaction, rig_id: str) -> list[RigAgent]:
    rows = transaction.rows("SELECT * FROM rig_agents WHERE town_id = ?1 AND rig_id = ?2 ORDER BY number", rig_id)
    return [_agent(row) for row in rows]


def all_agents(transaction: Transaction) -> list[RigAgent]:
    """The agents of all rigs, in the order in which they were made."""
    return [_agent(row) for row in transaction.rows("SELECT * FROM rig_agents WHERE town_id = ?1 ORDER BY number")]


def make_agent(transaction: Transaction, rig_id: str, role: str, agent_id: str | None = None) -> RigAgent:
    """A new agent of the rig, with a name that no other one of it has."""
    made = agent_id or new_id(role)
    _make(transaction, rig_id, made, role, name_for(len(agents(transaction, rig_id))))
    return agent(transaction, rig_id, made)


def set_agent(transaction: Transaction, agent_id: str, column: str, value: object) -> None:
    sql = f"UPDATE rig_agents SET {column} = ?3 WHERE town_id = ?1 AND id = ?2"  # noqa: S608  a name of ours
    transaction.run(sql, agent_id, value)


def send_mail(transaction: Transaction, rig_id: str, sender: str | None, to: str, subject: str, body: str) -> None:
    """Leave mail for an agent of the rig, or for the mayor from any rig."""
    _require_recipient(transaction, rig_id, to)
    make_bead(transaction, rig_id, BeadType.MESSAGE, subject, body=body, assignee=to, created_by=sender)


def unread_mail(transaction: Transaction, agent_id: str) -> list[Letter]:
    """The agent's unread mail, which stays unread."""
    return [_letter(message) for message in unread_messages(transaction, agent_id)]


def read_mail(transaction: Transaction, agent_id: str) -> list[Letter]:
    """The agent's unread mail, which counts as read from now on."""
    unread = unread_messages(transaction, agent_id)
    return [_letter(move_bead(transaction, message.id, BeadState.CLOSED)) for message in unread]


def nudge(transaction: Transaction, rig_id: str, source: str | None, target: str, message: str, mode: str) -> str:
    """Leave a nudge for an agent of the rig, or for the mayor; its id."""
    _require_recipient(transaction, rig_id, target)
    nudge_id = new_id("nudge")
    transaction.run(
        "INSERT INTO nudges (town_id, rig_id, agent_id, id, message, mode, source, created_at)"
        " VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)",
        *(rig_id, target, nudge_id, message, mode, source, transaction.now),
    )
    return nudge_id


def nudge_mayor(transaction: Transaction, says: Sequence[str]) -> None:
    """Let the mayor know at its next turn. What it has not heard yet becomes one nudge with this."""
    if transaction.mayor is None:
        return
    waiting = transaction.row(
        "SELECT id, message FROM nudges WHERE town_id = ?1 AND agent_id = ?2 AND delivered_at IS NULL"
        " AND source = ?3 ORDER BY number DESC LIMIT 1",
        *(transaction.mayor, HALL),
    )
    text = "\n".join(says)
    if waiting is not None and len(waiting["message"]) + len(text) < _MOST_OF_A_NUDGE:
        sql = "UPDATE nudges SET message = ?3 WHERE town_id = ?1 AND id = ?2"
        transaction.run(sql, waiting["id"], f"{waiting['message']}\n{text}")
        return
    transaction.run(
        "INSERT INTO nudges (town_id, rig_id, agent_id, id, message, mode, source, created_at)"
        " VALUES (?1, ?2, ?3, ?4, ?5, 'wait-idle', ?6, ?7)",
        *(f"mayor-{transaction.town_id}", transaction.mayor, new_id("nudge"), text, HALL, transaction.now),
    )


def pending_nudges(transaction: Transaction, agent_id: str) -> tuple[Nudge, ...]:
    """The nudges that the agent has not received yet, the most urgent first."""
    rows = transaction.rows(
        "SELECT id AS nudge_id, message, mode, source FROM nudges"
        " WHERE town_id = ?1 AND agent_id = ?2 AND delivered_at IS NULL ORDER BY number",
        agent_id,
    )
    nudges = (Nudge(**dict(row), priority=NUDGE_PRIORITIES[row["mode"]]) for row in rows)
    return tuple(sorted(nudges, key=lambda one: [*NUDGE_PRIORITIES].index(one.mode)))


def mark_delivered(transaction: Transaction, agent_id: str, nudge_id: str) -> None:
    """Note that the agent received the nudge; a second call changes nothing."""
    transaction.run(
        "UPDATE nudges SET delivered_at = coalesce(delivered_at, ?4)"
        " WHERE town_id = ?1 AND agent_id = ?2 AND id = ?3",
        *(agent_id, nudge_id, transaction.now),
    )


def keep_checkpoint(transaction: Transaction, agent_id: str, data: Any) -> None:
    set_agent(transaction, agent_id, "checkpoint", json.dumps(data))


def _require_recipient(transaction: Transaction, rig_id: str, agent_id: str) -> None:
    if agent_id != transaction.mayor:
        agent(transaction, rig_id, agent_id)


def find_agent(transaction: Transaction, agent_id: str) -> RigAgent | None:
    """The agent of that id, of whichever rig."""
    row = transaction.row("SELECT * FROM rig_agents WHERE town_id = ?1 AND id = ?2", agent_id)
    return None if row is None else _agent(row)


def _agent(row: Row) -> RigAgent:
    values: dict[str, Any] = {name: row[name] for name in RigAgent.__dataclass_fields__}
    if values["checkpoint"] is not None:
        values["checkpoint"] = json.loads(values["checkpoint"])
    return RigAgent(**values)


def _make(transaction: Transaction, rig_id: str, agent_id: str, role: str, name: str) -> None:
    transaction.run(
        "INSERT INTO rig_agents (town_id, rig_id, id, role, name, created_at) VALUES (?1, ?2, ?3, ?4, ?5, ?6)",
        *(rig_id, agent_id, role, name, transaction.now),
    )


def _letter(message: Bead) -> Letter:
    return Letter(
        id=message.id,
        from_agent_id=message.created_by,
        to_agent_id=message.assignee,
        subject=message.title,
        body=message.body,
        created_at=message.created_at,
        delivered_at=message.closed_at,
    )
