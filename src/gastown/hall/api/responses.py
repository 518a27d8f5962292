"""The models that the hall's routes answer with: allow-lists, so that nothing that is not named here can leave."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Self

from pydantic import BaseModel, ConfigDict, Field

from gastown.contract.secret import Secret
from gastown.hall.domain import convoy as domain
from gastown.hall.domain import rig_agent as domain_agent

__all__ = [
    "Assignment",
    "Bead",
    "Convoy",
    "ConvoyParts",
    "Deleted",
    "DrainNonce",
    "Letter",
    "Molecule",
    "MoleculeAdvanced",
    "NudgeLeft",
    "Primer",
    "ReviewBead",
    "ReworkBead",
    "RigAgent",
    "RigShown",
    "Shown",
    "Status",
    "StepShown",
    "StoredRegistry",
    "Token",
    "TokenGiven",
    "Total",
]


class Shown(BaseModel):
    """What may be seen of something."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", hide_input_in_errors=True, from_attributes=True, validate_by_name=True
    )

    @classmethod
    def of(cls, source: object) -> Self:
        """The fields of `source`, an object of the domain, that this model names."""
        return cls.model_validate(source)


class Bead(Shown):
    """A piece of work, a letter, an escalation or a review, with what must be closed before it begins."""

    bead_id: str = Field(validation_alias="id")
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
    assignee_agent_id: str | None = Field(validation_alias="assignee")
    depends_on: tuple[str, ...]


class RigAgent(Shown):
    """An agent as the board knows it. Whether its server runs, only the container knows."""

    rig_id: str
    id: str
    role: str
    name: str
    status_message: str | None
    checkpoint: Any
    created_at: str
    last_activity_at: str | None
    status: str
    current_hook_bead_id: str | None = Field(validation_alias="bead_id")


class Assignment(Shown):
    """A bead, and the agent that got it."""

    bead: Bead
    agent: RigAgent | None


class Convoy(Shown):
    """Beads that land together; `beads` only where they were asked for."""

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
    cost: float | None
    beads: tuple[Bead, ...] | None

    @classmethod
    def without_beads(cls, convoy: domain.Convoy) -> Self:
        return cls.of(convoy).model_copy(update={"beads": None})


class ConvoyParts(Shown):
    """A convoy, and which agent got which of its beads."""

    convoy: Convoy
    beads: tuple[Assignment, ...]

    @classmethod
    def made(cls, convoy: domain.Convoy, given: Sequence[domain_agent.Assignment]) -> Self:
        return cls(convoy=Convoy.without_beads(convoy), beads=tuple(Assignment.of(one) for one in given))


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

    agent: RigAgent
    hooked_bead: Bead | None
    undelivered_mail: tuple[Letter, ...]
    open_beads: tuple[Bead, ...]


class StepShown(Shown):
    title: str
    instructions: str


class Molecule(Shown):
    """The step of a bead that is due."""

    moleculeId: str  # noqa: N815 - the contract's names
    currentStep: int  # noqa: N815
    totalSteps: int  # noqa: N815
    step: StepShown
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
