"""Agents on the control API (contract section 1)."""

from __future__ import annotations

from enum import StrEnum
from typing import Self

from pydantic import Field, field_validator, model_validator

from gastown.contract.events import ModelCalls, Usage
from gastown.contract.git import NO_BRANCH, Progress, Remote, is_branch_name, is_revision
from gastown.contract.identifiers import AgentId, CallbackUrl, OrganizationId, RigId, TownId
from gastown.contract.secret import Secret, SecretMap
from gastown.contract.wire import Timestamp, Wire

__all__ = [
    "ATTEMPT_HEADER",
    "AgentList",
    "AgentState",
    "AgentStatus",
    "ListedAgent",
    "MessageRequest",
    "ModelRequest",
    "PublicAgent",
    "Rescued",
    "Rig",
    "Role",
    "SnapshotState",
    "SnapshotStatus",
    "StartAgentRequest",
    "StopAnswer",
    "StopRequest",
    "SystemPromptRequest",
    "Unsaved",
    "WorkReceipt",
]

ATTEMPT_HEADER = "X-Attempt-Id"
"""The header with which the caller of a start names the attempt."""
_TEXT_LIMIT = 2_000_000


class Role(StrEnum):
    """What an agent is for. An unknown role is a rig agent like any other and keeps its name."""

    MAYOR = "mayor"
    POLECAT = "polecat"
    REFINERY = "refinery"
    TRIAGE = "triage"


class AgentState(StrEnum):
    """Where an agent is in its life; `agents/lifecycle/states.py` holds the allowed edges."""

    STARTING = "starting"
    RUNNING = "running"
    STOPPING = "stopping"
    EXITED = "exited"
    FAILED = "failed"


class Rig(Wire):
    """A repository that the mayor may browse."""

    rig_id: RigId
    git_url: str = Field(repr=False)
    default_branch: str
    platform_integration_id: str | None = None


class StartAgentRequest(Wire):
    """`POST /agents/start`, and the request inside a registry entry."""

    agent_id: AgentId
    rig_id: RigId
    town_id: TownId
    role: str = Field(min_length=1, max_length=64, pattern=r"^[a-z][a-z0-9_-]*$")
    name: str = Field(min_length=1, max_length=200)
    identity: str = Field(max_length=1000)
    prompt: str = Field(max_length=_TEXT_LIMIT)
    model: str = Field(max_length=500)
    git_url: str = Field(max_length=2000, repr=False)
    branch: str = Field(max_length=500)
    default_branch: str = Field(max_length=500)
    small_model: str | None = Field(default=None, max_length=500)
    system_prompt: str | None = Field(default=None, max_length=_TEXT_LIMIT)
    env_vars: SecretMap = Field(default_factory=dict)
    platform_integration_id: str | None = None
    start_point: str | None = None
    lightweight: bool = False
    organization_id: OrganizationId | None = None
    completion_callback_url: CallbackUrl | None = Field(default=None, repr=False)
    rigs: tuple[Rig, ...] = ()

    @field_validator("lightweight", mode="before")
    @classmethod
    def _absent_lightweight(cls, value: object) -> object:
        return False if value is None else value

    @field_validator("rigs", mode="before")
    @classmethod
    def _absent_rigs(cls, value: object) -> object:
        return () if value is None else value

    @field_validator("env_vars", mode="before")
    @classmethod
    def _absent_variables(cls, value: object) -> object:
        return {} if value is None else value

    @field_validator("name", "identity", "git_url", "branch", "default_branch", "model", "small_model")
    @classmethod
    def _no_control_characters(cls, value: str | None) -> str | None:
        if value is not None and any(ord(c) < 32 or ord(c) == 127 for c in value):
            raise ValueError("must not contain control characters")
        return value

    @field_validator("env_vars")
    @classmethod
    def _usable_variables(cls, value: dict[str, Secret]) -> dict[str, Secret]:
        for name, content in value.items():
            if not name or "=" in name or "\0" in name or "\0" in content.reveal():
                raise ValueError("a variable's name must not be empty or hold '=', and NUL is not allowed")
        return value

    @model_validator(mode="after")
    def _repository_when_needed(self) -> Self:
        if self.works_in_repository:
            missing = [
                alias
                for alias, value in (
                    ("gitUrl", self.git_url),
                    ("branch", self.branch),
                    ("defaultBranch", self.default_branch),
                )
                if not value
            ]
            if missing:
                raise ValueError(f"{', '.join(missing)} must not be empty for the role {self.role}")
            self._check_repository()
        return self

    def _check_repository(self) -> None:
        try:
            Remote.parse(self.git_url)
        except ValueError as error:
            raise ValueError(f"gitUrl {error}") from None
        for alias, value in (("branch", self.branch), ("defaultBranch", self.default_branch)):
            if not is_branch_name(value):
                raise ValueError(f"{alias} {NO_BRANCH}")
        if self.start_point and not is_revision(self.start_point):
            raise ValueError("startPoint is neither a branch nor a commit")

    @property
    def works_in_repository(self) -> bool:
        """Whether this agent gets a worktree of its rig's repository."""
        return not (self.lightweight or self.role in (Role.MAYOR, Role.TRIAGE))

    @property
    def is_mayor(self) -> bool:
        return self.role == Role.MAYOR


