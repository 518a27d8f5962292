"""The board's beads: one row each, with their blockers, and their states changed along the legal edges only."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from itertools import groupby
from typing import Any

from sqlalchemy import and_, bindparam, delete, exists, literal, not_, select, update

from gastown.hall.domain.bead import (
    FINISHED,
    Bead,
    BeadState,
    BeadType,
    Step,
    advanced,
    check_edge,
    current_step,
)
from gastown.hall.domain.errors import Invalid, NotFound
from gastown.hall.store import tables
from gastown.hall.store.tables import TOWN
from gastown.hall.store.transaction import Row, Transaction, new_id

__all__ = [
    "advance_step",
    "bead",
    "beads",
    "beads_of_convoy",
    "beads_of_type",
    "change_bead",
    "delete_beads",
    "find_bead",
    "free_agents_of",
    "is_blocked",
    "make_bead",
    "move_bead",
    "set_blockers",
    "settle_convoy",
    "unland_convoy",
    "unread_messages",
]

_ALL, _BLOCKERS = tables.beads.c, tables.blockers.c
_FIELDS = tuple(name for name in Bead.__dataclass_fields__ if name != "depends_on")

# A row for each blocker of a bead, or one row for a bead without any.
_BEADS = (
    select(*(_ALL[name] for name in _FIELDS), _BLOCKERS.blocker_id)
    .outerjoin_from(
        tables.beads,
        tables.blockers,
        and_(_BLOCKERS.town_id == _ALL.town_id, _BLOCKERS.bead_id == _ALL.id),
    )
    .where(_ALL.town_id == TOWN)
    .order_by(_ALL.number, _BLOCKERS.blocker_id)
)
_ONE = _BEADS.where(_ALL.id == bindparam("bead"))
_OF_RIG = _BEADS.where(_ALL.rig_id == bindparam("rig"))
_OF_CONVOY = _BEADS.where(_ALL.convoy_id == bindparam("convoy"))
_OF_TYPE = _BEADS.where(_ALL.type == bindparam("kind"))
_UNREAD = _BEADS.where(
    _ALL.assignee == bindparam("agent"),
    _ALL.type == BeadType.MESSAGE.value,
    _ALL.status == BeadState.OPEN.value,
)
_DELETE = delete(tables.beads).where(_ALL.town_id == TOWN, _ALL.id == bindparam("bead"))

_CONVOYS = tables.convoys.c
_ITS_BEADS = exists().where(_ALL.town_id == TOWN, _ALL.convoy_id == bindparam("convoy"))
_LAND = (
    update(tables.convoys)
    .values(landed_at=bindparam("at"))
    .where(
        _CONVOYS.town_id == TOWN,
        _CONVOYS.id == bindparam("convoy"),
        _CONVOYS.landed_at.is_(None),
        _ITS_BEADS,
        not_(_ITS_BEADS.where(_ALL.status != BeadState.CLOSED.value)),
    )
)
_UNLAND = (
    update(tables.convoys)
    .values(landed_at=None)
    .where(_CONVOYS.town_id == TOWN, _CONVOYS.id == bindparam("convoy"))
)

_UNBLOCK = delete(tables.blockers).where(_BLOCKERS.town_id == TOWN, _BLOCKERS.bead_id == bindparam("bead"))
_FIRST = select(_BLOCKERS.blocker_id.label("id")).where(
    _BLOCKERS.town_id == TOWN, _BLOCKERS.bead_id == bindparam("bead")
)
_AHEAD = _FIRST.cte("ahead", recursive=True)
_ALL_AHEAD = _AHEAD.union(
    select(_BLOCKERS.blocker_id).where(_BLOCKERS.town_id == TOWN, _BLOCKERS.bead_id == _AHEAD.c.id)
)
_CIRCLE = select(literal(1)).select_from(_ALL_AHEAD).where(_ALL_AHEAD.c.id == bindparam("bead"))
_BLOCKED = (
    select(literal(1))
    .join_from(
        tables.blockers,
        tables.beads,
        and_(_ALL.town_id == _BLOCKERS.town_id, _ALL.id == _BLOCKERS.blocker_id),
    )
    .where(
        _BLOCKERS.town_id == TOWN,
        _BLOCKERS.bead_id == bindparam("bead"),
        _ALL.status != BeadState.CLOSED.value,
    )
)

_FREE = (
    update(tables.rig_agents)
    .values(bead_id=None)
    .where(tables.rig_agents.c.town_id == TOWN, tables.rig_agents.c.bead_id == bindparam("bead"))
)


def find_bead(transaction: Transaction, bead_id: str) -> Bead | None:
    found = _listed(transaction.rows(_ONE, bead=bead_id))
    return found[0] if found else None


def bead(transaction: Transaction, bead_id: str, rig_id: str | None = None, kind: str | None = None) -> Bead:
    """The bead; NotFound when there is none of that id, in that rig, of that type."""
    found = find_bead(transaction, bead_id)
    if found is None or rig_id not in (None, found.rig_id) or kind not in (None, found.type):
        where = "" if rig_id is None else f" in rig {rig_id}"
        raise NotFound(f"There is no {(kind or 'bead').replace('_', ' ')} {bead_id}{where}")
    return found


def beads(transaction: Transaction, rig_id: str, status: str | None = None, kind: str | None = None) -> list[Bead]:
    """The beads of a rig, oldest first."""
    wanted = _OF_RIG
    if status is not None:
        wanted = wanted.where(_ALL.status == status)
    if kind is not None:
        wanted = wanted.where(_ALL.type == kind)
    return _listed(transaction.rows(wanted, rig=rig_id))


def beads_of_convoy(transaction: Transaction, convoy_id: str) -> list[Bead]:
    """The beads of a convoy, oldest first."""
    return _listed(transaction.rows(_OF_CONVOY, convoy=convoy_id))


def beads_of_type(transaction: Transaction, kind: BeadType) -> list[Bead]:
    """The town's beads of a type, oldest first."""
    return _listed(transaction.rows(_OF_TYPE, kind=kind.value))


