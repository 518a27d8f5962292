"""How a town works: settings that a person changes while it runs."""

from __future__ import annotations

import os
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

__all__ = ["Policy", "RigPolicy", "default_slots"]

_FEWEST_SLOTS = 3


def default_slots() -> int:
    """As many agents at once as the machine has cores, and at least three."""
    return max(_FEWEST_SLOTS, os.cpu_count() or 1)


class Policy(BaseModel):
    """A town's settings. `slots` is how many agents work at once. Paused, nothing new begins."""

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)

    slots: int = Field(default_factory=default_slots, ge=1, le=1000)
    paused: bool = False


class RigPolicy(BaseModel):
    """How a repository's work is reviewed and merged.

    `merge`: ask a person, or merge as soon as it may. `review`: whether a refinery reads the change first.
    `checks` are commands that the merge result must pass. `slots` bounds the agents of this repository alone.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)

    merge: Literal["ask", "auto"] = "ask"
    review: Literal["none", "refinery"] = "none"
    checks: tuple[str, ...] = ()
    slots: int | None = Field(default=None, ge=1, le=1000)
