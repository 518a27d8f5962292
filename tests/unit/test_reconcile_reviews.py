"""The reconciler's rules for what is handed in: reviews, approvals, merges and rework."""

from __future__ import annotations

from datetime import timedelta

import pytest

from gastown.hall.domain.bead import BeadState
from gastown.hall.reconcile import facts
from gastown.hall.reconcile.actions import Merge, Start
from gastown.hall.reconcile.limits import LIMITS, Cause
from gastown.hall.reconcile.state import Budget, HandInPhase, Leaving, Outcome, OverBudget, WaitsFor
from gastown.hall.reconcile.waiting import next_look
from tests.unit.reconcile_world import World, added, merging, rules, starts


def test_work_is_started_handed_in_merged_and_closed() -> None:
    world = World.of()
    (start,) = world.take(*added(1))
    assert isinstance(start, Start)
    assert (start.agent_id, start.role, start.says, world.one().state) == (
        "polecat-1",
        "polecat",
        None,
        BeadState.IN_PROGRESS,
    )
    assert world.start(start) == []
    (merge,) = world.hand_in()
    assert isinstance(merge, Merge)
    assert (merge.branch, world.one().state) == ("gt/polecat-1", BeadState.IN_REVIEW)
    world.merge(merge)
    assert (world.one().state, world.one().commit) == (BeadState.CLOSED, "commit of bead-1")
    assert world.told == ["“task 1” (bead-1) is merged into main as commit of be."]
    assert [one.outcome for one in world.ended] == [Outcome.HANDED_IN]
    assert world.outstanding == [Leaving(agent_id="polecat-1", bead_id="bead-1", final=True)]


def test_one_slot_is_left_for_reviews() -> None:
    world = World.of(rules(slots=2, rig={"review": "refinery"}))
    world.take(*added(1, 2))
    assert starts(world) == ["bead-1"]
    world.start_all()
    world.hand_in(1)
    assert starts(world) == ["bead-1", "bead-2"]
    assert world.one(1).reviewer not in (None, "polecat-1")


def test_work_that_is_handed_in_twice_is_handed_in_once() -> None:
    world = World.of(rules(rig={"merge": "ask"}))
    world.take(*added(1))
    world.start_all()
    world.hand_in()
    before = world.state
    assert world.hand_in() == []
    assert world.state.work == before.work


def test_nobody_but_the_author_hands_in() -> None:
    world = World.of()
    world.take(*added(1))
    world.start_all()
    world.take(facts.HandedIn(bead_id="bead-1", agent_id="polecat-9", hand_in_id="mr"))
    assert world.one().state is BeadState.IN_PROGRESS


def test_a_merge_that_asks_waits_for_the_person_and_nothing_else() -> None:
    world = World.of(rules(rig={"merge": "ask"}))
    world.take(*added(1))
    world.start_all()
    world.hand_in()
    waiting = world.one().waiting
    assert waiting is not None
    assert waiting.what is WaitsFor.PERSON
    assert next_look(world.state) is None
    assert world.later(days=3) == []
    (merge,) = world.take(facts.Approved(bead_id="bead-1", head="c1"))
    assert isinstance(merge, Merge)
    assert merge.head == "c1"


def test_an_approval_is_of_one_commit() -> None:
    world = World.of(rules(rig={"merge": "ask"}))
    world.take(*added(1))
    world.start_all()
    world.hand_in()
    (merge,) = world.take(facts.Approved(bead_id="bead-1", head="c1"))
    assert isinstance(merge, Merge)
    world.take(facts.MergeConflicted(merge_id=merge.merge_id, files=("a.py",)))
    world.start_all()
    world.hand_in()
    assert world.one().hand_in is not None
    assert world.one().hand_in.phase is HandInPhase.ASKING
    assert merging(world) == []


def asking(**rig: str) -> World:
    """A town with work that was handed in, whose branch has the commit c1."""
    world = World.of(rules(rig={"merge": "ask", **rig}))
    world.take(*added(1))
    world.start_all()
    world.hand_in()
    world.take(facts.HeadSeen(bead_id="bead-1", hand_in_id="mr-1", head="c1"))
    return world


def test_an_approval_without_a_commit_is_of_the_one_that_was_seen() -> None:
    (merge,) = asking().take(facts.Approved(bead_id="bead-1"))
    assert isinstance(merge, Merge)
    assert merge.head == "c1"


def test_an_approval_of_another_commit_than_the_one_that_was_seen_is_none() -> None:
    assert asking().take(facts.Approved(bead_id="bead-1", head="c0")) == []


