"""The bodies of the tools' routes (contract section 5)."""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, StrictBool, StrictInt, StringConstraints, model_validator

from gastown.contract.identifiers import Identifier
from gastown.hall.domain.bead import BeadState, BeadType
from gastown.hall.domain.convoy import ConvoyPlan, Task

__all__ = [
    "BeadChanges",
    "BeadIds",
    "BeadsOfStatus",
    "Checkpoint",
    "Closing",
    "ConvoyBead",
    "ConvoyChanges",
    "Done",
    "Escalation",
    "Mail",
    "Nudge",
    "Reassignment",
    "ReworkRequest",
    "RigMail",
    "Sling",
    "SlingBatch",
    "StatusLine",
    "StepSummary",
    "TriageResolution",
    "UiAction",
]

Line = Annotated[
    str, StringConstraints(strict=True, min_length=1, max_length=1000, pattern=r"^[^\x00-\x1f\x7f]+$")
]
Text = Annotated[str, StringConstraints(strict=True, max_length=200_000)]
Words = Annotated[str, StringConstraints(strict=True, min_length=1, max_length=200_000)]
Priority = Literal["low", "medium", "high", "critical"]
MergeMode = Literal["review-then-land", "review-and-merge"]
Labels = Annotated[list[Line], Field(max_length=100)]


class _Body(BaseModel):
    """A newer caller may send more keys; null stands for an absent one where there is a default."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    @model_validator(mode="before")
    @classmethod
    def _without_nulls(cls, given: Any) -> Any:
        return {key: value for key, value in given.items() if value is not None} if type(given) is dict else given


class Sling(_Body):
    rig_id: Identifier
    title: Line
    body: Text | None = None
    metadata: dict[str, Any] = Field(default_factory=dict)
    labels: Labels = Field(default_factory=list)


class _Task(_Body):
    title: Line
    body: Text | None = None
    depends_on: list[StrictInt] = Field(default_factory=list)


class SlingBatch(_Body):
    rig_id: Identifier
    convoy_title: Line
    tasks: Annotated[list[_Task], Field(min_length=1, max_length=500)]
    merge_mode: MergeMode = "review-then-land"
    parallel: StrictBool = False
    staged: StrictBool = False
    metadata: dict[str, Any] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _order(self) -> Self:
        for number, task in enumerate(self.tasks):
            if any(not 0 <= index < len(self.tasks) or index == number for index in task.depends_on):
                raise ValueError(f"tasks[{number}].depends_on names a task that is not in the list, or itself")
        if len(self.tasks) > 1 and not self.parallel and not any(task.depends_on for task in self.tasks):
            raise ValueError("no task depends on another one; say parallel: true when that is meant")
        return self

    def plan(self, created_by: str | None) -> ConvoyPlan:
        return ConvoyPlan(
            rig_id=self.rig_id,
            title=self.convoy_title,
            tasks=[Task(title=task.title, body=task.body, depends_on=task.depends_on) for task in self.tasks],
            merge_mode=self.merge_mode,
            staged=self.staged,
            metadata=self.metadata,
            created_by=created_by,
        )


class ConvoyBead(_Body):
    bead_id: Identifier
    depends_on: list[Identifier] | None = None


class ConvoyChanges(_Body):
    merge_mode: MergeMode | None = None
    feature_branch: Line | None = None


class RigMail(_Body):
    """`from_agent_id` is what an agent says of itself; the header says it with more weight."""

    to_agent_id: Identifier
    subject: Line
    body: Words
    from_agent_id: Identifier | None = None


class Mail(RigMail):
    rig_id: Identifier


class BeadChanges(_Body):
    title: Line | None = None
    body: Text | None = None
    status: BeadState | None = None
    priority: Priority | None = None
    labels: Labels | None = None
    depends_on: list[Identifier] | None = None


class Reassignment(_Body):
    agent_id: Identifier


class BeadIds(_Body):
    bead_ids: Annotated[list[Identifier], Field(min_length=1, max_length=5000)]


class BeadsOfStatus(_Body):
    status: BeadState
    type: BeadType | None = None


class _Action(_Body):
    model_config = ConfigDict(extra="forbid")


class _ShowBead(_Action):
    type: Literal["open_bead_drawer", "highlight_bead"]
    beadId: Identifier  # noqa: N815  as on the wire
    rigId: Identifier  # noqa: N815


class _ShowConvoy(_Action):
    type: Literal["open_convoy_drawer"]
    convoyId: Identifier  # noqa: N815
    townId: Identifier  # noqa: N815


class _ShowAgent(_Action):
    type: Literal["open_agent_drawer"]
    agentId: Identifier  # noqa: N815
    rigId: Identifier  # noqa: N815
    townId: Identifier  # noqa: N815


class _Navigate(_Action):
    type: Literal["navigate"]
    page: Literal["town-overview", "beads", "agents", "rigs", "settings"]


class UiAction(_Body):
    action: Annotated[_ShowBead | _ShowConvoy | _ShowAgent | _Navigate, Field(discriminator="type")]


class Nudge(_Body):
    target_agent_id: Identifier
    message: Words
    mode: Literal["wait-idle", "immediate", "queue"] = "wait-idle"


class Closing(_Body):
    agent_id: Identifier | None = None


class Done(_Body):
    branch: Line
    pr_url: Line | None = None
    summary: Text | None = None


class ReworkRequest(_Body):
    feedback: Words
    files: Annotated[list[Line], Field(max_length=1000)] = Field(default_factory=list)


class Escalation(_Body):
    title: Line
    body: Text | None = None
    priority: Priority = "medium"
    metadata: dict[str, Any] = Field(default_factory=dict)


class Checkpoint(BaseModel):
    """`data` is any JSON, also null."""

    data: Any


class StepSummary(_Body):
    summary: Words


class StatusLine(_Body):
    message: Annotated[str, StringConstraints(strict=True, min_length=1, max_length=2000)]


class TriageResolution(_Body):
    triage_request_bead_id: Identifier
    action: Line
    resolution_notes: Words
