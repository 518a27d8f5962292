"""What a town is configured to be, and what follows from it for its mayor. Pure functions, no I/O."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import Any

from gastown.contract.agents import Rig, Role, StartAgentRequest
from gastown.contract.git import Remote
from gastown.contract.secret import Secret, credentials_among
from gastown.contract.town import GitAuth, TownConfig
from gastown.contract.worker import MayorContext
from gastown.hall.prompts import prompt_of

__all__ = [
    "DEFAULT_MODEL",
    "DEFAULT_SMALL_MODEL",
    "STAND_IN_TOKEN",
    "RigRecord",
    "TownRecord",
    "located",
    "mayor_context",
    "mayor_start_request",
    "registry_to_keep",
    "resumed_registry",
    "secrets_of",
    "town_config",
    "variables_of",
]

DEFAULT_MODEL = "anthropic/claude-sonnet-4.6"
DEFAULT_SMALL_MODEL = "anthropic/claude-haiku-4.5"

STAND_IN_TOKEN = Secret("stand-in")  # a placeholder that only the gateway stand-in knows
"""The gateway token of a town without a real one, so that its mayor can be prewarmed all the same."""


@dataclass(frozen=True, kw_only=True)
class RigRecord:
    """A repository of the town. `model` is for the rig's own agents and never for the mayor.

    `folder` is the absolute path of one on this machine: then `git_url` is empty, until `located` has filled it.
    """

    rig_id: str
    git_url: str = field(repr=False)
    default_branch: str
    model: str | None = None
    platform_integration_id: str | None = None
    folder: str | None = None

    @property
    def place(self) -> str:
        """Where it is, as anybody may know it: its folder, or its address without a login; empty for one that
        cannot be read.
        """
        try:
            return self.folder or Remote.parse(self.git_url).url
        except ValueError:
            return ""


@dataclass(frozen=True, kw_only=True)
class TownRecord:
    """A town as the store knows it."""

    id: str
    name: str
    mayor_agent_id: str | None = None
    mayor_session_id: str | None = None
    kilocode_token: Secret | None = None
    organization_id: str | None = None
    default_model: str | None = None
    small_model: str | None = None
    role_models: Mapping[str, str] = field(default_factory=dict[str, str])
    git_auth: GitAuth = field(default_factory=GitAuth)
    github_cli_pat: Secret | None = None
    git_author_name: str | None = None
    git_author_email: str | None = None
    disable_ai_coauthor: bool = False
    env_vars: Mapping[str, Secret] = field(default_factory=dict[str, Secret])
    rigs: tuple[RigRecord, ...] = ()

    def model_for(self, role: str, rig: RigRecord | None = None) -> str:
        """The model of an agent of that role, of a rig where it has one: the rig's own, the role's, the town's."""
        own = rig.model if rig is not None else None
        return own or self.role_models.get(role) or self.default_model or DEFAULT_MODEL

    def rig(self, rig_id: str) -> RigRecord:
        """The repository of that id; LookupError when the town has none."""
        for rig in self.rigs:
            if rig.rig_id == rig_id:
                return rig
        raise LookupError(f"the town has no rig {rig_id}")


def secrets_of(town: TownRecord) -> Iterator[Secret]:
    """Every value of the town that must never be seen, for the log's redaction."""
    own = (town.kilocode_token, town.github_cli_pat, town.git_auth.github_token, town.git_auth.gitlab_token)
    yield from (value for value in own if value and value != STAND_IN_TOKEN)
    yield from credentials_among(town.env_vars)
    for rig in town.rigs:
        with suppress(ValueError):  # an unusable address
            if password := Remote.parse(rig.git_url).password:
                yield password


def located(town: TownRecord, url: str, token: Secret) -> TownRecord:
    """The town, with addresses for its folders: the hall serves them at `url`, and `token` is the password."""
    scheme, _, host = url.partition("://")
    home = f"{scheme}://gastown:{token.reveal()}@{host}/git/{town.id}"
    rigs = (rig if rig.folder is None else replace(rig, git_url=f"{home}/{rig.rig_id}.git") for rig in town.rigs)
    return replace(town, rigs=tuple(rigs))


