"""What a town's configuration means for its mayor: the context, the dispatch, the header."""

from __future__ import annotations

import dataclasses
import json

import pytest

from gastown.contract.agents import StartAgentRequest
from gastown.contract.secret import Secret, reveal_json, reveal_map
from gastown.contract.town import GitAuth
from gastown.hall.domain.town import (
    DEFAULT_MODEL,
    DEFAULT_SMALL_MODEL,
    RigRecord,
    TownRecord,
    mayor_context,
    mayor_start_request,
    town_config,
)

TOWN = TownRecord(id="oak", name="Oak", mayor_agent_id="mayor-1", kilocode_token=Secret("kilo-secret"))
RIG = RigRecord(rig_id="r1", git_url="https://x.test/r.git", default_branch="main", model="rig/model")
FULL = dataclasses.replace(
    TOWN,
    organization_id="org-1",
    default_model="town/default",
    small_model="town/small",
    role_models={"mayor": "role/mayor", "polecat": "role/polecat"},
    git_auth=GitAuth(github_token="gh-secret", gitlab_token="gl-secret", gitlab_instance_url="https://gl.test"),
    github_cli_pat=Secret("pat-secret"),
    git_author_name="Ann",
    git_author_email="ann@x.test",
    disable_ai_coauthor=True,
    env_vars={"COLOUR": Secret("green")},
    rigs=(RIG,),
)


def sent(town: TownRecord) -> dict[str, object]:
    """The answer of `GET /mayor-id` as it leaves the hall."""
    return reveal_json(mayor_context(town), by_alias=True, exclude_unset=True)


def test_a_town_without_a_mayor_answers_with_a_null_id_alone() -> None:
    assert sent(dataclasses.replace(FULL, mayor_agent_id=None)) == {"success": True, "agentId": None}


@pytest.mark.parametrize("token", [None, ""])
def test_a_town_without_a_token_answers_with_the_id_alone(token: str | None) -> None:
    given = None if token is None else Secret(token)
    assert sent(dataclasses.replace(FULL, kilocode_token=given)) == {"success": True, "agentId": "mayor-1"}


def test_a_plain_town_answers_with_the_defaults_and_an_explicit_null_organisation() -> None:
    assert sent(TOWN) == {
        "success": True,
        "agentId": "mayor-1",
        "model": DEFAULT_MODEL,
        "smallModel": DEFAULT_SMALL_MODEL,
        "kilocodeToken": "kilo-secret",
        "organizationId": None,
        "disableAiCoauthor": False,
        "name": "mayor",
        "rigId": "mayor-oak",
    }


def test_a_configured_town_answers_with_all_that_it_has() -> None:
    assert sent(FULL) == {
        "success": True,
        "agentId": "mayor-1",
        "model": "role/mayor",
        "smallModel": "town/small",
        "kilocodeToken": "kilo-secret",
        "organizationId": "org-1",
        "githubToken": "gh-secret",
        "githubCliPat": "pat-secret",
        "gitlabToken": "gl-secret",
        "gitlabInstanceUrl": "https://gl.test",
        "gitAuthorName": "Ann",
        "gitAuthorEmail": "ann@x.test",
        "disableAiCoauthor": True,
        "envVars": {"COLOUR": "green"},
        "name": "mayor",
        "rigId": "mayor-oak",
    }


@pytest.mark.parametrize(
    ("role_models", "default_model", "model"),
    [
        ({}, None, "anthropic/claude-sonnet-4.6"),
        ({}, "", "anthropic/claude-sonnet-4.6"),
        ({}, "town/default", "town/default"),
        ({"polecat": "role/polecat"}, "town/default", "town/default"),
        ({"mayor": "role/mayor"}, "town/default", "role/mayor"),
        ({"mayor": "role/mayor"}, None, "role/mayor"),
        ({"mayor": ""}, "town/default", "town/default"),
    ],
)
def test_the_mayors_model_is_the_roles_else_the_towns_else_the_default(
    role_models: dict[str, str], default_model: str | None, model: str
) -> None:
    town = dataclasses.replace(TOWN, role_models=role_models, default_model=default_model)
    assert mayor_context(town).model == model


@pytest.mark.parametrize(("small", "model"), [(None, "anthropic/claude-haiku-4.5"), ("town/small", "town/small")])
def test_the_small_model_is_the_towns_else_the_default(small: str | None, model: str) -> None:
    assert mayor_context(dataclasses.replace(TOWN, small_model=small)).small_model == model


