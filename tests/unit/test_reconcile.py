"""The reconciler's rules, one by one: plain values in, plain values out."""

from __future__ import annotations

from datetime import timedelta

from gastown.hall.domain.bead import BeadState
from gastown.hall.reconcile import facts
from gastown.hall.reconcile.actions import Merge, Start
from gastown.hall.reconcile.limits import LIMITS, Cause
from gastown.hall.reconcile.state import Leaving, WaitsFor
from gastown.hall.reconcile.waiting import next_look
from tests.unit.reconcile_world import World, added, rules, starts


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


def test_a_paused_town_begins_nothing_and_says_so() -> None:
    world = World.of(rules(paused=True))
    world.take(*added(1))
    waiting = world.one().waiting
    assert waiting is not None
    assert (starts(world), waiting.what) == ([], WaitsFor.PAUSED)
    world.take(facts.RulesChanged(rules=rules()))
    assert starts(world) == ["bead-1"]


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


def test_a_probe_that_is_due_while_another_start_is_open_waits_for_that_and_asks_for_no_look() -> None:
    """A time that has passed would have the dispatcher look again at once, for as long as the start takes."""
    world = World.of(rules(slots=10))
    world.take(*added(*range(1, 7)))
    for start in [one for one in world.outstanding if isinstance(one, Start)][:4]:
        world.fail(start)
    world.later(minutes=5)
    assert world.state.breaker.is_open
    assert len(starts(world)) == 2
    look = next_look(world.state)
    assert look is None or look > world.now


def test_a_slot_that_is_missing_is_named() -> None:
    """The town's, the rig's own, or the one that is left for reviews."""
    own = World.of(rules(slots=5, rig={"slots": 1}))
    own.take(*added(1, 2))
    kept = World.of(rules(slots=2, rig={"review": "refinery"}))
    kept.take(*added(1, 2))
    said = [world.one(2).waiting for world in (own, kept)]
    assert [one.reason if one else None for one in said] == [
        "all 1 slots of r are taken",
        "the last slot is left for reviews",
    ]


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


def test_the_end_of_the_turn_before_a_message_is_no_end_of_the_new_one() -> None:
    """The agent still ran, and the event of its older turn comes after the message was given."""
    world = World.of()
    (start,) = world.take(*added(1))
    assert isinstance(start, Start)
    world.take(facts.Started(attempt_id=start.attempt_id, session_id="s", known_as="attempt-before"))
    ended = facts.TurnEnded(agent_id="polecat-1", session_id="s", reason="completed")
    world.take(ended)
    assert world.one().attempt is not None
    world.take(facts.TurnBegan(agent_id="polecat-1", session_id="s"), ended)
    assert world.one().attempt is None


def test_the_turn_of_a_subagent_ends_nothing() -> None:
    world = World.of()
    (start,) = world.take(*added(1))
    assert isinstance(start, Start)
    world.take(facts.Started(attempt_id=start.attempt_id, session_id="s"))
    world.take(facts.TurnEnded(agent_id="polecat-1", session_id="of a subagent", reason="completed"))
    assert world.one().attempt is not None
