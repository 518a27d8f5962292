"""What can begin now: merges, one at a time for each rig, and agents, in their order and as far as slots allow."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import replace
from datetime import datetime, timedelta

from gastown.hall.domain.bead import BeadState
from gastown.hall.reconcile.state import (
    Attempt,
    AttemptPhase,
    HandIn,
    HandInPhase,
    TownState,
    Work,
)

__all__ = ["Plan", "blocker_of", "wants_agent", "wants_review"]

_SLOTS_TO_KEEP_ONE = 2
"""From this many on, one is left for reviews."""
_PROBE_PATIENCE = timedelta(minutes=2)
"""A probe that has no result by then does not hold up the next one."""


def blocker_of(known: Mapping[str, Work], work: Work) -> Work | None:
    """What must be closed first. A blocker that failed holds its dependents up, too."""
    for bead_id in work.blockers:
        blocker = known.get(bead_id)
        if blocker is not None and blocker.state is not BeadState.CLOSED:
            return blocker
    return None


def wants_agent(work: Work) -> bool:
    """Whether an author is to work on it, and none does."""
    return work.attempt is None and work.state in (BeadState.OPEN, BeadState.IN_PROGRESS)


def wants_review(work: Work) -> bool:
    """Whether a reviewer is to read it, and none does."""
    hand_in = work.hand_in
    return hand_in is not None and hand_in.phase is HandInPhase.REVIEWING and work.review is None


def is_due(work: Work, now: datetime) -> bool:
    """Whether nothing of its own holds it up."""
    waits = work.not_before is not None and work.not_before > now
    return not (work.is_finished or work.question is not None or work.staged or waits)


class Plan:
    """What begins at `now`. Reads and makes states; `state` is the one with all that has begun."""

    def __init__(self, state: TownState, now: datetime) -> None:
        self._now = now
        self._names = state.names
        self._work = dict(state.work)
        self._before = state
        self._breaker = state.breaker
        running = [(work.rig_id, one) for work in state.work.values() for one in work.attempts]
        self._open = Counter(rig_id for rig_id, _ in running)
        self._authors = sum(one.role == "polecat" for _, one in running)
        reviewed = any(rig.review == "refinery" for rig in state.rules.rigs.values())
        self._kept_for_reviews = 1 if reviewed and state.rules.slots >= _SLOTS_TO_KEEP_ONE else 0
        self._settle()
        if not state.rules.paused and state.container.ready:
            self._begin_merges()
            self._begin_attempts()
        self.state = replace(state, work=self._work, names=self._names, breaker=self._breaker)

    def _settle(self) -> None:
        """Bring what is handed in to the phase that the rules want now."""
        for work in list(self._work.values()):
            if work.hand_in is not None and work.hand_in.phase is not HandInPhase.MERGING:
                phase = self._phase(work, work.hand_in)
                if phase is not work.hand_in.phase:
                    self._work[work.bead_id] = replace(work, hand_in=replace(work.hand_in, phase=phase))

    def _phase(self, work: Work, hand_in: HandIn) -> HandInPhase:
        rules = self._before.rules.rigs.get(work.rig_id)
        if work.review is not None:
            return HandInPhase.REVIEWING  # it has begun, and is heard to its end
        if rules is not None and rules.review == "refinery" and not hand_in.reviewed:
            return HandInPhase.REVIEWING
        if (rules is None or rules.merge == "ask") and not hand_in.is_approved:
            return HandInPhase.ASKING
        return HandInPhase.QUEUED

    def _begin_merges(self) -> None:
        busy = {
            work.rig_id
            for work in self._work.values()
            if work.hand_in is not None and work.hand_in.phase is HandInPhase.MERGING
        }
        waiting = [work for work in self._work.values() if self._may_merge(work)]
        for work in sorted(waiting, key=lambda one: (one.hand_in.at if one.hand_in else self._now, one.number)):
            if work.rig_id in busy or work.hand_in is None:
                continue
            busy.add(work.rig_id)
            merging = replace(work.hand_in, phase=HandInPhase.MERGING, merge_id=self._name("merge"))
            self._work[work.bead_id] = replace(work, hand_in=merging, not_before=None)

    def _may_merge(self, work: Work) -> bool:
        is_queued = work.hand_in is not None and work.hand_in.phase is HandInPhase.QUEUED
        return is_queued and work.rig_id in self._before.rules.rigs and is_due(work, self._now)

    def _begin_attempts(self) -> None:
        if self._breaker.is_open:
            self._probe()
            return
        for work in self._ready():
            if self._has_room(work):
                self._begin(work)

    def _probe(self) -> None:
        """One start, to see whether the container can start again."""
        if self._breaker.probe_at is None or self._now < self._breaker.probe_at:
            return
        if any(one.phase is AttemptPhase.STARTING for work in self._work.values() for one in work.attempts):
            return
        for work in self._ready():
            if self._has_room(work):
                self._begin(work)
                self._breaker = replace(self._breaker, probe_at=self._now + _PROBE_PATIENCE)
                return

    def _ready(self) -> list[Work]:
        """What an agent could begin now: reviews first, then by priority, by what waits for it, and by age."""
        waits_for = Counter(
            blocker for work in self._work.values() if not work.is_finished for blocker in work.blockers
        )
        return sorted(
            self._candidates(),
            key=lambda work: (not wants_review(work), -work.priority, -waits_for[work.bead_id], work.number),
        )

    def _candidates(self) -> Iterator[Work]:
        rules, stops = self._before.rules, self._before.stops
        for work in self._work.values():
            if work.rig_id not in rules.rigs or not is_due(work, self._now):
                continue
            agent = work.reviewer if wants_review(work) else work.author
            is_open = (
                wants_agent(work) and None not in (agent, work.branch) and blocker_of(self._work, work) is None
            )
            over = self._before.budget.holding(work.bead_id, self._now)
            if (is_open or wants_review(work)) and agent not in stops and over is None:
                yield work

    def _has_room(self, work: Work) -> bool:
        rules = self._before.rules
        of_rig = rules.rigs[work.rig_id].slots
        if self._open.total() >= rules.slots or (of_rig is not None and self._open[work.rig_id] >= of_rig):
            return False
        return wants_review(work) or self._authors < rules.slots - self._kept_for_reviews

    def _begin(self, work: Work) -> None:
        is_review = wants_review(work)
        self._open[work.rig_id] += 1
        self._authors += not is_review
        agent_id = work.author or ""
        if is_review:
            agent_id = work.reviewer or self._name("refinery")
        attempt = Attempt(
            id=self._name("attempt"),
            bead_id=work.bead_id,
            agent_id=agent_id,
            role="refinery" if is_review else "polecat",
            cause=work.rework.cause if work.rework is not None and not is_review else None,
            started_at=self._now,
        )
        if is_review:
            self._work[work.bead_id] = replace(work, review=attempt, reviewer=agent_id, not_before=None)
        else:
            begun = replace(work, attempt=attempt, state=BeadState.IN_PROGRESS, not_before=None)
            self._work[work.bead_id] = begun

    def _name(self, kind: str) -> str:
        self._names += 1
        return "-".join(part for part in (kind, self._before.salt, str(self._names)) if part)