def unread_messages(transaction: Transaction, agent_id: str) -> list[Bead]:
    """The messages to an agent that it has not read, oldest first."""
    return _listed(transaction.rows(_UNREAD, agent=agent_id))


def make_bead(transaction: Transaction, rig_id: str, kind: str, title: str, **columns: Any) -> Bead:
    """Make a bead. `columns` are further ones; labels and metadata as values."""
    bead_id, now = new_id("bead"), transaction.now
    given = {name: _stored(name, value) for name, value in columns.items() if value is not None}
    transaction.insert(
        tables.beads,
        **({"id": bead_id, "rig_id": rig_id, "type": str(kind), "title": title} | given),
        created_at=now,
        updated_at=now,
    )
    return bead(transaction, bead_id)


def change_bead(transaction: Transaction, bead_id: str, changes: Mapping[str, Any]) -> Bead:
    """Change columns of a bead other than its state, which `move_bead` changes; the bead as it is then."""
    values = {name: _stored(name, value) for name, value in changes.items()} | {"updated_at": transaction.now}
    transaction.change(tables.beads, bead_id, **values)
    return bead(transaction, bead_id)


def move_bead(transaction: Transaction, bead_id: str, to: BeadState, *, is_retry: bool = False) -> Bead:
    """Bring a bead into another state; the bead as it is then. IllegalEdge when the state cannot follow.

    A bead that finishes loses its agent and may land its convoy. A convoy that had landed is active again when one
    of its beads is opened again.
    """
    moved = bead(transaction, bead_id)
    if not check_edge(moved, to, is_retry=is_retry):
        return moved
    closed_at = transaction.now if to in FINISHED else None
    after = change_bead(transaction, bead_id, {"status": to.value, "closed_at": closed_at})
    if after.is_finished:
        free_agents_of(transaction, bead_id)
    if to is not BeadState.CLOSED:
        unland_convoy(transaction, moved.convoy_id)
    settle_convoy(transaction, moved.convoy_id)
    return after


def delete_beads(transaction: Transaction, rig_id: str, bead_ids: Sequence[str]) -> int:
    """Delete beads of the rig; how many there were."""
    wanted = (find_bead(transaction, bead_id) for bead_id in dict.fromkeys(bead_ids))
    found = [one for one in wanted if one is not None and one.rig_id == rig_id]
    for one in found:
        free_agents_of(transaction, one.id)
        transaction.run(_DELETE, bead=one.id)
    for convoy_id in {one.convoy_id for one in found}:
        settle_convoy(transaction, convoy_id)
    return len(found)


def settle_convoy(transaction: Transaction, convoy_id: str | None) -> None:
    """Land a convoy when each of its beads is closed. One without beads does not land."""
    if convoy_id is not None:
        transaction.run(_LAND, convoy=convoy_id, at=transaction.now)


def unland_convoy(transaction: Transaction, convoy_id: str | None) -> None:
    """A convoy is active again."""
    if convoy_id is not None:
        transaction.run(_UNLAND, convoy=convoy_id)


def set_blockers(transaction: Transaction, bead_id: str, blockers: Sequence[str]) -> None:
    """Replace what must be closed before the bead begins; NotFound for an unknown bead, Invalid for a circle."""
    for blocker in blockers:
        bead(transaction, blocker)
    transaction.run(_UNBLOCK, bead=bead_id)
    for blocker in dict.fromkeys(blockers):
        transaction.insert(tables.blockers, bead_id=bead_id, blocker_id=blocker)
    if transaction.row(_CIRCLE, bead=bead_id) is not None:
        raise Invalid(f"Bead {bead_id} would have to wait for itself")


def is_blocked(transaction: Transaction, bead_id: str) -> bool:
    """Whether another bead must still be closed before this one may begin."""
    return transaction.row(_BLOCKED, bead=bead_id) is not None


def advance_step(transaction: Transaction, before: Bead, summary: str) -> Step:
    """Finish the bead's present step, which is returned; NotFound when there is none."""
    step = current_step(before)
    change_bead(transaction, before.id, advanced(before, summary))
    return step


def _listed(rows: Iterable[Row[Any]]) -> list[Bead]:
    return [_bead(list(of_one)) for _, of_one in groupby(rows, key=lambda row: row[0])]


def _bead(rows: Sequence[Row[Any]]) -> Bead:
    values: dict[str, Any] = dict(zip(_FIELDS, rows[0], strict=False))  # the last column is a blocker
    values |= {name: json.loads(values[name]) for name in ("labels", "metadata")}
    return Bead(**values, depends_on=tuple(row[-1] for row in rows if row[-1] is not None))


def free_agents_of(transaction: Transaction, bead_id: str) -> None:
    """Let go of a bead whoever has it."""
    transaction.run(_FREE, bead=bead_id)


def _stored(name: str, value: Any) -> Any:
    return json.dumps(value) if name in ("labels", "metadata") else value
