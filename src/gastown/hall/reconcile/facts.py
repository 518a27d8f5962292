"""What has happened. A fact is never refused: one that does not fit any more changes nothing."""

from __future__ import annotations

from dataclasses import dataclass

from gastown.hall.reconcile.state import Budget, Rules, Work

__all__ = [
    "Added",
    "AgentEnded",
    "AgentStopped",
    "Approved",
    "Assigned",
    "BudgetChanged",
    "ChangesAsked",
    "Closed",
    "ContainerLost",
    "ContainerReady",
    "Fact",
    "HandedIn",
    "HeadSeen",
    "Held",
    "MergeConflicted",
    "MergeFailed",
    "MergeMoved",
    "Merged",
    "Ordered",
    "Rejected",
    "Removed",
    "Reset",
    "Retried",
    "ReviewPassed",
    "RulesChanged",
    "StartFailed",
    "Started",
    "TurnBegan",
    "TurnEnded",
]


@dataclass(frozen=True, kw_only=True)
class Added:
    """There is new work."""

    work: Work


@dataclass(frozen=True, kw_only=True)
class Ordered:
    """A person or the mayor has changed a bead: what it is called, and when its work may begin."""

    bead_id: str
    title: str
    priority: int
    blockers: tuple[str, ...]
    staged: bool
    convoy_id: str | None = None


@dataclass(frozen=True, kw_only=True)
class Assigned:
    """That agent is the author from now on, on the work's branch; `branch` where it has none yet."""

    bead_id: str
    agent_id: str
    branch: str | None = None


@dataclass(frozen=True, kw_only=True)
class Reset:
    """Whatever an agent does now is to end; its work begins again."""

    agent_id: str


@dataclass(frozen=True, kw_only=True)
class Removed:
    """The bead was deleted."""

    bead_id: str


@dataclass(frozen=True, kw_only=True)
class Started:
    """The agent works, in that conversation.

    `known_as` is the attempt that the container names it by, where it was running already.
    """

    attempt_id: str
    session_id: str | None = None
    known_as: str | None = None


@dataclass(frozen=True, kw_only=True)
class StartFailed:
    attempt_id: str
    reason: str


@dataclass(frozen=True, kw_only=True)
class AgentEnded:
    """An agent's server has ended. `attempt_id` is the one that the container knew it by, where it said so."""

    agent_id: str
    attempt_id: str | None = None
    reason: str = "no reason given"


@dataclass(frozen=True, kw_only=True)
class TurnBegan:
    """An agent's model has begun to answer."""

    agent_id: str
    session_id: str


@dataclass(frozen=True, kw_only=True)
class TurnEnded:
    """An agent has nothing more to say: its model thinks that it is done, or the gateway has given up."""

    agent_id: str
    session_id: str
    reason: str


@dataclass(frozen=True, kw_only=True)
class HandedIn:
    """An author says that its work is done. `hand_in_id` is the review's bead."""

    bead_id: str
    agent_id: str
    hand_in_id: str


@dataclass(frozen=True, kw_only=True)
class HeadSeen:
    """The commit that the branch of a hand-in has: what is looked at, and what an approval is of."""

    bead_id: str
    hand_in_id: str
    head: str


@dataclass(frozen=True, kw_only=True)
class ReviewPassed:
    bead_id: str
    agent_id: str


@dataclass(frozen=True, kw_only=True)
class ChangesAsked:
    """A reviewer wants changes."""

    bead_id: str
    agent_id: str
    feedback: str


@dataclass(frozen=True, kw_only=True)
class Approved:
    """A person agrees to the merge of that commit of the branch; None: of whichever it is."""

    bead_id: str
    head: str | None = None


@dataclass(frozen=True, kw_only=True)
class Rejected:
    """A person wants changes."""

    bead_id: str
    message: str


@dataclass(frozen=True, kw_only=True)
class Merged:
    """The container says that the branch is on the target. `commit` is the one on it.

    `nothing`: the branch had no commit that the target did not have.
    """

    merge_id: str
    commit: str | None
    nothing: bool = False


@dataclass(frozen=True, kw_only=True)
class MergeConflicted:
    merge_id: str
    files: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class MergeFailed:
    """It did not come to a merge. `checks`: because the result did not pass the rig's checks. `for_person`: trying
    again does not help, before somebody has done what `reason` says.
    """

    merge_id: str
    reason: str
    checks: bool = False
    for_person: bool = False


@dataclass(frozen=True, kw_only=True)
class MergeMoved:
    """The branch has another commit, `head`, than the one that was approved; it was not merged."""

    merge_id: str
    head: str | None


@dataclass(frozen=True, kw_only=True)
class Retried:
    """A person says: again."""

    bead_id: str


@dataclass(frozen=True, kw_only=True)
class Held:
    """A person has stopped the work: it goes on when one says so. `reason` is the question of then."""

    bead_id: str
    reason: str


@dataclass(frozen=True, kw_only=True)
class Closed:
    """A person, or a tool that may, has ended the work without a merge."""

    bead_id: str
    failed: bool = False


@dataclass(frozen=True, kw_only=True)
class RulesChanged:
    rules: Rules


@dataclass(frozen=True, kw_only=True)
class BudgetChanged:
    """Something else than before is used up, or nothing any more: by what was spent, or by what is allowed."""

    budget: Budget


@dataclass(frozen=True, kw_only=True)
class AgentStopped:
    """The container was told to end an agent, and has."""

    agent_id: str


@dataclass(frozen=True, kw_only=True)
class ContainerReady:
    """The container takes starts. `attempts` are those that it goes on with; all others are lost."""

    attempts: frozenset[str] = frozenset()


@dataclass(frozen=True, kw_only=True)
class ContainerLost:
    reason: str


Fact = (
    Added
    | Ordered
    | Assigned
    | Reset
    | Removed
    | Started
    | StartFailed
    | AgentEnded
    | AgentStopped
    | TurnBegan
    | TurnEnded
    | HandedIn
    | HeadSeen
    | ReviewPassed
    | ChangesAsked
    | Approved
    | Rejected
    | Merged
    | MergeConflicted
    | MergeFailed
    | MergeMoved
    | Retried
    | Held
    | Closed
    | RulesChanged
    | BudgetChanged
    | ContainerReady
    | ContainerLost
)
