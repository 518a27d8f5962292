"""What a fact changes. A fact that does not fit the state any more changes nothing."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from datetime import datetime
from typing import Any

from gastown.hall.domain.bead import BeadState
from gastown.hall.reconcile import facts, words
from gastown.hall.reconcile.actions import Action, Tell
from gastown.hall.reconcile.limits import LIMITS, Cause, pause
from gastown.hall.reconcile.state import (
    ANY_HEAD,
    Attempt,
    AttemptPhase,
    Breaker,
    Container,
    HandIn,
    HandInPhase,
    Leaving,
    Outcome,
    Rework,
    TownState,
    Work,
)

__all__ = ["Folding"]

_NOTHING: Mapping[Cause, int] = {}


class Folding:
    """One step's facts, folded into a state one after the other. `told` is what the mayor is told."""

    def __init__(self, state: TownState, now: datetime) -> None:
        self.state = replace(state, ended=())
        self.work = dict(state.work)
        self.stops = dict(state.stops)
        self.told: list[Action] = []
        self._now = now
        self._kinds: Mapping[type[Any], Callable[[Any], None]] = {
            facts.Added: self._added,
            facts.Ordered: self._ordered,
            facts.Assigned: self._assigned,
            facts.Reset: self._reset,
            facts.Removed: self._removed,
            facts.Started: self._started,
            facts.StartFailed: self._start_failed,
            facts.AgentEnded: self._agent_ended,
            facts.AgentStopped: self._agent_stopped,
            facts.TurnBegan: self._turn_began,
            facts.TurnEnded: self._turn_ended,
            facts.HandedIn: self._handed_in,
            facts.HeadSeen: self._head_seen,
            facts.ReviewPassed: self._review_passed,
            facts.ChangesAsked: self._changes_asked,
            facts.Approved: self._approved,
            facts.Rejected: self._rejected,
            facts.Merged: self._merged,
            facts.MergeConflicted: self._merge_conflicted,
            facts.MergeFailed: self._merge_failed,
            facts.MergeMoved: self._merge_moved,
            facts.Retried: self._retried,
            facts.Held: self._held,
            facts.Closed: self._closed,
            facts.RulesChanged: self._rules_changed,
            facts.BudgetChanged: self._budget_changed,
            facts.ContainerReady: self._container_ready,
            facts.ContainerLost: self._container_lost,
        }

    def take(self, fact: facts.Fact) -> None:
        """Fold one fact."""
        self._kinds[type(fact)](fact)

    # Work

    def _added(self, fact: facts.Added) -> None:
        self.work.setdefault(fact.work.bead_id, fact.work)

    def _ordered(self, fact: facts.Ordered) -> None:
        if work := self.work.get(fact.bead_id):
            self._keep(
                work,
                title=fact.title,
                priority=fact.priority,
                blockers=fact.blockers,
                staged=fact.staged,
                convoy_id=fact.convoy_id,
            )

    def _assigned(self, fact: facts.Assigned) -> None:
        work = self.work.get(fact.bead_id)
        if work is None or work.is_finished or work.hand_in is not None or work.author == fact.agent_id:
            return
        if work.attempt is not None:
            work = self._cut(work, work.attempt, f"{fact.agent_id} goes on with it")
        self._keep(work, author=fact.agent_id, branch=work.branch or fact.branch)

    def _reset(self, fact: facts.Reset) -> None:
        for work, attempt in self._attempts():
            if attempt.agent_id == fact.agent_id:
                self._cut(work, attempt, "it was reset")

    def _removed(self, fact: facts.Removed) -> None:
        if work := self.work.pop(fact.bead_id, None):
            self._dismiss(work, "the bead was deleted")
        for other in list(self.work.values()):
            if fact.bead_id in other.blockers:
                self._keep(other, blockers=tuple(one for one in other.blockers if one != fact.bead_id))

    def _retried(self, fact: facts.Retried) -> None:
        work = self.work.get(fact.bead_id)
        if work is None:
            return
        state = BeadState.OPEN if work.is_finished else work.state
        self._keep(work, state=state, tries=_NOTHING, not_before=None, question=None)

    def _held(self, fact: facts.Held) -> None:
        work = self.work.get(fact.bead_id)
        if work is None or work.is_finished:
            return
        for attempt in tuple(work.attempts):
            work = self._cut(work, attempt, fact.reason)
        self._keep(work, question=fact.reason, not_before=None)

    def _closed(self, fact: facts.Closed) -> None:
        work = self.work.get(fact.bead_id)
        if work is None or work.is_finished:
            return
        work = self._dismiss(work, "the bead was closed")
        state = BeadState.FAILED if fact.failed else BeadState.CLOSED
        self._keep(work, state=state, hand_in=None, rework=None, question=None)

    # Agents

    def _started(self, fact: facts.Started) -> None:
        for work, attempt in self._attempts():
            if attempt.id == fact.attempt_id and attempt.phase is AttemptPhase.STARTING:
                running = replace(
                    attempt, phase=AttemptPhase.RUNNING, known_as=fact.known_as, session_id=fact.session_id
                )
                self._keep(work.with_attempt(running), tries=_without(work.tries, Cause.START))
                self.state = replace(self.state, breaker=Breaker())
                return

    def _start_failed(self, fact: facts.StartFailed) -> None:
        for work, attempt in self._attempts():
            if attempt.id != fact.attempt_id or attempt.phase is not AttemptPhase.STARTING:
                continue
            if not self.state.container.ready:  # it is the container's end, and told as such
                self._end(work, attempt, Outcome.LOST, fact.reason)
                return
            freed = self._end(work, attempt, Outcome.NOT_STARTED, fact.reason)
            self._trip(work.bead_id, fact.reason)
            self._count(freed, Cause.START, fact.reason)
            return

    def _agent_ended(self, fact: facts.AgentEnded) -> None:
        for work, attempt in self._attempts():
            known = (None, attempt.id, attempt.known_as)
            if attempt.agent_id != fact.agent_id or attempt.phase is not AttemptPhase.RUNNING:
                continue
            if fact.attempt_id in known:
                freed = self._end(work, attempt, Outcome.UNFINISHED, fact.reason)
                self._count(freed, Cause.UNFINISHED, fact.reason)
                return

    def _turn_began(self, fact: facts.TurnBegan) -> None:
        for work, attempt in self._attempts():
            if attempt.agent_id == fact.agent_id and not attempt.has_turn:
                self._keep(work.with_attempt(replace(attempt, has_turn=True)))
                return

    def _turn_ended(self, fact: facts.TurnEnded) -> None:
        for work, attempt in self._attempts():
            ours = attempt.agent_id == fact.agent_id and attempt.session_id == fact.session_id
            of_now = attempt.known_as is None or attempt.has_turn
            if ours and of_now and attempt.phase is AttemptPhase.RUNNING:
                reason = f"its turn ended ({fact.reason}) without gt_done"
                freed = self._end(work, attempt, Outcome.UNFINISHED, reason)
                self._count(freed, Cause.UNFINISHED, reason)
                return

    def _agent_stopped(self, fact: facts.AgentStopped) -> None:
        self.stops.pop(fact.agent_id, None)

    # Review

    def _handed_in(self, fact: facts.HandedIn) -> None:
        work = self.work.get(fact.bead_id)
        branch = work.branch if work is not None else None
        if work is None or work.author != fact.agent_id or branch is None:
            return
        if work.state not in (BeadState.OPEN, BeadState.IN_PROGRESS):
            return
        if work.attempt is not None:
            work = self._end(work, work.attempt, Outcome.HANDED_IN, None)
        hand_in = HandIn(id=fact.hand_in_id, branch=branch, at=self._now, phase=HandInPhase.REVIEWING)
        self._keep(
            work,
            state=BeadState.IN_REVIEW,
            hand_in=hand_in,
            rework=None,
            question=None,
            not_before=None,
            tries=_without(work.tries, Cause.UNFINISHED, Cause.LOST),
        )

    def _head_seen(self, fact: facts.HeadSeen) -> None:
        work = self.work.get(fact.bead_id)
        hand_in = work.hand_in if work is not None else None
        if work is None or hand_in is None or hand_in.id != fact.hand_in_id:
            return
        if hand_in.phase is not HandInPhase.MERGING and hand_in.head != fact.head:
            self._keep(work, hand_in=hand_in.moved_to(fact.head))

    def _review_passed(self, fact: facts.ReviewPassed) -> None:
        work = self._reviewed_by(fact.bead_id, fact.agent_id)
        if work is not None and work.hand_in is not None:
            freed = self._end(work, work.review, Outcome.REVIEWED, None)
            self._keep(freed, hand_in=replace(work.hand_in, reviewed=True))

    def _changes_asked(self, fact: facts.ChangesAsked) -> None:
        if work := self._reviewed_by(fact.bead_id, fact.agent_id):
            work = self._end(work, work.review, Outcome.REVIEWED, "changes were asked for")
            says = words.wants_changes(work.branch or "", fact.feedback)
            self._rework(work, Cause.REVIEW, says, fact.feedback)

    def _approved(self, fact: facts.Approved) -> None:
        work = self.work.get(fact.bead_id)
        if work is None or work.hand_in is None or work.hand_in.phase is not HandInPhase.ASKING:
            return
        head = fact.head or work.hand_in.head
        if work.hand_in.head in (None, head):
            self._keep(work, hand_in=replace(work.hand_in, head=head, approved=head or ANY_HEAD))

    def _rejected(self, fact: facts.Rejected) -> None:
        work = self.work.get(fact.bead_id)
        if work is None or work.hand_in is None or work.hand_in.phase is HandInPhase.MERGING:
            return
        if work.review is not None:
            work = self._cut(work, work.review, "a person has decided")
        says = words.wants_changes(work.branch or "", fact.message)
        self._keep(
            work,
            state=BeadState.IN_PROGRESS,
            hand_in=None,
            rework=Rework(cause=Cause.REVIEW, says=says),
            question=None,
            not_before=None,
        )

    # Merges

    def _merged(self, fact: facts.Merged) -> None:
        if work := self._merging(fact.merge_id):
            target = self._target(work)
            work = self._dismiss(work, "the work is merged")
            commit = None if fact.nothing else fact.commit
            self._keep(work, state=BeadState.CLOSED, hand_in=None, rework=None, question=None, commit=commit)
            said = words.nothing_to_merge if fact.nothing else words.merged
            self._tell(work, said(work.title, work.bead_id, target, commit))

    def _merge_conflicted(self, fact: facts.MergeConflicted) -> None:
        if work := self._merging(fact.merge_id):
            target = self._target(work)
            says = words.conflict(work.branch or "", target, fact.files)
            self._rework(work, Cause.CONFLICT, says, f"with {target} in {', '.join(fact.files) or 'some file'}")

    def _merge_failed(self, fact: facts.MergeFailed) -> None:
        work = self._merging(fact.merge_id)
        if work is None or work.hand_in is None:
            return
        if fact.checks:
            says = words.checks_failed(work.branch or "", self._target(work), fact.reason)
            self._rework(work, Cause.CHECKS, says, fact.reason)
            return
        work = self._keep(work, hand_in=replace(work.hand_in, phase=HandInPhase.QUEUED, merge_id=None))
        if fact.for_person:
            self._ask(work, words.look_first(fact.reason))
        else:
            self._count(work, Cause.MERGE, fact.reason)

    def _merge_moved(self, fact: facts.MergeMoved) -> None:
        work = self._merging(fact.merge_id)
        if work is not None and work.hand_in is not None:
            back = replace(work.hand_in, phase=HandInPhase.QUEUED, merge_id=None)
            self._keep(work, hand_in=back.moved_to(fact.head))

    # The town

    def _rules_changed(self, fact: facts.RulesChanged) -> None:
        self.state = replace(self.state, rules=fact.rules)

    def _budget_changed(self, fact: facts.BudgetChanged) -> None:
        self.state = replace(self.state, budget=fact.budget)

    def _container_ready(self, fact: facts.ContainerReady) -> None:
        self.state = replace(self.state, container=Container(ready=True, since=self._now, reason=""))
        for work, attempt in self._attempts():
            known = {attempt.id, attempt.known_as} & fact.attempts
            if attempt.phase is AttemptPhase.RUNNING and not known:
                why = "its container has gone, and the next one does not know the agent"
                freed = self._end(work, attempt, Outcome.LOST, why)
                self._count(freed, Cause.LOST, why)

    def _container_lost(self, fact: facts.ContainerLost) -> None:
        self.state = replace(self.state, container=Container(ready=False, since=self._now, reason=fact.reason))

    # Shared

    def _keep(self, work: Work, **changes: Any) -> Work:
        after = replace(work, **changes)
        self.work[work.bead_id] = after
        return after

    def _attempts(self) -> list[tuple[Work, Attempt]]:
        """The open attempts. One that this step has ended is not given out again."""
        return [(work, attempt) for work in self.work.values() for attempt in work.attempts]

    def _end(self, work: Work, attempt: Attempt | None, outcome: Outcome, reason: str | None) -> Work:
        """End an attempt. The author's work is open then; the branch and the conversation stay."""
        if attempt is None:
            return work
        ended = self._ended(attempt, outcome, reason)
        work = self.work.get(work.bead_id, work)
        goes_on = attempt.role == "refinery" or work.state is not BeadState.IN_PROGRESS
        return self._keep(work.with_attempt(ended), state=work.state if goes_on else BeadState.OPEN)

    def _cut(self, work: Work, attempt: Attempt, reason: str) -> Work:
        """End an attempt, and the server of its agent, which may be started again."""
        self._leave(attempt.agent_id, work.bead_id, final=False)
        return self._end(work, attempt, Outcome.STOPPED, reason)

    def _ended(self, attempt: Attempt, outcome: Outcome, reason: str | None) -> Attempt:
        ended = replace(attempt, phase=AttemptPhase.ENDED, outcome=outcome, ended_at=self._now, reason=reason)
        self.state = replace(self.state, ended=(*self.state.ended, ended))
        return ended

    def _count(self, work: Work, cause: Cause, reason: str) -> None:
        """Something went wrong: it is tried again after a pause, or a person is asked at the limit."""
        if work.rework is None and work.hand_in is None and cause in (Cause.UNFINISHED, Cause.LOST):
            work = replace(work, rework=Rework(cause=cause, says=words.go_on(cause)))
        work = self._tried(work, cause, reason)
        if work.question is None and cause is not Cause.LOST:
            self._keep(work, not_before=self._now + pause(work.tries[cause], work.bead_id))

    def _rework(self, work: Work, cause: Cause, says: str, reason: str) -> None:
        """Back to the author, on the same branch."""
        again = Rework(cause=cause, says=says)
        work = replace(work, state=BeadState.IN_PROGRESS, hand_in=None, rework=again, not_before=None)
        self._tried(work, cause, reason)

    def _tried(self, work: Work, cause: Cause, reason: str) -> Work:
        """Count one more of what may go wrong; a person is asked once there were too many."""
        tries = work.tries.get(cause, 0) + 1
        work = self._keep(work, tries={**work.tries, cause: tries})
        if tries < LIMITS[cause]:
            return work
        return self._ask(work, words.question(cause, tries, reason))

    def _ask(self, work: Work, question: str) -> Work:
        self._tell(work, words.asked(work.title, question))
        return self._keep(work, question=question, not_before=None)

    def _tell(self, work: Work, says: str) -> None:
        self.told.append(Tell(bead_id=work.bead_id, says=says))

    def _dismiss(self, work: Work, reason: str) -> Work:
        """Nobody works on it any more: its agents are final."""
        for attempt in tuple(work.attempts):
            work = work.with_attempt(self._ended(attempt, Outcome.STOPPED, reason))
        for agent_id in (work.author, work.reviewer):
            if agent_id is not None:
                self._leave(agent_id, work.bead_id, final=True)
        return work

    def _leave(self, agent_id: str, bead_id: str, *, final: bool) -> None:
        self.stops[agent_id] = Leaving(agent_id=agent_id, bead_id=bead_id, final=final)

    def _reviewed_by(self, bead_id: str, agent_id: str) -> Work | None:
        """The work whose reviewer that agent is; never its author."""
        work = self.work.get(bead_id)
        if work is None or work.hand_in is None or work.reviewer != agent_id or work.author == agent_id:
            return None
        return work if work.hand_in.phase is HandInPhase.REVIEWING and not work.hand_in.reviewed else None

    def _merging(self, merge_id: str) -> Work | None:
        for work in self.work.values():
            if work.hand_in is not None and work.hand_in.merge_id == merge_id:
                return work
        return None

    def _target(self, work: Work) -> str:
        rules = self.state.rules.rigs.get(work.rig_id)
        return rules.target if rules is not None else "the target branch"

    def _trip(self, bead_id: str, reason: str) -> None:
        """A start has failed: of enough different work in a row, it is the container's fault."""
        self.state = replace(self.state, breaker=self.state.breaker.after_failure(bead_id, reason, self._now))


def _without(tries: Mapping[Cause, int], *causes: Cause) -> Mapping[Cause, int]:
    return {cause: count for cause, count in tries.items() if cause not in causes}
