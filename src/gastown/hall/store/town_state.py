"""The reconciler's state, beside the board: loaded, stepped and kept in the transaction that brings the facts."""

from __future__ import annotations

import dataclasses
import json
import secrets
from collections.abc import Iterable, Mapping
from typing import Any

from pydantic import TypeAdapter
from sqlalchemy import Integer, bindparam, delete, select

from gastown.contract.agents import Role
from gastown.contract.wire import iso
from gastown.hall.domain.bead import FINISHED, Bead, BeadState, BeadType
from gastown.hall.domain.rig_agent import RigAgent
from gastown.hall.reconcile.actions import Tell
from gastown.hall.reconcile.facts import Added, BudgetChanged, Fact, RulesChanged
from gastown.hall.reconcile.state import Attempt, Breaker, Container, Leaving, TownState, Work
from gastown.hall.reconcile.step import step
from gastown.hall.store import policies, tables
from gastown.hall.store.beads import beads_of_type, find_bead, free_agents_of, settle_convoy, unland_convoy
from gastown.hall.store.rig_agents import find_agent, make_agent, nudge_mayor, set_agent
from gastown.hall.store.tables import TOWN
from gastown.hall.store.transaction import Transaction
from gastown.hall.store.usage import budget_of

__all__ = [
    "MOST_FACTS",
    "PRIORITIES",
    "attempts_of",
    "author_for",
    "branch_of",
    "new_work",
    "state_of",
    "take",
    "take_budget",
    "take_rules",
    "work_of",
]

MOST_FACTS = 10_000
"""Facts that are kept of a town, and up to a thousand more until the next time that they are counted."""
_PRUNED_EVERY = 1000
PRIORITIES: Mapping[str, int] = {"low": 0, "medium": 1, "high": 2, "critical": 3}

_REST_OF = select(tables.reconcilers.c.state).where(tables.reconcilers.c.town_id == TOWN)
_ALL_WORK = select(tables.work.c.state).where(tables.work.c.town_id == TOWN)
_ATTEMPTS, _FACTS, _BEADS = tables.attempts.c, tables.facts.c, tables.beads.c
_ATTEMPTS_OF = (
    select(tables.attempts)
    .where(_ATTEMPTS.town_id == TOWN, _ATTEMPTS.bead_id == bindparam("bead"))
    .order_by(_ATTEMPTS.number)
)
_FIRST_TOO_MANY = (
    select(_FACTS.number)
    .where(_FACTS.town_id == TOWN)
    .order_by(_FACTS.number.desc())
    .limit(1)
    .offset(bindparam("most", type_=Integer))
    .scalar_subquery()
)
_PRUNE = delete(tables.facts).where(_FACTS.town_id == TOWN, _FACTS.number <= _FIRST_TOO_MANY)
_NUMBER = select(_BEADS.number).where(_BEADS.town_id == TOWN, _BEADS.id == bindparam("bead"))

_WORK = TypeAdapter(Work)
_FACT = TypeAdapter(Fact)


@dataclasses.dataclass(frozen=True)
class _Rest:
    """What is kept of a town's state beside its work. Whether the container is ready, the next hall finds out."""

    names: int = 0
    salt: str = ""
    breaker: Breaker = dataclasses.field(default_factory=Breaker)
    stops: tuple[Leaving, ...] = ()


_REST = TypeAdapter(_Rest)


def state_of(transaction: Transaction) -> TownState:
    """The town's state: that of the last transaction, or what the file says. Work that the file does not know,
    made by an older gastown, is taken over.
    """
    if transaction.state is None:
        transaction.state = _load(transaction)
    return transaction.state


def work_of(transaction: Transaction, bead_id: str) -> Work | None:
    """What the reconciler knows of a bead."""
    return state_of(transaction).work.get(bead_id)


def take(transaction: Transaction, *facts: Fact) -> None:
    """Fold facts into the town, and keep what comes of it: true once this transaction is complete."""
    before, now = state_of(transaction), transaction.moment
    after, actions = step(before, facts, now)
    for fact in facts:
        _keep_fact(transaction, fact, _bead_of(fact, before))
    _save(transaction, before, after)
    transaction.state = after
    told = [action.says for action in actions if isinstance(action, Tell)]
    if told:
        nudge_mayor(transaction, told)


