"""What a server is started with when it has a door to the broker."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from gastown.agents.launch.broker_access import AgentAccess
from gastown.agents.launch.desired import Desired
from gastown.agents.launch.environment import BrokerEndpoint, ChildDefaults, derive
from gastown.broker.grants import Gateway
from gastown.contract.agents import StartAgentRequest
from gastown.contract.secret import Secret
from gastown.contract.town import GitAuth, TownConfig
from gastown.git.access import HelperAccess
from gastown.isolation.users import User
from gastown.kilo.spec import ServerSpec
from gastown.testing.town import start_request
from gastown.worker.tokens import Credentials, LiveCredentials

DOOR = BrokerEndpoint("http://127.0.0.1:7777", Secret("gtb.a.b"))
DEFAULTS = ChildDefaults(kilo_bin="/bin/kilo", home_root="/tmp", base_env={"PATH": "/bin"}, parent_pid=7)
REQUEST = StartAgentRequest.model_validate(start_request("pole-1"))
RESUMED = {"KILOCODE_TOKEN": Secret("of-the-registry")}


def spec(live: Credentials, defaults: ChildDefaults = DEFAULTS) -> ServerSpec:
    return derive(REQUEST, "/w", live, defaults, endpoint=DOOR)


@pytest.mark.parametrize(
    "changes",
    [
        {"container_token": Secret("new")},
        {"session_token": Secret("new")},
        {"town": TownConfig(kilocode_token=Secret("new"), organization_id="org-2")},
        {
            "town": TownConfig(
                git_auth=GitAuth(github_token="new", gitlab_token="new"), github_cli_pat=Secret("new")
            )
        },
        {"town": TownConfig(env_vars={"COLOUR": "red"}, gastown_api_url="http://elsewhere")},
        {"retired_names": frozenset({"COLOUR"})},
    ],
)
def test_what_rotates_does_not_change_the_server(changes: dict[str, Any]) -> None:
    assert spec(Credentials(**changes)) == spec(Credentials(container_token=Secret("old")))


def test_an_author_does() -> None:
    changed = Credentials(town=TownConfig(git_author_name="Ada"))
    assert "env.GIT_AUTHOR_NAME" in spec(Credentials()).differences(spec(changed))


@pytest.mark.parametrize(
    ("base", "expected"),
    [
        ({}, None),
        ({"HTTPS_PROXY": "http://proxy"}, None),
        ({"HTTP_PROXY": "http://proxy"}, "127.0.0.1"),
        ({"http_proxy": "http://proxy", "no_proxy": "a.test"}, "a.test,127.0.0.1"),
        ({"ALL_PROXY": "http://proxy", "NO_PROXY": "b.test"}, "b.test,127.0.0.1"),
    ],
)
def test_a_proxy_is_not_asked_for_the_broker(base: dict[str, str], expected: str | None) -> None:
    env = spec(Credentials(), dataclasses.replace(DEFAULTS, base_env={"PATH": "/bin", **base})).env
    assert (env.get("NO_PROXY"), env.get("no_proxy")) == (expected, expected)


@pytest.mark.parametrize("inherited", [None, RESUMED], ids=["fresh", "resumed"])
def test_the_newest_word_on_the_organisation_wins_whoever_said_it(inherited: dict[str, Secret] | None) -> None:
    request = REQUEST.model_copy(update={"organization_id": "of-the-request"})
    live = LiveCredentials(Credentials(town=TownConfig(organization_id="of-the-town")))
    desired = Desired(request, live.next_generation())
    if inherited is not None:
        desired = Desired.stored(request, inherited)
    access = AgentAccess(lambda: desired, live, DEFAULTS)
    said = [access.gateway().organization]
    live.replace_town(TownConfig(organization_id="newer"))
    said.append(access.gateway().organization)
    desired = desired.change(live.next_generation(), {"organization_id": "newest"})
    said.append(access.gateway().organization)
    assert said == ["of-the-request", "newer", "newest"]


def test_a_resumed_agents_token_is_the_towns_and_else_what_the_registry_had() -> None:
    bare = REQUEST.model_copy(update={"env_vars": {}})
    live = LiveCredentials(Credentials())
    access = AgentAccess(lambda: Desired.stored(bare, RESUMED), live, DEFAULTS)
    before = access.gateway()
    live.replace_town(TownConfig(kilocode_token=Secret("of-the-town")))
    assert (before, access.gateway()) == (
        Gateway(Secret("of-the-registry"), None),
        Gateway(Secret("of-the-town"), None),
    )


@pytest.mark.parametrize("user", [None, User(7, 8, "agent")])
def test_no_custom_variable_takes_the_place_of_one_of_the_servers(user: User | None) -> None:
    """Those of the shell come later than those of the server: they would win."""
    base = {"PATH": "/bin", "HTTPS_PROXY": "http://proxy", "ALL_PROXY": "http://proxy"}
    defaults = dataclasses.replace(DEFAULTS, base_env=base, git=HelperAccess("/nonexistent", b"secret"))
    env = derive(REQUEST, "/w", Credentials(), defaults, endpoint=DOOR, user=user).env
    custom = {name: Secret("custom") for name in (*env, "COLOUR")}
    request = REQUEST.model_copy(update={"env_vars": custom})
    access = AgentAccess(lambda: Desired(request, 10), LiveCredentials(Credentials()), defaults, user)
    assert {"GIT_CONFIG_COUNT", "NO_PROXY"} <= set(env)
    assert access.variables().keys() - {"GH_TOKEN"} == {"COLOUR"}


def test_neither_a_door_nor_a_gateway_shows_its_secret() -> None:
    assert "gtb" not in repr(DOOR)
    assert "secret" not in repr(Gateway(Secret("secret"), None))
