"""How a town works: settings that a person changes while it runs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

__all__ = ["Policy", "RigPolicy"]


@dataclass(frozen=True, kw_only=True)
class Policy:
    """A town's settings. `slots` is how many agents work at once; None: as many as the machine has cores, and at
    least three. Paused, nothing new begins.

    The budgets are in USD, None is no bound: from `budget_day` of a day on nothing begins until the next one, and
    from `budget_bead` on nothing for that bead. Days are those of `time_zone`; None: of the machine.
    """

    slots: int | None = None
    paused: bool = False
    budget_day: float | None = None
    budget_bead: float | None = None
    time_zone: str | None = None


@dataclass(frozen=True, kw_only=True)
class RigPolicy:
    """How a repository's work is reviewed and merged.

    `merge`: ask a person, or merge as soon as it may. `review`: whether a refinery reads the change first.
    `checks` are commands that the merge result must pass, each within `check_seconds`. `slots` bounds the agents
    of this repository alone.
    """

    merge: Literal["ask", "auto"] = "ask"
    review: Literal["none", "refinery"] = "none"
    checks: tuple[str, ...] = ()
    check_seconds: float = 900
    slots: int | None = None
