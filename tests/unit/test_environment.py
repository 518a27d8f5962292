"""What a child `kilo serve` is started with (contract section 4)."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

import pytest

from gastown.agents.launch.desired import ContainerDefaults, Desired, Effective, effective, is_reserved
from gastown.agents.launch.environment import BrokerEndpoint, ChildDefaults, derive, shell_variables
from gastown.contract.agents import StartAgentRequest
from gastown.contract.secret import Secret
from gastown.contract.town import GitAuth, TownConfig
from gastown.isolation.users import User
from gastown.kilo.spec import ServerSpec
from gastown.worker.tokens import Credentials, LiveCredentials

DEFAULTS = ChildDefaults(
    kilo_bin="/bin/kilo",
    home_root="/tmp",
    base_env={"PATH": "/bin", "LANG": "C.UTF-8", "KILO_API_URL": "https://gateway.test"},
    parent_pid=7,
)
BROKER = BrokerEndpoint("http://broker.test", Secret("bearer"))
CREDENTIALS = Credentials(container_token=Secret("container-jwt"), session_token=Secret("session-jwt"))
WORKDIR = "/workspace/rigs/r1/worktrees/b"
BODY = {
    "agentId": "a1",
    "rigId": "r1",
    "townId": "t1",
    "role": "polecat",
    "name": "Nux",
    "identity": "Nux of r1",
    "prompt": "Do it",
    "model": "anthropic/large",
    "gitUrl": "https://git.test/r.git",
    "branch": "b",
    "defaultBranch": "main",
    "envVars": {"KILOCODE_TOKEN": "kilo-token"},
}


def request(**changes: Any) -> StartAgentRequest:
    return StartAgentRequest.model_validate(BODY | changes)


def town(**config: Any) -> Credentials:
    return dataclasses.replace(CREDENTIALS, town=TownConfig(**config))


def child(
    live: Credentials = CREDENTIALS, *, defaults: ChildDefaults = DEFAULTS, **changes: Any
) -> dict[str, str]:
    """The environment of the server."""
    return dict(derive(request(**changes), WORKDIR, live, defaults, endpoint=BROKER).env)


def desired(inherited: dict[str, str] | None = None, **changes: Any) -> Desired:
    if inherited is None:
        return Desired(request(**changes), given=10)
    return Desired.stored(request(**changes), {name: Secret(value) for name, value in inherited.items()})


def shell(
    live: Credentials = CREDENTIALS, *, inherited: dict[str, str] | None = None, **changes: Any
) -> dict[str, str]:
    """What a command of the agent gets beside the environment of the server."""
    variables = shell_variables(desired(inherited, **changes), live, DEFAULTS)
    return {name: value.reveal() for name, value in variables.items()}


def counts(live: Credentials = CREDENTIALS, inherited: dict[str, str] | None = None, **changes: Any) -> Effective:
    return effective(desired(inherited, **changes), live, ContainerDefaults())


def config(env: dict[str, str]) -> dict[str, Any]:
    return json.loads(env["KILO_CONFIG_CONTENT"])


def test_a_plain_polecat_gets_exactly_these_variables() -> None:
    env = child()
    content = env.pop("KILO_CONFIG_CONTENT")
    assert env.pop("OPENCODE_CONFIG_CONTENT") == content
    assert env == {
        "PATH": "/bin",
        "LANG": "C.UTF-8",
        "KILO_API_URL": "http://broker.test",
        "KILO_OPENROUTER_BASE": "http://broker.test/api/openrouter",
        "KILO_TELEMETRY_LEVEL": "off",
        "KILO_DISABLE_FFF": "1",
        "KILO_DISABLE_AUTOUPDATE": "1",
        "KILO_DISABLE_SESSION_INGEST": "1",
        "KILO_DISABLE_CODEBASE_INDEXING": "1",
        "KILO_CLIENT": "gastown",
        "KILO_PLATFORM": "gastown",
        "KILOCODE_FEATURE": "gastown",
        "KILO_PARENT_PID": "7",
        "GASTOWN_AGENT_ID": "a1",
        "GASTOWN_RIG_ID": "r1",
        "GASTOWN_TOWN_ID": "t1",
        "GASTOWN_AGENT_ROLE": "polecat",
        "KILO_TEST_HOME": "/tmp/agent-home-a1",
        "XDG_DATA_HOME": "/tmp/agent-home-a1/.local/share",
        "XDG_CONFIG_HOME": "/tmp/agent-home-a1/.config",
        "KILO_DISABLE_PROJECT_CONFIG": "1",
        "KILO_DISABLE_SKILL_SHELL": "1",
        "GIT_AUTHOR_NAME": "Nux (gastown)",
        "GIT_AUTHOR_EMAIL": "Nux@gastown.local",
        "GIT_COMMITTER_NAME": "Nux (gastown)",
        "GIT_COMMITTER_EMAIL": "Nux@gastown.local",
        "GASTOWN_API_URL": "http://broker.test",
        "GASTOWN_BROKER_URL": "http://broker.test",
        "GASTOWN_CONTAINER_TOKEN": "bearer",
        "GASTOWN_SESSION_TOKEN": "bearer",
        "KILOCODE_TOKEN": "bearer",
        "KILO_AUTH_CONTENT": '{"kilo":{"key":"bearer","type":"api"}}',
    }


PERMISSIONS = {
    **dict.fromkeys(
        (
            *("bash", "browser_open", "doom_loop", "edit", "external_directory", "kilo_local_recall"),
            *("kilo_memory_recall", "kilo_memory_save", "lsp", "notebook_edit", "notebook_execute"),
            *("notebook_read", "recall", "semantic_search", "skill", "task", "webfetch", "websearch"),
        ),
        "allow",
    ),
    "agent_manager": dict.fromkeys(("*", "answer", "move", "prompt", "stop"), "allow"),
    "read": dict.fromkeys(("*", "*.env", "*.env.*"), "allow"),
}


def test_the_configuration_names_models_agents_permissions_and_the_bearer() -> None:
    assert config(child(smallModel="anthropic/small", organizationId="org-1")) == {
        "provider": {
            "kilo": {
                "options": {"apiKey": "bearer", "kilocodeToken": "bearer"},
                "models": {"anthropic/large": {}, "anthropic/small": {}},
            }
        },
        "model": "kilo/anthropic/large",
        "small_model": "kilo/anthropic/small",
        "agent": {
            "code": {"model": "kilo/anthropic/large"},
            "general": {"model": "kilo/anthropic/large"},
            "plan": {"model": "kilo/anthropic/large"},
            "explore": {"model": "kilo/anthropic/large"},
            "title": {"model": "kilo/anthropic/small"},
        },
        "permission": PERMISSIONS,
        "default_agent": "code",
        "disabled_providers": [],
        "mcp": {},
        "snapshot": False,
    }


def test_an_empty_model_means_the_gateways_own_choice() -> None:
    assert config(child(model=""))["model"] == "kilo/kilo-auto/frontier"


def test_a_model_that_names_its_provider_is_not_prefixed_twice() -> None:
    assert config(child(model="kilo/anthropic/large"))["model"] == "kilo/anthropic/large"


def test_without_a_small_model_the_primary_one_writes_the_titles() -> None:
    assert config(child())["agent"]["title"] == {"model": "kilo/anthropic/large"}


def test_equal_inputs_give_equal_bytes_whatever_their_order() -> None:
    variables = {"ALPHA": "1", "BETA": "2", "KILOCODE_TOKEN": "kilo-token"}
    backwards = dict(reversed(variables.items()))
    one = derive(request(envVars=variables), WORKDIR, CREDENTIALS, DEFAULTS, endpoint=BROKER)
    other = derive(request(envVars=backwards), WORKDIR, CREDENTIALS, DEFAULTS, endpoint=BROKER)
    assert (one.fingerprint, one.env["KILO_CONFIG_CONTENT"]) == (
        other.fingerprint,
        other.env["KILO_CONFIG_CONTENT"],
    )


def test_the_configuration_is_canonical_json() -> None:
    content = child()["KILO_CONFIG_CONTENT"]
    assert content == json.dumps(json.loads(content), sort_keys=True, separators=(",", ":"))


def test_the_spec_runs_in_the_working_directory_and_listens_on_loopback_only() -> None:
    spec = derive(request(), WORKDIR, CREDENTIALS, DEFAULTS, endpoint=BROKER)
    assert (spec.argv, spec.cwd) == (("/bin/kilo", "serve", "--port=0", "--hostname=127.0.0.1"), WORKDIR)


def test_only_a_mayors_server_must_have_the_mayors_tools() -> None:
    defaults = dataclasses.replace(DEFAULTS, mayor_tools=frozenset({"gt_sling"}))
    asked = {
        role: derive(request(role=role), WORKDIR, CREDENTIALS, defaults, endpoint=BROKER).required_tools
        for role in ("mayor", "polecat", "refinery", "triage")
    }
    nobody = dict.fromkeys(("polecat", "refinery", "triage"), frozenset())
    assert asked == {"mayor": frozenset({"gt_sling"}), **nobody}


def test_nothing_of_a_spec_that_may_be_secret_is_in_its_repr() -> None:
    spec = derive(request(), WORKDIR, CREDENTIALS, DEFAULTS, endpoint=BROKER)
    shown = repr((spec, CREDENTIALS, DEFAULTS, desired({"A": "stored"}), counts()))
    assert not any(secret in shown for secret in ("bearer", "kilo-token", "-jwt", "stored"))


WITH_ORGANISATION = ContainerDefaults(organization_id="of-the-environment")


@pytest.mark.parametrize(
    ("asked", "told", "expected"),
    [
        ({"organizationId": "asked"}, {"organization_id": "told"}, "asked"),
        ({"organizationId": None}, {"organization_id": "told"}, None),
        ({}, {"organization_id": "told"}, "told"),
        ({}, {"organization_id": None}, None),
        ({}, {}, "of-the-environment"),
    ],
)
def test_a_null_organisation_is_an_answer_and_an_absent_one_is_none(
    asked: dict[str, Any], told: dict[str, Any], expected: str | None
) -> None:
    assert effective(desired(**asked), town(**told), WITH_ORGANISATION).organization == expected


@pytest.mark.parametrize(
    ("variables", "expected"),
    [
        ({"GITHUB_CLI_PAT": "pat", "GIT_TOKEN": "git", "GITHUB_TOKEN": "github"}, "pat"),
        ({"GIT_TOKEN": "git", "GITHUB_TOKEN": "github"}, "git"),
        ({"GITHUB_TOKEN": "github"}, "github"),
        ({"GITHUB_CLI_PAT": "", "GITHUB_TOKEN": "github"}, "github"),
        ({"GITLAB_TOKEN": "gitlab"}, None),
        ({"GH_TOKEN": "asked for by hand"}, None),
        ({}, None),
    ],
)
def test_gh_token_is_the_pat_or_else_the_git_token_or_else_githubs(
    variables: dict[str, str], expected: str | None
) -> None:
    assert shell(envVars=variables).get("GH_TOKEN") == expected


def test_the_towns_git_credentials_are_the_agents() -> None:
    git = GitAuth(github_token="gh", gitlab_token="gl", gitlab_instance_url="https://gl.test")
    found = counts(town(git_auth=git, github_cli_pat=Secret("pat")))
    names = ("GIT_TOKEN", "GITHUB_TOKEN", "GITLAB_TOKEN", "GITLAB_INSTANCE_URL", "GITHUB_CLI_PAT")
    assert [found.tokens[name].reveal() for name in names] == ["gh", "gh", "gl", "https://gl.test", "pat"]
    assert found.github_cli == Secret("pat")


NAMES = ("GIT_AUTHOR_NAME", "GIT_AUTHOR_EMAIL", "GASTOWN_AI_AGENT_NAME", "GASTOWN_AI_AGENT_EMAIL")
ANN = {"git_author_name": "Ann", "git_author_email": "ann@x.test"}


@pytest.mark.parametrize(
    ("told", "expected"),
    [
        ({}, ["Nux (gastown)", "Nux@gastown.local", None, None]),
        (ANN, ["Ann", "ann@x.test", "Nux (gastown)", "Nux@gastown.local"]),
        (ANN | {"disable_ai_coauthor": True}, ["Ann", "ann@x.test", None, None]),
        ({"git_author_email": "ann@x.test"}, ["Nux (gastown)", "Nux@gastown.local", None, None]),
    ],
)
def test_commits_are_the_towns_authors_with_the_agent_beside_or_else_the_agents(
    told: dict[str, Any], expected: list[str | None]
) -> None:
    env = child(town(**told))
    assert [env.get(name) for name in NAMES] == expected
    assert (env["GIT_COMMITTER_NAME"], env["GIT_COMMITTER_EMAIL"]) == tuple(expected[:2])


RESERVED = [
    "KILOCODE_TOKEN",
    "GIT_TOKEN",
    "GITHUB_TOKEN",
    "GITLAB_TOKEN",
    "GITLAB_INSTANCE_URL",
    "GITHUB_CLI_PAT",
    "GH_TOKEN",
    "GASTOWN_AGENT_ROLE",
    "GASTOWN_X",
    "KILO_CONFIG_CONTENT",
    "KILO_X",
    "PATH",
    "HOME",
    "LD_PRELOAD",
    "LD_LIBRARY_PATH",
    "NODE_OPTIONS",
    "BUN_OPTIONS",
    "PYTHONPATH",
    "PYTHONSTARTUP",
]


@pytest.mark.parametrize("name", RESERVED)
def test_every_name_of_the_contracts_list_is_reserved(name: str) -> None:
    assert is_reserved(name)


@pytest.mark.parametrize("name", ["COLOUR", "MY_PATH", "PATHS", "HOMEPAGE", "X_KILO_Y", "GH_TOKEN_2", "path"])
def test_a_name_that_only_resembles_a_reserved_one_is_free(name: str) -> None:
    assert not is_reserved(name)


@pytest.mark.parametrize("name", [n for n in RESERVED if not n.endswith(("_TOKEN", "_PAT", "_URL"))])
def test_a_custom_variable_never_overrides_or_adds_a_reserved_one(name: str) -> None:
    before = child(), shell()
    evil = town(env_vars={name: "evil"})
    variables = {"KILOCODE_TOKEN": "kilo-token", name: "evil"}
    assert (child(evil, envVars=variables), shell(evil, envVars=variables)) == before


def test_a_custom_variable_of_the_town_cannot_be_a_credential() -> None:
    live = town(env_vars={"GITHUB_TOKEN": "evil", "GH_TOKEN": "evil", "KILOCODE_TOKEN": "evil"})
    assert "evil" not in {*child(live).values(), *shell(live).values()}
    assert Secret("evil") not in counts(live).tokens.values()


def test_a_custom_variable_cannot_override_what_the_container_passes_on() -> None:
    assert child(town(env_vars={"LANG": "evil"}))["LANG"] == "C.UTF-8"
    assert "LANG" not in shell(town(env_vars={"LANG": "evil"}))


def test_custom_variables_of_the_town_win_over_those_of_the_request() -> None:
    env = shell(town(env_vars={"COLOUR": "green"}), envVars={"COLOUR": "red", "SHAPE": "round"})
    assert (env["COLOUR"], env["SHAPE"]) == ("green", "round")


@pytest.mark.parametrize("name", ["WITH SPACE", "1ST", "A-B", "É"])
def test_a_custom_variable_that_no_shell_could_name_is_left_out(name: str) -> None:
    assert name not in shell(town(env_vars={name: "x"}))


def test_a_variable_that_was_custom_and_is_gone_from_the_newest_config_disappears() -> None:
    live = LiveCredentials(CREDENTIALS)
    live.replace_town(TownConfig(env_vars={"OLD": "1", "KEPT": "1"}))
    live.replace_town(TownConfig(env_vars={"KEPT": "2"}))
    stored = {"OLD": "1", "KEPT": "1", "OWN": "1"}
    env = shell(live.current, envVars=stored, inherited=stored)
    assert {name: env.get(name) for name in stored} == {"OLD": None, "KEPT": "2", "OWN": "1"}


def test_a_retired_variable_that_comes_back_is_there_again() -> None:
    live = LiveCredentials(CREDENTIALS)
    for variables in ({"OLD": "1"}, {}, {"OLD": "2"}):
        live.replace_town(TownConfig(env_vars=variables))
    assert shell(live.current)["OLD"] == "2"


def test_a_town_variable_with_a_nul_is_left_out() -> None:
    """An environment cannot hold it: the command would not start."""
    assert shell(town(env_vars={"COLOUR": "a\0b", "SHAPE": "round"})) == {"SHAPE": "round"}


def test_a_fresh_request_brings_the_newest_gateway_token() -> None:
    assert counts(town(kilocode_token=Secret("of-the-town"))).gateway == Secret("kilo-token")


def test_for_a_resumed_agent_the_live_gateway_token_wins_over_the_stored_one() -> None:
    live = LiveCredentials(CREDENTIALS)
    live.replace_town(TownConfig(kilocode_token=Secret("live")))
    assert counts(live.current, {"KILOCODE_TOKEN": "older"}).gateway == Secret("live")


def test_a_registry_entrys_environment_fills_what_the_request_lacks() -> None:
    stored = {"KILOCODE_TOKEN": "stored", "COLOUR": "red"}
    assert counts(inherited=stored, envVars={}).gateway == Secret("stored")
    assert counts(inherited=stored).gateway == Secret("kilo-token")
    assert shell(inherited=stored, envVars={})["COLOUR"] == "red"


def test_a_registry_entrys_environment_cannot_name_another_agent_or_role() -> None:
    stored = {"GASTOWN_AGENT_ROLE": "mayor", "GASTOWN_AGENT_ID": "b", "PATH": "/evil", "LD_PRELOAD": "x"}
    assert shell(inherited=stored) == shell(inherited={})


@pytest.mark.parametrize("field", ["argv", "cwd", "home", "env", "required_tools", "user"])
def test_two_specs_are_equal_only_if_everything_is(field: str) -> None:
    user = User(7, 8, "agent", takes_from=range(7, 9))
    one = ServerSpec(("kilo",), "/w", "/h", {"A": "1"}, frozenset({"t"}), user)
    others = {"argv": ("k",), "cwd": "/x", "home": "/y", "env": {"A": "2"}, "required_tools": frozenset()}
    value = {**others, "user": dataclasses.replace(user, umask=0)}[field]
    other = dataclasses.replace(one, **{field: value})
    assert one.fingerprint != other.fingerprint
    assert one.differences(other) == ("env.A" if field == "env" else field,)
