"""An agent: its state and the edges between states, and what is known of it."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Mapping
from datetime import datetime
from itertools import chain
from typing import Any

import structlog
import trio

from gastown.agents.launch.desired import Desired
from gastown.agents.launch.plan import StartPlan
from gastown.agents.lifecycle.start_metrics import CountedStart, Outcome
from gastown.agents.lifecycle.states import Lifecycle
from gastown.agents.runtime import Runtime
from gastown.agents.session.activity import Activity
from gastown.agents.session.event_log import EventLog
from gastown.agents.session.saving import Saving
from gastown.concurrency.phases import PhaseLog
from gastown.contract.agents import (
    AgentState,
    AgentStatus,
    Condition,
    ListedAgent,
    PublicAgent,
    StartAgentRequest,
)
from gastown.contract.errors import AgentNotRunning, ControlError, StartDeadlineExceeded
from gastown.contract.events import ModelCall
from gastown.contract.secret import credentials_among
from gastown.git.rig import RigReport
from gastown.git.salvage.receipt import Receipt
from gastown.isolation.users import User
from gastown.kilo.stream import KiloEvent
from gastown.worker.outbox.pump import Outbox

__all__ = ["Agent"]

log = structlog.get_logger()


class Agent:
    """One attempt at one agent. A later start of the same id is another `Agent`.

    `lifecycle` is where it is between its start and its end; `desired` what is wanted of it; `plan` what its start
    works with, from its beginning; `runtime` its use of a server, while it has one. `session_id` is the session
    that it had last. `returning` is set once a server of it has died and it is coming back, or has come back.
    `repository` are the reports of its worktree and its rig, while git works for its start. `ends_reported` is how
    many ends of its turns were reported to the worker. `secrets` are the credentials of its start. `counted`
    counts its starts. `leftovers` is what could not be ended. `work` is what became of its directory when it
    ended, `left_behind` whether the start that replaces it works in another one. `asked` is the request as it
    came, before any change of model or prompt; `replaced_by` is the attempt that took its place. `instructions` is
    held while its AGENTS.md is written. `dropped` are the variables that it does not get, as was last said.
    """

    work: Receipt | None = None
    left_behind = False

    def __init__(
        self,
        desired: Desired,
        *,
        workdir: str,
        now: Callable[[], datetime],
        events: EventLog,
        on_change: Callable[[], None],
        outbox: Outbox | None = None,
        attempt: str | None = None,
    ) -> None:
        self.attempt = attempt or secrets.token_hex(4)
        self.desired = desired
        self.asked = desired.request
        self.workdir = workdir
        self.secrets = tuple(
            chain(credentials_among(self.request.env_vars), credentials_among(desired.inherited or {}))
        )
        self.lifecycle = Lifecycle(desired.request.agent_id, self._moved)
        self.plan: StartPlan | None = None
        self.runtime: Runtime | None = None
        self.session_id: str | None = None
        self.saving = Saving()
        self.instructions = trio.Lock()
        self.returning = False
        self.repository: tuple[RigReport, ...] = ()
        self.phases = PhaseLog(self._entered)
        self.counted: CountedStart | None = None
        self.replaced_by: str | None = None
        self.ends_reported = 0
        self.leftovers: tuple[str, ...] = ()
        self.dropped: Mapping[str, str] = {}
        self._now = now
        self._events = events
        self._on_change = on_change
        self._outbox = outbox
        self.started_at = now()
        self.activity = Activity(now, self._keep, self._turn_ended)
        self.turns = self.activity.turns
        self.progress = self.activity.progress

    @property
    def id(self) -> str:
        return self.request.agent_id

    @property
    def request(self) -> StartAgentRequest:
        """The start request as it stands after all changes."""
        return self.desired.request

    def change(self, generation: int, fields: Mapping[str, Any]) -> None:
        """Want other values of the request's fields from now on, as given in `generation`."""
        self.desired = self.desired.change(generation, fields)

    def renew_credentials(self, generation: int, equal: StartAgentRequest) -> None:
        """Take the credentials of an equal start, which came in `generation`. The earlier ones stay secrets."""
        self.change(generation, {"env_vars": equal.env_vars, "git_url": equal.git_url, "rigs": equal.rigs})
        self.secrets += tuple(one for one in credentials_among(equal.env_vars) if one not in self.secrets)
        self._on_change()

    @property
    def state(self) -> AgentState:
        return self.lifecycle.state

    @property
    def failure(self) -> ControlError | None:
        return self.lifecycle.failure

    @property
    def exit_reason(self) -> str | None:
        return self.lifecycle.exit_reason

    @property
    def scope(self) -> trio.CancelScope:
        return self.lifecycle.scope

    @property
    def settled(self) -> trio.Event:
        return self.lifecycle.settled

    @property
    def ended(self) -> trio.Event:
        return self.lifecycle.ended

    @property
    def is_active(self) -> bool:
        return self.lifecycle.is_active

    @property
    def user(self) -> User | None:
        """The user that it lives as, once it does; None: ourselves."""
        return self.plan.user if self.plan is not None else None

    def running(self) -> Runtime:
        """The use of a server by an agent that runs. Raises `AgentNotRunning`; ask at the moment of use."""
        if self.state is not AgentState.RUNNING or self.runtime is None:
            raise AgentNotRunning(self.id, self.state)
        return self.runtime

    @property
    def is_resumed(self) -> bool:
        """Whether the registry of an earlier container brought it, rather than a caller of this one."""
        return self.desired.inherited is not None

    def _moved(self, before: AgentState, reason: str | None) -> None:
        """Each change of state is counted, logged, kept as an event, and announced."""
        self._count(before)
        after = self.state
        log.info("agent.state", agent_id=self.id, attempt=self.attempt, before=before, after=after, reason=reason)
        self._keep("agent.status", {"status": after, "reason": reason})
        self._on_change()

    def record(self, event: str, data: dict[str, Any]) -> None:
        """Keep an event of our own beside kilo's, and log it."""
        log.info(event, agent_id=self.id, attempt=self.attempt, **data)
        self._keep(event, data)

    def announce(self) -> None:
        """Something that the registry must know has changed."""
        self._on_change()

    def take(self, event: KiloEvent) -> None:
        """An event of this agent's server."""
        self.activity.take(event, self.session_id)

    def used(self, call: ModelCall) -> None:
        """An answer of a model to this agent has come through the broker."""
        self.activity.usage.take_call(call)
        self._keep("agent.model_call", call.model_dump(by_alias=True))

    def public(self) -> PublicAgent:
        return PublicAgent(
            **self._view(),
            rig_id=self.request.rig_id,
            town_id=self.request.town_id,
            role=self.request.role,
            name=self.request.name,
            workdir=self.workdir,
            last_event_type=self.activity.last_event_type,
            last_event_at=self.activity.last_event_at,
            model=self.request.model,
            organization_id=self.request.organization_id,
        )

    def status(self, stalled_after: float) -> AgentStatus:
        condition = self.condition(stalled_after)
        return AgentStatus(
            **self._view(),
            condition=condition,
            snapshot=self.saving.status,
            usage=self.activity.usage.total,
            model_calls=self.activity.usage.calls,
        )

    def listed(self, stalled_after: float) -> ListedAgent:
        asked = self.request
        return ListedAgent(
            **dict(self.status(stalled_after)),
            rig_id=asked.rig_id,
            role=asked.role,
            name=asked.name,
            model=asked.model,
            attempt_id=self.attempt,
        )

    def condition(self, stalled_after: float) -> Condition | None:
        """How it gets on; None once it has ended. `stalled_after`: seconds of silence that a busy one may have."""
        if self.state is AgentState.STARTING:
            progress = next((report.progress for report in self.repository if report.progress), None)
            phase = self.phases.current
            return Condition(type="starting", phase=phase, reason=self.exit_reason, progress=progress)
        if self.state is not AgentState.RUNNING:
            return None
        return self.progress.condition(stalled_after)

    def _view(self) -> dict[str, Any]:
        return {
            "agent_id": self.id,
            "status": self.state,
            "server_port": self.runtime.server.port if self.runtime is not None else None,
            "session_id": self.session_id,
            "started_at": self.started_at,
            "last_activity_at": self.activity.last_at,
            "active_tools": self.activity.active_tools,
            "message_count": self.activity.message_count,
            "exit_reason": self.exit_reason,
        }

    def _keep(self, event: str, data: dict[str, Any]) -> None:
        """The one place where an event of this agent is recorded: for clients, and for the worker."""
        kept = self._events.append(self.id, event, data, self.attempt)
        if self._outbox is not None:
            self._outbox.put(self.request.rig_id, self.id, kept)

    def _turn_ended(self) -> None:
        usage = self.activity.usage
        if usage.compare():
            kilo, gateway = usage.total, usage.calls
            log.warning(
                "agent.usage_differs", agent_id=self.id, attempt=self.attempt,
                kilo=kilo and kilo.model_dump(), gateway=gateway and gateway.model_dump(),
            )  # fmt: skip
        if self.request.is_mayor:
            # A turn that is not saved would be run a second time after a crash of the container.
            self.saving.want()

    def _count(self, before: AgentState) -> None:
        if self.counted is None:
            return
        if before is AgentState.STARTING:
            self.counted.end(self._outcome())
        elif self.state is AgentState.STARTING:
            self.counted = self.counted.again()

    def _outcome(self) -> Outcome:
        if self.state is AgentState.RUNNING:
            return "running"
        if self.failure is None:
            return "ended"
        return "deadline" if isinstance(self.failure, StartDeadlineExceeded) else "failed"

    def _entered(self, phase: str) -> None:
        log.info("agent.phase", agent_id=self.id, attempt=self.attempt, phase=phase)
