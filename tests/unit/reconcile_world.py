"""A town to drive the reconciler with: agents, a container and a target branch, as plain values."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

from gastown.hall.domain.bead import EDGES, RETRIES, BeadState
from gastown.hall.reconcile import facts
from gastown.hall.reconcile.actions import Action, Merge, Start, Tell
from gastown.hall.reconcile.facts import Fact
from gastown.hall.reconcile.state import (
    Attempt,
    Container,
    HandInPhase,
    Leaving,
    RigRules,
    Rules,
    TownState,
    WaitsFor,
    Work,
)
from gastown.hall.reconcile.step import outstanding, step
from gastown.hall.reconcile.waiting import next_look

NOW = datetime(2030, 5, 1, 12, 0, tzinfo=UTC)


def rules(**changes: Any) -> Rules:
    """A town with one rig that merges by itself; `rig` changes the rig."""
    rig = {"rig_id": "r", "target": "main", "merge": "auto"} | changes.pop("rig", {})
    return Rules(rigs={"r": RigRules(**rig)}, **changes)


def work(number: int, **changes: Any) -> Work:
    """The piece of work of that number."""
    given: dict[str, Any] = {
        "bead_id": f"bead-{number}",
        "rig_id": "r",
        "title": f"task {number}",
        "priority": 1,
        "number": number,
        "author": f"polecat-{number}",
        "branch": f"gt/polecat-{number}",
    }
    return Work(**(given | changes))


@dataclass
class World:
    """What is outside: the agents that run, by the attempt that the container knows them by, and the target.

    `landed` holds the beads whose branch is on the target, once for each merge that put it there.
    """

    state: TownState
    now: datetime = NOW
    running: dict[str, str] = field(default_factory=dict)
    landed: list[str] = field(default_factory=list)
    told: list[str] = field(default_factory=list)
    starts: list[Start] = field(default_factory=list)
    ended: list[Attempt] = field(default_factory=list)

    @classmethod
    def of(cls, given: Rules | None = None, *, ready: bool = True) -> World:
        return cls(TownState(rules=given or rules(), container=Container(ready=ready, since=NOW)))

    def take(self, *given: Fact) -> list[Action]:
        """A step with these facts; its actions. The state that it makes is checked."""
        before = self.state
        self.state, actions = step(self.state, given, self.now)
        self.told += [one.says for one in actions if isinstance(one, Tell)]
        self.ended += self.state.ended
        check_step(before, self.state, given, self.now)
        check(self.state)
        look = next_look(self.state)
        assert look is None or look > self.now, "a time that has passed is looked at again and again"
        return actions

    def one(self, number: int = 1) -> Work:
        return self.state.work[f"bead-{number}"]

    def later(self, **times: float) -> list[Action]:
        self.now += timedelta(**times)
        return self.take()

    # What the container does with what is outstanding

    @property
    def outstanding(self) -> list[Action]:
        return list(outstanding(self.state))

    def start(self, action: Start) -> list[Action]:
        """The container starts the agent."""
        self.starts.append(action)
        self.running[action.agent_id] = action.attempt_id
        return self.take(facts.Started(attempt_id=action.attempt_id))

    def start_all(self) -> None:
        for action in self.outstanding:
            if isinstance(action, Start):
                self.start(action)

    def fail(self, action: Start, reason: str = "no kilo") -> list[Action]:
        self.starts.append(action)
        return self.take(facts.StartFailed(attempt_id=action.attempt_id, reason=reason))

    def hand_in(self, number: int = 1) -> list[Action]:
        """The author of a bead calls gt_done, and its server goes on."""
        done = facts.HandedIn(bead_id=f"bead-{number}", agent_id=f"polecat-{number}", hand_in_id=f"mr-{number}")
        return self.take(done)

    def merge(self, action: Merge, *, report: bool = True) -> list[Action]:
        """The container merges, and says so unless it is cut off. Asked again, it finds the branch there."""
        if action.bead_id not in self.landed:
            self.landed.append(action.bead_id)
        if not report:
            return []
        return self.take(facts.Merged(merge_id=action.merge_id, commit=f"commit of {action.bead_id}"))

    def stop(self, action: Leaving) -> list[Action]:
        self.running.pop(action.agent_id, None)
        return self.take(facts.AgentStopped(agent_id=action.agent_id))

    def lose_container(self) -> None:
        self.running.clear()
        self.take(facts.ContainerLost(reason="killed"))

    def ready(self, *, resumes: bool = True) -> None:
        """The next container is there, with the agents of the registry or without."""
        alive = [one for one in self.state.work.values() for one in one.attempts] if resumes else []
        self.running = {one.agent_id: one.id for one in alive if one.phase == "running"}
        self.take(facts.ContainerReady(attempts=frozenset(self.running.values())))

    def live(self, rounds: int = 500) -> None:
        """Everybody does well from now on, a person too, until nothing is left to do."""
        for _ in range(rounds):
            if not self._live_once():
                return
        raise AssertionError(f"the town does not come to rest: {self.state}")

    def _live_once(self) -> bool:
        if not self.state.container.ready:
            self.ready()
        elif self.outstanding:
            self.carry_out(self.outstanding[0])
        elif not any(self._go_on_with(one) for one in self.state.work.values()):
            look = next_look(self.state)
            if look is None:
                return False
            self.now = max(self.now, look)
            self.take()
        return True

    def carry_out(self, action: Action) -> None:
        """Do what is outstanding, with success."""
        if isinstance(action, Start):
            self.start(action)
        elif isinstance(action, Merge):
            self.merge(action)
        elif isinstance(action, Leaving):
            self.stop(action)

    def _go_on_with(self, one: Work) -> bool:
        if one.attempt is not None:
            self.hand_in(one.number)
        elif one.review is not None:
            self.take(facts.ReviewPassed(bead_id=one.bead_id, agent_id=one.review.agent_id))
        elif one.question is not None or one.state is BeadState.FAILED:
            self.take(facts.Retried(bead_id=one.bead_id))
        elif one.hand_in is not None and one.hand_in.phase is HandInPhase.ASKING:
            self.take(facts.Approved(bead_id=one.bead_id))
        else:
            return False
        return True


def check(state: TownState) -> None:
    """What holds in every state."""
    open_attempts = [one for work in state.work.values() for one in work.attempts]
    assert len({one.id for one in open_attempts}) == len(open_attempts)
    assert len({one.agent_id for one in open_attempts}) == len(open_attempts)
    merging = [work.rig_id for work in state.work.values() if work.hand_in and work.hand_in.merge_id]
    assert len(set(merging)) == len(merging)
    for work in state.work.values():
        assert (work.attempt is None) or work.state is BeadState.IN_PROGRESS, work
        assert (work.hand_in is None) == (work.state is not BeadState.IN_REVIEW), work
        assert work.reviewer is None or work.reviewer != work.author
        assert not work.is_finished or not list(work.attempts), work
        if not work.is_finished and not any(one.role == "polecat" for one in work.attempts):
            assert work.waiting is not None or work.review is not None, work
        if work.waiting is not None and work.waiting.what is WaitsFor.BACKOFF:
            assert work.waiting.until is not None


def check_step(before: TownState, after: TownState, given: Sequence[Fact], now: datetime) -> None:
    """What holds of every step: legal edges, no end without a result, slots that are kept."""
    retried = {fact.bead_id for fact in given if isinstance(fact, facts.Retried)}
    for bead_id, work in after.work.items():
        if (was := before.work.get(bead_id)) is not None and was.state is not work.state:
            path = _reachable(was.state, work.state, RETRIES if bead_id in retried else {})
            assert path, (was.state, work.state, given)
    ended = [one.id for one in after.ended]
    assert len(set(ended)) == len(ended)
    gone = {one.id for work in before.work.values() for one in work.attempts} - {
        one.id for work in after.work.values() for one in work.attempts
    }
    assert gone == set(ended), (gone, ended)
    running = [one for work in after.work.values() for one in work.attempts]
    begun = {one.id for one in running} - {one.id for work in before.work.values() for one in work.attempts}
    assert not begun or len(running) <= after.rules.slots
    over = [one for one in running if one.id in begun and after.budget.holding(one.bead_id, now) is not None]
    assert not over, "nothing begins above its budget"


def _reachable(before: BeadState, after: BeadState, retries: Any) -> bool:
    """Whether a step, which may fold a fact and begin something, leads there along legal edges."""
    once = EDGES[before] | retries.get(before, frozenset())
    return after in once or any(after in EDGES[between] for between in once)


def added(*numbers: int, **changes: object) -> list[facts.Fact]:
    return [facts.Added(work=work(number, **changes)) for number in numbers]


def starts(world: World) -> list[str]:
    """The beads whose agents are to be started, in the order of the state."""
    return [one.bead_id for one in world.outstanding if isinstance(one, Start)]


def merging(world: World) -> list[str]:
    return [one.bead_id for one in world.outstanding if isinstance(one, Merge)]
