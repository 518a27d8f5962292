"""Why a piece of work does not go on, since when, and when it is looked at again."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

from gastown.hall.reconcile.plan import blocker_of, wants_agent, wants_review
from gastown.hall.reconcile.state import HandIn, HandInPhase, TownState, Waiting, WaitsFor, Work

__all__ = ["explained", "next_look"]


def explained(state: TownState, now: datetime) -> TownState:
    """The state with a reason at everything that is not finished and that nobody works on."""
    running = Counter(work.rig_id for work in state.work.values() for _ in work.attempts)
    town = _Town(state, now, running)
    return replace(state, work={bead_id: _explained(town, one) for bead_id, one in state.work.items()})


def next_look(state: TownState) -> datetime | None:
    """When something becomes due by itself; None when only a fact can change anything."""
    times = [one.waiting.until for one in state.work.values() if one.waiting is not None]
    return min((time for time in times if time is not None), default=None)


@dataclass(frozen=True)
class _Town:
    """What a reason may rest on. `running` counts the agents at work of each rig."""

    state: TownState
    now: datetime
    running: Counter[str]

    def wait(self, what: WaitsFor, reason: str, **more: Any) -> Waiting:
        return Waiting(what=what, reason=reason, since=self.now, **more)


def _explained(town: _Town, work: Work) -> Work:
    found, before = _reason(town, work), work.waiting
    if found is not None and before is not None and (found.what, found.bead_id) == (before.what, before.bead_id):
        if (found.reason, found.until) == (before.reason, before.until):
            return work
        found = replace(found, since=before.since)
    return work if found == before else replace(work, waiting=found)


def _reason(town: _Town, work: Work) -> Waiting | None:
    if work.is_finished:
        return None
    held = _held_by_itself(town, work)
    if held is not None:
        return held
    if work.hand_in is not None and not wants_review(work):
        return _on_its_way(town, work, work.hand_in)
    if not wants_agent(work) and not wants_review(work):
        return None  # an agent works on it
    return _held_by_town(town, work) or _no_agent(town, work)


def _held_by_itself(town: _Town, work: Work) -> Waiting | None:
    if work.question is not None:
        return town.wait(WaitsFor.PERSON, work.question)
    if work.staged:
        return town.wait(WaitsFor.STAGED, "its convoy has not been started")
    blocker = blocker_of(town.state.work, work) if wants_agent(work) else None
    if blocker is not None:
        reason = f"“{blocker.title}” must be closed first" + (", and has failed" if blocker.is_finished else "")
        return town.wait(WaitsFor.BEAD, reason, bead_id=blocker.bead_id)
    if work.not_before is not None and work.not_before > town.now:
        return town.wait(WaitsFor.BACKOFF, "something went wrong, and it is tried again", until=work.not_before)
    return None


def _on_its_way(town: _Town, work: Work, hand_in: HandIn) -> Waiting:
    if hand_in.phase is HandInPhase.REVIEWING:
        return town.wait(WaitsFor.REVIEW, f"{work.reviewer} reviews it")
    if hand_in.phase is HandInPhase.ASKING:
        moved = hand_in.moved_from
        since = f": it has moved since {moved[:12]} was approved" if moved is not None else ""
        return town.wait(WaitsFor.PERSON, f"somebody must look at {work.branch} and approve its merge{since}")
    if hand_in.phase is HandInPhase.MERGING:
        rules = town.state.rules.rigs.get(work.rig_id)
        what = WaitsFor.CHECKS if rules is not None and rules.checks else WaitsFor.MERGE
        return town.wait(what, "the container merges it")
    first = "another merge of its repository goes first"
    return _held_by_town(town, work) or town.wait(WaitsFor.MERGE, first)


def _held_by_town(town: _Town, work: Work) -> Waiting | None:
    rules, container = town.state.rules, town.state.container
    if rules.paused:
        return town.wait(WaitsFor.PAUSED, "the town is paused")
    if work.rig_id not in rules.rigs:
        reason = f"the town has no rig {work.rig_id} (any more): add it again, or close the bead"
        return town.wait(WaitsFor.PERSON, reason)
    if not container.ready:
        return town.wait(WaitsFor.CONTAINER, container.reason)
    return None


def _no_agent(town: _Town, work: Work) -> Waiting:
    breaker = town.state.breaker
    if (over := town.state.budget.holding(work.bead_id, town.now)) is not None:
        return town.wait(WaitsFor.BUDGET, over.reason, until=over.until)
    if breaker.probe_at is not None:
        reason = f"{len(breaker.failed)} starts in a row have failed, the last one: {breaker.reason}"
        # A probe that is due and has not begun waits for the end of another start, or for a slot: for a fact.
        until = breaker.probe_at if breaker.probe_at > town.now else None
        return town.wait(WaitsFor.CONTAINER, reason, until=until)
    agent = work.reviewer if wants_review(work) else work.author
    if agent in town.state.stops:
        return town.wait(WaitsFor.CONTAINER, f"the server of {agent} is being ended")
    return town.wait(WaitsFor.SLOT, _no_slot(town, work))


def _no_slot(town: _Town, work: Work) -> str:
    rules = town.state.rules
    of_rig = rules.rigs[work.rig_id].slots
    if town.running.total() >= rules.slots:
        return f"all {rules.slots} slots are taken"
    if of_rig is not None and town.running[work.rig_id] >= of_rig:
        return f"all {of_rig} slots of {work.rig_id} are taken"
    return "the last slot is left for reviews"
