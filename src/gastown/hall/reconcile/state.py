"""What the reconciler knows of a town. Frozen: a step makes a new one."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Literal

from gastown.hall.domain.bead import FINISHED, BeadState
from gastown.hall.reconcile.limits import PROBE_MOST, PROBE_PAUSE, TRIPS_AT, Cause

__all__ = [
    "ANY_HEAD",
    "STARTING",
    "Attempt",
    "AttemptPhase",
    "Breaker",
    "Budget",
    "Container",
    "HandIn",
    "HandInPhase",
    "Leaving",
    "Outcome",
    "OverBudget",
    "Rework",
    "RigRules",
    "Rules",
    "TownState",
    "Waiting",
    "WaitsFor",
    "Work",
]


class AttemptPhase(StrEnum):
    STARTING = "starting"
    RUNNING = "running"
    ENDED = "ended"


class Outcome(StrEnum):
    """How an attempt ended; each has exactly one."""

    HANDED_IN = "handed_in"
    UNFINISHED = "unfinished"
    NOT_STARTED = "not_started"
    REVIEWED = "reviewed"
    STOPPED = "stopped"
    LOST = "lost"
    """Its container has gone, and the next one does not know it."""


@dataclass(frozen=True, kw_only=True)
class Attempt:
    """One go of an agent at a piece of work, as its author or as its reviewer.

    `cause` says why there is one after the first; None for the first. `known_as` is the attempt by which the
    container knows the agent, where that is an older one: what ends then must have begun since (`has_turn`), as
    the end of the turn before may still be on its way. `reason` is what is known of its end.
    """

    id: str
    bead_id: str
    agent_id: str
    role: Literal["polecat", "refinery"]
    cause: Cause | None
    started_at: datetime
    phase: AttemptPhase = AttemptPhase.STARTING
    known_as: str | None = None
    session_id: str | None = None
    has_turn: bool = False
    outcome: Outcome | None = None
    ended_at: datetime | None = None
    reason: str | None = None

    @property
    def is_open(self) -> bool:
        return self.phase is not AttemptPhase.ENDED


ANY_HEAD = "*"
"""The approval of whichever commit the branch has."""


class HandInPhase(StrEnum):
    REVIEWING = "reviewing"
    ASKING = "asking"
    QUEUED = "queued"
    MERGING = "merging"


@dataclass(frozen=True, kw_only=True)
class HandIn:
    """Work that was handed in, on its way to the target branch.

    `id` is its review bead. `head` is the branch's commit, once it is known; `approved` the one that a person has
    approved. `merge_id` names the merge that runs. `reviewed`: a reviewer has agreed. `moved_from` is a commit
    that was approved, and is the branch's no more.
    """

    id: str
    branch: str
    at: datetime
    phase: HandInPhase
    head: str | None = None
    approved: str | None = None
    merge_id: str | None = None
    reviewed: bool = False
    moved_from: str | None = None

    @property
    def is_approved(self) -> bool:
        return self.approved is not None and self.approved in (ANY_HEAD, self.head)

    def moved_to(self, head: str | None) -> HandIn:
        """The hand-in with another commit on its branch: what was said of the one before does not count for it."""
        if self.head is None or self.approved == ANY_HEAD:
            return replace(self, head=head)
        return replace(self, head=head, approved=None, reviewed=False, moved_from=self.approved or self.moved_from)


@dataclass(frozen=True, kw_only=True)
class Rework:
    """What the author is to do next: `says` is told to it."""

    cause: Cause
    says: str


class WaitsFor(StrEnum):
    BEAD = "bead"
    SLOT = "slot"
    PERSON = "person"
    BUDGET = "budget"
    BACKOFF = "backoff"
    CONTAINER = "container"
    CHECKS = "checks"
    MERGE = "merge"
    REVIEW = "review"
    PAUSED = "paused"
    STAGED = "staged"


@dataclass(frozen=True, kw_only=True)
class Waiting:
    """Why a piece of work does not go on now. `bead_id` is the one that it waits for; `until` when it is looked at
    again, None where that is up to somebody else.
    """

    what: WaitsFor
    reason: str
    since: datetime
    until: datetime | None = None
    bead_id: str | None = None


@dataclass(frozen=True, kw_only=True)
class Work:
    """A piece of work; a finished one is kept, as others may wait for it and a person may open it again.

    `author` keeps its branch and conversation from the first attempt on. `tries` counts since a person's last
    retry. `question` is what a person is asked: nothing goes on until it is answered.
    """

    bead_id: str
    rig_id: str
    title: str
    priority: int
    number: int = 0
    state: BeadState = BeadState.OPEN
    convoy_id: str | None = None
    staged: bool = False
    blockers: tuple[str, ...] = ()
    author: str | None = None
    branch: str | None = None
    attempt: Attempt | None = None
    review: Attempt | None = None
    reviewer: str | None = None
    hand_in: HandIn | None = None
    rework: Rework | None = None
    tries: Mapping[Cause, int] = field(default_factory=dict)
    not_before: datetime | None = None
    question: str | None = None
    commit: str | None = None
    waiting: Waiting | None = None

    @property
    def is_finished(self) -> bool:
        return self.state in FINISHED

    @property
    def attempts(self) -> Iterator[Attempt]:
        """Those that are open."""
        return (one for one in (self.attempt, self.review) if one is not None)

    def with_attempt(self, attempt: Attempt) -> Work:
        """The work with `attempt` as it is now: without it, where it has ended."""
        value = attempt if attempt.is_open else None
        return replace(self, attempt=value) if attempt.role == "polecat" else replace(self, review=value)


@dataclass(frozen=True, kw_only=True)
class RigRules:
    """How a rig's work is reviewed and merged. `checks` are commands, each for at most `check_seconds`."""

    rig_id: str
    target: str
    merge: Literal["ask", "auto"] = "ask"
    review: Literal["none", "refinery"] = "none"
    checks: tuple[str, ...] = ()
    check_seconds: float = 900
    slots: int | None = None


