"""Handing work in, reviewing it, and asking for changes, as moves on the board."""

from __future__ import annotations

from gastown.contract.agents import Role
from gastown.hall.domain.bead import Bead, BeadState, BeadType, state_when_released
from gastown.hall.domain.errors import Conflict
from gastown.hall.domain.review import Review, rework_metadata
from gastown.hall.domain.rig_agent import RigAgent
from gastown.hall.store.beads import bead, find_bead, is_blocked, make_bead, move_bead, set_blockers
from gastown.hall.store.rig_agents import assign, caller, free_agent, holder_of, set_agent
from gastown.hall.store.transaction import Transaction

__all__ = ["finish_work", "request_changes"]


def finish_work(
    transaction: Transaction, rig_id: str, agent_id: str, *, branch: str, pr_url: str | None, summary: str | None
) -> str:
    """The calling agent is done with its bead; the id of the review. Conflict when it has no bead.

    Work goes to review. A review that waits for no more changes is closed together with its work.
    """
    worker, held = _holding(transaction, rig_id, agent_id)
    set_agent(transaction, agent_id, "bead_id", None)
    if held.type == BeadType.MERGE_REQUEST:
        _finish_review(transaction, held)
        return held.id
    about = Review(source_bead_id=held.id, branch=branch, pr_url=pr_url)
    return _hand_in(transaction, worker, held, about, summary)


def request_changes(
    transaction: Transaction, rig_id: str, agent_id: str, *, feedback: str, files: list[str]
) -> str:
    """Make a bead for the changes that the calling reviewer asks for; its id. The review waits for it.

    Conflict when the agent reviews nothing.
    """
    _, held = _holding(transaction, rig_id, agent_id)
    if held.type != BeadType.MERGE_REQUEST:
        raise Conflict(f"Agent {agent_id} reviews nothing")
    rework = make_bead(
        transaction, rig_id, BeadType.ISSUE, f"Rework: {held.title}",
        body=feedback, metadata=rework_metadata(held, files), created_by=agent_id,
    )  # fmt: skip
    sql = "INSERT INTO reworks (town_id, bead_id, review_id) VALUES (?1, ?2, ?3)"
    transaction.run(sql, rework.id, held.id)
    set_blockers(transaction, held.id, [*held.depends_on, rework.id])
    assign(transaction, rework, free_agent(transaction, rig_id))
    return rework.id


def _holding(transaction: Transaction, rig_id: str, agent_id: str) -> tuple[RigAgent, Bead]:
    worker = caller(transaction, rig_id, agent_id)
    if worker.bead_id is None:
        raise Conflict(f"Agent {agent_id} works on no bead")
    return worker, bead(transaction, worker.bead_id)


def _finish_review(transaction: Transaction, review: Bead) -> None:
    if is_blocked(transaction, review.id):
        move_bead(transaction, review.id, state_when_released(review))
        return
    move_bead(transaction, review.id, BeadState.CLOSED)
    source_id = Review.of(review).source_bead_id
    source = None if source_id is None else find_bead(transaction, source_id)
    if source is not None and not source.is_finished:
        move_bead(transaction, source.id, BeadState.CLOSED)


def _hand_in(transaction: Transaction, worker: RigAgent, held: Bead, about: Review, summary: str | None) -> str:
    """Put finished work into review, and give the review to a refinery; the review's id.

    The rework of a review ends here, and the review that asked for it goes on. When that one is finished or
    deleted, the rework is work like any other.
    """
    if review := _open_review_of(transaction, held.id):
        move_bead(transaction, held.id, BeadState.CLOSED)
        if holder_of(transaction, review.id) is None:
            assign(transaction, review, free_agent(transaction, held.rig_id, Role.REFINERY))
        return review.id
    if held.status == BeadState.OPEN:  # it was blocked when the agent got it, and the agent began all the same
        move_bead(transaction, held.id, BeadState.IN_PROGRESS)
    move_bead(transaction, held.id, BeadState.IN_REVIEW)
    made = make_bead(
        transaction, held.rig_id, BeadType.MERGE_REQUEST, f"Review: {held.title}",
        body=summary, metadata=about.metadata(), created_by=worker.id,
    )  # fmt: skip
    assign(transaction, made, free_agent(transaction, held.rig_id, Role.REFINERY))
    return made.id


def _open_review_of(transaction: Transaction, rework_id: str) -> Bead | None:
    """The review that waits for this rework; None when the bead is no rework, or its review is finished."""
    row = transaction.row("SELECT review_id FROM reworks WHERE town_id = ?1 AND bead_id = ?2", rework_id)
    review = None if row is None else bead(transaction, row["review_id"])
    return None if review is None or review.is_finished else review
