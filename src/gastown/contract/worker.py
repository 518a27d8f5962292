"""Messages of the worker API (contract section 2), which the container calls."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from gastown.contract.agents import StartAgentRequest
from gastown.contract.identifiers import AgentId
from gastown.contract.wire import StringMap, Wire

__all__ = [
    "MayorContext",
    "PrewarmComplete",
    "RegistryEntry",
    "StartupPhaseEvent",
]


class RegistryEntry(Wire):
    """One agent of the last container: enough to start it again in the next one."""

    agent_id: AgentId
    request: StartAgentRequest
    workdir: str = Field(min_length=1, max_length=4096)
    env: StringMap = Field(default_factory=dict)


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
    kilocode_token: str | None = None
    organization_id: str | None = None
    github_token: str | None = None
    github_cli_pat: str | None = None
    gitlab_token: str | None = None
    gitlab_instance_url: str | None = None
    git_author_name: str | None = None
    git_author_email: str | None = None
    disable_ai_coauthor: bool = False
    env_vars: StringMap = Field(default_factory=dict)
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


class PrewarmComplete(Wire):
    """Telemetry: the mayor's server is ready before anyone asked for it."""

    event: Literal["mayor.prewarm_complete"] = "mayor.prewarm_complete"
    town_id: str
    agent_id: str
    role: str = "mayor"
    duration_ms: int