def take_rules(transaction: Transaction) -> None:
    """The settings may have changed."""
    rules = policies.rules(transaction)
    if rules != state_of(transaction).rules:
        take(transaction, RulesChanged(rules=rules))
    take_budget(transaction)


def take_budget(transaction: Transaction, touched: Iterable[str] | None = None) -> None:
    """There was something spent, for the beads that are `touched`; None: the budget itself may have changed."""
    before = state_of(transaction).budget
    budget = budget_of(transaction) if touched is None else budget_of(transaction, before, touched)
    if budget != before:
        take(transaction, BudgetChanged(budget=budget))


def new_work(transaction: Transaction, made: Bead, *, staged: bool = False) -> Work:
    """The work that a bead is, with the author and the branch that it keeps; staged work has none yet."""
    author = None if staged else author_for(transaction, made)
    return Work(
        bead_id=made.id,
        rig_id=made.rig_id,
        title=made.title,
        priority=PRIORITIES.get(made.priority, 1),
        number=_number(transaction, made.id),
        state=BeadState.OPEN if made.status == BeadState.IN_PROGRESS else BeadState(made.status),
        convoy_id=made.convoy_id,
        staged=staged,
        blockers=made.depends_on,
        author=None if author is None else author.id,
        branch=None if author is None else branch_of(author, made),
    )


def author_for(transaction: Transaction, made: Bead) -> RigAgent:
    """The agent that has the bead already, or a new one."""
    held = find_agent(transaction, made.assignee) if made.assignee is not None else None
    return held or make_agent(transaction, made.rig_id, Role.POLECAT)


def branch_of(author: RigAgent, made: Bead) -> str:
    """Where an author's work on a bead goes."""
    return f"gt/{author.name.lower()}/{made.id}"


def attempts_of(transaction: Transaction, bead_id: str) -> list[Mapping[str, Any]]:
    """Every attempt at a bead, oldest first."""
    return transaction.mappings(_ATTEMPTS_OF, bead=bead_id)


def _load(transaction: Transaction) -> TownState:
    row = transaction.row(_REST_OF)
    rest = _Rest(salt=secrets.token_hex(3)) if row is None else _REST.validate_json(row.state)
    rows = transaction.rows(_ALL_WORK)
    known = {one.bead_id: one for one in (_WORK.validate_json(row.state) for row in rows)}
    state = TownState(
        rules=policies.rules(transaction),
        container=Container(since=transaction.moment),
        budget=budget_of(transaction),
        work=known,
        breaker=rest.breaker,
        stops={one.agent_id: one for one in rest.stops},
        names=rest.names,
        salt=rest.salt,
    )
    older = [
        one
        for one in beads_of_type(transaction, BeadType.ISSUE)
        if one.id not in known and one.status not in (*FINISHED, BeadState.IN_REVIEW)
    ]
    taken = {one.id: new_work(transaction, one) for one in older}
    for work in taken.values():
        _save_work(transaction, None, work)
    return dataclasses.replace(state, work=known | taken)


def _save(transaction: Transaction, before: TownState, after: TownState) -> None:
    for bead_id, work in after.work.items():
        was = before.work.get(bead_id)
        if work is not was:
            _save_work(transaction, was, work)
    for attempt in after.ended:
        _save_attempt(transaction, attempt)
    if (before.names, before.breaker, before.stops) != (after.names, after.breaker, after.stops):
        rest = _Rest(after.names, after.salt, after.breaker, tuple(after.stops.values()))
        transaction.put(tables.reconcilers, state=_REST.dump_json(rest).decode())


def _save_work(transaction: Transaction, was: Work | None, work: Work) -> None:
    """Keep what the reconciler knows of a bead, and show it on the board."""
    transaction.put(tables.work, bead_id=work.bead_id, state=_WORK.dump_json(work).decode())
    for attempt in work.attempts:
        _save_attempt(transaction, attempt)
    if was is None or was.state is not work.state or was.author != work.author:
        _show(transaction, work.bead_id, work.state, work.author)
        if work.state is not BeadState.CLOSED:
            unland_convoy(transaction, work.convoy_id)
        settle_convoy(transaction, work.convoy_id)
    _save_hooks(transaction, was, work)


