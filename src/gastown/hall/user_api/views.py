"""How the board and the reconciler's state look to a person."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict

from gastown.contract.agents import AgentState, ListedAgent
from gastown.contract.wire import iso
from gastown.hall.domain.bead import Bead, BeadType
from gastown.hall.domain.usage import Spending
from gastown.hall.reconcile.state import STARTING, Attempt, TownState, Waiting, WaitsFor, Work
from gastown.hall.store import rig_agents
from gastown.hall.store.beads import bead, beads_of_type
from gastown.hall.store.history import StoredFact, attempt_counts, facts_of
from gastown.hall.store.policies import policy
from gastown.hall.store.town_state import attempts_of, state_of, work_of
from gastown.hall.store.transaction import Transaction
from gastown.hall.store.usage import day_of, spent_by_attempt, spent_by_bead, spent_on_day, together
from gastown.hall.user_api import shown
from gastown.hall.user_api.words import how_it_stands, moves, told

__all__ = ["beads_shown", "detail", "happening", "one_bead", "reviews", "status", "why"]

_SHOWN = (BeadType.ISSUE, BeadType.ESCALATION)
_UP = (AgentState.STARTING, AgentState.RUNNING, AgentState.STOPPING)


def beads_shown(board: Transaction, rig_id: str | None, state: str | None) -> list[shown.BeadShown]:
    """The pieces of work and the escalations, oldest first. NotFound for an unknown rig."""
    if rig_id is not None:
        board.require_rig(rig_id)
    found = [one for kind in _SHOWN for one in beads_of_type(board, kind)]
    wanted = [one for one in found if rig_id in (None, one.rig_id) and state in (None, one.status)]
    work, tries, names, spent = state_of(board).work, attempt_counts(board), _names(board), spent_by_bead(board)
    in_order = sorted(wanted, key=lambda one: (one.created_at, one.id))
    return [
        _bead(one, work.get(one.id), names, tries[one.id], _cost(spent.get(one.id), tries[one.id]))
        for one in in_order
    ]


def one_bead(board: Transaction, found: Bead) -> shown.BeadShown:
    tries, spent = len(attempts_of(board, found.id)), together(spent_by_attempt(board, found.id).values())
    return _bead(found, work_of(board, found.id), _names(board), tries, _cost(spent, tries))


def why(board: Transaction, found: Bead) -> shown.Why:
    work = work_of(board, found.id)
    waiting = None if work is None or work.is_finished else work.waiting
    return shown.Why(
        bead=found.id,
        status=found.status,
        waiting=_waiting(waiting),
        says=how_it_stands(found, work),
        moves=moves(work),
    )


def _cost(spent: Spending | None, tries: int) -> float | None:
    """What is known of it. Before the first attempt nothing was spent."""
    if spent is None or not spent.calls:
        return None if tries else 0.0
    return spent.cost


def _usage(spent: Spending) -> shown.UsageShown:
    cost = spent.cost if spent.calls else 0.0
    return shown.UsageShown.model_validate(asdict(spent) | {"cost": cost})


def detail(board: Transaction, found: Bead) -> shown.Detail:
    spent = spent_by_attempt(board, found.id)
    return shown.Detail(
        bead=one_bead(board, found),
        body=found.body,
        priority=found.priority,
        depends_on=found.depends_on,
        convoy=found.convoy_id,
        why=why(board, found),
        attempts=tuple(
            shown.Attempt(
                agent=str(one["agent_id"]),
                cost=_cost(spent.get(one["id"]), 1),
                **{name: one[name] for name in _OF_ATTEMPT},
            )
            for one in attempts_of(board, found.id)
        ),
        usage=_usage(together(spent.values())),
        history=tuple(happening(one) for one in facts_of(board, found.id)),
    )


_OF_ATTEMPT = ("id", "role", "cause", "phase", "outcome", "reason", "started_at", "ended_at")


def happening(fact: StoredFact) -> shown.Happening:
    """A fact, in plain words."""
    says = told(fact.kind, fact.body)
    return shown.Happening(number=fact.number, at=fact.at, kind=fact.kind, bead=fact.bead_id, says=says)


def reviews(board: Transaction) -> list[shown.ReviewShown]:
    """Work that was handed in, what waits for longest first."""
    state, names = state_of(board), _names(board)
    found = []
    for work in state.work.values():
        if work.hand_in is None or work.is_finished:
            continue
        rules = state.rules.rigs.get(work.rig_id)
        found.append(
            shown.ReviewShown(
                bead=work.bead_id,
                rig=work.rig_id,
                title=work.title,
                agent=work.author,
                agent_name=names.get(work.author or ""),
                branch=work.hand_in.branch,
                head=work.hand_in.head,
                target=None if rules is None else rules.target,
                phase=work.hand_in.phase,
                since=work.hand_in.at,
                summary=bead(board, work.hand_in.id).body,
            )
        )
    return sorted(found, key=lambda one: one.since)


def status(board: Transaction, live: Sequence[ListedAgent]) -> shown.TownStatus:
    """How the town is now. `live` is what its container says of the agents; empty where there is none."""
    state = state_of(board)
    container = shown.ContainerShown(state="ready")
    if not state.container.ready:
        is_new = state.container.reason == STARTING
        container = shown.ContainerShown(state="starting" if is_new else "lost", reason=state.container.reason)
    town, total = policy(board), together(spent_by_bead(board).values())
    today = _usage(spent_on_day(board, day_of(board.moment, town)))
    used = sum(1 for work in state.work.values() for _ in work.attempts)
    return shown.TownStatus(
        town=board.town_id,
        paused=town.paused,
        container=container,
        agents=tuple(_agents(board, state, live)),
        slots=shown.Slots(used=used, most=state.rules.slots),
        needs_you=tuple(_needs_you(board, state)),
        spent=shown.Spent(today=today.cost, budget=town.budget_day),
        usage=shown.TownUsage(today=today, total=_usage(total)),
    )


def _needs_you(board: Transaction, state: TownState) -> Iterator[shown.NeedsYou]:
    for work in state.work.values():
        waiting = work.waiting
        if waiting is not None and waiting.what is WaitsFor.PERSON and not work.is_finished:
            yield shown.NeedsYou(bead=work.bead_id, question=waiting.reason, since=iso(waiting.since))
        elif waiting is not None and waiting.what is WaitsFor.BUDGET and waiting.until is None:
            question = f"{waiting.reason}: raise budget.bead, or close the bead"
            yield shown.NeedsYou(bead=work.bead_id, question=question, since=iso(waiting.since))
    for one in beads_of_type(board, BeadType.ESCALATION):
        if not one.is_finished:
            yield shown.NeedsYou(bead=one.id, question=one.title, since=one.created_at)


def _agents(board: Transaction, state: TownState, live: Sequence[ListedAgent]) -> Iterator[shown.AgentShown]:
    """The mayor, the agents that have a bead, and those that are up without one."""
    alive = {one.agent_id: one for one in live if one.status in _UP}
    attempts = {one.agent_id: one for work in state.work.values() for one in work.attempts}
    known = {one.id: one for one in rig_agents.all_agents(board)}
    if board.mayor is not None:
        yield _agent(board.mayor, "mayor", "mayor", None, alive.get(board.mayor), None)
    for agent_id, one in known.items():
        if agent_id in attempts or agent_id in alive or one.bead_id is not None:
            place = (one.name, one.role, one.rig_id)
            yield _agent(agent_id, *place, alive.get(agent_id), attempts.get(agent_id), one.bead_id)
    for agent_id, unknown in alive.items():
        if agent_id not in known and agent_id != board.mayor:
            yield _agent(agent_id, unknown.name, unknown.role, unknown.rig_id, unknown, None)


def _agent(
    agent_id: str,
    name: str,
    role: str,
    rig_id: str | None,
    live: ListedAgent | None,
    attempt: Attempt | None,
    bead_id: str | None = None,
) -> shown.AgentShown:
    condition = live.condition if live is not None else None
    state = live.status if live is not None else ("idle" if attempt is None else attempt.phase)
    return shown.AgentShown(
        id=agent_id,
        name=name,
        role=role,
        rig=rig_id,
        state=str(state),
        condition=None if condition is None else condition.type,
        bead=attempt.bead_id if attempt is not None else bead_id,
        since=None if attempt is None else iso(attempt.started_at),
    )


def _bead(
    found: Bead, work: Work | None, names: dict[str, str], tries: int, cost: float | None
) -> shown.BeadShown:
    author = work.author if work is not None else found.assignee
    finished = work is None or work.is_finished
    return shown.BeadShown(
        id=found.id,
        rig=found.rig_id,
        title=found.title,
        type=found.type,
        status=found.status,
        agent=author,
        agent_name=names.get(author or ""),
        waiting=None if work is None or finished else _waiting(work.waiting),
        branch=None if work is None else work.branch,
        head=None if work is None or work.hand_in is None else work.hand_in.head,
        commit=None if work is None else work.commit,
        attempts=tries,
        cost=cost,
        created_at=found.created_at,
        updated_at=found.updated_at,
    )


def _waiting(waiting: Waiting | None) -> shown.WaitingShown | None:
    if waiting is None:
        return None
    return shown.WaitingShown.model_validate(
        {
            "for": waiting.what,
            "reason": waiting.reason,
            "since": waiting.since,
            "until": waiting.until,
            "bead": waiting.bead_id,
        }
    )


def _names(board: Transaction) -> dict[str, str]:
    return {one.id: one.name for one in rig_agents.all_agents(board)}