class MessageRequest(Wire):
    """`POST /agents/:id/message`."""

    prompt: str = Field(min_length=1, max_length=_TEXT_LIMIT)


class ModelRequest(Wire):
    """`PATCH /agents/:id/model`. `conversationHistory` is accepted and not needed: the session survives."""

    model: str = Field(min_length=1, max_length=500, pattern=r"^[^\x00-\x1f\x7f]+$")
    small_model: str | None = Field(default=None, max_length=500)
    conversation_history: str | None = None
    organization_id: OrganizationId | None = None


class SystemPromptRequest(Wire):
    """`PUT /agents/:id/system-prompt`."""

    system_prompt: str = Field(max_length=_TEXT_LIMIT)


class StopRequest(Wire):
    """`POST /agents/:id/stop`. The body may be left out, and one that is none of these is taken for none.

    `final`: the orchestrator will not start this agent again. Its worktree and home may then be removed, once
    their work is on the remote and the limits of what is kept are reached.
    """

    final: bool = Field(default=False, strict=True)


class Rescued(Wire):
    """`what` is on the remote as `ref`. `why`: what the remote said when it refused the agent's own branch."""

    what: str
    ref: str
    commit: str
    why: str | None = None


class Unsaved(Wire):
    """`path` in an agent's directory, or what else it is, is on no remote. Ignored files are named so, too."""

    path: str
    why: str


class WorkReceipt(Wire):
    """What became of an agent's directory. `commit`: what was in no commit is in it. `pushed`: the commits of its
    branch are on the remote's; null when there was nothing to push. `lost` says what is not saved, as sentences.
    """

    commit: str | None = None
    pushed: bool | None = None
    rescued: tuple[Rescued, ...] = ()
    unsaved: tuple[Unsaved, ...] = ()
    lost: tuple[str, ...] = ()


class StopAnswer(Wire):
    """The answer of a stop. `leftovers` is what of the agent is still alive: what the kernel refuses to end, and
    processes in its directories without any trace of their parents, so that they may be another one's. `commit`
    to `lost` are those of a `WorkReceipt`, left out when all its work was on the remote before.
    """

    stopped: bool = True
    leftovers: tuple[str, ...] = ()
    commit: str | None = None
    pushed: bool | None = None
    rescued: tuple[Rescued, ...] | None = None
    unsaved: tuple[Unsaved, ...] | None = None
    lost: tuple[str, ...] | None = None


class _AgentView(Wire):
    agent_id: str
    status: AgentState
    server_port: int | None
    session_id: str | None
    started_at: Timestamp
    last_activity_at: Timestamp
    active_tools: tuple[str, ...]
    message_count: int
    exit_reason: str | None


class PublicAgent(_AgentView):
    """The 201 body of a start. An allow-list: nothing that is not named here can leave."""

    rig_id: str
    town_id: str
    role: str
    name: str
    workdir: str
    last_event_type: str | None
    last_event_at: Timestamp | None
    model: str
    organization_id: str | None


class Condition(Wire):
    """The condition of a starting or running agent, its reason and its age.

    Types: `starting` names its phase, and how far its git is (`progress`). `idle` and `busy`. `retrying` and
    `offline` are what kilo says of its gateway (`attempt`, and `next` in epoch milliseconds). `waiting`: a
    permission or a question is open. `stalled`: busy without an event while the server answers. `wedged`: the
    server does not answer; it is restarted soon.
    """

    type: str
    phase: str | None = None
    reason: str | None = None
    age_ms: int | None = None
    attempt: int | None = None
    next: int | None = None
    progress: Progress | None = None


class SnapshotState(StrEnum):
    """How safe a conversation is; `unsettled` and `apart` began while the stored one could not be asked for."""

    SAVED = "saved"
    FAILED = "failed"
    UNSETTLED = "unsettled"
    APART = "apart"


class SnapshotStatus(Wire):
    """What became of the newest save of an agent's conversation, and when the last good one was.

    `unsettled`: nothing is uploaded before the worker can be asked. `apart`: another conversation is stored, and
    goes on at the agent's next start; this one is then kept beside it in the agent's home.
    """

    state: SnapshotState
    saved_at: Timestamp | None = None
    reason: str | None = None


class AgentStatus(_AgentView):
    """`GET /agents/:id/status`. `usage` is that of this attempt, once a message of the assistant has completed.

    Those are kilo's figures; `model_calls` are the gateway's for the same attempt, once an answer has come through
    the broker.
    """

    condition: Condition | None = None
    snapshot: SnapshotStatus | None = None
    usage: Usage | None = None
    model_calls: ModelCalls | None = Field(default=None, exclude_if=lambda calls: calls is None)


class ListedAgent(AgentStatus):
    """An agent in `GET /agents`: its status, and which agent it is."""

    rig_id: str
    role: str
    name: str
    model: str
    attempt_id: str


class AgentList(Wire):
    """`GET /agents`: the newest attempt of each agent, the mayor first. Ended ones are kept for a while."""

    agents: tuple[ListedAgent, ...]