def _save_hooks(transaction: Transaction, was: Work | None, work: Work) -> None:
    """Who holds the bead and its review: an author from the beginning until it has handed in."""
    holds = not work.is_finished and work.hand_in is None
    if was is None or holds != (not was.is_finished and was.hand_in is None) or was.author != work.author:
        free_agents_of(transaction, work.bead_id)
        if holds and work.author is not None:
            set_agent(transaction, work.author, "bead_id", work.bead_id)
    if work.review is not None and (was is None or was.review is None) and work.hand_in is not None:
        if find_agent(transaction, work.review.agent_id) is None:
            make_agent(transaction, work.rig_id, Role.REFINERY, work.review.agent_id)
        set_agent(transaction, work.review.agent_id, "bead_id", work.hand_in.id)
        _show_review(transaction, work.hand_in.id, BeadState.IN_PROGRESS, work.review.agent_id)
    if was is not None and was.hand_in is not None and work.hand_in is None:
        free_agents_of(transaction, was.hand_in.id)
        _show_review(transaction, was.hand_in.id, BeadState.CLOSED, work.reviewer)
    elif was is not None and was.review is not None and work.review is None and work.hand_in is not None:
        free_agents_of(transaction, work.hand_in.id)


def _show_review(transaction: Transaction, review_id: str, state: BeadState, reviewer: str | None) -> None:
    """Show on the board how a review stands. It is a part of its work, and has no life of its own."""
    found = find_bead(transaction, review_id)
    if found is not None and not found.is_finished:
        _show(transaction, review_id, state, reviewer)


def _show(transaction: Transaction, bead_id: str, state: BeadState, agent_id: str | None) -> None:
    now = transaction.now
    closed_at = now if state in FINISHED else None
    transaction.change(
        tables.beads, bead_id, status=state.value, assignee=agent_id, closed_at=closed_at, updated_at=now
    )


def _save_attempt(transaction: Transaction, attempt: Attempt) -> None:
    transaction.put(
        tables.attempts,
        id=attempt.id,
        bead_id=attempt.bead_id,
        agent_id=attempt.agent_id,
        role=attempt.role,
        cause=None if attempt.cause is None else attempt.cause.value,
        started_at=iso(attempt.started_at),
        phase=attempt.phase.value,
        outcome=None if attempt.outcome is None else attempt.outcome.value,
        ended_at=None if attempt.ended_at is None else iso(attempt.ended_at),
        reason=attempt.reason,
    )


def _bead_of(fact: Fact, state: TownState) -> str | None:
    """The bead that a fact is about: most name it, the others its attempt, its merge or its agent."""
    if isinstance(fact, Added):
        return fact.work.bead_id
    named: str | None = getattr(fact, "bead_id", None)
    attempt_id, merge_id, agent_id = (getattr(fact, name, None) for name in ("attempt_id", "merge_id", "agent_id"))
    if named is not None or (attempt_id, merge_id, agent_id) == (None, None, None):
        return named
    for work in state.work.values():
        for attempt in work.attempts:
            if attempt_id in (attempt.id, attempt.known_as) if attempt_id else attempt.agent_id == agent_id:
                return work.bead_id
        if merge_id is not None and work.hand_in is not None and work.hand_in.merge_id == merge_id:
            return work.bead_id
    return None


def _keep_fact(transaction: Transaction, fact: Fact, bead_id: str | None) -> None:
    body = json.dumps(_FACT.dump_python(fact, mode="json"))
    number = transaction.insert(
        tables.facts, at=transaction.now, kind=type(fact).__name__, bead_id=bead_id, body=body
    )
    if number % _PRUNED_EVERY == 0:
        transaction.run(_PRUNE, most=MOST_FACTS)


def _number(transaction: Transaction, bead_id: str) -> int:
    row = transaction.row(_NUMBER, bead=bead_id)
    return 0 if row is None else row.number
