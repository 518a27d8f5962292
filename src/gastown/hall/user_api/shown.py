"""What the user API answers with: allow-lists, so that nothing that is not named here can leave."""

from __future__ import annotations

from typing import Any

from pydantic import Field

from gastown.contract.wire import Timestamp, Wire

__all__ = [
    "AgentEventShown",
    "AgentShown",
    "Attempt",
    "BeadShown",
    "ChangesShown",
    "Configuration",
    "ContainerShown",
    "Detail",
    "Error",
    "FileChanged",
    "Happening",
    "Left",
    "MayorTold",
    "NeedsYou",
    "Repository",
    "ReviewDetail",
    "ReviewShown",
    "RigRemoved",
    "Slots",
    "Spent",
    "TownStatus",
    "TownUsage",
    "UsageShown",
    "WaitingShown",
    "Why",
]


def _is_none(value: Any) -> bool:
    return value is None


class Error(Wire):
    """Why something was refused, in one sentence; `action` is what to do instead, where that is known."""

    error: str
    action: str | None = Field(default=None, exclude_if=_is_none)


class WaitingShown(Wire):
    """Why a piece of work does not go on. `for` is one of bead, slot, person, budget, backoff, container, checks,
    merge, review, paused and staged; `bead` the one that it waits for; `until` when it is looked at again.
    """

    what: str = Field(alias="for")
    reason: str
    since: Timestamp
    until: Timestamp | None = Field(default=None, exclude_if=_is_none)
    bead: str | None = Field(default=None, exclude_if=_is_none)


class BeadShown(Wire):
    """A piece of work, or an escalation. `agent` is its author; `head` its branch's commit, once it is known;
    `commit` the one on the target branch. `attempts` counts the starts of agents for it. `cost` is in USD, null
    where it is not known.
    """

    id: str
    rig: str
    title: str
    type: str
    status: str
    agent: str | None
    agent_name: str | None
    waiting: WaitingShown | None
    branch: str | None
    head: str | None
    commit: str | None
    attempts: int
    cost: float | None
    created_at: str
    updated_at: str


class UsageShown(Wire):
    """What model calls came to. `cost` is the sum of what is known, in USD, null when nothing is; `unpriced` are
    the calls of which it is not. `input` has the `cached` tokens, `output` those of the `reasoning`. `source` is
    gateway, whose figures no agent can forge, or kilo, where there are no others; null without calls.
    """

    calls: int
    unpriced: int
    input: int
    output: int
    cached: int
    reasoning: int
    cost: float | None
    source: str | None


class Attempt(Wire):
    """One go of an agent at a bead. `cause` says why there is one after the first; `outcome` how it ended. `cost`
    is what the models cost in it, in USD, null where that is not known.
    """

    id: str
    agent: str
    role: str
    cause: str | None
    phase: str
    outcome: str | None
    reason: str | None
    started_at: str
    ended_at: str | None
    cost: float | None


class Happening(Wire):
    """A fact of the town: `says` is it in plain words. Numbers grow, and are cursors of the stream of events."""

    number: int
    at: str
    kind: str
    bead: str | None
    says: str


class AgentEventShown(Wire):
    """An event of an agent, as its kilo server or its container tells it. Numbers grow, and are cursors."""

    number: int
    at: str
    agent: str
    event: str
    data: dict[str, Any]


class Why(Wire):
    """`says` is how a bead stands, and `moves` what would move it: sentences, or commands."""

    bead: str
    status: str
    waiting: WaitingShown | None
    says: str
    moves: tuple[str, ...]


class Detail(Wire):
    """A bead and all that is known of it. The history has what is still kept."""

    bead: BeadShown
    body: str | None
    priority: str
    depends_on: tuple[str, ...]
    convoy: str | None
    why: Why
    attempts: tuple[Attempt, ...]
    usage: UsageShown
    history: tuple[Happening, ...]


class ReviewShown(Wire):
    """Work that was handed in. `phase` is reviewing (by an agent), asking (for a person), queued or merging."""

    bead: str
    rig: str
    title: str
    agent: str | None
    agent_name: str | None
    branch: str
    head: str | None
    target: str | None
    phase: str
    since: Timestamp
    summary: str | None


class FileChanged(Wire):
    """A file, and how many lines of it; null where it is no text."""

    path: str
    added: int | None
    removed: int | None


class ChangesShown(Wire):
    """What the branch has at its commit `head` that its target has not, since their common commit `base`.

    `filesCut` and `patchCut` say that there is more. Everything is as an agent pushed it: `patch` may hold control
    characters.
    """

    head: str
    base: str
    files: tuple[FileChanged, ...]
    files_cut: bool
    patch: str
    patch_cut: bool


class ReviewDetail(ReviewShown):
    """Work that was handed in, with what it would bring; or in `unseen` why that cannot be seen now."""

    changes: ChangesShown | None
    unseen: str | None


class ContainerShown(Wire):
    """`state` is ready, starting or lost (the next one is started); `reason` why it takes no work."""

    state: str
    reason: str | None = Field(default=None, exclude_if=_is_none)


class AgentShown(Wire):
    """An agent that works or is up. `state` is the container's word, `condition` the word of its condition."""

    id: str
    name: str
    role: str
    rig: str | None
    state: str
    condition: str | None
    bead: str | None
    since: str | None


class Slots(Wire):
    used: int
    most: int


class NeedsYou(Wire):
    """A bead that waits for a person, and what it asks."""

    bead: str
    question: str
    since: str


class Spent(Wire):
    """In USD, `today` in the town's time zone; null where it is not known, or where there is no budget. Calls of
    which the cost is not known are not in it: `usage` says how many there were.
    """

    today: float | None
    budget: float | None


class TownUsage(Wire):
    """What the models came to `today`, and since the town is counted: the mayor's calls too."""

    today: UsageShown
    total: UsageShown


class TownStatus(Wire):
    """How a town is now."""

    town: str
    paused: bool
    container: ContainerShown
    agents: tuple[AgentShown, ...]
    slots: Slots
    needs_you: tuple[NeedsYou, ...]
    spent: Spent
    usage: TownUsage


class Configuration(Wire):
    """A town's settings. `slots`: null is as many as the machine has cores, and at least three. `model`: null is
    the usual one; `models` has those of roles with a model of their own.

    The budgets of a day and of a bead are in USD; null is no bound. `time_zone` is whose days they are; null is
    the machine's.
    """

    model: str | None
    models: dict[str, str]
    slots: int | None
    paused: bool
    budget_day: float | None
    budget_bead: float | None
    time_zone: str | None


class Repository(Wire):
    """A repository of the town, and how its work is reviewed and merged. `place` is its address or its folder."""

    id: str
    place: str
    branch: str
    merge: str
    review: str
    checks: tuple[str, ...]
    check_seconds: float
    slots: int | None


class Left(Wire):
    """Finished work whose branch is on no target branch, as far as the town knows."""

    bead: str
    branch: str
    agent: str | None


class RigRemoved(Wire):
    """What a repository was that is no more the town's, and what of its work was not merged. Nothing is deleted:
    branches stay in the repository, and clones and worktrees in the town's directory.
    """

    id: str
    place: str
    left: tuple[Left, ...]


class MayorTold(Wire):
    """The mayor was told, by a start or a message. Its events with an id greater than `after` come afterwards."""

    agent_id: str
    by: str
    session_id: str | None
    after: int
    told_at: Timestamp
