"""Work on the board: made, changed, handed in and judged. Its state is the reconciler's, which is told facts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from gastown.hall.domain.bead import Bead, BeadState, BeadType, check_edge
from gastown.hall.domain.errors import Conflict
from gastown.hall.domain.review import Review
from gastown.hall.domain.rig_agent import Assignment, RigAgent
from gastown.hall.reconcile import facts
from gastown.hall.reconcile.state import HandInPhase, Work
from gastown.hall.store.beads import (
    bead,
    change_bead,
    delete_beads,
    find_bead,
    free_agents_of,
    make_bead,
    move_bead,
    set_blockers,
)
from gastown.hall.store.rig_agents import agent, caller
from gastown.hall.store.town_state import (
    PRIORITIES,
    attempts_of,
    author_for,
    branch_of,
    new_work,
    state_of,
    take,
    work_of,
)
from gastown.hall.store.transaction import Transaction

__all__ = [
    "add_work",
    "assign",
    "assignment",
    "begin_staged",
    "change",
    "close_by_agent",
    "delete",
    "finish_work",
    "order_changed",
    "request_changes",
    "reset",
    "sling",
]


def add_work(transaction: Transaction, made: Sequence[Bead], *, staged: bool = False) -> None:
    """Let the reconciler know of new beads, all of them at once."""
    take(transaction, *(facts.Added(work=new_work(transaction, one, staged=staged)) for one in made))


def sling(
    transaction: Transaction, rig_id: str, title: str, *, blockers: Sequence[str] = (), **columns: Any
) -> Bead:
    """Make a piece of work, which begins once each of `blockers` is closed. `columns` are more of the bead.

    NotFound for an unknown rig or blocker.
    """
    transaction.require_rig(rig_id)
    made = make_bead(transaction, rig_id, BeadType.ISSUE, title, **columns)
    if blockers:
        set_blockers(transaction, made.id, blockers)
        made = bead(transaction, made.id)
    add_work(transaction, [made])
    return bead(transaction, made.id)


def assignment(transaction: Transaction, bead_id: str) -> Assignment:
    """A bead, and the agent that is or will be its author."""
    work, found = work_of(transaction, bead_id), bead(transaction, bead_id)
    author = None if work is None or work.author is None else agent(transaction, work.rig_id, work.author)
    return Assignment(bead=found, agent=author)


def change(
    transaction: Transaction,
    rig_id: str,
    bead_id: str,
    changes: Mapping[str, Any],
    *,
    blockers: Sequence[str] | None = None,
    status: BeadState | None = None,
) -> Bead:
    """Change what a bead says, what it waits for, or, as a person would, its state. The bead as it is then."""
    bead(transaction, bead_id, rig_id)
    if changes:
        change_bead(transaction, bead_id, changes)
    if blockers is not None:
        set_blockers(transaction, bead_id, blockers)
    order_changed(transaction, bead_id)
    if status is not None:
        _move(transaction, bead(transaction, bead_id), status)
    return bead(transaction, bead_id)


def order_changed(transaction: Transaction, bead_id: str, *, staged: bool | None = None) -> None:
    """The board says something else about a bead: the reconciler goes by it from now on."""
    work, now = work_of(transaction, bead_id), bead(transaction, bead_id)
    if work is None:
        return
    fact = facts.Ordered(
        bead_id=bead_id,
        title=now.title,
        priority=PRIORITIES.get(now.priority, 1),
        blockers=now.depends_on,
        staged=work.staged if staged is None else staged,
        convoy_id=now.convoy_id,
    )
    take(transaction, fact)


def begin_staged(transaction: Transaction, bead_id: str) -> None:
    """Let a bead of a staged convoy begin."""
    order_changed(transaction, bead_id, staged=False)
    work = work_of(transaction, bead_id)
    if work is not None and work.author is None and not work.is_finished:
        found = bead(transaction, bead_id)
        author = author_for(transaction, found)
        branch = branch_of(author, found)
        take(transaction, facts.Assigned(bead_id=bead_id, agent_id=author.id, branch=branch))


def assign(transaction: Transaction, rig_id: str, bead_id: str, to: str) -> Bead:
    """Let another agent go on with a bead; Conflict when it cannot."""
    found, taker = bead(transaction, bead_id, rig_id), agent(transaction, rig_id, to)
    taker.check_may_take(found)
    work = work_of(transaction, bead_id)
    if work is None:
        change_bead(transaction, bead_id, {"assignee": to})
    elif work.hand_in is not None:
        raise Conflict(f"Bead {bead_id} is in review: its author is {work.author}")
    else:
        take(transaction, facts.Assigned(bead_id=bead_id, agent_id=to, branch=branch_of(taker, found)))
    return bead(transaction, bead_id)


def reset(transaction: Transaction, rig_id: str, agent_id: str) -> RigAgent:
    """End what an agent does now; the work begins again."""
    agent(transaction, rig_id, agent_id)
    take(transaction, facts.Reset(agent_id=agent_id))
    return agent(transaction, rig_id, agent_id)


def close_by_agent(transaction: Transaction, rig_id: str, bead_id: str) -> Bead:
    """An agent closes a bead: a letter, an escalation, or work that nobody has begun."""
    found = bead(transaction, bead_id, rig_id)
    _move(transaction, found, BeadState.CLOSED, by_agent=True)
    return bead(transaction, bead_id)


def delete(transaction: Transaction, rig_id: str, bead_ids: Sequence[str]) -> int:
    """Delete beads of the rig; how many there were. Conflict while one of them is being merged."""
    known = state_of(transaction).work
    of_work = {one.hand_in.id: one for one in known.values() if one.hand_in is not None}
    gone: list[facts.Fact] = []
    for bead_id in bead_ids:
        found = find_bead(transaction, bead_id)
        if found is None or found.rig_id != rig_id:
            continue
        if bead_id in of_work:
            raise Conflict(f"Bead {bead_id} is the review of {of_work[bead_id].bead_id}, and goes with it")
        if (work := known.get(bead_id)) is not None:
            _check_not_merging(work)
            gone.append(facts.Removed(bead_id=bead_id))
    if gone:
        take(transaction, *gone)
    return delete_beads(transaction, rig_id, bead_ids)


def finish_work(
    transaction: Transaction, rig_id: str, agent_id: str, *, branch: str, pr_url: str | None, summary: str | None
) -> str:
    """The calling agent is done with its bead; the id of the review. Said twice, it is the same review.

    Work goes to review. A review ends with the reviewer's consent. Conflict when the agent has no bead.
    """
    caller_now = caller(transaction, rig_id, agent_id)
    if caller_now.bead_id is None:
        return _handed_in_before(transaction, agent_id)
    held = bead(transaction, caller_now.bead_id)
    if held.type == BeadType.MERGE_REQUEST:
        return _pass_review(transaction, held, agent_id)
    work = work_of(transaction, held.id)
    if work is None:
        raise Conflict(f"Bead {held.id} is no work that can be handed in")
    about = Review(source_bead_id=held.id, branch=work.branch, pr_url=pr_url, named_branch=branch)
    made = make_bead(
        transaction, held.rig_id, BeadType.MERGE_REQUEST, f"Review: {held.title}",
        body=summary, metadata=about.metadata(), created_by=agent_id,
    )  # fmt: skip
    take(transaction, facts.HandedIn(bead_id=held.id, agent_id=agent_id, hand_in_id=made.id))
    after = work_of(transaction, held.id)
    if after is None or after.hand_in is None or after.hand_in.id != made.id:
        raise Conflict(f"Bead {held.id} is {held.status}, and cannot be handed in by {agent_id}")
    return made.id


def request_changes(
    transaction: Transaction, rig_id: str, agent_id: str, *, feedback: str, files: list[str]
) -> str:
    """The calling reviewer wants changes: the author goes on with the same bead, whose id is returned.

    Conflict when the agent reviews nothing.
    """
    reviewer = caller(transaction, rig_id, agent_id)
    held = None if reviewer.bead_id is None else bead(transaction, reviewer.bead_id)
    work = None if held is None else _reviewed(transaction, held.id)
    if work is None:
        raise Conflict(f"Agent {agent_id} reviews nothing")
    named = "".join(f"\n- {name}" for name in files)
    says = feedback + (f"\n\nIt is about these files:{named}" if named else "")
    take(transaction, facts.ChangesAsked(bead_id=work.bead_id, agent_id=agent_id, feedback=says))
    return work.bead_id


def _pass_review(transaction: Transaction, held: Bead, agent_id: str) -> str:
    work = _reviewed(transaction, held.id)
    if work is not None:
        take(transaction, facts.ReviewPassed(bead_id=work.bead_id, agent_id=agent_id))
    else:  # the work has come to another end meanwhile
        free_agents_of(transaction, held.id)
        move_bead(transaction, held.id, BeadState.CLOSED)
    return held.id


def _handed_in_before(transaction: Transaction, agent_id: str) -> str:
    for work in state_of(transaction).work.values():
        if work.author == agent_id and work.hand_in is not None:
            return work.hand_in.id
    raise Conflict(f"Agent {agent_id} works on no bead")


def _reviewed(transaction: Transaction, review_id: str) -> Work | None:
    for work in state_of(transaction).work.values():
        if work.hand_in is not None and work.hand_in.id == review_id:
            return work
    return None


def _move(transaction: Transaction, found: Bead, to: BeadState, *, by_agent: bool = False) -> None:
    """Bring a bead into another state, as far as a tool may; Conflict where it may not."""
    if (of := _reviewed(transaction, found.id)) is not None:
        raise Conflict(f"Bead {found.id} is the review of {of.bead_id}, and ends with it")
    work = work_of(transaction, found.id)
    if work is None:
        move_bead(transaction, found.id, to, is_retry=not by_agent)
        return
    if not check_edge(found, to, is_retry=not by_agent):
        return
    _check_not_merging(work)
    if to is BeadState.OPEN and work.is_finished:
        take(transaction, facts.Retried(bead_id=found.id))
    elif to is BeadState.FAILED:
        take(transaction, facts.Closed(bead_id=found.id, failed=True))
    elif to is BeadState.CLOSED:
        if attempts_of(transaction, found.id):
            raise Conflict(
                f"Bead {found.id} has been worked on, on branch {work.branch}: hand it in with gt_done, also when "
                "there is nothing to merge, or let a person close it"
            )
        take(transaction, facts.Closed(bead_id=found.id))
    else:
        raise Conflict(f"Bead {found.id} becomes {to} by itself, when its agent begins or hands it in")


def _check_not_merging(work: Work) -> None:
    if work.hand_in is not None and work.hand_in.phase is HandInPhase.MERGING:
        raise Conflict(f"Bead {work.bead_id} is being merged")
