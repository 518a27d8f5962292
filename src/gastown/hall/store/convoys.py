"""The board's convoys: beads that are followed, and land, together."""

from __future__ import annotations

import json

from sqlalchemy import bindparam, func, select, update

from gastown.hall.domain.bead import BeadType
from gastown.hall.domain.convoy import Convoy, ConvoyPlan
from gastown.hall.domain.errors import Conflict, NotFound
from gastown.hall.domain.rig_agent import Assignment
from gastown.hall.store import tables
from gastown.hall.store.beads import (
    bead,
    beads_of_convoy,
    change_bead,
    make_bead,
    set_blockers,
    settle_convoy,
)
from gastown.hall.store.board import add_work, assignment, begin_staged, order_changed
from gastown.hall.store.tables import TOWN
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

_ALL = tables.convoys.c
_IT = (_ALL.town_id == TOWN, _ALL.id == bindparam("convoy"))
_ONE = select(tables.convoys).where(*_IT)
_ACTIVE = select(_ALL.id).where(_ALL.town_id == TOWN, _ALL.landed_at.is_(None)).order_by(_ALL.number)
_END = (
    update(tables.convoys).where(*_IT).values(staged=0, landed_at=func.coalesce(_ALL.landed_at, bindparam("at")))
)


def convoy(transaction: Transaction, convoy_id: str) -> Convoy:
    """The convoy; NotFound when there is none of that id."""
    row = transaction.row(_ONE, convoy=convoy_id)
    if row is None:
        raise NotFound(f"There is no convoy {convoy_id}")
    beads = tuple(beads_of_convoy(transaction, convoy_id))
    spent = spent_by_bead(transaction)
    return Convoy(
        id=row.id,
        rig_id=row.rig_id,
        title=row.title,
        staged=bool(row.staged),
        merge_mode=row.merge_mode,
        feature_branch=row.feature_branch,
        metadata=json.loads(row.metadata),
        created_at=row.created_at,
        landed_at=row.landed_at,
        beads=beads,
        cost=together(spent[one.id] for one in beads if one.id in spent).cost,
    )


def convoys(transaction: Transaction) -> list[Convoy]:
    """The convoys that have not landed, oldest first."""
    return [convoy(transaction, row.id) for row in transaction.rows(_ACTIVE)]


def make_convoy(transaction: Transaction, plan: ConvoyPlan) -> tuple[Convoy, list[Assignment]]:
    """Make a convoy and a bead for each of its tasks; agents get them unless it is staged."""
    transaction.require_rig(plan.rig_id)
    convoy_id = new_id("convoy")
    transaction.insert(
        tables.convoys,
        id=convoy_id,
        rig_id=plan.rig_id,
        title=plan.title,
        staged=int(plan.staged),
        merge_mode=plan.merge_mode,
        metadata=json.dumps(plan.metadata),
        created_at=transaction.now,
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
    transaction.change(tables.convoys, convoy_id, staged=0)
    for member in staged.beads:
        begin_staged(transaction, member.id)
    return convoy(transaction, convoy_id), [assignment(transaction, one.id) for one in staged.beads]


def close_convoy(transaction: Transaction, convoy_id: str) -> Convoy:
    """End a convoy as it is. Its beads stay what they are, each by itself."""
    convoy(transaction, convoy_id)
    transaction.run(_END, convoy=convoy_id, at=transaction.now)
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
    given = {"merge_mode": merge_mode, "feature_branch": feature_branch}
    changes = {name: value for name, value in given.items() if value is not None}
    if changes:
        transaction.change(tables.convoys, convoy_id, **changes)
    return convoy(transaction, convoy_id)
