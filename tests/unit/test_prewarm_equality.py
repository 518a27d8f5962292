"""The server of a prewarmed mayor is the server that the mayor's start will ask for."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from gastown.agents.launch.desired import ContainerDefaults, Desired, effective
from gastown.agents.launch.environment import BrokerEndpoint, ChildDefaults, derive
from gastown.boot.prewarm import expected_request
from gastown.contract.agents import StartAgentRequest
from gastown.contract.secret import Secret, reveal_json
from gastown.contract.town import GitAuth, TownConfig
from gastown.contract.worker import MayorContext
from gastown.hall.domain.town import TownRecord, mayor_context, mayor_start_request, town_config
from gastown.worker.tokens import Credentials, LiveCredentials

HALL = "http://hall.test:9000"
WORKDIR = "/workspace/rigs/mayor-oak/mayor-workspace"
DEFAULTS = ChildDefaults(
    kilo_bin="/bin/kilo",
    home_root="/tmp",
    base_env={"PATH": "/bin"},
    parent_pid=7,
    counts=ContainerDefaults(Secret("of-the-container"), "of-the-container"),
    mayor_tools=frozenset({"gt_sling"}),
)
BROKER = BrokerEndpoint("http://broker.test", Secret("bearer"))
PLAIN = TownRecord(id="oak", name="Oak", mayor_agent_id="mayor-1", kilocode_token=Secret("kilo-token"))
GIT = GitAuth(github_token="gh", gitlab_token="gl", gitlab_instance_url="https://gl.test")
TOWNS: dict[str, dict[str, Any]] = {
    "nothing set": {},
    "organisation": {"organization_id": "org-1"},
    "models": {"default_model": "town/large", "small_model": "town/small"},
    "model of the role": {"default_model": "town/large", "role_models": {"mayor": "role/mayor"}},
    "git tokens": {"git_auth": GIT},
    "personal access token": {"github_cli_pat": Secret("pat")},
    "author": {"git_author_name": "Ann", "git_author_email": "ann@x.test"},
    "author without address": {"git_author_name": "Ann"},
    "author without co-author": {"git_author_name": "Ann", "disable_ai_coauthor": True},
    "custom variables": {"env_vars": {"COLOUR": Secret("green"), "EMPTY": Secret("")}},
    "custom variables that are reserved": {
        "env_vars": {name: Secret("evil") for name in ("PATH", "GH_TOKEN", "LD_PRELOAD")}
    },
}
TOWNS["everything"] = {key: value for changes in TOWNS.values() for key, value in changes.items()}


def warmed(live: LiveCredentials, context: MayorContext) -> tuple[str, dict[str, str]]:
    """The server of the prewarm: fingerprint and environment."""
    live.adopt_context(context)
    spec = derive(expected_request(context, "oak"), WORKDIR, live.current, DEFAULTS, endpoint=BROKER)
    return spec.fingerprint, dict(spec.env)


def started(live: LiveCredentials, config: TownConfig, request: StartAgentRequest) -> tuple[str, dict[str, str]]:
    """The server of the start, after the config that came with it."""
    live.replace_town(config)
    spec = derive(request, WORKDIR, live.current, DEFAULTS, endpoint=BROKER)
    return spec.fingerprint, dict(spec.env)


def over_the_wire(model: Any) -> Any:
    return type(model).model_validate(reveal_json(model, by_alias=True, exclude_unset=True))


@pytest.mark.parametrize("name", TOWNS)
def test_the_start_of_a_town_finds_the_server_that_was_prewarmed_for_it(name: str) -> None:
    """Both sides as they come over the wire, and one pair of live credentials as in a container."""
    town = dataclasses.replace(PLAIN, **TOWNS[name])
    live = LiveCredentials(Credentials(container_token=Secret("jwt"), session_token=Secret("session")))
    context = over_the_wire(mayor_context(town))
    prewarm = warmed(live, context)
    start = started(
        live,
        over_the_wire(town_config(town, HALL)),
        over_the_wire(mayor_start_request(mayor_context(town), town, "Hello")),
    )
    assert start == prewarm


@pytest.mark.parametrize("name", TOWNS)
def test_so_does_a_start_that_brings_no_config(name: str) -> None:
    town = dataclasses.replace(PLAIN, **TOWNS[name])
    live = LiveCredentials(Credentials(container_token=Secret("jwt"), session_token=Secret("session")))
    prewarm = warmed(live, over_the_wire(mayor_context(town)))
    request = over_the_wire(mayor_start_request(mayor_context(town), town, "Hello"))
    spec = derive(request, WORKDIR, live.current, DEFAULTS, endpoint=BROKER)
    assert (spec.fingerprint, dict(spec.env)) == prewarm


def older_worker(**changes: Any) -> MayorContext:
    """The answer of a worker that knows the first keys of the contract only, and no organisation."""
    known = {"success": True, "agentId": "mayor-1", "model": "m/large", "kilocodeToken": "kilo-token"}
    return MayorContext.model_validate(known | changes)


def older_start(**changes: Any) -> StartAgentRequest:
    body = {
        "agentId": "mayor-1",
        "rigId": "mayor-oak",
        "townId": "oak",
        "role": "mayor",
        "name": "mayor",
        "identity": "the mayor",
        "prompt": "Hello",
        "model": "m/large",
        "gitUrl": "",
        "branch": "",
        "defaultBranch": "",
        "envVars": {"KILOCODE_TOKEN": "kilo-token"},
    }
    return StartAgentRequest.model_validate(body | changes)


@pytest.mark.parametrize(
    ("context", "request_changes"),
    [
        ({}, {}),
        ({"organizationId": None}, {"organizationId": None}),
        ({"organizationId": "org-1"}, {"organizationId": "org-1"}),
        ({"smallModel": "m/small"}, {"smallModel": "m/small"}),
        (
            {"githubToken": "gh", "githubCliPat": "pat"},
            {
                "envVars": {
                    "KILOCODE_TOKEN": "kilo-token",
                    "GIT_TOKEN": "gh",
                    "GITHUB_TOKEN": "gh",
                    "GITHUB_CLI_PAT": "pat",
                }
            },
        ),
    ],
)
def test_a_start_made_by_hand_from_the_contract_finds_the_prewarmed_server(
    context: dict[str, Any], request_changes: dict[str, Any]
) -> None:
    live = LiveCredentials(Credentials(container_token=Secret("jwt")))
    prewarm = warmed(live, older_worker(**context))
    spec = derive(older_start(**request_changes), WORKDIR, live.current, DEFAULTS, endpoint=BROKER)
    assert (spec.fingerprint, dict(spec.env)) == prewarm


@pytest.mark.parametrize(("context", "expected"), [({}, "of-the-container"), ({"organizationId": None}, None)])
def test_an_older_workers_silence_leaves_the_organisation_to_the_environment_and_a_null_is_final(
    context: dict[str, Any], expected: str | None
) -> None:
    live = LiveCredentials(Credentials())
    told = older_worker(**context)
    live.adopt_context(told)
    desired = Desired(expected_request(told, "oak"), live.next_generation())
    assert effective(desired, live.current, DEFAULTS.counts).organization == expected


@pytest.mark.parametrize(
    ("changes", "differing"),
    [
        ({"model": "m/other"}, ("env.KILO_CONFIG_CONTENT", "env.OPENCODE_CONFIG_CONTENT")),
        (
            {"name": "Ada"},
            tuple(f"env.GIT_{who}_{what}" for who in ("AUTHOR", "COMMITTER") for what in ("EMAIL", "NAME")),
        ),
    ],
)
def test_where_a_start_differs_the_log_can_name_what(changes: dict[str, Any], differing: tuple[str, ...]) -> None:
    live = LiveCredentials(Credentials())
    context = older_worker()
    live.adopt_context(context)
    one = derive(expected_request(context, "oak"), WORKDIR, live.current, DEFAULTS, endpoint=BROKER)
    other = derive(older_start(**changes), WORKDIR, live.current, DEFAULTS, endpoint=BROKER)
    assert one.differences(other) == differing
