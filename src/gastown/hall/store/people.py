"""What a person decides about a piece of work: its merge, another try, its end."""

from __future__ import annotations

from sqlalchemy import Integer, bindparam, func, select

from gastown.hall.domain.bead import Bead, BeadState, check_edge
from gastown.hall.domain.errors import Conflict, NotFound
from gastown.hall.reconcile import facts
from gastown.hall.reconcile.state import HandIn, HandInPhase, Work
from gastown.hall.store import rig_agents, tables
from gastown.hall.store.beads import bead, find_bead, move_bead
from gastown.hall.store.board import sling
from gastown.hall.store.records import has_events
from gastown.hall.store.tables import TOWN
from gastown.hall.store.town_state import state_of, take, work_of
from gastown.hall.store.transaction import Transaction

__all__ = [
    "agent_named",
    "approve",
    "close",
    "head_seen",
    "named",
    "reject",
    "retry",
    "revert",
    "stop",
    "stop_agent",
]

_SHOWN_BEADS = 3
_TITLE = 1000
_REVERT = """\
Take back what bead {bead} (“{title}”) brought. Its merge is the commit {commit} on {target}:

git revert --no-edit -m 1 {commit}

(without -m 1 where that commit has one parent). If it conflicts, keep what came later and take back only what
that commit brought. Run the tests that there are.
"""
_ALL = tables.beads.c
# substr and not LIKE: an id may hold the characters that LIKE gives a meaning.
_BEGIN = (
    select(_ALL.id)
    .where(
        _ALL.town_id == TOWN, func.substr(_ALL.id, 1, bindparam("length", type_=Integer)) == bindparam("prefix")
    )
    .order_by(_ALL.number)
    .limit(_SHOWN_BEADS)
)


def named(transaction: Transaction, text: str) -> Bead:
    """The bead of that id, or the only one whose id begins so; NotFound when there is none, or several."""
    found = find_bead(transaction, text)
    if found is not None:
        return found
    prefix = text if text.startswith("bead-") else f"bead-{text}"
    ids = [row.id for row in transaction.rows(_BEGIN, length=len(prefix), prefix=prefix)] if text else []
    if len(ids) == 1:
        return bead(transaction, ids[0])
    if ids:
        raise NotFound(f"Several beads begin with {text}: {', '.join(ids)}", "give more of the id")
    raise NotFound(f"There is no bead {text}", "gastown beads lists them")


def agent_named(transaction: Transaction, text: str) -> str:
    """The id of the agent of that id, of that name, or the only one whose id begins so; `mayor` is the town's.

    NotFound when there is none, or several.
    """
    mayor = transaction.mayor
    if text == "mayor" and mayor is not None:
        return mayor
    names = {one.id: one.name.lower() for one in rig_agents.all_agents(transaction)}
    if text in names or text == mayor or has_events(transaction, text):
        return text
    found = [one for one, name in names.items() if text.lower() == name]
    found = found or [one for one in names if text and one.startswith(text)]
    if len(found) == 1:
        return found[0]
    if found:
        raise NotFound(f"Several agents are named {text}: {', '.join(found[:_SHOWN_BEADS])}", "give the id")
    raise NotFound(f"There is no agent {text}", "gastown status lists them")


def head_seen(transaction: Transaction, bead_id: str, head: str) -> None:
    """A person has seen which commit a bead's branch has: an approval is of that one."""
    work = work_of(transaction, bead_id)
    if work is not None and work.hand_in is not None and work.hand_in.head != head:
        take(transaction, facts.HeadSeen(bead_id=bead_id, hand_in_id=work.hand_in.id, head=head))


def approve(transaction: Transaction, bead_id: str, head: str | None) -> Bead:
    """Agree to the merge of a bead's work, as it is now, or at its commit `head`. Said twice, it is the same.

    Conflict when there is nothing that could be approved, or the branch has another commit by now.
    """
    work, hand_in = _handed_in(transaction, bead_id)
    if hand_in.phase is HandInPhase.REVIEWING:
        raise Conflict(f"Bead {bead_id} is still being reviewed by {work.reviewer or 'an agent'}")
    if hand_in.phase is HandInPhase.ASKING:
        take(transaction, facts.Approved(bead_id=bead_id, head=head))
        _, after = _handed_in(transaction, bead_id)
        if after.phase is HandInPhase.ASKING:
            action = f"look at it again: gastown review show {bead_id}"
            raise Conflict(f"The branch of bead {bead_id} is at {hand_in.head}, and not at {head}", action)
    return bead(transaction, bead_id)


