"""The board's convoys: beads that are followed, and land, together."""

from __future__ import annotations

import json

from gastown.hall.domain.bead import BeadType
from gastown.hall.domain.convoy import Convoy, ConvoyPlan
from gastown.hall.domain.errors import Conflict, NotFound
from gastown.hall.domain.rig_agent import Assignment
from gastown.hall.store.beads import (
    bead,
    beads_of_convoy,
    change_bead,
    make_bead,
    set_blockers,
    settle_convoy,
)
from gastown.hall.store.board import add_work, assignment, begin_staged, order_changed
from gastown.hall.store.transaction import Transaction, new_id
from gastown.hall.store.usage import spent_by_bead, together

__all__ = [
    "add_bead",
    "change_convoy",
    "close_convoy",
    "convoy",
    "convoys",
    "make_convoy",
    "remove_bead",
    "start_convoy",
]


def convoy(transaction: Transaction, convoy_id: str) -> Convoy:
    """The convoy; NotFound when there is none of that id."""
    row = transaction.row("SELECT * FROM convoys WHERE town_id = ?1 AND id = ?2", convoy_id)
    if row is None:
        raise NotFound(f"There is no convoy {convoy_id}")
    beads = tuple(beads_of_convoy(transaction, convoy_id))
    spent = spent_by_bead(transaction)
    return Convoy(
        id=row["id"],
        rig_id=row["rig_id"],
        title=row["title"],
        staged=bool(row["staged"]),
        merge_mode=row["merge_mode"],
        feature_branch=row["feature_branch"],
        metadata=json.loads(row["metadata"]),
        created_at=row["created_at"],
        landed_at=row["landed_at"],
        beads=beads,
        cost=together(spent[one.id] for one in beads if one.id in spent).cost,
    )


def convoys(transaction: Transaction) -> list[Convoy]:
    """The convoys that have not landed, oldest first."""
    rows = transaction.rows("SELECT id FROM convoys WHERE town_id = ?1 AND landed_at IS NULL ORDER BY number")
    return [convoy(transaction, row["id"]) for row in rows]


def make_convoy(transaction: Transaction, plan: ConvoyPlan) -> tuple[Convoy, list[Assignment]]:
    """Make a convoy and a bead for each of its tasks; agents get them unless it is staged."""
    transaction.require_rig(plan.rig_id)
    convoy_id = new_id("convoy")
    transaction.run(
        "INSERT INTO convoys (town_id, id, rig_id, title, staged, merge_mode, metadata, created_at)"
        " VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)",
        *(convoy_id, plan.rig_id, plan.title, int(plan.staged), plan.merge_mode),
        *(json.dumps(plan.metadata), transaction.now),
    )
    made = [
        make_bead(
            transaction, plan.rig_id, BeadType.ISSUE, task.title,
            body=task.body, metadata=plan.metadata, convoy_id=convoy_id, created_by=plan.created_by,
        )
        for task in plan.tasks
    ]  # fmt: skip
    for one, task in zip(made, plan.tasks, strict=True):
        set_blockers(transaction, one.id, [made[index].id for index in task.depends_on])
    add_work(transaction, beads_of_convoy(transaction, convoy_id), staged=plan.staged)
    return convoy(transaction, convoy_id), [assignment(transaction, one.id) for one in made]


def start_convoy(transaction: Transaction, convoy_id: str) -> tuple[Convoy, list[Assignment]]:
    """Give the beads of a staged convoy to agents; Conflict when it has been started."""
    staged = convoy(transaction, convoy_id)
    if not staged.staged:
        raise Conflict(f"Convoy {convoy_id} is not staged")
    transaction.run("UPDATE convoys SET staged = 0 WHERE town_id = ?1 AND id = ?2", convoy_id)
    for member in staged.beads:
        begin_staged(transaction, member.id)
    return convoy(transaction, convoy_id), [assignment(transaction, one.id) for one in staged.beads]


def close_convoy(transaction: Transaction, convoy_id: str) -> Convoy:
    """End a convoy as it is. Its beads stay what they are, each by itself."""
    convoy(transaction, convoy_id)
    transaction.run(
        "UPDATE convoys SET staged = 0, landed_at = coalesce(landed_at, ?3) WHERE town_id = ?1 AND id = ?2",
        *(convoy_id, transaction.now),
    )
    return convoy(transaction, convoy_id)


def add_bead(transaction: Transaction, convoy_id: str, bead_id: str, blockers: list[str] | None) -> Convoy:
    """Make a bead part of a convoy that has not landed; Conflict when it is part of another one."""
    convoy(transaction, convoy_id).check_accepts(bead(transaction, bead_id))
    change_bead(transaction, bead_id, {"convoy_id": convoy_id})
    if blockers is not None:
        set_blockers(transaction, bead_id, blockers)
    order_changed(transaction, bead_id)
    return convoy(transaction, convoy_id)


def remove_bead(transaction: Transaction, convoy_id: str, bead_id: str) -> Convoy:
    convoy(transaction, convoy_id)
    if bead(transaction, bead_id).convoy_id != convoy_id:
        raise NotFound(f"Bead {bead_id} is not part of convoy {convoy_id}")
    change_bead(transaction, bead_id, {"convoy_id": None})
    order_changed(transaction, bead_id)
    settle_convoy(transaction, convoy_id)
    return convoy(transaction, convoy_id)


def change_convoy(
    transaction: Transaction, convoy_id: str, merge_mode: str | None, feature_branch: str | None
) -> Convoy:
    """Change what is given and leave the rest."""
    transaction.run(
        "UPDATE convoys SET merge_mode = coalesce(?3, merge_mode), feature_branch = coalesce(?4, feature_branch)"
        " WHERE town_id = ?1 AND id = ?2",
        *(convoy_id, merge_mode, feature_branch),
    )
    return convoy(transaction, convoy_id)
