"""Convoys: beads that are followed, and land, as one."""

from __future__ import annotations

import json

from gastown.hall.api.answers import Refusal
from gastown.hall.api.responses import Assignment, Convoy, ConvoyParts, Total
from gastown.hall.api.tool_bodies import SlingBatch
from gastown.hall.store.beads import (
    FINISHED,
    bead,
    change_bead,
    close_bead,
    make_bead,
    set_blockers,
    settle_convoy,
    show_bead,
)
from gastown.hall.store.database import Row
from gastown.hall.store.rig_agents import assign, show_agent, someone_for
from gastown.hall.store.transaction import Ledger, new_id

__all__ = [
    "add_bead",
    "change_convoy",
    "close_convoy",
    "convoy",
    "convoys",
    "make_convoy",
    "remove_bead",
    "show_convoy",
    "start_convoy",
]


def convoy(ledger: Ledger, convoy_id: str) -> Row:
    """The convoy; Refusal 404 when there is none of that id."""
    row = ledger.row("SELECT * FROM convoys WHERE town_id = ?1 AND id = ?2", convoy_id)
    if row is None:
        raise Refusal(404, f"There is no convoy {convoy_id}")
    return row


def show_convoy(ledger: Ledger, convoy_id: str, *, with_beads: bool = False) -> Convoy:
    """A convoy as it is answered: how many of its beads are closed, and which they are."""
    row, members = convoy(ledger, convoy_id), _members(ledger, convoy_id)
    return Convoy(
        id=row["id"],
        rig_id=row["rig_id"],
        title=row["title"],
        status="landed" if row["landed_at"] else "active",
        staged=bool(row["staged"]),
        merge_mode=row["merge_mode"],
        feature_branch=row["feature_branch"],
        metadata=json.loads(row["metadata"]),
        total_beads=len(members),
        closed_beads=sum(member["status"] == "closed" for member in members),
        created_at=row["created_at"],
        landed_at=row["landed_at"],
        beads=tuple(show_bead(ledger, member) for member in members) if with_beads else None,
    )


def convoys(ledger: Ledger) -> list[Convoy]:
    """The convoys that have not landed, oldest first."""
    rows = ledger.rows("SELECT id FROM convoys WHERE town_id = ?1 AND landed_at IS NULL ORDER BY number")
    return [show_convoy(ledger, row["id"]) for row in rows]


def make_convoy(ledger: Ledger, body: SlingBatch, creator: str | None) -> ConvoyParts:
    """Make a convoy and a bead for each of its tasks; agents get them unless it is staged."""
    ledger.require_rig(body.rig_id)
    convoy_id = new_id("convoy")
    ledger.run(
        "INSERT INTO convoys (town_id, id, rig_id, title, staged, merge_mode, metadata, created_at)"
        " VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)",
        *(convoy_id, body.rig_id, body.convoy_title, int(body.staged), body.merge_mode),
        *(json.dumps(body.metadata), ledger.now),
    )
    made = [
        make_bead(
            ledger, body.rig_id, "issue", task.title,
            body=task.body, metadata=body.metadata, convoy_id=convoy_id, created_by=creator,
        )
        for task in body.tasks
    ]  # fmt: skip
    for bead_id, task in zip(made, body.tasks, strict=True):
        set_blockers(ledger, bead_id, [made[index] for index in task.depends_on])
    given = _hand_out(ledger, convoy_id) if not body.staged else _show_unassigned(ledger, made)
    return ConvoyParts(convoy=show_convoy(ledger, convoy_id), beads=tuple(given))


def start_convoy(ledger: Ledger, convoy_id: str) -> ConvoyParts:
    """Give the beads of a staged convoy to agents; Refusal 409 when it has been started."""
    if not convoy(ledger, convoy_id)["staged"]:
        raise Refusal(409, f"Convoy {convoy_id} is not staged")
    ledger.run("UPDATE convoys SET staged = 0 WHERE town_id = ?1 AND id = ?2", convoy_id)
    given = _hand_out(ledger, convoy_id)
    return ConvoyParts(convoy=show_convoy(ledger, convoy_id), beads=tuple(given))


def close_convoy(ledger: Ledger, convoy_id: str) -> Convoy:
    """End a convoy as it is: what is not finished is closed."""
    convoy(ledger, convoy_id)
    for member in _members(ledger, convoy_id):
        if member["status"] not in FINISHED:
            close_bead(ledger, member["id"])
    ledger.run(
        "UPDATE convoys SET staged = 0, landed_at = coalesce(landed_at, ?3) WHERE town_id = ?1 AND id = ?2",
        *(convoy_id, ledger.now),
    )
    return show_convoy(ledger, convoy_id)


def add_bead(ledger: Ledger, convoy_id: str, bead_id: str, blockers: list[str] | None) -> Total:
    """Make a bead part of a convoy that has not landed; Refusal 409 when it is part of another one."""
    row, member = convoy(ledger, convoy_id), bead(ledger, bead_id)
    if row["landed_at"]:
        raise Refusal(409, f"Convoy {convoy_id} has landed")
    if member["convoy_id"] not in (None, convoy_id):
        raise Refusal(409, f"Bead {bead_id} is part of convoy {member['convoy_id']}")
    change_bead(ledger, bead_id, {"convoy_id": convoy_id})
    if blockers is not None:
        set_blockers(ledger, bead_id, blockers)
    return Total(total_beads=len(_members(ledger, convoy_id)))


def remove_bead(ledger: Ledger, convoy_id: str, bead_id: str) -> Total:
    convoy(ledger, convoy_id)
    if bead(ledger, bead_id)["convoy_id"] != convoy_id:
        raise Refusal(404, f"Bead {bead_id} is not part of convoy {convoy_id}")
    change_bead(ledger, bead_id, {"convoy_id": None})
    settle_convoy(ledger, convoy_id)
    return Total(total_beads=len(_members(ledger, convoy_id)))


def change_convoy(ledger: Ledger, convoy_id: str, merge_mode: str | None, feature_branch: str | None) -> Convoy:
    """Change what is given and leave the rest."""
    convoy(ledger, convoy_id)
    ledger.run(
        "UPDATE convoys SET merge_mode = coalesce(?3, merge_mode), feature_branch = coalesce(?4, feature_branch)"
        " WHERE town_id = ?1 AND id = ?2",
        *(convoy_id, merge_mode, feature_branch),
    )
    return show_convoy(ledger, convoy_id)


def _members(ledger: Ledger, convoy_id: str) -> list[Row]:
    sql = "SELECT * FROM beads WHERE town_id = ?1 AND convoy_id = ?2 ORDER BY number"
    return list(ledger.rows(sql, convoy_id))


def _hand_out(ledger: Ledger, convoy_id: str) -> list[Assignment]:
    """Give every bead that nobody has to an agent; who begins when is the blockers' to say."""
    given = []
    for member in _members(ledger, convoy_id):
        if member["assignee"] is None and member["status"] == "open":
            taker = assign(ledger, member["id"], someone_for(ledger, member["rig_id"]))
            shown = show_bead(ledger, bead(ledger, member["id"]))
            given.append(Assignment(bead=shown, agent=show_agent(taker)))
    return given


def _show_unassigned(ledger: Ledger, made: list[str]) -> list[Assignment]:
    return [Assignment(bead=show_bead(ledger, bead(ledger, bead_id)), agent=None) for bead_id in made]
