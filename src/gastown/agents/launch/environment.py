"""What a child `kilo serve` is started with, as one pure function (contract section 4).

The prewarm and the start call the same `derive`: a prewarmed mayor is a cache hit by construction.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field

from gastown.contract.agents import StartAgentRequest
from gastown.contract.secret import Secret, reveal_map
from gastown.git.access import HelperAccess
from gastown.git.credentials import ANY_RIG
from gastown.git.identity import identity
from gastown.isolation.homes import dashboard_file, temporary
from gastown.isolation.users import User, uid_of
from gastown.kilo.spec import ServerSpec
from gastown.worker.tokens import Credentials

__all__ = [
    "BrokerEndpoint",
    "ChildDefaults",
    "derive",
    "gateway_token",
    "home_of",
    "is_reserved",
    "model_name",
    "organization_of",
    "registry_environment",
    "shell_variables",
]

DEFAULT_MODEL = "kilo-auto/frontier"
_RESERVED = re.compile(
    r"(?:KILOCODE_TOKEN|GIT_TOKEN|GITHUB_TOKEN|GITLAB_TOKEN|GITLAB_INSTANCE_URL|GITHUB_CLI_PAT|GH_TOKEN"
    r"|GASTOWN_.*|KILO_.*|OPENCODE_.*|KILOCODE_.*|PATH|HOME|LD_.*|NODE_OPTIONS|BUN_.*|PYTHON.*|XDG_DATA_HOME"
    r"|GIT_(?:AUTHOR|COMMITTER)_.*)\Z",
    re.DOTALL,
)
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*\Z")
_TOKEN_NAMES = (
    "KILOCODE_TOKEN",
    "GIT_TOKEN",
    "GITHUB_TOKEN",
    "GITLAB_TOKEN",
    "GITLAB_INSTANCE_URL",
    "GITHUB_CLI_PAT",
)
_QUIET_KILO = {
    # kilo-facts 1 and 9: each of these is a network call, a delay or a leftover file otherwise.
    "KILO_TELEMETRY_LEVEL": "off",
    "KILO_DISABLE_FFF": "1",
    "KILO_DISABLE_AUTOUPDATE": "1",
    "KILO_DISABLE_SESSION_INGEST": "1",
    "KILO_DISABLE_CODEBASE_INDEXING": "1",
    # Any client but kilo's own: the tools `question` and `suggest` would wait for a person who is not there.
    "KILO_CLIENT": "gastown",
    "KILO_PLATFORM": "gastown",
    "KILOCODE_FEATURE": "gastown",
}


@dataclass(frozen=True)
class ChildDefaults:
    """What comes from the container and not from a request: the allow-listed environment and the addresses."""

    kilo_bin: str
    home_root: str
    base_env: Mapping[str, str] = field(repr=False)
    parent_pid: int
    api_url: str | None = None
    kilocode_token: Secret | None = None
    organization_id: str | None = None
    mayor_tools: frozenset[str] = frozenset()
    plugin: str | None = None
    """The plugin of every server, as a file:// address."""
    git: HelperAccess | None = None
    """Where an agent's own git asks for credentials."""


@dataclass(frozen=True)
class BrokerEndpoint:
    """An agent's way to the broker: its address, and the bearer that opens it for this agent."""

    url: str
    bearer: Secret


def is_reserved(name: str) -> bool:
    """Whether a custom variable may not have this name."""
    return _RESERVED.match(name) is not None


def home_of(defaults: ChildDefaults, agent_id: str) -> str:
    return f"{defaults.home_root}/agent-home-{agent_id}"


def derive(
    request: StartAgentRequest,
    workdir: str,
    live: Credentials,
    defaults: ChildDefaults,
    *,
    inherited: Mapping[str, Secret] | None = None,
    endpoint: BrokerEndpoint | None = None,
    user: User | None = None,
) -> ServerSpec:
    """The server that `request` needs, running as `user`. Same inputs give the same bytes.

    With a `endpoint` the server holds no secret of the town: the bearer stands in their place, the broker in the
    place of what they are for, and what may change while the server lives stays out of it.

    `inherited` is the environment of a registry entry, None for a fresh request. For a fresh request its own
    variables are the newest word; for an inherited one the live credentials are, and `inherited` only fills
    what the request lacks.
    """
    shown = _brokered(endpoint, defaults) if endpoint is not None else _classic(request, live, defaults, inherited)
    tokens, organization = reveal_map(shown.tokens), shown.organization
    home = home_of(defaults, request.agent_id)
    config = _kilo_config(request, tokens.get("KILOCODE_TOKEN", ""), organization, defaults.plugin)
    own = {
        **_plain_variables(request, workdir, live, defaults, user),
        **tokens,
        **shown.addresses,
        "KILO_CONFIG_CONTENT": config,
        "OPENCODE_CONFIG_CONTENT": config,
    }
    optional = {
        "GASTOWN_CONTAINER_TOKEN": _plain(shown.container_token),
        "GASTOWN_SESSION_TOKEN": _plain(shown.session_token),
        "GASTOWN_DASHBOARD_FILE": dashboard_file(defaults.home_root, user) if request.is_mayor else None,
        "KILO_ORG_ID": organization,
        "GASTOWN_ORGANIZATION_ID": organization,
        "GH_TOKEN": _plain(_gh_token(shown.tokens)),
    }
    own.update({name: value for name, value in optional.items() if value})
    if token := tokens.get("KILOCODE_TOKEN"):
        own["KILO_AUTH_CONTENT"] = _canonical({"kilo": {"type": "api", "key": token}})
    custom = {name: value for name, value in reveal_map(shown.custom).items() if name not in own}
    return ServerSpec(
        argv=(defaults.kilo_bin, "serve", "--port=0", "--hostname=127.0.0.1"),
        cwd=workdir,
        home=home,
        env={**custom, **own},
        required_tools=defaults.mayor_tools if request.is_mayor else frozenset(),
        user=user,
    )


