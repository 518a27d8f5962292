"""The reconciler's rules, one by one: plain values in, plain values out."""

from __future__ import annotations

from datetime import timedelta

import pytest

from gastown.hall.domain.bead import BeadState
from gastown.hall.reconcile import facts
from gastown.hall.reconcile.actions import Merge, Start
from gastown.hall.reconcile.limits import LIMITS, Cause
from gastown.hall.reconcile.state import HandInPhase, Leaving, Outcome, WaitsFor
from gastown.hall.reconcile.waiting import next_look
from tests.unit.reconcile_world import World, rules, work


def added(*numbers: int, **changes: object) -> list[facts.Fact]:
    return [facts.Added(work=work(number, **changes)) for number in numbers]


def starts(world: World) -> list[str]:
    """The beads whose agents are to be started, in the order of the state."""
    return [one.bead_id for one in world.outstanding if isinstance(one, Start)]


def merging(world: World) -> list[str]:
    return [one.bead_id for one in world.outstanding if isinstance(one, Merge)]


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


def test_without_a_new_fact_nothing_is_done_twice() -> None:
    world = World.of()
    world.take(*added(1, 2, 3, 4))
    before = world.state
    assert world.take() == []
    assert world.state.work == before.work


def test_slots_bound_what_runs_and_say_so() -> None:
    world = World.of(rules(slots=2))
    world.take(*added(1, 2, 3))
    assert starts(world) == ["bead-1", "bead-2"]
    waiting = world.one(3).waiting
    assert waiting is not None
    assert (waiting.what, waiting.reason) == (WaitsFor.SLOT, "all 2 slots are taken")
    world.start_all()
    world.hand_in(1)
    assert starts(world) == ["bead-3"]


def test_a_rig_has_slots_of_its_own() -> None:
    world = World.of(rules(slots=5, rig={"slots": 1}))
    world.take(*added(1, 2))
    assert starts(world) == ["bead-1"]


def test_one_slot_is_left_for_reviews() -> None:
    world = World.of(rules(slots=2, rig={"review": "refinery"}))
    world.take(*added(1, 2))
    assert starts(world) == ["bead-1"]
    world.start_all()
    world.hand_in(1)
    assert starts(world) == ["bead-1", "bead-2"]
    assert world.one(1).reviewer not in (None, "polecat-1")


def test_urgent_work_goes_first_then_what_others_wait_for_then_the_oldest() -> None:
    world = World.of(rules(slots=1))
    world.take(
        *added(1),
        *added(2),
        *added(3),
        *added(4, priority=2),
        *added(5, blockers=("bead-3",)),
        *added(6, blockers=("bead-3",)),
    )
    order = []
    for _ in range(6):
        (bead_id,) = starts(world)
        order.append(bead_id)
        world.start_all()
        world.hand_in(int(bead_id.removeprefix("bead-")))
        for merge in [one for one in world.outstanding if isinstance(one, Merge)]:
            world.merge(merge)
    assert order == ["bead-4", "bead-3", "bead-1", "bead-2", "bead-5", "bead-6"]


def test_only_a_closed_blocker_lets_work_begin() -> None:
    world = World.of()
    world.take(*added(1), *added(2, blockers=("bead-1",)))
    assert starts(world) == ["bead-1"]
    waiting = world.one(2).waiting
    assert waiting is not None
    assert (waiting.what, waiting.bead_id) == (WaitsFor.BEAD, "bead-1")
    world.take(facts.Closed(bead_id="bead-1", failed=True))
    waiting = world.one(2).waiting
    assert waiting is not None
    assert waiting.reason == "“task 1” must be closed first, and has failed"
    world.take(facts.Retried(bead_id="bead-1"))
    world.live()
    assert world.one(2).state is BeadState.CLOSED
    assert world.landed == ["bead-1", "bead-2"]


