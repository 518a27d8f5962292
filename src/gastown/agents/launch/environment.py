"""The spec of an agent's `kilo serve`, as one pure function (contract section 4).

The prewarm and the start call the same `derive`: a prewarmed mayor is a cache hit by construction.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from gastown.agents.launch.desired import ContainerDefaults, Desired, effective
from gastown.agents.launch.kilo_config import HERMETIC, canonical, kilo_config
from gastown.contract.agents import StartAgentRequest
from gastown.contract.secret import Secret
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
    "authorship",
    "derive",
    "dropped_variables",
    "home_of",
    "model_name",
    "one_line",
    "shell_variables",
]

DEFAULT_MODEL = "kilo-auto/frontier"
_LONGEST_NAME = 500
_QUIET_KILO = {
    # kilo-facts 1 and 9: each of these is a network call, a delay or a leftover file otherwise.
    "KILO_TELEMETRY_LEVEL": "off",
    "KILO_DISABLE_FFF": "1",
    "KILO_DISABLE_AUTOUPDATE": "1",
    "KILO_DISABLE_SESSION_INGEST": "1",
    "KILO_DISABLE_CODEBASE_INDEXING": "1",
    # Any client but kilo's own: the tools `question` and `suggest` would wait for a person, and there is none.
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
    counts: ContainerDefaults = field(default_factory=ContainerDefaults)
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


def home_of(defaults: ChildDefaults, agent_id: str) -> str:
    return f"{defaults.home_root}/agent-home-{agent_id}"


def derive(
    request: StartAgentRequest,
    workdir: str,
    live: Credentials,
    defaults: ChildDefaults,
    *,
    endpoint: BrokerEndpoint,
    user: User | None = None,
) -> ServerSpec:
    """The server that `request` needs, running as `user`. Same inputs give the same bytes.

    It holds no secret of the town: the bearer of `endpoint` stands in the place of every token, the broker's
    address in the place of every URL, and what may change while the server lives stays out of it. The
    organisation is the broker's to add; git's tokens come from the git helper, custom variables with each command.
    """
    home, bearer = home_of(defaults, request.agent_id), endpoint.bearer.reveal()
    primary, small = model_name(request.model), model_name(request.small_model or request.model)
    config = kilo_config(primary, small, bearer, defaults.plugin)
    env = {
        **_plain_variables(request, workdir, live, defaults, user),
        **dict.fromkeys(("KILOCODE_TOKEN", "GASTOWN_CONTAINER_TOKEN", "GASTOWN_SESSION_TOKEN"), bearer),
        **dict.fromkeys(("GASTOWN_API_URL", "GASTOWN_BROKER_URL", "KILO_API_URL"), endpoint.url),
        "KILO_OPENROUTER_BASE": f"{endpoint.url}/api/openrouter",
        **_past_proxies(defaults),
        **dict.fromkeys(("KILO_CONFIG_CONTENT", "OPENCODE_CONFIG_CONTENT"), config),
        "KILO_AUTH_CONTENT": canonical({"kilo": {"type": "api", "key": bearer}}),
    }
    if request.is_mayor:
        env["GASTOWN_DASHBOARD_FILE"] = dashboard_file(defaults.home_root, user)
    return ServerSpec(
        argv=(defaults.kilo_bin, "serve", "--port=0", "--hostname=127.0.0.1"),
        cwd=workdir,
        home=home,
        env=env,
        required_tools=defaults.mayor_tools if request.is_mayor else frozenset(),
        user=user,
    )


def shell_variables(
    desired: Desired, live: Credentials, defaults: ChildDefaults, user: User | None = None
) -> dict[str, Secret]:
    """What an agent's shell gets at each command beside the variables of its server. A custom variable never has
    the name of one of those.
    """
    counts = effective(desired, live, defaults.counts)
    workdir = ""  # no name depends on it
    servers = {**_plain_variables(desired.request, workdir, live, defaults, user), **_past_proxies(defaults)}
    variables = {name: value for name, value in counts.custom.items() if name not in servers}
    if token := counts.github_cli:
        variables["GH_TOKEN"] = token
    return variables


def dropped_variables(
    desired: Desired, live: Credentials, defaults: ChildDefaults, user: User | None = None
) -> dict[str, str]:
    """The custom variables that an agent's shell does not get, each with the reason."""
    counts = effective(desired, live, defaults.counts)
    workdir = ""  # no name depends on it
    servers = {**_plain_variables(desired.request, workdir, live, defaults, user), **_past_proxies(defaults)}
    taken = {name: "the container sets it" for name in counts.custom if name in servers}
    return {**counts.dropped, **taken}