def mayor_context(town: TownRecord) -> MayorContext:
    """What the mayor's next start will bring; the answer of `GET /mayor-id`.

    Only what is set is sent, except the organisation, which is a string or an explicit null. A town without a
    gateway token answers with the agent's id alone, and one without a mayor with a null id: then there is
    nothing to prewarm. Overrides of rigs never apply to the mayor, which belongs to no rig.
    """
    if town.mayor_agent_id is None:
        return MayorContext(success=True, agent_id=None)
    if not town.kilocode_token:
        return MayorContext(success=True, agent_id=town.mayor_agent_id)
    whole: dict[str, Any] = {
        "success": True,
        "agent_id": town.mayor_agent_id,
        "model": town.model_for(Role.MAYOR),
        "small_model": town.small_model or DEFAULT_SMALL_MODEL,
        "kilocode_token": town.kilocode_token,
        "organization_id": town.organization_id or None,
        "name": "mayor",
        "rig_id": f"mayor-{town.id}",
        "disable_ai_coauthor": town.disable_ai_coauthor,
    }
    optional = {
        "github_token": town.git_auth.github_token,
        "github_cli_pat": town.github_cli_pat,
        "gitlab_token": town.git_auth.gitlab_token,
        "gitlab_instance_url": town.git_auth.gitlab_instance_url,
        "git_author_name": town.git_author_name,
        "git_author_email": town.git_author_email,
        "env_vars": dict(town.env_vars),
    }
    return MayorContext.model_validate(whole | {key: value for key, value in optional.items() if value})


def mayor_start_request(context: MayorContext, town: TownRecord, prompt: str) -> StartAgentRequest:
    """The dispatch of the mayor, made from the very context that the prewarm was given.

    ValueError when the context holds no mayor or no token: there is nothing that could be started.
    """
    if context.agent_id is None or context.model is None or not context.kilocode_token:
        raise ValueError(f"town {town.id} has no mayor or no gateway token")
    name = context.name or "mayor"
    return StartAgentRequest(
        agent_id=context.agent_id,
        rig_id=context.rig_id or f"mayor-{town.id}",
        town_id=town.id,
        role=Role.MAYOR,
        name=name,
        identity=f"{name} of {town.name}",
        prompt=prompt,
        model=context.model,
        small_model=context.small_model,
        system_prompt=prompt_of(Role.MAYOR),
        git_url="",
        branch="",
        default_branch="",
        organization_id=context.organization_id,
        env_vars=variables_of(town),
        rigs=_rigs(town),
    )


def registry_to_keep(entries: Sequence[Any]) -> list[Any]:
    """What a container sent as its registry, without the gateway's token: the next one is given its own."""
    return [
        _without_token(entry, "env") | {"request": _without_token(entry["request"], "envVars", "env_vars")}
        for entry in entries
    ]


def _without_token(outer: dict[str, Any], *names: str) -> dict[str, Any]:
    variables = {name: outer[name] for name in names if isinstance(outer.get(name), dict)}
    return outer | {
        name: {key: value for key, value in inner.items() if key != "KILOCODE_TOKEN"}
        for name, inner in variables.items()
    }


def resumed_registry(entries: Sequence[Any], town: TownRecord) -> list[Any]:
    """The kept registry for the next container: its mayor has the rigs, the organisation and the model of now, and
    agents in folders have their addresses of now.
    """
    rigs = [rig.model_dump(by_alias=True, exclude_none=True) for rig in _rigs(town)]
    now = {"rigs": rigs, "organizationId": town.organization_id or None, "model": town.model_for(Role.MAYOR)}
    folders = {rig.rig_id: {"gitUrl": rig.git_url} for rig in town.rigs if rig.folder is not None}

    def changes(entry: dict[str, Any]) -> dict[str, Any]:
        if entry.get("agentId") == town.mayor_agent_id:
            return now
        rig_id = entry["request"].get("rigId", entry["request"].get("rig_id"))
        return folders.get(rig_id, {})

    return [entry | {"request": entry["request"] | changes(entry)} for entry in entries]


def _rigs(town: TownRecord) -> tuple[Rig, ...]:
    return tuple(
        Rig(
            rig_id=rig.rig_id,
            git_url=rig.git_url,
            default_branch=rig.default_branch,
            platform_integration_id=rig.platform_integration_id,
        )
        for rig in town.rigs
    )


def variables_of(town: TownRecord) -> dict[str, Secret]:
    """The custom variables, and over them the credentials that are there."""
    auth = town.git_auth
    credentials = {
        "KILOCODE_TOKEN": town.kilocode_token,
        "GIT_TOKEN": auth.github_token,
        "GITHUB_TOKEN": auth.github_token,
        "GITHUB_CLI_PAT": town.github_cli_pat,
        "GITLAB_TOKEN": auth.gitlab_token,
        "GITLAB_INSTANCE_URL": Secret(auth.gitlab_instance_url or ""),
    }
    return dict(town.env_vars) | {name: value for name, value in credentials.items() if value}


def town_config(town: TownRecord, api_url: str) -> TownConfig:
    """The header `X-Town-Config` of a call to the container. `api_url` is this hall's base URL."""
    return TownConfig(
        kilocode_token=town.kilocode_token,
        git_auth=town.git_auth,
        github_cli_pat=town.github_cli_pat,
        git_author_name=town.git_author_name,
        git_author_email=town.git_author_email,
        disable_ai_coauthor=town.disable_ai_coauthor,
        organization_id=town.organization_id or None,
        env_vars=dict(town.env_vars),
        town_id=town.id,
        gastown_api_url=api_url,
    )
