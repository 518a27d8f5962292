"""The town as a whole on the control API: health, credentials, configuration."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, RootModel

from gastown.contract.git import RigState
from gastown.contract.identifiers import OrganizationId
from gastown.contract.secret import BearerToken, Secret, SecretMap
from gastown.contract.wire import Timestamp, Wire

__all__ = [
    "CONFIG_HEADER",
    "DashboardContextRequest",
    "GitAuth",
    "Health",
    "HealthAnswer",
    "HealthStatus",
    "Hydration",
    "HydrationState",
    "MessageSent",
    "Phase",
    "Pushed",
    "RefreshAnswer",
    "RefreshResult",
    "RefreshTokenRequest",
    "RefusedServer",
    "Synced",
    "TownConfig",
    "Updated",
]

CONFIG_HEADER = "X-Town-Config"
"""The header with which any request may bring a `TownConfig`."""

HydrationState = Literal["idle", "running", "complete", "failed"]


class Phase(Wire):
    """One bar of the boot waterfall. Times are milliseconds since the process started."""

    name: str
    agent_id: str | None = None
    start_ms: int
    duration_ms: int | None = None
    outcome: str | None = None


class Hydration(Wire):
    """What boot hydration did. `gate` is whether a start would wait now; `error` why hydration failed."""

    state: HydrationState
    gate: Literal["open", "closed"]
    gate_opened_by: str | None = None
    claimed: int = 0
    resumed: int = 0
    failed: int = 0
    skipped: int = 0
    prewarm: str | None = None
    error: str | None = None
    timeline: tuple[Phase, ...] = ()


class RefusedServer(Wire):
    """An agent whose newest server came up without tools that it must have."""

    agent_id: str
    missing: tuple[str, ...]


class Health(Wire):
    """`GET /health`. `uptime` is in seconds, `version` that of this package. Unset keys are left out."""

    status: Literal["ok", "degraded"]
    version: str | None = None
    agents: int
    servers: int
    uptime: float
    started_at: Timestamp
    draining: bool | None = None
    mayor_ready_at: Timestamp | None = None
    hydration: Hydration
    rigs: tuple[RigState, ...] | None = None
    refused: tuple[RefusedServer, ...] | None = None


class HealthStatus(Wire):
    """`GET /health` for an unauthenticated caller, where tokens are configured."""

    status: Literal["ok", "degraded"]


class HealthAnswer(RootModel[Health | HealthStatus]):
    """Either of them, as the description of the API tells it."""


class RefreshTokenRequest(Wire):
    """`POST /refresh-token`."""

    token: BearerToken
    town_id: str | None = None


class RefreshResult(Wire):
    """What a refresh means for one agent. `mode` is `live` when there was nothing to do, and `restart` when the
    server is replaced at the end of its turn, for `reason`.
    """

    agent_id: str
    success: bool
    duration_ms: int
    error: str | None = None
    mode: Literal["live", "restart"] | None = None
    reason: str | None = None


class RefreshAnswer(Wire):
    """The answer of `POST /refresh-token`; the token itself is live in any case."""

    refreshed: bool = True
    agents_restarted: int
    agents_failed: int
    results: tuple[RefreshResult, ...]


class DashboardContextRequest(Wire):
    """`POST /dashboard-context`."""

    context: str = Field(max_length=1_000_000)


class MessageSent(Wire):
    sent: bool = True


class Updated(Wire):
    updated: bool = True


class Synced(Wire):
    """The answer of `POST /sync-config`; with the broker, what it means for each agent."""

    synced: bool = True
    results: tuple[RefreshResult, ...] | None = None


class Pushed(Wire):
    pushed: bool = True


class GitAuth(Wire):
    """Git credentials inside the town config."""

    model_config = Wire.model_config | {"alias_generator": None}

    github_token: Secret | None = None
    gitlab_token: Secret | None = None
    gitlab_instance_url: str | None = Field(default=None, repr=False)


class TownConfig(Wire):
    """The header `X-Town-Config`: a JSON object in snake_case that replaces the cached one whole."""

    model_config = Wire.model_config | {"alias_generator": None}

    kilocode_token: Secret | None = None
    git_auth: GitAuth = GitAuth()
    github_cli_pat: Secret | None = None
    git_author_name: str | None = None
    git_author_email: str | None = None
    disable_ai_coauthor: bool = False
    organization_id: OrganizationId | None = None
    env_vars: SecretMap = Field(default_factory=dict)
    town_id: str | None = None
    gastown_api_url: str | None = None