@pytest.mark.parametrize(("kept", "said"), [("org-1", "org-1"), (None, None), ("", None)])
def test_the_organisation_is_always_said_as_a_string_or_null(kept: str | None, said: str | None) -> None:
    context = mayor_context(dataclasses.replace(TOWN, organization_id=kept))
    assert (context.knows_organization, context.organization_id) == (True, said)


def test_a_rigs_model_never_reaches_the_mayor() -> None:
    assert sent(dataclasses.replace(TOWN, rigs=(RIG,))) == sent(TOWN)
    start = mayor_start_request(mayor_context(FULL), FULL, "hello")
    assert "rig/model" not in json.dumps(reveal_json(start))


@pytest.mark.parametrize("town", [TOWN, FULL], ids=["plain", "configured"])
def test_the_dispatch_brings_what_the_prewarm_was_told(town: TownRecord) -> None:
    context = mayor_context(town)
    start = mayor_start_request(context, town, "hello")
    assert start.agent_id == context.agent_id
    assert (start.name, start.rig_id) == (context.name, context.rig_id)
    assert (start.model, start.small_model) == (context.model, context.small_model)
    assert start.organization_id == context.organization_id
    assert start.env_vars["KILOCODE_TOKEN"] == context.kilocode_token


def test_the_dispatch_of_a_configured_town_carries_its_credentials_as_variables() -> None:
    start = mayor_start_request(mayor_context(FULL), FULL, "hello")
    assert reveal_map(start.env_vars) == {
        "COLOUR": "green",
        "KILOCODE_TOKEN": "kilo-secret",
        "GIT_TOKEN": "gh-secret",
        "GITHUB_TOKEN": "gh-secret",
        "GITHUB_CLI_PAT": "pat-secret",
        "GITLAB_TOKEN": "gl-secret",
        "GITLAB_INSTANCE_URL": "https://gl.test",
    }
    assert [rig.rig_id for rig in start.rigs] == ["r1"]


def test_the_dispatch_of_a_plain_town_carries_no_variable_that_is_not_there() -> None:
    start = mayor_start_request(mayor_context(TOWN), TOWN, "hello")
    assert reveal_map(start.env_vars) == {"KILOCODE_TOKEN": "kilo-secret"}


def test_a_custom_variable_never_replaces_a_credential() -> None:
    town = dataclasses.replace(TOWN, env_vars={"KILOCODE_TOKEN": Secret("forged")})
    start = mayor_start_request(mayor_context(town), town, "hello")
    assert start.env_vars["KILOCODE_TOKEN"] == Secret("kilo-secret")


def test_the_dispatch_is_a_start_of_a_mayor_that_survives_the_wire() -> None:
    start = mayor_start_request(mayor_context(FULL), FULL, "hello")
    assert (start.role, start.prompt, start.rig_id, start.town_id) == ("mayor", "hello", "mayor-oak", "oak")
    assert (start.git_url, start.branch, start.default_branch) == ("", "", "")
    assert start.system_prompt
    assert StartAgentRequest.model_validate(reveal_json(start, by_alias=True)) == start


@pytest.mark.parametrize("lack", [{"mayor_agent_id": None}, {"kilocode_token": None}])
def test_a_mayor_that_cannot_be_started_is_a_value_error(lack: dict[str, None]) -> None:
    town = dataclasses.replace(TOWN, **lack)
    with pytest.raises(ValueError, match="no mayor or no gateway token"):
        mayor_start_request(mayor_context(town), town, "hello")


def test_the_town_config_has_the_keys_of_the_header() -> None:
    assert reveal_json(town_config(FULL, "http://hall.test")) == {
        "kilocode_token": "kilo-secret",
        "git_auth": {
            "github_token": "gh-secret",
            "gitlab_token": "gl-secret",
            "gitlab_instance_url": "https://gl.test",
        },
        "github_cli_pat": "pat-secret",
        "git_author_name": "Ann",
        "git_author_email": "ann@x.test",
        "disable_ai_coauthor": True,
        "organization_id": "org-1",
        "env_vars": {"COLOUR": "green"},
        "town_id": "oak",
        "gastown_api_url": "http://hall.test",
    }


def test_no_secret_is_in_the_repr_of_a_town() -> None:
    assert "secret" not in repr(FULL)
