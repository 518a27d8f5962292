"""The agents of the rigs on the board: their work, their mail, their nudges."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from sqlalchemy import bindparam, func, select, update

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
from gastown.hall.store import tables
from gastown.hall.store.beads import make_bead, move_bead, unread_messages
from gastown.hall.store.tables import TOWN
from gastown.hall.store.transaction import Row, Transaction, new_id

HALL = "hall"
"""The source of what the hall itself says."""
_MOST_OF_A_NUDGE = 8000
_FIELDS = tuple(RigAgent.__dataclass_fields__)
_ALL, _NUDGES = tables.rig_agents.c, tables.nudges.c
_AGENTS = select(*(_ALL[name] for name in _FIELDS)).where(_ALL.town_id == TOWN).order_by(_ALL.number)
_OF_RIG = _AGENTS.where(_ALL.rig_id == bindparam("rig"))
_ONE = _AGENTS.where(_ALL.id == bindparam("agent"))
_PENDING = (
    select(_NUDGES.id, _NUDGES.message, _NUDGES.mode, _NUDGES.source)
    .where(
        _NUDGES.town_id == TOWN,
        _NUDGES.agent_id == bindparam("agent"),
        _NUDGES.delivered_at.is_(None),
    )
    .order_by(_NUDGES.number)
)
_DELIVERED = (
    update(tables.nudges)
    .where(
        _NUDGES.town_id == TOWN,
        _NUDGES.agent_id == bindparam("agent"),
        _NUDGES.id == bindparam("nudge"),
    )
    .values(delivered_at=func.coalesce(_NUDGES.delivered_at, bindparam("at")))
)

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
    return [_agent(row) for row in transaction.rows(_OF_RIG, rig=rig_id)]


def all_agents(transaction: Transaction) -> list[RigAgent]:
    """The agents of all rigs, in the order in which they were made."""
    return [_agent(row) for row in transaction.rows(_AGENTS)]


def make_agent(transaction: Transaction, rig_id: str, role: str, agent_id: str | None = None) -> RigAgent:
    """A new agent of the rig, with a name that no other one of it has."""
    made = agent_id or new_id(role)
    _make(transaction, rig_id, made, role, name_for(len(agents(transaction, rig_id))))
    return agent(transaction, rig_id, made)


def set_agent(transaction: Transaction, agent_id: str, column: str, value: object) -> None:
    transaction.change(tables.rig_agents, agent_id, **{column: value})


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
    return _leave(transaction, rig_id, source, target, message, mode)


def nudge_mayor(transaction: Transaction, says: Sequence[str]) -> None:
    """Let the mayor know at its next turn. What it has not heard yet becomes one nudge with this."""
    if transaction.mayor is None:
        return
    waiting = [row for row in transaction.rows(_PENDING, agent=transaction.mayor) if row.source == HALL]
    text = "\n".join(says)
    if waiting and len(waiting[-1].message) + len(text) < _MOST_OF_A_NUDGE:
        transaction.change(tables.nudges, waiting[-1].id, message=f"{waiting[-1].message}\n{text}")
        return
    _leave(transaction, f"mayor-{transaction.town_id}", HALL, transaction.mayor, text, "wait-idle")


def pending_nudges(transaction: Transaction, agent_id: str) -> tuple[Nudge, ...]:
    """The nudges that the agent has not received yet, the most urgent first."""
    nudges = (
        Nudge(
            nudge_id=row.id,
            message=row.message,
            mode=row.mode,
            source=row.source,
            priority=NUDGE_PRIORITIES[row.mode],
        )
        for row in transaction.rows(_PENDING, agent=agent_id)
    )
    return tuple(sorted(nudges, key=lambda one: [*NUDGE_PRIORITIES].index(one.mode)))


def mark_delivered(transaction: Transaction, agent_id: str, nudge_id: str) -> None:
    """Note that the agent received the nudge; a second call changes nothing."""
    transaction.run(_DELIVERED, agent=agent_id, nudge=nudge_id, at=transaction.now)


def keep_checkpoint(transaction: Transaction, agent_id: str, data: Any) -> None:
    set_agent(transaction, agent_id, "checkpoint", json.dumps(data))


def _require_recipient(transaction: Transaction, rig_id: str, agent_id: str) -> None:
    if agent_id != transaction.mayor:
        agent(transaction, rig_id, agent_id)


def find_agent(transaction: Transaction, agent_id: str) -> RigAgent | None:
    """The agent of that id, of whichever rig."""
    row = transaction.row(_ONE, agent=agent_id)
    return None if row is None else _agent(row)


def _agent(row: Row[Any]) -> RigAgent:
    values: dict[str, Any] = dict(zip(_FIELDS, row, strict=True))
    if values["checkpoint"] is not None:
        values["checkpoint"] = json.loads(values["checkpoint"])
    return RigAgent(**values)


def _make(transaction: Transaction, rig_id: str, agent_id: str, role: str, name: str) -> None:
    transaction.insert(
        tables.rig_agents, rig_id=rig_id, id=agent_id, role=role, name=name, created_at=transaction.now
    )


def _leave(transaction: Transaction, rig_id: str, source: str | None, target: str, message: str, mode: str) -> str:
    nudge_id = new_id("nudge")
    transaction.insert(
        tables.nudges,
        rig_id=rig_id,
        agent_id=target,
        id=nudge_id,
        message=message,
        mode=mode,
        source=source,
        created_at=transaction.now,
    )
    return nudge_id


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