def test_a_staged_convoy_waits_until_it_is_started() -> None:
    world = World.of()
    world.take(*added(1, staged=True))
    waiting = world.one().waiting
    assert starts(world) == []
    assert waiting is not None
    assert waiting.what is WaitsFor.STAGED
    world.take(facts.Ordered(bead_id="bead-1", title="task 1", priority=1, blockers=(), staged=False))
    assert starts(world) == ["bead-1"]


def test_a_start_that_fails_is_tried_again_after_a_pause_and_five_times_in_all() -> None:
    world = World.of()
    world.take(*added(1))
    pauses = []
    for _ in range(LIMITS[Cause.START]):
        (start,) = [one for one in world.outstanding if isinstance(one, Start)]
        world.fail(start)
        waiting = world.one().waiting
        assert waiting is not None
        if waiting.until is not None:
            assert (waiting.what, world.one().state) == (WaitsFor.BACKOFF, BeadState.OPEN)
            pauses.append((waiting.until - world.now).total_seconds())
            world.now = waiting.until - timedelta(seconds=0.1)
            assert world.take() == []
            world.now = waiting.until
            world.take()
    for pause, asked in zip(pauses, (2, 30, 120, 600), strict=True):
        assert 0.8 * asked <= pause <= 1.2 * asked
    waiting = world.one().waiting
    assert waiting is not None
    assert (waiting.what, waiting.until) == (WaitsFor.PERSON, None)
    assert "5 times" in waiting.reason
    assert "no kilo" in waiting.reason
    assert len(world.told) == 1
    assert world.later(days=2) == []
    world.take(facts.Retried(bead_id="bead-1"))
    world.start_all()
    assert world.one().tries == {}
    assert world.one().waiting is None


def test_a_start_that_succeeds_forgets_those_that_failed() -> None:
    world = World.of()
    (start,) = world.take(*added(1))
    assert isinstance(start, Start)
    world.fail(start)
    world.later(seconds=3)
    world.start_all()
    assert world.one().tries.get(Cause.START) is None


def test_an_agent_that_ends_without_handing_in_goes_on_twice_and_then_a_person_is_asked() -> None:
    world = World.of()
    world.take(*added(1))
    for _ in range(LIMITS[Cause.UNFINISHED]):
        world.start_all()
        world.take(facts.AgentEnded(agent_id="polecat-1", reason="idle"))
        world.later(minutes=3)
    assert [one.says is not None for one in world.starts] == [False, True, True]
    question = world.one().question
    assert question is not None
    assert "without handing it in 3 times" in question
    assert world.one().state is BeadState.OPEN


def test_the_end_of_an_older_attempt_ends_no_newer_one() -> None:
    world = World.of()
    world.take(*added(1))
    world.start_all()
    world.take(facts.AgentEnded(agent_id="polecat-1", attempt_id="attempt-of-yesterday"))
    assert world.one().attempt is not None


def test_an_agent_that_still_ran_is_known_by_its_older_attempt() -> None:
    world = World.of()
    (start,) = world.take(*added(1))
    assert isinstance(start, Start)
    world.take(facts.Started(attempt_id=start.attempt_id, known_as="attempt-before"))
    world.take(facts.AgentEnded(agent_id="polecat-1", attempt_id="attempt-before"))
    assert world.one().attempt is None


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


def test_a_paused_town_begins_nothing_and_says_so() -> None:
    world = World.of(rules(paused=True))
    world.take(*added(1))
    waiting = world.one().waiting
    assert waiting is not None
    assert (starts(world), waiting.what) == ([], WaitsFor.PAUSED)
    world.take(facts.RulesChanged(rules=rules()))
    assert starts(world) == ["bead-1"]


def test_above_the_budget_no_agent_begins_and_merges_go_on() -> None:
    world = World.of(rules(rig={"merge": "ask"}))
    world.take(*added(1, 2))
    world.start_all()
    world.hand_in(1)
    over = rules(rig={"merge": "ask"}, over_budget="5.01 of 5.00 USD are spent today")
    world.take(facts.RulesChanged(rules=over), facts.Rejected(bead_id="bead-1", message="no"))
    waiting = world.one(1).waiting
    assert waiting is not None
    assert (waiting.what, waiting.reason) == (WaitsFor.BUDGET, "5.01 of 5.00 USD are spent today")
    world.hand_in(2)
    world.take(facts.Approved(bead_id="bead-2"))
    assert merging(world) == ["bead-2"]


