"""The reconciler under whatever happens: random facts, and a hall that is killed between any two steps."""

from __future__ import annotations

from collections import Counter
from datetime import timedelta
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from gastown.hall.domain.bead import BeadState
from gastown.hall.reconcile import facts
from gastown.hall.reconcile.actions import Merge, Start
from gastown.hall.reconcile.limits import LIMITS
from gastown.hall.reconcile.state import Budget, Leaving, OverBudget, WaitsFor
from gastown.hall.reconcile.waiting import next_look
from tests.unit.reconcile_world import World, rules, work

_BEADS = st.integers(1, 7)
_HOW = ("well", "badly", "unheard", "conflict", "checks", "moved")
_EVENTS = st.one_of(
    st.tuples(st.just("add"), _BEADS, st.sets(_BEADS, max_size=2), st.integers(0, 3)),
    st.tuples(
        st.sampled_from(
            ["hand in", "end", "pass", "object", "see", "approve", "reject", "retry", "close", "fail", "delete"]
        ),
        _BEADS,
    ),
    st.tuples(st.just("do"), st.integers(0, 9), st.sampled_from(_HOW)),
    st.tuples(st.just("flop"), st.integers(1, 7)),
    st.tuples(st.just("later"), st.sampled_from([1, 40, 700, 4000])),
    st.tuples(st.just("spend"), st.sampled_from([None, 30, 5000]), st.sets(_BEADS, max_size=2)),
    st.sampled_from([("lose",), ("ready", True), ("ready", False), ("pause",), ("go on",), ("ask",), ("auto",)]),
)
_RULES = st.fixed_dictionaries(
    {
        "slots": st.integers(1, 7),
        "rig": st.fixed_dictionaries(
            {"merge": st.sampled_from(["ask", "auto"]), "review": st.sampled_from(["none", "refinery"])}
        ),
    }
)


class Fate:
    """Carries random events out in a world; what makes no sense there is left out."""

    def __init__(self, given_rules: dict[str, Any]) -> None:
        self.given = given_rules
        self.world = World.of(rules(**given_rules))

    def meet(self, event: tuple[Any, ...]) -> None:
        kind, *rest = event
        getattr(self, f"_{kind.replace(' ', '_')}", self._person)(*rest, *([kind] if kind in _PEOPLE else []))

    def _add(self, number: int, blockers: set[int], priority: int) -> None:
        earlier = tuple(f"bead-{one}" for one in sorted(blockers) if one < number)
        self.world.take(facts.Added(work=work(number, blockers=earlier, priority=priority)))

    def _do(self, place: int, how: str) -> None:
        outstanding = self.world.outstanding
        if not outstanding:
            return
        action = outstanding[place % len(outstanding)]
        if how == "well" or isinstance(action, Leaving):
            self.world.carry_out(action)
        elif isinstance(action, Start):
            if how == "badly":
                self.world.fail(action)
            else:  # the hall is killed before it hears of it
                self.world.running[action.agent_id] = action.attempt_id
        elif isinstance(action, Merge):
            self._merge(action, how)

    def _merge(self, action: Merge, how: str) -> None:
        if action.bead_id in self.world.landed or how == "unheard":
            self.world.merge(action, report=how != "unheard")
        elif how == "conflict":
            self.world.take(facts.MergeConflicted(merge_id=action.merge_id, files=("a",)))
        elif how == "moved" and action.head is not None:
            self.world.take(facts.MergeMoved(merge_id=action.merge_id, head=f"{action.head}+"))
        else:
            failed = facts.MergeFailed(merge_id=action.merge_id, reason="why", checks=how == "checks")
            self.world.take(failed)

    def _hand_in(self, number: int) -> None:
        if f"polecat-{number}" in self.world.running:
            self.world.hand_in(number)

    def _end(self, number: int) -> None:
        attempt = self.world.running.pop(f"polecat-{number}", None)
        if attempt is not None:
            self.world.take(facts.AgentEnded(agent_id=f"polecat-{number}", attempt_id=attempt))

    def _flop(self, most: int) -> None:
        """So many of the starts that are under way fail together."""
        for action in [one for one in self.world.outstanding if isinstance(one, Start)][:most]:
            self.world.fail(action)

    def _later(self, seconds: int) -> None:
        self.world.later(seconds=seconds)

    def _spend(self, seconds: int | None, beads: set[int]) -> None:
        """The budget of the day, for that many seconds, and of those beads is used up."""
        until = None if seconds is None else self.world.now + timedelta(seconds=seconds)
        day = None if until is None else OverBudget(reason="all is spent", until=until)
        over = tuple(f"bead-{one}" for one in sorted(beads))
        budget = Budget(day=day, bead=OverBudget(reason="its own is spent"), beads=over)
        self.world.take(facts.BudgetChanged(budget=budget))

    def _lose(self) -> None:
        self.world.lose_container()

    def _ready(self, resumes: bool) -> None:
        if not self.world.state.container.ready:
            self.world.ready(resumes=resumes)

    def _pause(self) -> None:
        self.world.take(facts.RulesChanged(rules=rules(**self.given, paused=True)))

    def _go_on(self) -> None:
        self.world.take(facts.RulesChanged(rules=rules(**self.given)))

    def _ask(self) -> None:
        self._merges("ask")

    def _auto(self) -> None:
        self._merges("auto")

    def _merges(self, how: str) -> None:
        self.given["rig"] = self.given["rig"] | {"merge": how}
        self._go_on()

    def _person(self, number: int, kind: str) -> None:
        bead_id = f"bead-{number}"
        known = self.world.state.work.get(bead_id)
        reviewer = known.reviewer if known is not None else None
        if kind in ("pass", "object") and reviewer is None:
            return
        made = {
            "pass": lambda: facts.ReviewPassed(bead_id=bead_id, agent_id=str(reviewer)),
            "object": lambda: facts.ChangesAsked(bead_id=bead_id, agent_id=str(reviewer), feedback="better"),
            "see": lambda: facts.HeadSeen(bead_id=bead_id, hand_in_id=f"mr-{number}", head=f"c{number}"),
            "approve": lambda: facts.Approved(bead_id=bead_id),
            "reject": lambda: facts.Rejected(bead_id=bead_id, message="no"),
            "retry": lambda: facts.Retried(bead_id=bead_id),
            "close": lambda: facts.Closed(bead_id=bead_id),
            "fail": lambda: facts.Closed(bead_id=bead_id, failed=True),
            "delete": lambda: facts.Removed(bead_id=bead_id),
        }
        self.world.take(made[kind]())