def reject(transaction: Transaction, bead_id: str, message: str) -> Bead:
    """Send a bead's work back to its author, with what to change; Conflict when none is handed in."""
    _, hand_in = _handed_in(transaction, bead_id)
    if hand_in.phase is HandInPhase.MERGING:
        raise Conflict(f"Bead {bead_id} is being merged")
    take(transaction, facts.Rejected(bead_id=bead_id, message=message))
    return bead(transaction, bead_id)


def retry(transaction: Transaction, bead_id: str) -> Bead:
    """Let a bead go on, also a finished one: what went wrong before counts no more."""
    found = bead(transaction, bead_id)
    if work_of(transaction, bead_id) is not None:
        take(transaction, facts.Retried(bead_id=bead_id))
    elif found.is_finished:
        move_bead(transaction, bead_id, BeadState.OPEN, is_retry=True)
    return bead(transaction, bead_id)


def revert(transaction: Transaction, bead_id: str) -> Bead:
    """Make a piece of work that takes back what a bead brought; Conflict when nothing of it is on the target."""
    found, work = bead(transaction, bead_id), work_of(transaction, bead_id)
    if work is None or work.commit is None:
        raise Conflict(f"Bead {bead_id} is {found.status}, and nothing of it is merged", f"gastown why {bead_id}")
    rules = state_of(transaction).rules.rigs.get(found.rig_id)
    target = "the target branch" if rules is None else rules.target
    body = _REVERT.format(bead=found.id, title=found.title, commit=work.commit, target=target)
    return sling(transaction, found.rig_id, f"Revert “{found.title}”"[:_TITLE], body=body, priority=found.priority)


def close(transaction: Transaction, bead_id: str, *, failed: bool) -> Bead:
    """End a bead without a merge; what is on its branch stays there. IllegalEdge when it has ended otherwise."""
    to = BeadState.FAILED if failed else BeadState.CLOSED
    found, work = bead(transaction, bead_id), work_of(transaction, bead_id)
    if not check_edge(found, to):
        return found
    if work is None:
        return move_bead(transaction, bead_id, to)
    _check_not_merging(work)
    take(transaction, facts.Closed(bead_id=bead_id, failed=failed))
    return bead(transaction, bead_id)


def stop(transaction: Transaction, bead_id: str) -> Bead:
    """End what agents do with a bead; it waits for a person from now on. Conflict when it is finished."""
    found, work = bead(transaction, bead_id), work_of(transaction, bead_id)
    if work is None or work.is_finished:
        raise Conflict(f"Bead {bead_id} is {found.status}: there is nothing to stop")
    _check_not_merging(work)
    reason = "a person stopped it: retry it to let it go on, or close it"
    take(transaction, facts.Held(bead_id=bead_id, reason=reason))
    return bead(transaction, bead_id)


def stop_agent(transaction: Transaction, agent_id: str) -> Bead:
    """End what an agent does; its bead, which is returned, waits for a person. NotFound when it does nothing."""
    for work in state_of(transaction).work.values():
        if any(attempt.agent_id == agent_id for attempt in work.attempts):
            return stop(transaction, work.bead_id)
    raise NotFound(f"No agent {agent_id} is at work", "gastown status lists them")


def _handed_in(transaction: Transaction, bead_id: str) -> tuple[Work, HandIn]:
    found, work = bead(transaction, bead_id), work_of(transaction, bead_id)
    if work is None or work.hand_in is None:
        raise Conflict(f"Bead {bead_id} is {found.status}, and has nothing handed in", f"gastown why {bead_id}")
    return work, work.hand_in


def _check_not_merging(work: Work) -> None:
    if work.hand_in is not None and work.hand_in.phase is HandInPhase.MERGING:
        raise Conflict(f"Bead {work.bead_id} is being merged")
