"""What every agent's life needs, handed down explicitly."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime

import trio

from gastown.agents.launch.environment import ChildDefaults
from gastown.agents.retention.records import KeptRecords
from gastown.agents.session.event_log import EventLog
from gastown.broker.listener import Broker
from gastown.git.repos import Repositories
from gastown.git.salvage.salvage import Salvager, salvage
from gastown.git.workspace import WorkspacePaths
from gastown.isolation.agent_users import AgentUsers
from gastown.kilo.pool import ServerPool
from gastown.worker.nudges import NudgeDesk
from gastown.worker.outbox.pump import Outbox
from gastown.worker.reports import Reports
from gastown.worker.snapshots.store import Snapshots
from gastown.worker.telemetry import Telemetry
from gastown.worker.tokens import LiveCredentials

__all__ = ["AgentServices", "Deadlines"]


@dataclass(frozen=True)
class Deadlines:
    """Seconds. `start` counts from a request's arrival, `refresh` per agent from the moment it has a slot.

    `stalled` is how long a busy agent may be silent before its condition says so. An agent exits when it has
    been idle for `idle`, a refinery for `refinery_idle`, the mayor never.
    """

    start: float
    refresh: float
    first_word: float
    stalled: float = 300.0
    idle: float = 120.0
    refinery_idle: float = 600.0


@dataclass(frozen=True)
class AgentServices:
    """Owned by `main`; none of it is global."""

    pool: ServerPool
    snapshots: Snapshots
    telemetry: Telemetry
    credentials: LiveCredentials
    defaults: ChildDefaults
    paths: WorkspacePaths
    repositories: Repositories
    events: EventLog
    deadlines: Deadlines
    restarts: trio.CapacityLimiter
    """At most half of the slots restart at a time: a restart has seconds, and a fresh start must find a slot."""
    now: Callable[[], datetime]
    outbox: Outbox
    reports: Reports
    nudges: NudgeDesk
    broker: Broker
    kept: KeptRecords
    salvage: Salvager = salvage
    users: AgentUsers = field(default_factory=AgentUsers)
    server_rss_mb: int = 0
    """A server above this is replaced at the end of its turn; 0 is no limit."""