def gateway_token(
    request: StartAgentRequest,
    live: Credentials,
    defaults: ChildDefaults,
    inherited: Mapping[str, Secret] | None,
) -> Secret | None:
    return _tokens(request, live, defaults, inherited).get("KILOCODE_TOKEN")


def shell_variables(
    request: StartAgentRequest,
    live: Credentials,
    defaults: ChildDefaults,
    inherited: Mapping[str, Secret] | None,
    user: User | None = None,
) -> dict[str, Secret]:
    """What the shell of an agent with a broker gets at each command, beside the variables of its server: those
    have the names that they have, whatever a custom one is called.
    """
    workdir = ""  # no name depends on it
    servers = {**_plain_variables(request, workdir, live, defaults, user), **_past_proxies(defaults)}
    custom = _custom(request, live, inherited).items()
    variables = {name: value for name, value in custom if name not in servers}
    if token := _gh_token(_tokens(request, live, defaults, inherited)):
        variables["GH_TOKEN"] = token
    return variables


def registry_environment(spec: ServerSpec) -> dict[str, Secret]:
    """What a registry entry must carry so that a next container, with a request alone, has its credentials."""
    return {name: Secret(spec.env[name]) for name in _TOKEN_NAMES if name in spec.env}


def organization_of(request: StartAgentRequest, live: Credentials, defaults: ChildDefaults) -> str | None:
    """Absent is not null: null says that there is none, absent lets the next one decide."""
    if "organization_id" in request.model_fields_set:
        return request.organization_id
    if "organization_id" in live.town.model_fields_set:
        return live.town.organization_id
    return defaults.organization_id


def _plain_variables(
    request: StartAgentRequest, workdir: str, live: Credentials, defaults: ChildDefaults, user: User | None
) -> dict[str, str]:
    """The variables of a server that hold no credential and no address."""
    return {
        **defaults.base_env,
        **_QUIET_KILO,
        "KILO_PARENT_PID": str(defaults.parent_pid),
        "GASTOWN_AGENT_ID": request.agent_id,
        "GASTOWN_RIG_ID": request.rig_id,
        "GASTOWN_TOWN_ID": request.town_id,
        "GASTOWN_AGENT_ROLE": request.role,
        **_person(user, home_of(defaults, request.agent_id)),
        **_authorship(request, live),
        **_git_access(request, workdir, defaults, user),
    }


@dataclass(frozen=True)
class _Shown:
    """What a child is shown of the town's credentials."""

    tokens: Mapping[str, Secret]
    organization: str | None
    addresses: Mapping[str, str]
    container_token: Secret | None
    session_token: Secret | None
    custom: Mapping[str, Secret]


def _classic(
    request: StartAgentRequest,
    live: Credentials,
    defaults: ChildDefaults,
    inherited: Mapping[str, Secret] | None,
) -> _Shown:
    # A header that says the same address with a slash behind it must not make a prewarmed server unequal.
    api_url = (live.town.gastown_api_url or defaults.api_url or "").rstrip("/")
    return _Shown(
        tokens=_tokens(request, live, defaults, inherited),
        organization=organization_of(request, live, defaults),
        addresses={"GASTOWN_API_URL": api_url} if api_url else {},
        container_token=live.container_token,
        session_token=live.session_token,
        custom=_custom(request, live, inherited),
    )


def _brokered(endpoint: BrokerEndpoint, defaults: ChildDefaults) -> _Shown:
    """The organisation is the broker's to say; tokens of git come from the helper, the rest at each command."""
    addresses = {
        "GASTOWN_API_URL": endpoint.url,
        "GASTOWN_BROKER_URL": endpoint.url,
        "KILO_API_URL": endpoint.url,
        "KILO_OPENROUTER_BASE": f"{endpoint.url}/api/openrouter",
        **_past_proxies(defaults),
    }
    return _Shown(
        tokens={"KILOCODE_TOKEN": endpoint.bearer},
        organization=None,
        addresses=addresses,
        container_token=endpoint.bearer,
        session_token=endpoint.bearer,
        custom={},
    )


