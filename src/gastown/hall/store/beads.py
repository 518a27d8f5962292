"""The board's beads: one row each, with their blockers, and their states changed along the legal edges only."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

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
    "unread_messages",
]

_BEADS = """
    SELECT *, (SELECT json_group_array(blocker_id) FROM (
                   SELECT blocker_id FROM blockers WHERE blockers.town_id = beads.town_id
                   AND blockers.bead_id = beads.id ORDER BY blocker_id)) AS depends_on
      FROM beads WHERE town_id = ?1
"""


def find_bead(transaction: Transaction, bead_id: str) -> Bead | None:
    row = transaction.row(f"{_BEADS} AND id = ?2", bead_id)
    return None if row is None else _bead(row)


def bead(transaction: Transaction, bead_id: str, rig_id: str | None = None, kind: str | None = None) -> Bead:
    """The bead; NotFound when there is none of that id, in that rig, of that type."""
    found = find_bead(transaction, bead_id)
    if found is None or rig_id not in (None, found.rig_id) or kind not in (None, found.type):
        where = "" if rig_id is None else f" in rig {rig_id}"
        raise NotFound(f"There is no {(kind or 'bead').replace('_', ' ')} {bead_id}{where}")
    return found


def beads(transaction: Transaction, rig_id: str, status: str | None = None, kind: str | None = None) -> list[Bead]:
    """The beads of a rig, oldest first."""
    condition = "AND rig_id = ?2 AND (?3 IS NULL OR status = ?3) AND (?4 IS NULL OR type = ?4)"
    return _listed(transaction, condition, rig_id, status, kind)


def beads_of_convoy(transaction: Transaction, convoy_id: str) -> list[Bead]:
    """The beads of a convoy, oldest first."""
    return _listed(transaction, "AND convoy_id = ?2", convoy_id)


def beads_of_type(transaction: Transaction, kind: BeadType) -> list[Bead]:
    """The town's beads of a type, oldest first."""
    return _listed(transaction, "AND type = ?2", kind)


def unread_messages(transaction: Transaction, agent_id: str) -> list[Bead]:
    """The messages to an agent that it has not read, oldest first."""
    return _listed(transaction, "AND assignee = ?2 AND type = 'message' AND status = 'open'", agent_id)


def make_bead(transaction: Transaction, rig_id: str, kind: str, title: str, **columns: Any) -> Bead:
    """Make a bead. `columns` are further ones; labels and metadata as values."""
    values = {
        "id": new_id("bead"),
        "rig_id": rig_id,
        "type": kind,
        "title": title,
        "created_at": transaction.now,
        "updated_at": transaction.now,
    } | {name: _stored(name, value) for name, value in columns.items() if value is not None}
    names = ", ".join(values)
    places = ", ".join(f"?{number}" for number in range(2, len(values) + 2))
    sql = f"INSERT INTO beads (town_id, {names}) VALUES (?1, {places})"  # noqa: S608  names of this module
    transaction.run(sql, *values.values())
    return bead(transaction, str(values["id"]))


def change_bead(transaction: Transaction, bead_id: str, changes: Mapping[str, Any]) -> Bead:
    """Change columns of a bead other than its state, which `move_bead` changes; the bead as it is then."""
    values = {name: _stored(name, value) for name, value in changes.items()} | {"updated_at": transaction.now}
    setting = ", ".join(f"{name} = ?{number}" for number, name in enumerate(values, 3))
    sql = f"UPDATE beads SET {setting} WHERE town_id = ?1 AND id = ?2"  # noqa: S608  names of this package
    transaction.run(sql, bead_id, *values.values())
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
        sql = "UPDATE convoys SET landed_at = NULL WHERE town_id = ?1 AND id = ?2"
        transaction.run(sql, moved.convoy_id)
    settle_convoy(transaction, moved.convoy_id)
    return after


def delete_beads(transaction: Transaction, rig_id: str, bead_ids: Sequence[str]) -> int:
    """Delete beads of the rig; how many there were."""
    wanted = (find_bead(transaction, bead_id) for bead_id in dict.fromkeys(bead_ids))
    found = [one for one in wanted if one is not None and one.rig_id == rig_id]
    for one in found:
        free_agents_of(transaction, one.id)
        transaction.run("DELETE FROM beads WHERE town_id = ?1 AND id = ?2", one.id)
    for convoy_id in {one.convoy_id for one in found}:
        settle_convoy(transaction, convoy_id)
    return len(found)


def settle_convoy(transaction: Transaction, convoy_id: str | None) -> None:
    """Land a convoy when each of its beads is closed. One without beads does not land."""
    transaction.run(
        "UPDATE convoys SET landed_at = ?3 WHERE town_id = ?1 AND id = ?2 AND landed_at IS NULL"
        " AND (SELECT min(status = 'closed') FROM beads WHERE town_id = ?1 AND convoy_id = ?2)",
        *(convoy_id, transaction.now),
    )


def set_blockers(transaction: Transaction, bead_id: str, blockers: Sequence[str]) -> None:
    """Replace what must be closed before the bead begins; NotFound for an unknown bead, Invalid for a circle."""
    for blocker in blockers:
        bead(transaction, blocker)
    transaction.run("DELETE FROM blockers WHERE town_id = ?1 AND bead_id = ?2", bead_id)
    for blocker in dict.fromkeys(blockers):
        sql = "INSERT INTO blockers (town_id, bead_id, blocker_id) VALUES (?1, ?2, ?3)"
        transaction.run(sql, bead_id, blocker)
    circle = transaction.row(
        "WITH RECURSIVE ahead (id) AS (SELECT blocker_id FROM blockers WHERE town_id = ?1 AND bead_id = ?2"
        " UNION SELECT blocker_id FROM blockers JOIN ahead ON bead_id = ahead.id WHERE town_id = ?1)"
        " SELECT 1 FROM ahead WHERE id = ?2",
        bead_id,
    )
    if circle is not None:
        raise Invalid(f"Bead {bead_id} would have to wait for itself")


def is_blocked(transaction: Transaction, bead_id: str) -> bool:
    """Whether another bead must still be closed before this one may begin."""
    row = transaction.row(
        "SELECT 1 FROM blockers JOIN beads ON beads.town_id = ?1 AND beads.id = blocker_id"
        " WHERE blockers.town_id = ?1 AND bead_id = ?2 AND status <> 'closed'",
        bead_id,
    )
    return row is not None


def advance_step(transaction: Transaction, before: Bead, summary: str) -> Step:
    """Finish the bead's present step, which is returned; NotFound when there is none."""
    step = current_step(before)
    change_bead(transaction, before.id, advanced(before, summary))
    return step


def _listed(transaction: Transaction, condition: str, *values: object) -> list[Bead]:
    return [_bead(row) for row in transaction.rows(f"{_BEADS} {condition} ORDER BY number", *values)]


def _bead(row: Row) -> Bead:
    values: dict[str, Any] = {name: row[name] for name in Bead.__dataclass_fields__}
    values |= {name: json.loads(row[name]) for name in ("labels", "metadata")}
    values["depends_on"] = tuple(json.loads(row["depends_on"]))
    return Bead(**values)


def free_agents_of(transaction: Transaction, bead_id: str) -> None:
    """Let go of a bead whoever has it."""
    transaction.run("UPDATE rig_agents SET bead_id = NULL WHERE town_id = ?1 AND bead_id = ?2", bead_id)


def _stored(name: str, value: Any) -> Any:
    return json.dumps(value) if name in ("labels", "metadata") else value
