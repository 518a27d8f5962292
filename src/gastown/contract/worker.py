"""Messages of the worker API (contract section 2), which the container calls."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import Field, model_validator

from gastown.contract.agents import AgentState, StartAgentRequest
from gastown.contract.identifiers import AgentId, AttemptId, OrganizationId
from gastown.contract.secret import BearerToken, Secret, SecretMap
from gastown.contract.wire import Timestamp, Wire

__all__ = [
    "ACCEPTS_BATCHES",
    "ACCEPTS_HEADER",
    "Acknowledged",
    "AgentCompleted",
    "AgentWaiting",
    "ContainerReady",
    "GivenToken",
    "Heartbeat",
    "HeartbeatAnswer",
    "MayorContext",
    "Nudge",
    "NudgeDelivered",
    "Nudges",
    "PrewarmComplete",
    "RegistryEntry",
    "StartupPhaseEvent",
    "ToolsMissing",
    "WorkerRefusal",
]


ACCEPTS_HEADER = "X-Gastown-Accepts"
"""Header of the answers to agents' events: a comma-separated list of what the worker takes beside the contract."""
ACCEPTS_BATCHES = "agent-events-batch"
"""In it: arrays of events may go to `…/agent-events/batch`."""


class RegistryEntry(Wire):
    """One agent of the last container: enough to start it again in the next one, as the same attempt."""

    agent_id: AgentId
    request: StartAgentRequest
    workdir: str = Field(min_length=1, max_length=4096, pattern=r"^[^\x00-\x1f\x7f]+$")
    env: SecretMap = Field(default_factory=dict)
    attempt_id: AttemptId | None = None

    @model_validator(mode="after")
    def _one_agent(self) -> Self:
        if self.agent_id != self.request.agent_id:
            raise ValueError("agentId differs between the entry and its request")
        return self


class MayorContext(Wire):
    """`GET /mayor-id`: what the mayor's next start will bring, so that the prewarm can derive the same server.

    `organization_id` is a three-valued answer: in `model_fields_set` and a string, in it and None (the town
    has none), or not in it (an older worker: the environment decides).
    The keys after `github_cli_pat` are absent in answers of older workers.
    """

    success: bool = True
    agent_id: AgentId | None = None
    model: str | None = None
    small_model: str | None = None
    kilocode_token: Secret | None = None
    organization_id: OrganizationId | None = None
    github_token: Secret | None = None
    github_cli_pat: Secret | None = None
    gitlab_token: Secret | None = None
    gitlab_instance_url: str | None = Field(default=None, repr=False)
    git_author_name: str | None = None
    git_author_email: str | None = None
    disable_ai_coauthor: bool = False
    env_vars: SecretMap = Field(default_factory=dict)
    name: str | None = None
    rig_id: str | None = None

    @property
    def knows_organization(self) -> bool:
        return "organization_id" in self.model_fields_set


class StartupPhaseEvent(Wire):
    """Telemetry: a start reached `label`, `elapsed_ms` after it began, `phase_ms` after the label before."""

    event: Literal["agent.startup_phase"] = "agent.startup_phase"
    town_id: str
    agent_id: str
    role: str
    label: Literal["db_hydrated", "sdk_ready", "session_created"]
    elapsed_ms: int
    phase_ms: int


class ToolsMissing(Wire):
    """Telemetry: a server came up without tools that it must have, and was not handed out."""

    event: Literal["agent.tools_missing"] = "agent.tools_missing"
    town_id: str
    agent_id: str
    role: str = "mayor"
    missing: tuple[str, ...]


class PrewarmComplete(Wire):
    """Telemetry: the mayor's server is ready before anyone asked for it."""

    event: Literal["mayor.prewarm_complete"] = "mayor.prewarm_complete"
    town_id: str
    agent_id: str
    role: str = "mayor"
    duration_ms: int


class AgentCompleted(Wire):
    """`POST A/completed`, or to the callback of the agent's start: one attempt at an agent has ended."""

    agent_id: str
    status: Literal["completed", "failed"]
    reason: str | None = None
    attempt_id: str | None = None


class AgentWaiting(Wire):
    """`POST A/waiting`: the mayor's turn has ended."""

    agent_id: str
    fired_at: Timestamp
    attempt_id: str | None = None


class Nudge(Wire):
    """A prompt that waits for an agent. Unknown modes and priorities of a newer worker are kept as they are."""

    nudge_id: str = Field(alias="nudge_id", min_length=1, max_length=200)
    message: str = Field(min_length=1)
    mode: str = "wait-idle"
    priority: str | None = None
    source: str | None = None


class Nudges(Wire):
    """`GET A/pending-nudges`, highest priority first."""

    success: bool = True
    data: tuple[Nudge, ...] = ()


class Acknowledged(Wire):
    """The worker has taken what it was sent."""

    success: bool = True


class WorkerRefusal(Wire):
    """The worker has not."""

    success: bool = False
    error: str = "The worker gave no reason"


class _Token(Wire):
    token: BearerToken


class GivenToken(Wire):
    """The answer of `POST /refresh-container-token`, and that of a rig's `refresh-git-token`."""

    data: _Token


class NudgeDelivered(Wire):
    """`POST A/nudge-delivered`."""

    nudge_id: str = Field(alias="nudge_id", min_length=1, max_length=200)


class ContainerReady(Wire):
    """`POST /container-ready`: the answer to a nonce of a heartbeat's answer or of `/health`."""

    nonce: str


class Heartbeat(Wire):
    """`POST A/heartbeat`. `process_alive` and the two ages are evidence: absent where it is not known."""

    agent_id: str
    rig_id: str
    town_id: str
    status: AgentState
    timestamp: Timestamp
    last_event_type: str | None
    last_event_at: Timestamp | None
    active_tools: tuple[str, ...]
    message_count: int
    container_instance_id: str
    process_alive: bool
    event_age_ms: int | None = None
    last_probe_age_ms: int | None = None
    attempt_id: str | None = None


class _HeartbeatData(Wire):
    drain_nonce: str | None = None


class HeartbeatAnswer(Wire):
    """The worker's answer to a heartbeat."""

    data: _HeartbeatData | None = None
