"""The agents of the rigs as the board knows them: who works on what, their mail, their nudges."""

from __future__ import annotations

import json
from typing import Any

from gastown.contract.agents import Role
from gastown.contract.worker import Nudge
from gastown.hall.api.answers import Refusal
from gastown.hall.api.responses import CrewMember, Letter, Primer
from gastown.hall.store.beads import bead, beads, change_bead, make_bead, show_bead
from gastown.hall.store.database import Row
from gastown.hall.store.transaction import Ledger, new_id

__all__ = [
    "agent",
    "agents",
    "assign",
    "caller",
    "holder_of",
    "keep_checkpoint",
    "let_go",
    "nudge",
    "nudge_delivered",
    "pending_nudges",
    "prime",
    "read_mail",
    "send_mail",
    "set_agent",
    "show_agent",
    "someone_for",
]

_UNKNOWN = "unknown"  # where a Role stands of an agent that the hall has made
_NAMES = ("Ash", "Birch", "Cedar", "Elm", "Fir", "Hazel", "Juniper", "Larch", "Maple", "Rowan", "Spruce", "Yew")


def agent(ledger: Ledger, rig_id: str, agent_id: str) -> Row:
    """The agent; Refusal 404 when the rig has none of that id."""
    row = _find(ledger, agent_id)
    if row is None or row["rig_id"] != rig_id:
        raise Refusal(404, f"There is no agent {agent_id} in rig {rig_id}")
    return row


def caller(ledger: Ledger, rig_id: str, agent_id: str) -> Row:
    """The agent that calls. One that the hall did not make, started by hand, is known from now on.

    What it is for, nobody has said: it gets no work but what is assigned to it by name.
    """
    ledger.require_rig(rig_id)
    if _find(ledger, agent_id) is None:
        _make(ledger, rig_id, agent_id, _UNKNOWN, agent_id)
    set_agent(ledger, agent_id, "last_activity_at", ledger.now)
    return agent(ledger, rig_id, agent_id)


def agents(ledger: Ledger, rig_id: str) -> list[CrewMember]:
    rows = ledger.rows("SELECT * FROM rig_agents WHERE town_id = ?1 AND rig_id = ?2 ORDER BY number", rig_id)
    return [show_agent(row) for row in rows]


def show_agent(row: Row) -> CrewMember:
    """An agent as it is answered."""
    return CrewMember(
        rig_id=row["rig_id"],
        id=row["id"],
        role=row["role"],
        name=row["name"],
        status_message=row["status_message"],
        checkpoint=None if row["checkpoint"] is None else json.loads(row["checkpoint"]),
        created_at=row["created_at"],
        last_activity_at=row["last_activity_at"],
        status="idle" if row["bead_id"] is None else "working",
        current_hook_bead_id=row["bead_id"],
    )


def someone_for(ledger: Ledger, rig_id: str, role: str = Role.POLECAT) -> Row:
    """An agent of the rig that has nothing to do; a new one when all have."""
    idle = ledger.row(
        "SELECT * FROM rig_agents WHERE town_id = ?1 AND rig_id = ?2 AND role = ?3 AND bead_id IS NULL"
        " ORDER BY number LIMIT 1",
        rig_id,
        role,
    )
    if idle is not None:
        return idle
    taken = ledger.rows("SELECT name FROM rig_agents WHERE town_id = ?1 AND rig_id = ?2", rig_id)
    number = len(taken)
    name = _NAMES[number % len(_NAMES)] + (f"-{number // len(_NAMES) + 1}" if number >= len(_NAMES) else "")
    agent_id = new_id(role)
    _make(ledger, rig_id, agent_id, role, name)
    return agent(ledger, rig_id, agent_id)


def assign(ledger: Ledger, bead_id: str, agent_row: Row) -> Row:
    """Give a bead to an agent, which must be free or have that bead already; the agent as it is then."""
    if agent_row["bead_id"] not in (None, bead_id):
        raise Refusal(409, f"Agent {agent_row['id']} works on bead {agent_row['bead_id']}")
    ledger.run("UPDATE rig_agents SET bead_id = NULL WHERE town_id = ?1 AND bead_id = ?2", bead_id)
    set_agent(ledger, agent_row["id"], "bead_id", bead_id)
    change_bead(ledger, bead_id, {"assignee": agent_row["id"]})
    return agent(ledger, agent_row["rig_id"], agent_row["id"])


def holder_of(ledger: Ledger, bead_id: str) -> str | None:
    """The agent that works on the bead now."""
    row = ledger.row("SELECT id FROM rig_agents WHERE town_id = ?1 AND bead_id = ?2", bead_id)
    return None if row is None else row["id"]


def let_go(ledger: Ledger, agent_row: Row) -> None:
    """Free an agent. Its bead, unless it is finished or in review, is open for somebody else."""
    if agent_row["bead_id"] is None:
        return
    held = bead(ledger, agent_row["bead_id"])
    set_agent(ledger, agent_row["id"], "bead_id", None)
    if held["status"] == "in_progress":
        change_bead(ledger, held["id"], {"status": "open"})
    change_bead(ledger, held["id"], {"assignee": None})