_PEOPLE = frozenset({"pass", "object", "see", "approve", "reject", "retry", "close", "fail", "delete"})


@settings(max_examples=300, deadline=None)
@given(_RULES, st.lists(_EVENTS, max_size=60))
def test_whatever_happens_the_rules_hold_and_the_actions_dry_up(given_rules, events) -> None:
    """Every step is checked by the world itself: one attempt an agent, one merge a rig, legal edges, slots."""
    fate = Fate(dict(given_rules))
    for event in events:
        fate.meet(event)
    world = fate.world
    before = world.state
    assert world.take() == []
    assert world.state.work == before.work
    for one in world.state.work.values():
        if one.waiting is not None and not one.is_finished:
            assert one.waiting.reason
            assert one.waiting.what is not WaitsFor.BACKOFF or one.waiting.until is not None
    assert next_look(world.state) is None or next_look(world.state) > world.now


@settings(max_examples=300, deadline=None)
@given(_RULES, st.lists(_EVENTS, max_size=60))
def test_once_all_goes_well_everything_lands_and_each_merge_is_there_once(given_rules, events) -> None:
    """However the hall was killed before: what is outstanding in the kept state is done again, under its ids."""
    fate = Fate(dict(given_rules))
    for event in events:
        fate.meet(event)
    fate._go_on()
    fate._spend(None, set())
    world = fate.world
    world.live()
    assert {one.state for one in world.state.work.values()} <= {BeadState.CLOSED}
    assert not world.state.stops
    assert max(Counter(world.landed).values(), default=0) <= 1
    closed_by_a_merge = {one.bead_id for one in world.state.work.values() if one.commit is not None}
    assert closed_by_a_merge <= set(world.landed)


@settings(max_examples=200, deadline=None)
@given(_RULES, st.lists(_EVENTS, max_size=80))
def test_starts_are_bounded_by_the_limits(given_rules, events) -> None:
    """No bead is started more often than its limits, what people ask for, and lost containers allow."""
    fate = Fate(dict(given_rules))
    asked = Counter[str]()
    for event in events:
        if event[0] in ("retry", "reject", "add", "delete") or event[0] in ("close", "fail"):
            asked[f"bead-{event[1]}"] += 1
        if event[0] in ("lose", "ready"):
            asked.update(f"bead-{number}" for number in range(1, 8))
        fate.meet(event)
    per_round = sum(LIMITS.values())
    for bead_id, count in Counter(one.bead_id for one in fate.world.starts).items():
        assert count <= per_round * (asked[bead_id] + 1)
