"""The agents of the rigs as the board knows them, their mail and their nudges."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from gastown.hall.domain.bead import Bead
from gastown.hall.domain.errors import Conflict

__all__ = ["NUDGE_PRIORITIES", "UNKNOWN_ROLE", "Assignment", "Letter", "RigAgent", "name_for"]

UNKNOWN_ROLE = "unknown"
"""The role of an agent that was started by hand: it gets no work except by name."""

NUDGE_PRIORITIES = {"immediate": "high", "wait-idle": "medium", "queue": "low"}
"""The priority of each mode of a nudge, the most urgent first."""

_NAMES = ("Ash", "Birch", "Cedar", "Elm", "Fir", "Hazel", "Juniper", "Larch", "Maple", "Rowan", "Spruce", "Yew")


@dataclass(frozen=True, kw_only=True)
class RigAgent:
    """An agent of a rig. `bead_id` is what it works on; whether its server runs, only the container knows."""

    rig_id: str
    id: str
    role: str
    name: str
    bead_id: str | None
    status_message: str | None
    checkpoint: Any
    created_at: str
    last_activity_at: str | None

    @property
    def status(self) -> str:
        return "idle" if self.bead_id is None else "working"

    def check_may_take(self, bead: Bead) -> None:
        """Conflict when the agent works on another bead, or the bead is finished."""
        if self.bead_id not in (None, bead.id):
            raise Conflict(f"Agent {self.id} works on bead {self.bead_id}")
        if bead.is_finished:
            raise Conflict(f"Bead {bead.id} is {bead.status}")


@dataclass(frozen=True, kw_only=True)
class Assignment:
    """A bead, and the agent that got it."""

    bead: Bead
    agent: RigAgent | None


@dataclass(frozen=True, kw_only=True)
class Letter:
    """A message bead as its recipient sees it."""

    id: str
    from_agent_id: str | None
    to_agent_id: str | None
    subject: str
    body: str | None
    created_at: str
    delivered_at: str | None = None

    @property
    def delivered(self) -> bool:
        return self.delivered_at is not None


def name_for(number: int) -> str:
    """The name of a rig's agent number `number`, counted from 0."""
    turn, place = divmod(number, len(_NAMES))
    return _NAMES[place] + (f"-{turn + 1}" if turn else "")
