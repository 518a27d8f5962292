"""No answer and no log line ever carries a credential, wherever it came from.

The log of these tests is given no list of live secrets: what does not look like a token must not get there at all.
"""

from __future__ import annotations

import json
from functools import partial
from typing import Any

import pytest
import trio

from gastown.main import _secrets
from tests.fakes.kilo import Script
from tests.fakes.launchers import CrashingKilo, FailingPromptKilo, FakeLauncher, Fate
from tests.fakes.town import FakeTown, start_request

pytestmark = pytest.mark.virtual_time

NAMES = (
    "container session kilo-of-the-container kilo-of-the-header github-of-the-header gitlab-of-the-header "
    "pat-of-the-header custom-of-the-header kilo-of-the-request custom-of-the-request kilo-of-the-entry "
    "custom-of-the-entry kilo-of-the-context github-of-the-context pat-of-the-context custom-of-the-context "
    "refreshed password-in-an-address"
)
CANARY = {name: f"canary-{name}" for name in NAMES.split()}
SETTINGS = {
    "gastown_container_token": CANARY["container"],
    "gastown_session_token": CANARY["session"],
    "kilocode_token": CANARY["kilo-of-the-container"],
}
HEADER = {
    "X-Town-Config": json.dumps(
        {
            "kilocode_token": CANARY["kilo-of-the-header"],
            "git_auth": {
                "github_token": CANARY["github-of-the-header"],
                "gitlab_token": CANARY["gitlab-of-the-header"],
                "gitlab_instance_url": f"https://user:{CANARY['password-in-an-address']}@gl.test",
            },
            "github_cli_pat": CANARY["pat-of-the-header"],
            "env_vars": {"CUSTOM": CANARY["custom-of-the-header"]},
        }
    )
}
VARIABLES = {"KILOCODE_TOKEN": CANARY["kilo-of-the-request"], "CUSTOM": CANARY["custom-of-the-request"]}
ADDRESS = f"https://user:{CANARY['password-in-an-address']}@git.test/r.git"


def plant(town: FakeTown) -> None:
    """Put canaries where the worker keeps its secrets."""
    town.mayor_known(
        kilocodeToken=CANARY["kilo-of-the-context"],
        githubToken=CANARY["github-of-the-context"],
        githubCliPat=CANARY["pat-of-the-context"],
        envVars={"CUSTOM": CANARY["custom-of-the-context"]},
    )
    stored = {"KILOCODE_TOKEN": CANARY["kilo-of-the-entry"], "CUSTOM": CANARY["custom-of-the-entry"]}
    town.worker.registry = [
        town.entry("pole-1", envVars=VARIABLES, env=stored, gitUrl=ADDRESS),
        {"agentId": "pole-2", "request": {"envVars": VARIABLES}, "workdir": "/w", "env": stored},
    ]


def with_secrets(town: FakeTown, agent_id: str, **changes: Any) -> Any:
    return town.start(agent_id, envVars=VARIABLES, gitUrl=ADDRESS, headers=HEADER, **changes)


async def everything_said(town: FakeTown, *texts: str) -> str:
    """What all routes that tell something say about every agent, with `texts`, and the log."""
    agents = (f"/agents/{name}" for name in ("mayor-1", "pole-1", "pole-2", "pole-3"))
    paths = ["/health", "/openapi.json", *(f"{agent}/{what}" for agent in agents for what in ("status", "events"))]
    said = [(await town.client.get(path)).text for path in paths]
    return "".join((*texts, *said, town.log.getvalue()))


def found(text: str) -> list[str]:
    return [name for name, canary in CANARY.items() if canary in text]


async def test_a_town_that_goes_well_tells_none(town_on_fakes) -> None:
    async with town_on_fakes(**SETTINGS) as town:
        plant(town)
        await town.hydrated()
        answers = [
            await with_secrets(town, "mayor-1"),
            await with_secrets(town, "pole-3"),
            await town.client.post("/refresh-token", json={"token": CANARY["refreshed"]}, headers=HEADER),
            await town.client.patch(
                "/agents/pole-3/model", json={"model": "test/large", "smallModel": "x"}, headers=HEADER
            ),
            await town.client.post("/agents/pole-3/message", json={"prompt": "x"}, headers=HEADER),
            await town.client.post("/agents/pole-3/stop", json={}, headers=HEADER),
        ]
        assert [answer.status_code for answer in answers] == [201, 201, 200, 200, 200, 200]
        await trio.sleep(30)
        assert found(await everything_said(town, *(answer.text for answer in answers))) == []


async def test_the_password_of_a_server_is_told_to_nobody_and_stands_in_no_address(town_on_fakes) -> None:
    async with town_on_fakes(**SETTINGS) as town:
        answers = [
            await with_secrets(town, "mayor-1"),
            await town.client.post("/agents/mayor-1/pty"),
            await town.client.get("/agents/mayor-1/pty"),
        ]
        assert [answer.status_code for answer in answers] == [201, 200, 200]
        server = town.kilo.server("mayor-1")
        said = await everything_said(town, *(answer.text for answer in answers))
        asked = [(one.path, sorted(one.query.items())) for one in server.kilo.asked]
        for secret in server.endpoint.secrets():
            assert secret not in said + repr((server.spec.argv, asked, server.endpoint))
        assert server.endpoint.password not in json.dumps(dict(server.spec.env))
        # But the log knows what to look for, and the terminal has what it needs.
        assert set(server.endpoint.secrets()) <= set(_secrets(town.settings, town.opened.town.services))
        [terminal] = server.kilo.ptys.all.values()
        assert terminal.body["env"] == {"GASTOWN_TERMINAL_PASSWORD": server.endpoint.password}


