"""Beads and the states they pass through. Work, mail, escalations and reviews are beads of different types."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Final

from gastown.hall.domain.errors import IllegalEdge, NotFound

__all__ = [
    "EDGES",
    "FINISHED",
    "RETRIES",
    "Bead",
    "BeadState",
    "BeadType",
    "Step",
    "advanced",
    "check_edge",
    "current_step",
    "steps_of",
]


class BeadState(StrEnum):
    OPEN = "open"
    IN_PROGRESS = "in_progress"
    IN_REVIEW = "in_review"
    CLOSED = "closed"
    FAILED = "failed"


class BeadType(StrEnum):
    ISSUE = "issue"
    MESSAGE = "message"
    ESCALATION = "escalation"
    MERGE_REQUEST = "merge_request"


FINISHED: Final = frozenset({BeadState.CLOSED, BeadState.FAILED})

EDGES: Final[Mapping[BeadState, frozenset[BeadState]]] = {
    BeadState.OPEN: frozenset({BeadState.IN_PROGRESS, BeadState.CLOSED, BeadState.FAILED}),
    BeadState.IN_PROGRESS: frozenset({BeadState.OPEN, BeadState.IN_REVIEW, BeadState.CLOSED, BeadState.FAILED}),
    BeadState.IN_REVIEW: frozenset({BeadState.IN_PROGRESS, BeadState.CLOSED, BeadState.FAILED}),
    BeadState.CLOSED: frozenset(),
    BeadState.FAILED: frozenset(),
}
"""The states that may follow each state. Closing without a review is for mail, and for work without changes."""

RETRIES: Final[Mapping[BeadState, frozenset[BeadState]]] = dict.fromkeys(FINISHED, frozenset({BeadState.OPEN}))
"""The edges that only a person's retry may take."""

_WORK = frozenset({BeadType.ISSUE, BeadType.MERGE_REQUEST})


@dataclass(frozen=True, kw_only=True)
class Bead:
    """One bead. `depends_on` are the beads that must be closed before it begins.

    `step` counts the finished steps of `metadata["steps"]`. The assignee of a message is its recipient.
    Metadata belongs to the bead's maker: no rule of the board rests on it. Times are ISO 8601, in UTC.
    """

    id: str
    rig_id: str
    type: str
    status: str
    title: str
    body: str | None
    priority: str
    labels: Any
    metadata: dict[str, Any]
    step: int
    assignee: str | None
    created_by: str | None
    convoy_id: str | None
    created_at: str
    updated_at: str
    closed_at: str | None
    depends_on: tuple[str, ...]

    @property
    def is_finished(self) -> bool:
        return self.status in FINISHED


@dataclass(frozen=True, kw_only=True)
class Step:
    """The step of a bead that is due: number `index` of `total`, counted from 0."""

    index: int
    total: int
    title: str
    instructions: str


def check_edge(bead: Bead, to: BeadState, *, is_retry: bool = False) -> bool:
    """Whether `to` is another state than the bead's; IllegalEdge when it cannot follow.

    `is_retry` says that a person has asked for it.
    """
    state = BeadState(bead.status)
    if to is state:
        return False
    if to in EDGES[state] or (is_retry and to in RETRIES.get(state, ())):
        return True
    reason = " unless a person retries it" if to in RETRIES.get(state, ()) else ""
    raise IllegalEdge(f"Bead {bead.id} is {state} and cannot become {to}{reason}")


def steps_of(bead: Bead) -> list[dict[str, str]]:
    """The steps in the bead's metadata, as far as they have the shape of steps."""
    given = bead.metadata.get("steps")
    return [
        {"title": str(step.get("title", "")), "instructions": str(step.get("instructions", ""))}
        for step in (given if isinstance(given, list) else [])
        if isinstance(step, dict)
    ]


def current_step(bead: Bead) -> Step:
    """The step that is due; NotFound when the bead has no steps, or none is left."""
    steps = steps_of(bead)
    if bead.step >= len(steps):
        raise NotFound("The bead has no steps" if not steps else "All steps of the bead are finished")
    return Step(index=bead.step, total=len(steps), **steps[bead.step])


def advanced(bead: Bead, summary: str) -> dict[str, Any]:
    """The changes that finish the bead's present step, with `summary` kept in its metadata."""
    step = current_step(bead)
    earlier = bead.metadata.get("step_summaries")
    summaries = [*(earlier if isinstance(earlier, list) else []), summary]
    return {"step": step.index + 1, "metadata": bead.metadata | {"step_summaries": summaries}}