def test_a_branch_that_has_moved_since_it_was_approved_is_asked_about_again() -> None:
    world = asking()
    (merge,) = world.take(facts.Approved(bead_id="bead-1"))
    assert isinstance(merge, Merge)
    assert world.take(facts.MergeMoved(merge_id=merge.merge_id, head="c2")) == []
    waiting = world.one().waiting
    assert waiting is not None
    assert (waiting.what, waiting.reason) == (
        WaitsFor.PERSON,
        "somebody must look at gt/polecat-1 and approve its merge: it has moved since c1 was approved",
    )
    assert world.take(facts.Approved(bead_id="bead-1", head="c1")) == []
    (again,) = world.take(facts.Approved(bead_id="bead-1"))
    assert isinstance(again, Merge)
    assert (again.head, again.merge_id != merge.merge_id) == ("c2", True)


def test_a_commit_that_is_seen_late_is_not_that_of_the_next_hand_in() -> None:
    world = asking()
    world.take(facts.Rejected(bead_id="bead-1", message="No"))
    world.start_all()
    world.take(facts.HandedIn(bead_id="bead-1", agent_id="polecat-1", hand_in_id="mr-2"))
    world.take(facts.HeadSeen(bead_id="bead-1", hand_in_id="mr-1", head="c1"))
    assert world.one().hand_in is not None
    assert world.one().hand_in.head is None


def test_what_is_merged_after_a_review_is_the_commit_that_was_reviewed() -> None:
    world = asking(merge="auto", review="refinery")
    world.start_all()
    (merge,) = world.take(facts.ReviewPassed(bead_id="bead-1", agent_id=str(world.one().reviewer)))
    assert isinstance(merge, Merge)
    assert merge.head == "c1"
    (start,) = world.take(facts.MergeMoved(merge_id=merge.merge_id, head="c2"))
    assert isinstance(start, Start)
    assert start.role == "refinery"


def test_work_whose_branch_has_nothing_of_its_own_is_closed_and_said_to_be_without_a_change() -> None:
    world = World.of()
    world.take(*added(1))
    world.start_all()
    (merge,) = world.hand_in()
    assert isinstance(merge, Merge)
    world.take(facts.Merged(merge_id=merge.merge_id, commit="c9", nothing=True))
    assert (world.one().state, world.one().commit) == (BeadState.CLOSED, None)
    assert world.told == [
        "“task 1” (bead-1) is closed with nothing to merge: its branch has nothing that main lacks."
    ]


def test_a_conflict_goes_back_to_its_author_with_the_files() -> None:
    world = World.of()
    world.take(*added(1))
    world.start_all()
    (merge,) = world.hand_in()
    assert isinstance(merge, Merge)
    actions = world.take(facts.MergeConflicted(merge_id=merge.merge_id, files=("a.py", "b.py")))
    (start,) = actions
    assert isinstance(start, Start)
    assert (start.agent_id, start.cause) == ("polecat-1", Cause.CONFLICT)
    assert "- a.py\n- b.py" in (start.says or "")
    world.start(start)
    world.live()
    assert world.landed == ["bead-1"]


@pytest.mark.parametrize("cause", [Cause.CONFLICT, Cause.CHECKS])
def test_three_rounds_of_the_same_end_with_a_person(cause: Cause) -> None:
    world = World.of()
    world.take(*added(1))
    for _ in range(LIMITS[cause]):
        world.start_all()
        (merge,) = world.hand_in()
        assert isinstance(merge, Merge)
        if cause is Cause.CONFLICT:
            world.take(facts.MergeConflicted(merge_id=merge.merge_id, files=("a",)))
        else:
            world.take(facts.MergeFailed(merge_id=merge.merge_id, reason="make test: 1 failed", checks=True))
    assert world.one().question is not None
    assert starts(world) == []
    assert world.landed == []


def test_a_merge_that_fails_for_another_reason_is_tried_again_and_costs_no_turn() -> None:
    world = World.of()
    world.take(*added(1))
    world.start_all()
    (merge,) = world.hand_in()
    assert isinstance(merge, Merge)
    world.take(facts.MergeFailed(merge_id=merge.merge_id, reason="no route to host"))
    waiting = world.one().waiting
    assert waiting is not None
    assert (waiting.what, world.one().state) == (WaitsFor.BACKOFF, BeadState.IN_REVIEW)
    (again,) = world.later(seconds=3)
    assert isinstance(again, Merge)
    assert again.merge_id != merge.merge_id


def test_merges_of_a_rig_follow_each_other() -> None:
    world = World.of()
    world.take(*added(1, 2))
    world.start_all()
    world.hand_in(2)
    world.later(seconds=1)
    world.hand_in(1)
    assert merging(world) == ["bead-2"]
    waiting = world.one(1).waiting
    assert waiting is not None
    assert waiting.what is WaitsFor.MERGE
    (merge,) = [one for one in world.outstanding if isinstance(one, Merge)]
    world.merge(merge)
    assert merging(world) == ["bead-1"]


