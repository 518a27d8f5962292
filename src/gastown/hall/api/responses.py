"""What the hall's routes answer: allow-lists. Nothing of a row that is not named here can leave."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict

from gastown.contract.secret import Secret

__all__ = [
    "Assignment",
    "Bead",
    "Convoy",
    "ConvoyParts",
    "CrewMember",
    "Deleted",
    "DrainNonce",
    "Letter",
    "Molecule",
    "MoleculeAdvanced",
    "NudgeLeft",
    "Primer",
    "ReviewBead",
    "ReworkBead",
    "RigShown",
    "Shown",
    "Status",
    "StoredRegistry",
    "Token",
    "TokenGiven",
    "Total",
]


class Shown(BaseModel):
    """Of a row, what may be seen."""

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)


class Bead(Shown):
    """A piece of work, a letter, an escalation or a review, with what must be closed before it begins."""

    bead_id: str
    rig_id: str
    type: str
    status: str
    title: str
    body: str | None
    priority: str
    labels: Any
    metadata: Any
    created_by: str | None
    convoy_id: str | None
    created_at: str
    updated_at: str
    closed_at: str | None
    assignee_agent_id: str | None
    depends_on: tuple[str, ...]


class CrewMember(Shown):
    """An agent as the board knows it. Whether its server runs is the container's to say."""

    rig_id: str
    id: str
    role: str
    name: str
    status_message: str | None
    checkpoint: Any
    created_at: str
    last_activity_at: str | None
    status: str
    current_hook_bead_id: str | None


class Assignment(Shown):
    """A bead, and who got it."""

    bead: Bead
    agent: CrewMember | None


class Convoy(Shown):
    """Beads that land as one; `beads` only where they were asked for."""

    id: str
    rig_id: str
    title: str
    status: str
    staged: bool
    merge_mode: str
    feature_branch: str | None
    metadata: Any
    total_beads: int
    closed_beads: int
    created_at: str
    landed_at: str | None
    beads: tuple[Bead, ...] | None = None


class ConvoyParts(Shown):
    """A convoy, and who got which of its beads."""

    convoy: Convoy
    beads: tuple[Assignment, ...]


class Total(Shown):
    total_beads: int


class Deleted(Shown):
    deleted: int


class RigShown(Shown):
    """A repository. The address is without the login that it may have been configured with."""

    id: str
    name: str
    git_url: str
    default_branch: str


class Letter(Shown):
    """Mail."""

    id: str
    from_agent_id: str | None
    to_agent_id: str | None
    subject: str
    body: str | None
    delivered: bool
    created_at: str
    delivered_at: str | None


class Primer(Shown):
    """What an agent should know when it begins."""

    agent: CrewMember
    hooked_bead: Bead | None
    undelivered_mail: tuple[Letter, ...]
    open_beads: tuple[Bead, ...]


class Molecule(Shown):
    """Where the work on a bead with steps is."""

    moleculeId: str  # noqa: N815 - the contract's names
    currentStep: int  # noqa: N815
    totalSteps: int  # noqa: N815
    step: dict[str, str]
    status: str


class MoleculeAdvanced(Shown):
    moleculeId: str  # noqa: N815
    previousStep: int  # noqa: N815
    currentStep: int  # noqa: N815
    totalSteps: int  # noqa: N815
    completed: bool


class ReviewBead(Shown):
    review_bead_id: str


class ReworkBead(Shown):
    rework_bead_id: str


class NudgeLeft(Shown):
    nudge_id: str


class DrainNonce(Shown):
    """What the hall answers to a heartbeat, which is nothing."""


class StoredRegistry(Shown):
    """The registry as the container sent it, for its successor."""

    data: list[Any]


class Token(Shown):
    token: Secret


class TokenGiven(Shown):
    """A credential of the container's own."""

    data: Token


class Status(Shown):
    status: str
