"""The settings: every environment variable with its default and its meaning."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import BeforeValidator, Field, PrivateAttr, ValidationError, ValidationInfo, field_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from gastown.contract import secret
from gastown.contract.identifiers import OrganizationId, TownId
from gastown.contract.tools import mayor_tools
from gastown.inherited import inherited, misspelt, unusable_proxy

__all__ = ["BadSettings", "Settings", "load", "unknown_settings"]

_TOKENS = ("gastown_control_token", "gastown_attach_token", "gastown_read_token")
_TOKEN = re.compile(r"[\x21-\x7e]{32,512}")
_HEADER = re.compile(r"[\x21-\x7e]+")
_ORIGIN = re.compile(r"[a-z][a-z0-9+.-]*://[a-z0-9._\[\]:-]+", re.IGNORECASE)


class BadSettings(Exception):
    """A variable has a value that cannot be used. The message names the variable, and not its value."""


def _empty_is_absent(value: object) -> object:
    """Without the white space around it: a Secret that was made with `echo` ends in a newline."""
    return value.strip() or None if isinstance(value, str) else value


Text = Annotated[str | None, BeforeValidator(_empty_is_absent)]
Secret = Annotated[secret.Secret | None, BeforeValidator(_empty_is_absent)]
Seconds = Annotated[float, Field(gt=0, le=86_400, allow_inf_nan=False)]


class Settings(BaseSettings):
    """The settings of a container. Each field is the environment variable of the same name in capitals."""

    model_config = SettingsConfigDict(
        extra="ignore", frozen=True, env_ignore_empty=True, hide_input_in_errors=True
    )

    gastown_api_url: Annotated[
        Text,
        Field(description="The orchestrator (worker API). Without it the container serves on its own."),
    ] = None
    gastown_town_id: Annotated[
        Annotated[TownId | None, BeforeValidator(_empty_is_absent)],
        Field(description="The town of this container."),
    ] = None
    gastown_container_token: Annotated[
        Secret, Field(description="JWT for the worker API; renewed while it runs.")
    ] = None
    gastown_session_token: Annotated[Secret, Field(description="Session token that agents get.")] = None
    gastown_organization_id: Annotated[
        Annotated[OrganizationId | None, BeforeValidator(_empty_is_absent)],
        Field(description="Organisation, where neither a request nor the worker names one."),
    ] = None
    gastown_gateway_url: Annotated[
        Text,
        Field(description="Base of an own LLM gateway with OpenAI's paths, as in …/v1; instead of KILO_API_URL."),
    ] = None
    kilo_api_url: Annotated[Text, Field(description="Base of the LLM gateway; kilo adds /api/openrouter.")] = None
    kilo_openrouter_base: Annotated[
        Text, Field(description="Passed on to kilo; 7.7.7 takes its base from KILO_API_URL instead.")
    ] = None
    kilo_cloud_url: Annotated[Text, Field(description="Where git credentials of integrations come from.")] = None
    kilocode_token: Annotated[Secret, Field(description="LLM gateway token, where no request brings one.")] = None
    agent_idle_timeout_ms: Annotated[
        int,
        Field(gt=0, description="Idle milliseconds after which an agent exits; a mayor never does."),
    ] = 120_000
    refinery_idle_timeout_ms: Annotated[int, Field(gt=0, description="The same for a refinery.")] = 600_000

    gastown_control_token: Annotated[
        Secret,
        Field(description="Bearer that may do everything on the control port; 32 to 512 visible characters."),
    ] = None
    gastown_attach_token: Annotated[
        Secret,
        Field(description="Bearer that may read, and use terminals, stream tickets and websockets."),
    ] = None
    gastown_read_token: Annotated[
        Secret, Field(description="Bearer that may read: every GET, and nothing that changes anything.")
    ] = None
    gastown_insecure: Annotated[
        bool,
        Field(
            description="Without a token, listen beyond loopback: every caller that reaches the port may do "
            "everything."
        ),
    ] = False
    gastown_control_origins: Annotated[
        tuple[str, ...],
        NoDecode,
        Field(
            description="Comma-separated origins of web pages that may call, such as https://town.example; "
            "they get CORS headers. Pages of the server's own origin need no entry."
        ),
    ] = ()
    gastown_control_host: Annotated[
        str,
        Field(
            min_length=1,
            description="Address to listen on. Without a token, 0.0.0.0 and :: mean loopback and another address "
            "is refused, unless GASTOWN_INSECURE is set.",
        ),
    ] = "0.0.0.0"  # noqa: S104
    gastown_control_port: Annotated[int, Field(ge=0, le=65_535, description="Port; 0 takes any free one.")] = 8080
    gastown_workspace_root: Annotated[
        str, Field(pattern="^/.", description="Root of all working directories.")
    ] = "/workspace/rigs"
    gastown_agent_home_root: Annotated[str, Field(pattern="^/.", description="Parent of the agents' homes.")] = (
        "/tmp"  # noqa: S108 - the contract's place
    )
    gastown_kilo_bin: Annotated[
        Text,
        Field(description="Executable that speaks `kilo serve`; unset: kilo on PATH, npm's wrapper resolved."),
    ] = None
    gastown_spawn_slots: Annotated[
        int,
        Field(ge=1, le=256, description="Servers that may start at a time; default: the cores that it may use."),
    ] = Field(default_factory=lambda: len(os.sched_getaffinity(0)))
    gastown_spawn_seconds: Annotated[Seconds, Field(description="A spawn, from its own start to readiness.")] = (
        30.0
    )
    gastown_start_seconds: Annotated[Seconds, Field(description="A start, from the request's arrival.")] = 60.0
    gastown_refresh_seconds: Annotated[Seconds, Field(description="A restart for new credentials, per agent.")] = (
        6.0
    )
    gastown_gate_seconds: Annotated[
        Seconds, Field(description="The longest that hydration may hold the gate.")
    ] = 20.0
    gastown_first_word_seconds: Annotated[
        float,
        Field(
            ge=0,
            le=60,
            description="How long after its opening a failure of the first turn still fails the start.",
        ),
    ] = 1.0
    gastown_stalled_seconds: Annotated[
        Seconds, Field(description="Silence after which a busy agent's condition is `stalled`.")
    ] = 300.0
    gastown_server_rss_mb: Annotated[
        int,
        Field(ge=0, description="Memory of a kilo server above which it is replaced when idle; 0: no limit."),
    ] = 0
    gastown_outbox_events: Annotated[
        int, Field(ge=100, description="Events that may wait for the worker, over all agents.")
    ] = 50_000
    gastown_outbox_mb: Annotated[
        int, Field(ge=1, le=4096, description="Memory that events waiting for the worker may take.")
    ] = 64
    gastown_clone_seconds: Annotated[
        Seconds, Field(description="A clone of a repository; it goes on when the start that began it gives up.")
    ] = 900.0
    gastown_git_seconds: Annotated[
        Seconds, Field(description="Any other git operation on a repository, a merge as a whole.")
    ] = 120.0
    gastown_keep_ended_hours: Annotated[
        float,
        Field(
            ge=0,
            le=8760,
            description="How long the worktree and the home of an agent stay that the orchestrator has called "
            "final; what is nowhere else always stays.",
        ),
    ] = 72.0
    gastown_keep_ended_agents: Annotated[
        int, Field(ge=0, le=10_000, description="Final agents whose worktree and home stay; the newest count.")
    ] = 20
    gastown_keep_ended_mb: Annotated[
        int, Field(ge=0, description="Room that the files of final agents may take on the disk, in MiB.")
    ] = 10_240
    gastown_drain_seconds: Annotated[Seconds, Field(description="Budget of the shutdown.")] = 300.0
    gastown_snapshot_mb: Annotated[
        int, Field(ge=1, le=4096, description="The largest kilo.db that is saved at the worker, in MiB.")
    ] = 64
    gastown_mayor_tools: Annotated[
        tuple[str, ...],
        NoDecode,
        Field(description="Comma-separated tools that a mayor's server must have; default: the plugin's."),
    ] = Field(default_factory=mayor_tools)
    gastown_require_tickets: Annotated[
        bool,
        Field(description="Websockets need a stream ticket of the agent; with tokens they always do."),
    ] = False
    gastown_agent_user: Annotated[
        Text,
        Field(
            description="User, by name or number, that agents run as when the control server is root; each agent "
            "has a user of its own if that one has subordinate ids (/etc/subuid)."
        ),
    ] = None
    gastown_agent_uids: Annotated[
        tuple[int, int] | None,
        NoDecode,
        Field(
            description="Range FIRST-LAST of user ids, one for each agent that the workspace ever has (none is "
            "used twice, so make it large); default: that of /etc/subuid."
        ),
    ] = None
    gastown_parent_pid: Annotated[
        int | None, Field(gt=1, description="Process whose end ends this one; set by `gastown up`.")
    ] = None

    _base_env: dict[str, str] = PrivateAttr()

    def __init__(self, base_env: Mapping[str, str] | None = None, **given: Any) -> None:
        """`base_env` is no field: as one, a variable of its name would get past the allow-list."""
        super().__init__(**given)
        self._base_env = dict(base_env or {})

    @field_validator("gastown_mayor_tools", "gastown_control_origins", mode="before")
    @classmethod
    def _comma_separated(cls, value: object) -> object:
        if isinstance(value, str):
            return tuple(name.strip() for name in value.split(",") if name.strip())
        return value

    @field_validator("gastown_control_origins")
    @classmethod
    def _origins(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        if not all(_ORIGIN.fullmatch(origin) for origin in value):
            raise ValueError(
                "must be origins without a path, such as https://town.example, with commas between them"
            )
        return tuple(origin.lower() for origin in value)

    @field_validator("gastown_container_token", "gastown_session_token", "kilocode_token")
    @classmethod
    def _for_a_header(cls, value: secret.Secret | None) -> secret.Secret | None:
        if value is not None and not _HEADER.fullmatch(value.reveal()):
            raise ValueError("must be visible ASCII characters without spaces: it is sent in a header")
        return value

    @field_validator("gastown_control_token", "gastown_attach_token", "gastown_read_token")
    @classmethod
    def _own_token(cls, value: secret.Secret | None, info: ValidationInfo) -> secret.Secret | None:
        if value is None:
            return None
        if not _TOKEN.fullmatch(value.reveal()):
            raise ValueError("must be 32 to 512 visible ASCII characters without spaces, such as a random one")
        before = {name: info.data.get(name) for name in _TOKENS[: _TOKENS.index(str(info.field_name))]}
        for name, other in before.items():
            if other is not None and other == value:
                raise ValueError(f"must differ from {name.upper()}")
        if before and info.data.get(_TOKENS[0], value) is None:
            raise ValueError(f"needs {_TOKENS[0].upper()} beside it: without that no caller could start an agent")
        return value

    @field_validator("gastown_agent_uids", mode="before")
    @classmethod
    def _range(cls, value: object) -> object:
        if not isinstance(value, str):
            return value
        if not value.strip():
            return None
        first, _, last = value.partition("-")
        if not (first.isdecimal() and last.isdecimal() and 0 < int(first) <= int(last) < 2**32 - 1):
            raise ValueError("must be two user ids, FIRST-LAST")
        return int(first), int(last)

    @field_validator(
        "gastown_api_url", "gastown_gateway_url", "kilo_api_url", "kilo_cloud_url", "kilo_openrouter_base"
    )
    @classmethod
    def _web_address(cls, value: str | None) -> str | None:
        if value is not None and not value.startswith(("http://", "https://")):
            raise ValueError("must begin with http:// or https://")
        return value

    def secrets(self) -> list[secret.Secret]:
        """Every secret among them, for the log's redaction."""
        return [value for _, value in self if isinstance(value, secret.Secret)]

    @property
    def base_env(self) -> dict[str, str]:
        """What children inherit: an allow-list, never the whole."""
        return self._base_env

    @property
    def path(self) -> str:
        return self.base_env["PATH"]


def load() -> Settings:
    """Read the process's environment. Raises `BadSettings` naming every unusable variable."""
    source = os.environ
    if problem := unusable_proxy(source):
        raise BadSettings(problem)
    passed_on = inherited(source)
    passed_on |= {n: source[n] for n in ("KILO_API_URL", "KILO_OPENROUTER_BASE") if source.get(n)}
    try:
        return Settings(base_env=passed_on)
    except ValidationError as error:
        problems = [
            f"{str(item['loc'][0]).upper()}: {item['msg'].removeprefix('Value error, ')}"
            for item in error.errors(include_input=False, include_url=False, include_context=False)
        ]
        raise BadSettings("; ".join(problems)) from None


def unknown_settings() -> dict[str, str | None]:
    """The GASTOWN_ variables of the environment that are no settings, each with the nearest one, if any."""
    return misspelt(os.environ, [name.upper() for name in Settings.model_fields])
