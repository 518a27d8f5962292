"""Beads: pieces of work, mail, escalations and reviews are all of them, told apart by their type."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from gastown.hall.api.answers import Refusal
from gastown.hall.api.responses import Bead, Molecule, MoleculeAdvanced
from gastown.hall.store.database import Row
from gastown.hall.store.transaction import Ledger, new_id

__all__ = [
    "FINISHED",
    "advance_molecule",
    "bead",
    "beads",
    "change_bead",
    "close_bead",
    "current_step",
    "delete_beads",
    "link_rework",
    "make_bead",
    "open_blockers",
    "open_review_of",
    "set_blockers",
    "settle_convoy",
    "show_bead",
]

FINISHED = ("closed", "failed")


def bead(ledger: Ledger, bead_id: str, rig_id: str | None = None, kind: str | None = None) -> Row:
    """The bead; Refusal 404 when there is none of that id, in that rig, of that type."""
    row = _find(ledger, bead_id)
    if row is None or rig_id not in (None, row["rig_id"]) or kind not in (None, row["type"]):
        where = "" if rig_id is None else f" in rig {rig_id}"
        raise Refusal(404, f"There is no {(kind or 'bead').replace('_', ' ')} {bead_id}{where}")
    return row


def show_bead(ledger: Ledger, row: Row) -> Bead:
    """A bead as it is answered, with what blocks it."""
    blockers = ledger.rows(
        "SELECT blocker_id FROM blockers WHERE town_id = ?1 AND bead_id = ?2 ORDER BY blocker_id", row["id"]
    )
    return Bead(
        bead_id=row["id"],
        rig_id=row["rig_id"],
        type=row["type"],
        status=row["status"],
        title=row["title"],
        body=row["body"],
        priority=row["priority"],
        labels=json.loads(row["labels"]),
        metadata=json.loads(row["metadata"]),
        created_by=row["created_by"],
        convoy_id=row["convoy_id"],
        created_at=row["created_at"],
        updated_at=row["updated_at"],
        closed_at=row["closed_at"],
        assignee_agent_id=row["assignee"],
        depends_on=tuple(blocker["blocker_id"] for blocker in blockers),
    )


def beads(ledger: Ledger, rig_id: str, status: str | None = None, kind: str | None = None) -> list[Bead]:
    """The beads of a rig, oldest first."""
    rows = ledger.rows(
        "SELECT * FROM beads WHERE town_id = ?1 AND rig_id = ?2 AND (?3 IS NULL OR status = ?3)"
        " AND (?4 IS NULL OR type = ?4) ORDER BY number",
        rig_id,
        status,
        kind,
    )
    return [show_bead(ledger, row) for row in rows]


def make_bead(ledger: Ledger, rig_id: str, kind: str, title: str, **columns: Any) -> str:
    """Make a bead and return its id. `columns` are further ones; labels and metadata as values."""
    values = {
        "id": new_id("bead"),
        "rig_id": rig_id,
        "type": kind,
        "title": title,
        "created_at": ledger.now,
        "updated_at": ledger.now,
    } | {name: _stored(name, value) for name, value in columns.items() if value is not None}
    names = ", ".join(values)
    places = ", ".join(f"?{number}" for number in range(2, len(values) + 2))
    sql = f"INSERT INTO beads (town_id, {names}) VALUES (?1, {places})"  # noqa: S608  names of this module
    ledger.run(sql, *values.values())
    return str(values["id"])


def change_bead(ledger: Ledger, bead_id: str, changes: Mapping[str, Any]) -> None:
    """Change columns of a bead. One that is finished is let go of, and may be the last of its convoy.

    A convoy that had landed has not when one of its beads is opened again.
    """
    values = {name: _stored(name, value) for name, value in changes.items()} | {"updated_at": ledger.now}
    if "status" in changes:
        values["closed_at"] = ledger.now if changes["status"] in FINISHED else None
    setting = ", ".join(f"{name} = ?{number}" for number, name in enumerate(values, 3))
    sql = f"UPDATE beads SET {setting} WHERE town_id = ?1 AND id = ?2"  # noqa: S608  names of this package
    ledger.run(sql, bead_id, *values.values())
    if changes.get("status") in FINISHED:
        _free_holders(ledger, bead_id)
    if "status" in changes and (row := _find(ledger, bead_id)) is not None:
        if row["status"] != "closed":
            sql = "UPDATE convoys SET landed_at = NULL WHERE town_id = ?1 AND id = ?2"
            ledger.run(sql, row["convoy_id"])
        settle_convoy(ledger, row["convoy_id"])


def close_bead(ledger: Ledger, bead_id: str) -> None:
    change_bead(ledger, bead_id, {"status": "closed"})


def delete_beads(ledger: Ledger, rig_id: str, bead_ids: Sequence[str]) -> int:
    """Delete beads of the rig; how many there were."""
    wanted = (_find(ledger, bead_id) for bead_id in dict.fromkeys(bead_ids))
    found = [row for row in wanted if row is not None and row["rig_id"] == rig_id]
    for row in found:
        _free_holders(ledger, row["id"])
        ledger.run("DELETE FROM beads WHERE town_id = ?1 AND id = ?2", row["id"])
    for convoy_id in {row["convoy_id"] for row in found}:
        settle_convoy(ledger, convoy_id)
    return len(found)


def settle_convoy(ledger: Ledger, convoy_id: str | None) -> None:
    """A convoy lands when each of its beads is closed. One without beads does not."""
    ledger.run(
        "UPDATE convoys SET landed_at = ?3 WHERE town_id = ?1 AND id = ?2 AND landed_at IS NULL"
        " AND (SELECT min(status = 'closed') FROM beads WHERE town_id = ?1 AND convoy_id = ?2)",
        *(convoy_id, ledger.now),
    )


def set_blockers(ledger: Ledger, bead_id: str, blockers: Sequence[str]) -> None:
    """Replace what must be closed before the bead begins; Refusal for an unknown bead or a circle."""
    for blocker in blockers:
        bead(ledger, blocker)
    ledger.run("DELETE FROM blockers WHERE town_id = ?1 AND bead_id = ?2", bead_id)
    for blocker in dict.fromkeys(blockers):
        ledger.run("INSERT INTO blockers (town_id, bead_id, blocker_id) VALUES (?1, ?2, ?3)", bead_id, blocker)
    circle = ledger.row(
        "WITH RECURSIVE behind (id) AS (SELECT blocker_id FROM blockers WHERE town_id = ?1 AND bead_id = ?2"
        " UNION SELECT blocker_id FROM blockers JOIN behind ON bead_id = behind.id WHERE town_id = ?1)"
        " SELECT 1 FROM behind WHERE id = ?2",
        bead_id,
    )
    if circle is not None:
        raise Refusal(400, f"Bead {bead_id} would have to wait for itself")


def open_blockers(ledger: Ledger, bead_id: str) -> bool:
    """Whether something must still be closed before the bead may begin."""
    row = ledger.row(
        "SELECT 1 FROM blockers JOIN beads ON beads.town_id = ?1 AND beads.id = blocker_id"
        " WHERE blockers.town_id = ?1 AND bead_id = ?2 AND status <> 'closed'",
        bead_id,
    )
    return row is not None


def link_rework(ledger: Ledger, bead_id: str, review_id: str) -> None:
    """Note that the bead is for what the review asked to change."""
    ledger.run("INSERT INTO reworks (town_id, bead_id, review_id) VALUES (?1, ?2, ?3)", bead_id, review_id)


def open_review_of(ledger: Ledger, rework_id: str) -> str | None:
    """The review that waits for this rework; None when the bead is no rework, or its review is over."""
    row = ledger.row(
        "SELECT review_id FROM reworks JOIN beads ON beads.town_id = ?1 AND beads.id = review_id"
        " WHERE reworks.town_id = ?1 AND bead_id = ?2 AND status NOT IN ('closed', 'failed')",
        rework_id,
    )
    return None if row is None else str(row["review_id"])


def current_step(row: Row) -> Molecule:
    """Where the work on a bead with steps is; Refusal 404 when it has none, or none is left."""
    steps = _steps(row)
    if row["step"] >= len(steps):
        raise Refusal(404, "The bead has no steps" if not steps else "All steps of the bead are finished")
    return Molecule(
        moleculeId=row["id"],
        currentStep=row["step"],
        totalSteps=len(steps),
        step=steps[row["step"]],
        status=row["status"],
    )


def advance_molecule(ledger: Ledger, row: Row, summary: str) -> MoleculeAdvanced:
    """Finish the present step; what was done is kept with the bead."""
    before = current_step(row)
    metadata = json.loads(row["metadata"])
    earlier = metadata.get("step_summaries")
    metadata["step_summaries"] = [*(earlier if isinstance(earlier, list) else []), summary]
    done = before.currentStep + 1
    change_bead(ledger, row["id"], {"step": done, "metadata": metadata})
    return MoleculeAdvanced(
        moleculeId=row["id"],
        previousStep=before.currentStep,
        currentStep=done,
        totalSteps=before.totalSteps,
        completed=done == before.totalSteps,
    )


def _find(ledger: Ledger, bead_id: str) -> Row | None:
    return ledger.row("SELECT * FROM beads WHERE town_id = ?1 AND id = ?2", bead_id)


def _free_holders(ledger: Ledger, bead_id: str) -> None:
    ledger.run("UPDATE rig_agents SET bead_id = NULL WHERE town_id = ?1 AND bead_id = ?2", bead_id)


def _steps(row: Row) -> list[dict[str, str]]:
    """The steps that whoever made the bead put into its metadata, as far as they are such."""
    given = json.loads(row["metadata"]).get("steps")
    return [
        {"title": str(step.get("title", "")), "instructions": str(step.get("instructions", ""))}
        for step in (given if isinstance(given, list) else [])
        if isinstance(step, dict)
    ]


def _stored(name: str, value: Any) -> Any:
    return json.dumps(value) if name in ("labels", "metadata") else value