def set_agent(ledger: Ledger, agent_id: str, column: str, value: object) -> None:
    sql = f"UPDATE rig_agents SET {column} = ?3 WHERE town_id = ?1 AND id = ?2"  # noqa: S608  a name of ours
    ledger.run(sql, agent_id, value)


def prime(ledger: Ledger, agent_row: Row) -> Primer:
    """What an agent should know when it begins. Reading its mail here does not mark it as read."""
    hooked = agent_row["bead_id"]
    mail = _unread(ledger, agent_row["id"])
    return Primer(
        agent=show_agent(agent_row),
        hooked_bead=None if hooked is None else show_bead(ledger, bead(ledger, hooked)),
        undelivered_mail=tuple(_show_mail(row) for row in mail),
        open_beads=tuple(beads(ledger, agent_row["rig_id"], "open", "issue")),
    )


def send_mail(ledger: Ledger, rig_id: str, sender: str | None, to: str, subject: str, body: str) -> None:
    """Leave mail for an agent of the rig, or for the mayor from any rig."""
    if to != ledger.mayor:
        agent(ledger, rig_id, to)
    make_bead(ledger, rig_id, "message", subject, body=body, assignee=to, created_by=sender)


def read_mail(ledger: Ledger, agent_id: str) -> list[Letter]:
    """The agent's unread mail, which is read from now on."""
    mail = [_show_mail(row) for row in _unread(ledger, agent_id)]
    for letter in mail:
        change_bead(ledger, letter.id, {"status": "closed"})
    return [letter.model_copy(update={"delivered": True, "delivered_at": ledger.now}) for letter in mail]


def nudge(ledger: Ledger, rig_id: str, source: str | None, target: str, message: str, mode: str) -> str:
    """Leave a nudge for an agent of the rig, or for the mayor; its id."""
    if target != ledger.mayor:
        agent(ledger, rig_id, target)
    nudge_id = new_id("nudge")
    ledger.run(
        "INSERT INTO nudges (town_id, rig_id, agent_id, id, message, mode, source, created_at)"
        " VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)",
        *(rig_id, target, nudge_id, message, mode, source, ledger.now),
    )
    return nudge_id


def pending_nudges(ledger: Ledger, agent_id: str) -> tuple[Nudge, ...]:
    """What the agent has not heard yet, the most urgent first."""
    rows = ledger.rows(
        "SELECT * FROM nudges WHERE town_id = ?1 AND agent_id = ?2 AND delivered_at IS NULL"
        " ORDER BY CASE mode WHEN 'immediate' THEN 0 WHEN 'wait-idle' THEN 1 ELSE 2 END, number",
        agent_id,
    )
    priority = {"immediate": "high", "wait-idle": "medium", "queue": "low"}
    return tuple(
        Nudge(
            nudge_id=row["id"],
            message=row["message"],
            mode=row["mode"],
            priority=priority[row["mode"]],
            source=row["source"],
        )
        for row in rows
    )


def nudge_delivered(ledger: Ledger, agent_id: str, nudge_id: str) -> None:
    """Note that the agent heard it; saying so twice changes nothing."""
    ledger.run(
        "UPDATE nudges SET delivered_at = coalesce(delivered_at, ?4)"
        " WHERE town_id = ?1 AND agent_id = ?2 AND id = ?3",
        *(agent_id, nudge_id, ledger.now),
    )


def keep_checkpoint(ledger: Ledger, agent_id: str, data: Any) -> None:
    set_agent(ledger, agent_id, "checkpoint", json.dumps(data))


def _find(ledger: Ledger, agent_id: str) -> Row | None:
    return ledger.row("SELECT * FROM rig_agents WHERE town_id = ?1 AND id = ?2", agent_id)


def _make(ledger: Ledger, rig_id: str, agent_id: str, role: str, name: str) -> None:
    ledger.run(
        "INSERT INTO rig_agents (town_id, rig_id, id, role, name, created_at) VALUES (?1, ?2, ?3, ?4, ?5, ?6)",
        *(rig_id, agent_id, role, name, ledger.now),
    )


def _unread(ledger: Ledger, agent_id: str) -> list[Row]:
    return list(
        ledger.rows(
            "SELECT * FROM beads WHERE town_id = ?1 AND assignee = ?2 AND type = 'message' AND status = 'open'"
            " ORDER BY number",
            agent_id,
        )
    )


def _show_mail(row: Row) -> Letter:
    return Letter(
        id=row["id"],
        from_agent_id=row["created_by"],
        to_agent_id=row["assignee"],
        subject=row["title"],
        body=row["body"],
        delivered=False,
        created_at=row["created_at"],
        delivered_at=None,
    )