@dataclass(frozen=True, kw_only=True)
class Rules:
    """The town's settings."""

    slots: int = 3
    paused: bool = False
    rigs: Mapping[str, RigRules] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class OverBudget:
    """An amount is used up; `reason` says which. It is there again at `until`; None: when somebody raises it."""

    reason: str
    until: datetime | None = None


@dataclass(frozen=True, kw_only=True)
class Budget:
    """What is used up: the town's `day`, and single `beads`. Nothing begins then, and what runs goes on."""

    day: OverBudget | None = None
    bead: OverBudget | None = None
    beads: tuple[str, ...] = ()

    def holding(self, bead_id: str, now: datetime) -> OverBudget | None:
        """What keeps work on a bead from beginning now."""
        if self.day is not None and (self.day.until is None or self.day.until > now):
            return self.day
        return self.bead if bead_id in self.beads else None


STARTING = "the container is starting"
"""Why a container that nothing has been heard of yet takes no starts."""


@dataclass(frozen=True, kw_only=True)
class Container:
    """`ready`: it takes starts. `reason` says why it is not."""

    ready: bool = False
    since: datetime
    reason: str = STARTING


@dataclass(frozen=True, kw_only=True)
class Breaker:
    """Failed starts in a row, of different work. From TRIPS_AT on only one probe is started, at `probe_at`."""

    failed: tuple[str, ...] = ()
    probe_at: datetime | None = None
    pause: timedelta = PROBE_PAUSE
    reason: str = ""

    @property
    def is_open(self) -> bool:
        return self.probe_at is not None

    def after_failure(self, bead_id: str, reason: str, now: datetime) -> Breaker:
        """The breaker after one more start has failed. A probe that fails doubles the pause before the next."""
        failed = (*(one for one in self.failed if one != bead_id), bead_id)
        if self.is_open:
            longer = min(self.pause * 2, PROBE_MOST)
            return Breaker(failed=failed, probe_at=now + longer, pause=longer, reason=reason)
        probe_at = now + PROBE_PAUSE if len(failed) >= TRIPS_AT else None
        return Breaker(failed=failed, probe_at=probe_at, reason=reason)


@dataclass(frozen=True, kw_only=True)
class Leaving:
    """An agent whose server is to end. `final`: its work has come to its end, and its files may go."""

    agent_id: str
    bead_id: str
    final: bool


@dataclass(frozen=True, kw_only=True)
class TownState:
    """`names` counts what this state has named; with the town's `salt`, every attempt and merge has an id that no
    other town, and no earlier one of this name, has used.

    `stops` are the agents whose servers are to end, and whether for good; `ended` the attempts that a step has
    ended, for its caller to keep: a step begins without any.
    """

    rules: Rules
    container: Container
    budget: Budget = Budget()
    work: Mapping[str, Work] = field(default_factory=dict)
    breaker: Breaker = Breaker()
    stops: Mapping[str, Leaving] = field(default_factory=dict)
    ended: tuple[Attempt, ...] = ()
    names: int = 0
    salt: str = ""
