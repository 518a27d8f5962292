"""Why a piece of work does not go on, since when, and when it is looked at again."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime

from gastown.hall.reconcile.plan import blocker_of, wants_agent, wants_review
from gastown.hall.reconcile.state import HandInPhase, TownState, Waiting, WaitsFor, Work

__all__ = ["explained", "next_look"]


def explained(state: TownState, now: datetime) -> TownState:
    """The state with a reason at everything that is not finished and that nobody works on."""
    work = {bead_id: _explained(state, one, now) for bead_id, one in state.work.items()}
    return replace(state, work=work)


def next_look(state: TownState) -> datetime | None:
    """When something becomes due by itself; None when only a fact can change anything."""
    times = [one.waiting.until for one in state.work.values() if one.waiting is not None]
    return min((time for time in times if time is not None), default=None)


def _explained(state: TownState, work: Work, now: datetime) -> Work:
    found, before = _reason(state, work, now), work.waiting
    if found is not None and before is not None and (found.what, found.bead_id) == (before.what, before.bead_id):
        if (found.reason, found.until) == (before.reason, before.until):
            return work
        found = replace(found, since=before.since)
    return work if found == before else replace(work, waiting=found)


def _reason(state: TownState, work: Work, now: datetime) -> Waiting | None:
    if work.is_finished:
        return None
    held = _held_by_itself(state, work, now)
    if held is not None:
        return held
    if work.hand_in is not None and not wants_review(work):
        return _on_its_way(state, work, work.hand_in.phase, now)
    if not wants_agent(work) and not wants_review(work):
        return None  # an agent works on it
    return _no_agent(state, work, now)


def _held_by_itself(state: TownState, work: Work, now: datetime) -> Waiting | None:
    if work.question is not None:
        return Waiting(what=WaitsFor.PERSON, reason=work.question, since=now)
    if work.staged:
        return Waiting(what=WaitsFor.STAGED, reason="its convoy has not been started", since=now)
    blocker = blocker_of(state, work) if wants_agent(work) else None
    if blocker is not None:
        reason = f"“{blocker.title}” must be closed first" + (", and has failed" if blocker.is_finished else "")
        return Waiting(what=WaitsFor.BEAD, reason=reason, since=now, bead_id=blocker.bead_id)
    if work.not_before is not None and work.not_before > now:
        reason = "something went wrong, and it is tried again"
        return Waiting(what=WaitsFor.BACKOFF, reason=reason, since=now, until=work.not_before)
    return None


def _on_its_way(state: TownState, work: Work, phase: HandInPhase, now: datetime) -> Waiting | None:
    if phase is HandInPhase.REVIEWING:
        return Waiting(what=WaitsFor.REVIEW, reason=f"{work.reviewer} reviews it", since=now)
    if phase is HandInPhase.ASKING:
        moved = work.hand_in.moved_from if work.hand_in is not None else None
        since = f": it has moved since {moved[:12]} was approved" if moved is not None else ""
        reason = f"somebody must look at {work.branch} and approve its merge{since}"
        return Waiting(what=WaitsFor.PERSON, reason=reason, since=now)
    if phase is HandInPhase.MERGING:
        rules = state.rules.rigs.get(work.rig_id)
        what = WaitsFor.CHECKS if rules is not None and rules.checks else WaitsFor.MERGE
        return Waiting(what=what, reason="the container merges it", since=now)
    return _held_by_town(state, work, now) or Waiting(
        what=WaitsFor.MERGE, reason="another merge of its repository goes first", since=now
    )


def _no_agent(state: TownState, work: Work, now: datetime) -> Waiting:
    held = _held_by_town(state, work, now)
    if held is not None:
        return held
    if state.rules.over_budget is not None:
        return Waiting(what=WaitsFor.BUDGET, reason=state.rules.over_budget, since=now)
    breaker = state.breaker
    if breaker.probe_at is not None:
        reason = f"{len(breaker.failed)} starts in a row have failed, the last one: {breaker.reason}"
        return Waiting(what=WaitsFor.CONTAINER, reason=reason, since=now, until=breaker.probe_at)
    agent = work.reviewer if wants_review(work) else work.author
    if agent in state.stops:
        return Waiting(what=WaitsFor.CONTAINER, reason=f"the server of {agent} is being ended", since=now)
    return Waiting(what=WaitsFor.SLOT, reason=f"all {state.rules.slots} slots are taken", since=now)


def _held_by_town(state: TownState, work: Work, now: datetime) -> Waiting | None:
    if state.rules.paused:
        return Waiting(what=WaitsFor.PAUSED, reason="the town is paused", since=now)
    if work.rig_id not in state.rules.rigs:
        reason = f"the town has no rig {work.rig_id} (any more): add it again, or close the bead"
        return Waiting(what=WaitsFor.PERSON, reason=reason, since=now)
    if not state.container.ready:
        return Waiting(what=WaitsFor.CONTAINER, reason=state.container.reason, since=now)
    return None