async def test_the_children_did_get_them(town_on_fakes) -> None:
    """So that the other tests look for something that is there."""
    async with town_on_fakes(**SETTINGS) as town:
        plant(town)
        await town.hydrated()
        await with_secrets(town, "pole-3")
        got = "".join(value for spawn in town.kilo.spawns for value in spawn.spec.env.values())
        assert set(found(got)) >= {
            "container",
            "session",
            "kilo-of-the-context",
            "github-of-the-context",
            "custom-of-the-context",
            "kilo-of-the-request",
            "github-of-the-header",
            "pat-of-the-header",
            "custom-of-the-header",
        }


FAILURES = {
    "the server crashes": CrashingKilo,
    "the gateway refuses": partial(FailingPromptKilo, status=401),
    "the server never comes up": lambda network: FakeLauncher(network, 100),
    "a route fails": lambda network: FakeLauncher(network, script=Script(broken=frozenset({"POST /session"}))),
    "the turn never opens": lambda network: FakeLauncher(network, script=Script(never_opens_turn=True)),
}


@pytest.mark.parametrize("failure", FAILURES)
async def test_a_start_that_fails_tells_none(town_on_fakes, failure: str) -> None:
    async with town_on_fakes(kilo=FAILURES[failure], **SETTINGS) as town:
        plant(town)
        await town.hydrated()
        answer = await with_secrets(town, "pole-3")
        assert answer.status_code in (500, 504)
        assert found(await everything_said(town, answer.text)) == []


@pytest.mark.parametrize(
    "route", ["GET /container-registry", "GET /mayor-id", "GET /db-snapshot", "POST /container-registry"]
)
@pytest.mark.parametrize("fault", ["status", "garbage"])
async def test_a_worker_that_fails_makes_nobody_tell_one(town_on_fakes, route: str, fault: str) -> None:
    async with town_on_fakes(**SETTINGS) as town:
        plant(town)
        if fault == "status":
            town.worker.statuses[route] = 500
        else:
            town.worker.garbage.add(route)
        await town.hydrated()
        await trio.sleep(30)
        assert found(await everything_said(town)) == []


async def test_an_unequal_server_is_told_by_names_only(town_on_fakes) -> None:
    async with town_on_fakes(**SETTINGS) as town:
        plant(town)
        await town.hydrated()
        await with_secrets(town, "mayor-1", model="test/another")
        (line,) = town.logged("server.unequal")
        assert "env.KILOCODE_TOKEN" in line["differences"]
        assert found(town.log.getvalue()) == []


async def test_a_request_that_is_wrong_is_not_quoted(town_on_fakes) -> None:
    async with town_on_fakes(**SETTINGS) as town:
        wrong = start_request(
            "pole-1", envVars=VARIABLES | {"": CANARY["custom-of-the-request"]}, gitUrl=[ADDRESS]
        )
        answers = [
            await town.client.post("/agents/start", json=wrong, headers=HEADER),
            await town.client.post("/refresh-token", json={"token": [CANARY["refreshed"]]}),
            await town.client.post("/refresh-token", json={"token": f"{CANARY['refreshed']} with a space"}),
            await town.client.post("/refresh-token", content=f'{{"token": "{CANARY["refreshed"]}"'.encode()),
            await town.client.post(
                "/sync-config",
                headers={"X-Town-Config": f'{{"kilocode_token": ["{CANARY["kilo-of-the-header"]}"]}}'},
            ),
            await town.client.post("/sync-config", headers={"X-Town-Config": CANARY["kilo-of-the-header"]}),
        ]
        assert [answer.status_code for answer in answers] == [400, 400, 400, 400, 200, 200]
        assert found(await everything_said(town, *(answer.text for answer in answers))) == []


async def test_a_refresh_that_fails_tells_none(town_on_fakes) -> None:
    async with town_on_fakes(**SETTINGS) as town:
        await with_secrets(town, "pole-3")
        town.kilo.fate = lambda _: Fate(float("inf"))
        answer = await town.client.post("/refresh-token", json={"token": CANARY["refreshed"]}, headers=HEADER)
        assert answer.json()["agentsFailed"] == 1
        assert found(await everything_said(town, answer.text)) == []


async def test_a_crash_of_ours_tells_none(town_on_fakes, monkeypatch: pytest.MonkeyPatch) -> None:
    async with town_on_fakes(**SETTINGS) as town:

        def crash(*_: Any, **__: Any) -> None:
            raise RuntimeError("a bug of ours")

        monkeypatch.setattr(town.opened.town.roster, "begin", crash)
        answer = await with_secrets(town, "pole-3")
        assert (answer.status_code, answer.json()) == (500, {"error": "Internal error; the log has the details"})
        assert "a bug of ours" in town.log.getvalue()
        assert found(await everything_said(town, answer.text)) == []