def test_the_next_container_goes_on_with_its_agents_and_the_others_begin_again() -> None:
    world = World.of()
    world.take(*added(1, 2))
    world.start_all()
    world.lose_container()
    assert world.one(1).attempt is not None
    first = world.one(1).attempt
    assert first is not None
    world.take(facts.ContainerReady(attempts=frozenset({first.id})))
    assert world.one(1).attempt == first
    (start,) = [one for one in world.outstanding if isinstance(one, Start)]
    assert (start.bead_id, start.cause) == ("bead-2", Cause.LOST)


def test_nothing_begins_while_the_container_is_away() -> None:
    world = World.of(ready=False)
    world.take(*added(1))
    waiting = world.one().waiting
    assert waiting is not None
    assert (starts(world), waiting.what, waiting.reason) == ([], WaitsFor.CONTAINER, "the container is starting")


def test_a_start_that_was_cut_by_the_containers_end_is_no_failure() -> None:
    world = World.of()
    (start,) = world.take(*added(1))
    assert isinstance(start, Start)
    world.lose_container()
    world.fail(start, "the connection broke")
    assert world.one().tries == {}
    assert world.state.breaker.failed == ()


def test_failed_starts_of_four_in_a_row_open_the_breaker_and_one_probe_closes_it() -> None:
    world = World.of(rules(slots=10))
    world.take(*added(*range(1, 7)))
    for start in [one for one in world.outstanding if isinstance(one, Start)][:4]:
        world.fail(start)
    assert world.state.breaker.is_open
    for start in [one for one in world.outstanding if isinstance(one, Start)]:
        world.fail(start)
    assert starts(world) == []
    waiting = world.one(1).waiting
    world.later(seconds=40)
    assert starts(world) == []
    waiting = world.one(1).waiting
    assert waiting is not None
    assert waiting.what is WaitsFor.CONTAINER
    assert "no kilo" in waiting.reason
    world.now = waiting.until or world.now
    world.take()
    (probe,) = [one for one in world.outstanding if isinstance(one, Start)]
    world.fail(probe)
    assert starts(world) == []
    world.later(minutes=20)
    (probe,) = [one for one in world.outstanding if isinstance(one, Start)]
    world.start(probe)
    assert not world.state.breaker.is_open
    assert len(starts(world)) == 5


def test_a_deleted_bead_lets_go_of_its_agent_and_of_what_waits_for_it() -> None:
    world = World.of()
    world.take(*added(1), *added(2, blockers=("bead-1",)))
    world.start_all()
    world.take(facts.Removed(bead_id="bead-1"))
    assert starts(world) == ["bead-2"]
    assert Leaving(agent_id="polecat-1", bead_id="bead-1", final=True) in world.outstanding


def test_an_agent_that_is_being_ended_is_not_started_at_the_same_time() -> None:
    world = World.of()
    world.take(*added(1))
    world.start_all()
    world.take(facts.Closed(bead_id="bead-1"))
    world.take(facts.Retried(bead_id="bead-1"))
    waiting = world.one().waiting
    assert waiting is not None
    assert (starts(world), waiting.what) == ([], WaitsFor.CONTAINER)
    (leaving,) = world.outstanding
    assert isinstance(leaving, Leaving)
    world.stop(leaving)
    assert starts(world) == ["bead-1"]


def test_a_reason_keeps_its_time() -> None:
    world = World.of(rules(slots=1))
    world.take(*added(1, 2))
    since = world.now
    world.later(minutes=5)
    waiting = world.one(2).waiting
    assert waiting is not None
    assert waiting.since == since
