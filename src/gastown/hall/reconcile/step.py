"""One step of the reconciler: facts in, the next state and what is to be done out."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from datetime import datetime

from gastown.hall.reconcile.actions import Action, Look, Merge, Start
from gastown.hall.reconcile.facts import Fact
from gastown.hall.reconcile.fold import Folding
from gastown.hall.reconcile.plan import Plan
from gastown.hall.reconcile.state import ANY_HEAD, AttemptPhase, HandIn, HandInPhase, TownState, Work
from gastown.hall.reconcile.waiting import explained

__all__ = ["outstanding", "step", "unseen"]


def step(state: TownState, facts: Sequence[Fact], now: datetime) -> tuple[TownState, list[Action]]:
    """Fold `facts` in their order, and begin what can begin at `now`.

    The actions are those that were not outstanding before. Keep the state before carrying them out: what is
    outstanding in a state that was kept is carried out again after a crash, under the same ids.
    """
    before = set(outstanding(state))
    folding = Folding(state, now)
    for fact in facts:
        folding.take(fact)
    folded = replace(folding.state, work=folding.work, stops=folding.stops)
    after = explained(Plan(folded, now).state, now)
    return after, [*folding.told, *(action for action in outstanding(after) if action not in before)]


def outstanding(state: TownState) -> Iterator[Action]:
    """What was begun and has no result yet. All of it may be done again under the same ids."""
    yield from state.stops.values()
    for work in state.work.values():
        for attempt in work.attempts:
            if attempt.phase is AttemptPhase.STARTING:
                says = work.rework.says if work.rework is not None and attempt.role == "polecat" else None
                yield Start(
                    attempt_id=attempt.id,
                    bead_id=work.bead_id,
                    agent_id=attempt.agent_id,
                    role=attempt.role,
                    cause=attempt.cause,
                    says=says,
                )
        if (merge := _merge(work)) is not None:
            yield merge


def unseen(state: TownState) -> Iterator[Look]:
    """What is handed in, is to be looked at, and whose commit is not known yet. Nothing waits for it."""
    for work in state.work.values():
        hand_in = work.hand_in
        if hand_in is None or hand_in.head is not None or work.is_finished:
            continue
        if hand_in.phase in (HandInPhase.REVIEWING, HandInPhase.ASKING):
            yield Look(bead_id=work.bead_id, rig_id=work.rig_id, hand_in_id=hand_in.id, branch=hand_in.branch)


def _merge(work: Work) -> Merge | None:
    hand_in = work.hand_in
    if hand_in is None or hand_in.phase is not HandInPhase.MERGING or hand_in.merge_id is None:
        return None
    return Merge(
        merge_id=hand_in.merge_id,
        bead_id=work.bead_id,
        agent_id=work.author or "",
        branch=hand_in.branch,
        head=_agreed(hand_in),
    )


def _agreed(hand_in: HandIn) -> str | None:
    """The commit that somebody has agreed to; None: whichever the branch has."""
    if hand_in.approved == ANY_HEAD:
        return None
    return hand_in.approved or (hand_in.head if hand_in.reviewed else None)