def _past_proxies(defaults: ChildDefaults) -> dict[str, str]:
    """The broker is reached directly, also where all else goes through a proxy."""
    if not any(name.upper() in ("HTTP_PROXY", "ALL_PROXY") for name in defaults.base_env):
        return {}
    known = defaults.base_env.get("NO_PROXY") or defaults.base_env.get("no_proxy")
    return dict.fromkeys(("NO_PROXY", "no_proxy"), ",".join(filter(None, (known, "127.0.0.1"))))


def _plain(secret: Secret | None) -> str | None:
    return secret.reveal() if secret is not None else None


def _gh_token(tokens: Mapping[str, Secret]) -> Secret | None:
    return next((tokens[n] for n in ("GITHUB_CLI_PAT", "GIT_TOKEN", "GITHUB_TOKEN") if n in tokens), None)


def _tokens(
    request: StartAgentRequest,
    live: Credentials,
    defaults: ChildDefaults,
    inherited: Mapping[str, Secret] | None,
) -> dict[str, Secret]:
    git = live.town.git_auth
    town = {
        "KILOCODE_TOKEN": live.town.kilocode_token,
        "GIT_TOKEN": git.github_token,
        "GITHUB_TOKEN": git.github_token,
        "GITLAB_TOKEN": git.gitlab_token,
        "GITLAB_INSTANCE_URL": Secret(git.gitlab_instance_url or ""),
        "GITHUB_CLI_PAT": live.town.github_cli_pat,
    }
    order: list[Mapping[str, Secret | None]]
    order = [request.env_vars, town] if inherited is None else [town, request.env_vars, inherited]
    order.append({"KILOCODE_TOKEN": defaults.kilocode_token})
    found = {}
    for name in _TOKEN_NAMES:
        value = next((source[name] for source in order if source.get(name)), None)
        if value:
            found[name] = value
    return found


def _custom(
    request: StartAgentRequest, live: Credentials, inherited: Mapping[str, Secret] | None
) -> dict[str, Secret]:
    asked = {**(inherited or {}), **request.env_vars}
    kept = {name: value for name, value in asked.items() if name not in live.retired_names}
    merged = {**kept, **live.town.env_vars}
    return {n: v for n, v in merged.items() if _NAME.match(n) and "\0" not in v.reveal() and not is_reserved(n)}


def _authorship(request: StartAgentRequest, live: Credentials) -> dict[str, str]:
    """The town's author if it has one, and then the agent as co-author; else the agent itself."""
    agent_name, agent_email = f"{request.name} (gastown)", f"{request.name}@gastown.local"
    town = live.town
    if not town.git_author_name:
        author, email, coauthor = agent_name, agent_email, False
    else:
        author, email = town.git_author_name, town.git_author_email or agent_email
        coauthor = not town.disable_ai_coauthor
    variables = identity(author, email)
    if coauthor:
        variables |= {"GASTOWN_AI_AGENT_NAME": agent_name, "GASTOWN_AI_AGENT_EMAIL": agent_email}
    return variables


def _git_access(
    request: StartAgentRequest, workdir: str, defaults: ChildDefaults, user: User | None
) -> dict[str, str]:
    if defaults.git is None:
        return {}
    # git and kilo do not look into a repository of another user's, if they are not told to.
    shared = user is not None and not request.is_mayor and not request.works_in_repository
    more = (("safe.directory", workdir),) if shared else ()
    rig_id = ANY_RIG if request.is_mayor else request.rig_id
    return defaults.git.agent_variables(rig_id, request.agent_id, uid_of(user), *more)


def _person(user: User | None, home: str) -> dict[str, str]:
    """Where a server is at home. One of another user must be told who it is: its uid need not have a name."""
    homes = {"KILO_TEST_HOME": home, "XDG_DATA_HOME": f"{home}/.local/share"}
    if user is None:
        return homes
    return homes | {"HOME": home, "TMPDIR": temporary(home), "USER": user.name, "LOGNAME": user.name}


def _kilo_config(request: StartAgentRequest, token: str, organization: str | None, plugin: str | None) -> str:
    primary = model_name(request.model)
    small = model_name(request.small_model or request.model)
    options = {"apiKey": token, "kilocodeToken": token}
    if organization:
        options["kilocodeOrganizationId"] = organization
    return _canonical(
        {
            "provider": {"kilo": {"options": options, "models": {primary: {}, small: {}}}},
            "model": f"kilo/{primary}",
            "small_model": f"kilo/{small}",
            "agent": {
                **{name: {"model": f"kilo/{primary}"} for name in ("code", "general", "plan", "explore")},
                "title": {"model": f"kilo/{small}"},
            },
            "permission": dict.fromkeys(("edit", "bash", "webfetch", "doom_loop", "external_directory"), "allow"),
            # A slow one asks a person whether to go on, and the turn waits for the answer (docs/adr/0028).
            "snapshot": False,
            # Named as a file: a plugins folder would wait for a package registry (kilo-facts 4).
            **({"plugin": [plugin]} if plugin else {}),
        }
    )


def model_name(name: str) -> str:
    """The model's name without the provider; an empty one means kilo's own choice."""
    return name.removeprefix("kilo/") or DEFAULT_MODEL


def _canonical(value: object) -> str:
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
