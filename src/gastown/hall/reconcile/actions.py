"""What is to be done. Each action can be carried out twice with the effect of once: it has an id of its own."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from gastown.hall.reconcile.limits import Cause
from gastown.hall.reconcile.state import Leaving

__all__ = ["Action", "Look", "Merge", "Start", "Tell"]


@dataclass(frozen=True, kw_only=True)
class Start:
    """Let an agent work on a bead: with a start, or with a message where it is still running.

    `says` is what it is told beyond its task.
    """

    attempt_id: str
    bead_id: str
    agent_id: str
    role: Literal["polecat", "refinery"]
    cause: Cause | None = None
    says: str | None = None


@dataclass(frozen=True, kw_only=True)
class Merge:
    """Bring a branch onto the target, checked. `head` is its commit that was approved; None: whichever it is."""

    merge_id: str
    bead_id: str
    agent_id: str
    branch: str
    head: str | None = None


@dataclass(frozen=True, kw_only=True)
class Look:
    """See which commit a branch has that was handed in: an approval is of that one."""

    bead_id: str
    rig_id: str
    hand_in_id: str
    branch: str


@dataclass(frozen=True, kw_only=True)
class Tell:
    """Let the mayor know, at its next turn."""

    bead_id: str
    says: str


Action = Start | Merge | Leaving | Tell