def test_a_reviewer_passes_or_sends_back_to_the_same_author() -> None:
    world = World.of(rules(rig={"review": "refinery"}))
    world.take(*added(1))
    world.start_all()
    world.hand_in()
    world.start_all()
    reviewer = world.one().reviewer
    assert reviewer is not None
    world.take(facts.ChangesAsked(bead_id="bead-1", agent_id=reviewer, feedback="name it better"))
    (start,) = [one for one in world.outstanding if isinstance(one, Start)]
    assert (start.agent_id, "name it better" in (start.says or "")) == ("polecat-1", True)
    world.start_all()
    world.hand_in()
    world.start_all()
    assert world.one().reviewer == reviewer
    world.take(facts.ReviewPassed(bead_id="bead-1", agent_id=reviewer))
    assert merging(world) == ["bead-1"]


def test_the_verdict_of_a_stranger_or_of_the_author_is_none() -> None:
    world = World.of(rules(rig={"review": "refinery"}))
    world.take(*added(1))
    world.start_all()
    world.hand_in()
    world.start_all()
    for agent in ("polecat-1", "refinery-99"):
        world.take(facts.ReviewPassed(bead_id="bead-1", agent_id=agent))
        assert merging(world) == []


def test_a_person_sends_work_back_however_often() -> None:
    world = World.of(rules(rig={"merge": "ask"}))
    world.take(*added(1))
    for _ in range(5):
        world.start_all()
        world.hand_in()
        world.take(facts.Rejected(bead_id="bead-1", message="blue, please"))
        assert world.one().question is None
    (start,) = [one for one in world.outstanding if isinstance(one, Start)]
    assert "blue, please" in (start.says or "")


def test_above_the_budget_no_agent_begins_and_merges_go_on() -> None:
    world = World.of(rules(rig={"merge": "ask"}))
    world.take(*added(1, 2))
    world.start_all()
    world.hand_in(1)
    over = Budget(day=OverBudget(reason="all is spent"))
    world.take(facts.BudgetChanged(budget=over), facts.Rejected(bead_id="bead-1", message="no"))
    waiting = world.one(1).waiting
    assert waiting is not None
    assert (waiting.what, waiting.reason) == (WaitsFor.BUDGET, "all is spent")
    world.hand_in(2)
    world.take(facts.Approved(bead_id="bead-2"))
    assert merging(world) == ["bead-2"]


def test_a_days_budget_holds_until_the_next_day_begins() -> None:
    """It is looked at again then, and needs no fact to go on."""
    world = World.of()
    midnight = world.now + timedelta(hours=12)
    over = Budget(day=OverBudget(reason="all is spent", until=midnight))
    world.take(facts.BudgetChanged(budget=over), *added(1))
    since = world.now
    world.later(hours=11)
    waiting = world.one(1).waiting
    assert waiting is not None
    assert (waiting.what, waiting.since, waiting.until) == (WaitsFor.BUDGET, since, midnight)
    assert (next_look(world.state), starts(world)) == (midnight, [])
    world.later(hours=1)
    assert starts(world) == ["bead-1"]


def test_a_beads_budget_holds_that_bead_alone_until_it_is_raised() -> None:
    world = World.of(rules(rig={"review": "refinery"}))
    world.take(*added(1, 2))
    world.start_all()
    over = Budget(bead=OverBudget(reason="its budget is used up"), beads=("bead-1",))
    world.take(facts.BudgetChanged(budget=over))
    assert world.one(1).attempt is not None, "what runs goes on"
    world.hand_in(1)
    world.hand_in(2)
    waiting = world.one(1).waiting
    assert waiting is not None
    assert (waiting.what, waiting.until) == (WaitsFor.BUDGET, None)
    assert starts(world) == ["bead-2"]
    world.take(facts.BudgetChanged(budget=Budget()))
    assert sorted(starts(world)) == ["bead-1", "bead-2"]


def test_a_merge_that_needs_a_person_asks_at_once_and_goes_on_after_a_retry() -> None:
    """Trying five times does not make a folder clean; the work stays handed in."""
    world = World.of(rules(rig={"merge": "auto"}))
    world.take(*added(1))
    world.start_all()
    world.hand_in()
    (merge,) = [one for one in world.outstanding if isinstance(one, Merge)]
    world.take(facts.MergeFailed(merge_id=merge.merge_id, reason="Not merged: main has changes", for_person=True))
    assert "main has changes" in (world.one().question or "")
    assert merging(world) == []
    world.take(facts.Retried(bead_id="bead-1"))
    assert merging(world) == ["bead-1"]