def _plain_variables(
    request: StartAgentRequest, workdir: str, live: Credentials, defaults: ChildDefaults, user: User | None
) -> dict[str, str]:
    """The variables of a server that hold no credential and no address."""
    return {
        **defaults.base_env,
        **_QUIET_KILO,
        **HERMETIC,
        "KILO_PARENT_PID": str(defaults.parent_pid),
        "GASTOWN_AGENT_ID": request.agent_id,
        "GASTOWN_RIG_ID": request.rig_id,
        "GASTOWN_TOWN_ID": request.town_id,
        "GASTOWN_AGENT_ROLE": request.role,
        **_person(user, home_of(defaults, request.agent_id)),
        **authorship(request, live),
        **_git_access(request, workdir, defaults, user),
    }


def _past_proxies(defaults: ChildDefaults) -> dict[str, str]:
    """The broker is reached directly, also where all else goes through a proxy."""
    if not any(name.upper() in ("HTTP_PROXY", "ALL_PROXY") for name in defaults.base_env):
        return {}
    known = defaults.base_env.get("NO_PROXY") or defaults.base_env.get("no_proxy")
    if known and "127.0.0.1" in known.split(","):
        return dict.fromkeys(("NO_PROXY", "no_proxy"), known)
    return dict.fromkeys(("NO_PROXY", "no_proxy"), ",".join(filter(None, (known, "127.0.0.1"))))


def authorship(request: StartAgentRequest, live: Credentials) -> dict[str, str]:
    """The town's author if it has one, and then the agent as co-author; else the agent itself."""
    agent_name, agent_email = f"{request.name} (gastown)", f"{request.name}@gastown.local"
    town = live.town
    town_name = one_line(town.git_author_name)
    if not town_name:
        author, email, coauthor = agent_name, agent_email, False
    else:
        author, email = town_name, one_line(town.git_author_email) or agent_email
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
    # git and kilo refuse a repository of another user, unless it is named as safe.
    shared = user is not None and not request.is_mayor and not request.works_in_repository
    more = (("safe.directory", workdir),) if shared else ()
    rig_id = ANY_RIG if request.is_mayor else request.rig_id
    return defaults.git.agent_variables(rig_id, request.agent_id, uid_of(user), *more)


def _person(user: User | None, home: str) -> dict[str, str]:
    """The home of a server. With a user of its own it needs the name, too: its uid may have no entry in passwd."""
    # Also for kilo's own settings: those of a person who started the town are not the agents'.
    homes = {
        "KILO_TEST_HOME": home,
        "XDG_CONFIG_HOME": f"{home}/.config",
        "XDG_DATA_HOME": f"{home}/.local/share",
    }
    if user is None:
        return homes
    return homes | {"HOME": home, "TMPDIR": temporary(home), "USER": user.name, "LOGNAME": user.name}


def one_line(text: str | None) -> str:
    """A name or an address for git, which is a variable of the server: no control characters, and not too long."""
    return "".join(c for c in text or "" if c.isprintable())[:_LONGEST_NAME].strip()


def model_name(name: str) -> str:
    """The model's name without the provider; an empty one means kilo's own choice."""
    return name.removeprefix("kilo/") or DEFAULT_MODEL
