"""Convoys: beads that are followed, and land, together."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from gastown.hall.domain.bead import Bead, BeadState
from gastown.hall.domain.errors import Conflict

__all__ = ["Convoy", "ConvoyPlan", "Task"]


@dataclass(frozen=True, kw_only=True)
class Task:
    """A bead to be made; `depends_on` are the places of other tasks in the same plan."""

    title: str
    body: str | None = None
    depends_on: Sequence[int] = ()


@dataclass(frozen=True, kw_only=True)
class ConvoyPlan:
    """A convoy to be made. The tasks of a `staged` one get no agents until it is started."""

    rig_id: str
    title: str
    tasks: Sequence[Task]
    merge_mode: str
    staged: bool = False
    metadata: dict[str, Any] = field(default_factory=dict[str, Any])
    created_by: str | None = None


@dataclass(frozen=True, kw_only=True)
class Convoy:
    """A convoy with its beads, oldest first. It has landed when each of them is closed, or a person closed it.

    `cost` is what the models cost for its beads, in USD, as far as it is known; None where nothing is.
    """

    id: str
    rig_id: str
    title: str
    staged: bool
    merge_mode: str
    feature_branch: str | None
    metadata: dict[str, Any]
    created_at: str
    landed_at: str | None
    beads: tuple[Bead, ...]
    cost: float | None = None

    @property
    def status(self) -> str:
        return "landed" if self.landed_at else "active"

    @property
    def total_beads(self) -> int:
        return len(self.beads)

    @property
    def closed_beads(self) -> int:
        return sum(bead.status == BeadState.CLOSED for bead in self.beads)

    def check_accepts(self, bead: Bead) -> None:
        """Conflict when the bead cannot become part of this convoy."""
        if self.landed_at:
            raise Conflict(f"Convoy {self.id} has landed")
        if bead.convoy_id not in (None, self.id):
            raise Conflict(f"Bead {bead.id} is part of convoy {bead.convoy_id}")
