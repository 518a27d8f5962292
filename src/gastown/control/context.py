"""What the handlers may use: one frozen, typed value, and the accessor for it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import cast

import trio
from quart import current_app

from gastown.agents.drain.town import Drain
from gastown.agents.heartbeats import Heartbeats
from gastown.agents.merges import Merges
from gastown.agents.retention.disk import DiskUse
from gastown.agents.retention.sweep import Retention
from gastown.agents.roster import Roster
from gastown.agents.services import AgentServices
from gastown.asgi.crowd import Crowd, crowd_of
from gastown.boot.report import BootReport
from gastown.concurrency.gate import HydrationGate
from gastown.concurrency.lag import LoopLag
from gastown.concurrency.locks import NamedLocks
from gastown.concurrency.supervise import Supervisor
from gastown.control.auth.policy import AccessPolicy
from gastown.control.auth.tickets import Tickets
from gastown.logs import LiveRedactor
from gastown.metrics.counters import Attempts
from gastown.worker.calls import worker_calls

__all__ = ["Town", "town"]


@dataclass(frozen=True)
class Town:
    """Everything a handler may use. Made by `assembly.open_town`.

    `background` runs work that must outlive its caller.
    """

    roster: Roster
    heartbeats: Heartbeats
    services: AgentServices
    gate: HydrationGate
    report: BootReport
    drain: Drain
    background: Supervisor
    merges: Merges
    retention: Retention
    disk: DiskUse
    dashboard_file: Path
    started_at: datetime
    process_start: float
    start_seconds: float
    start_margin: float
    now: Callable[[], datetime]
    policy: AccessPolicy
    redactor: LiveRedactor = field(default_factory=lambda: LiveRedactor(tuple))
    """Redacts secrets from the sentences in answers."""
    town_id: str | None = None
    lag: LoopLag = field(default_factory=LoopLag)
    worker_calls: Attempts = field(default_factory=worker_calls)
    """Requests to the worker, if there is one."""
    crowd: Crowd = field(default_factory=partial(crowd_of, "control", 1 / 3))
    """The connections of the control port. The rest of the descriptors is for agents, git and the broker."""
    tickets: Tickets = field(default_factory=Tickets)
    dashboard: trio.Lock = field(default_factory=trio.Lock)
    """Held while the dashboard's file is read and written again."""
    terminals: NamedLocks = field(default_factory=NamedLocks)
    """Per agent: held while its terminal is looked up, and created when there is none."""


def town() -> Town:
    """The town of the app that handles the present request."""
    return cast(Town, current_app.extensions["gastown"])
