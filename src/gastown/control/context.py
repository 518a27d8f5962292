"""What the handlers are given: one frozen, typed value, and the one way to get at it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import cast

import trio
from quart import current_app

from gastown.agents.roster import Roster
from gastown.agents.services import AgentServices
from gastown.boot.report import BootReport
from gastown.concurrency.gate import HydrationGate
from gastown.contract.errors import Draining

__all__ = ["DrainFlag", "Town", "town"]


@dataclass
class DrainFlag:
    """Set once, never cleared: this container takes no new agents any more."""

    is_set: bool = False

    def check(self) -> None:
        """Raise `Draining` when a drain is on."""
        if self.is_set:
            raise Draining


@dataclass(frozen=True)
class Town:
    """Everything a handler may use. Made by `main`. `background` takes work that must outlive its caller."""

    roster: Roster
    services: AgentServices
    gate: HydrationGate
    report: BootReport
    drain: DrainFlag
    background: trio.Nursery
    dashboard_file: Path
    started_at: datetime
    process_start: float
    start_seconds: float
    start_margin: float
    now: Callable[[], datetime]
    refresh_answer_seconds: float = field(default=9.0)
    """The caller of a refresh aborts at 10 s; what is not finished by then is reported as pending."""


def town() -> Town:
    """The town of the app that handles the present request."""
    return cast(Town, current_app.extensions["gastown"])
