"""A town whose agents have no credential of it: what they get instead, and what a rotation does to them."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import httpx2
import pytest
import trio

from gastown.contract.secret import Secret
from gastown.testing.asgi import Frames, answer, app_of
from gastown.testing.town import FakeTown

pytestmark = pytest.mark.virtual_time

ENV = {
    "KILOCODE_TOKEN": "canary-gateway",
    "GIT_TOKEN": "canary-git",
    "GITHUB_CLI_PAT": "canary-pat",
    "SHIP": "one",
}
PRIME = "/api/towns/oak/rigs/rig-1/agents/{}/prime"


def config(**keys: Any) -> dict[str, str]:
    return {"X-Town-Config": json.dumps({"kilocode_token": "canary-gateway", **keys})}


def bearer(town: FakeTown, agent_id: str) -> str:
    return town.kilo.server(agent_id).spec.env["KILOCODE_TOKEN"]


def as_agent(town: FakeTown, agent_id: str) -> httpx2.AsyncClient:
    """A client of the broker with what the agent's server was given, and no more."""
    client = town.network.client(town.kilo.server(agent_id).spec.env["GASTOWN_API_URL"])
    client.headers["authorization"] = f"Bearer {bearer(town, agent_id)}"
    return client


async def test_a_server_holds_no_credential_of_the_town(town_on_fakes) -> None:
    async with town_on_fakes(gastown_session_token="canary-session") as town:
        town.opened.town.services.credentials.replace_token(Secret("canary-container"))
        await town.start("pole-1", envVars=ENV, headers=config(git_auth={"gitlab_token": "canary-gitlab"}))
        env = town.kilo.server("pole-1").spec.env
        assert "canary" not in json.dumps(dict(env))
        assert len({env[n] for n in ("KILOCODE_TOKEN", "GASTOWN_CONTAINER_TOKEN", "GASTOWN_SESSION_TOKEN")}) == 1
        assert {env[n] for n in ("GASTOWN_API_URL", "KILO_API_URL", "GASTOWN_BROKER_URL")} == {"http://broker"}
        assert "canary" not in town.log.getvalue()
        assert bearer(town, "pole-1") not in town.log.getvalue()


async def test_the_registry_keeps_the_real_credentials_for_the_next_container(town_on_fakes) -> None:
    async with town_on_fakes() as town:
        await town.hydrated()
        await town.start("pole-1", envVars=ENV)
        await town.opened.registry.flushed()
        [entry] = town.worker.registries[-1]
        assert entry["env"]["KILOCODE_TOKEN"] == "canary-gateway"
        assert entry["env"]["GIT_TOKEN"] == "canary-git"
        assert bearer(town, "pole-1") not in json.dumps(entry)


async def test_a_mayors_start_finds_the_server_that_was_prewarmed_for_it(town_on_fakes) -> None:
    async with town_on_fakes() as town:
        town.mayor_known()
        await town.hydrated()
        assert (await town.start("mayor-1")).status_code == 201
        assert len(town.kilo.spawns) == 1
        assert town.logged("server.unequal") == []


async def test_a_refresh_is_live_for_nine_agents_without_a_restart_and_in_no_time(town_on_fakes) -> None:
    async with town_on_fakes(gastown_spawn_slots=9) as town:
        names = ["mayor-1", *(f"pole-{number}" for number in range(8))]
        for name in names:
            assert (await town.start(name)).status_code == 201
        servers = list(town.kilo.live)
        asked = await town.client.post("/refresh-token", json={"token": "third"})
        body = asked.json()
        assert (body["agentsRestarted"], body["agentsFailed"]) == (0, 0)
        assert [one["agentId"] for one in body["results"]] == names
        assert {(one["success"], one["mode"], one["durationMs"]) for one in body["results"]} == {(True, "live", 0)}
        assert town.kilo.live == servers
        await as_agent(town, "pole-3").get(PRIME.format("pole-3"))
        assert [call.bearer for call in town.worker.asked("GET /prime")] == ["third"]


async def test_a_new_gateway_token_and_organisation_are_on_the_next_call_of_every_agent(town_on_fakes) -> None:
    async with town_on_fakes(kilo_api_url="http://gateway") as town:
        seen: list[tuple[str, str, str | None]] = []

        async def gateway(asked: Any) -> Any:
            organization = asked.headers.get("x-kilocode-organizationid")
            seen.append((asked.path, asked.headers["authorization"], organization))
            return answer({"data": []})

        town.network.serve(app_of(gateway), "gateway")
        await town.start("pole-1", envVars=ENV, organizationId="org-1", headers=config(organization_id="org-0"))
        client = as_agent(town, "pole-1")
        await client.get("/api/openrouter/models")
        newer = config(kilocode_token="canary-new", organization_id="org-2")
        synced = await town.client.post("/sync-config", json={}, headers=newer)
        await client.get("/api/openrouter/models")
        await town.client.patch("/agents/pole-1/model", json={"model": "test/large", "organizationId": None})
        await client.get("/api/openrouter/models")
        assert synced.json() == {
            "synced": True,
            "results": [{"agentId": "pole-1", "success": True, "durationMs": 0, "mode": "live"}],
        }
        assert seen == [
            ("/api/organizations/org-1/models", "Bearer canary-gateway", "org-1"),
            ("/api/organizations/org-2/models", "Bearer canary-new", "org-2"),
            ("/api/openrouter/models", "Bearer canary-new", None),
        ]
        assert len(town.kilo.spawns) == 1


async def test_the_shells_variables_are_live_and_one_that_is_gone_is_gone(town_on_fakes) -> None:
    async with town_on_fakes() as town:
        await town.start("pole-1", envVars=ENV, headers=config(env_vars={"COLOUR": "red", "PATH": "/evil"}))
        client = as_agent(town, "pole-1")
        before = (await client.get("/broker/environment")).json()["variables"]
        newer = config(env_vars={"SHAPE": "round"}, github_cli_pat="canary-newer")
        await town.client.post("/sync-config", headers=newer)
        after = (await client.get("/broker/environment")).json()["variables"]
        assert before == {"SHIP": "one", "COLOUR": "red", "GH_TOKEN": "canary-pat"}
        assert after == {"SHIP": "one", "SHAPE": "round", "GH_TOKEN": "canary-newer"}


async def test_what_is_frozen_in_a_server_replaces_it_at_the_end_of_the_turn_and_says_why(town_on_fakes) -> None:
    async with town_on_fakes() as town:
        await town.start("pole-1")
        old = town.kilo.server("pole-1")
        synced = await town.client.post("/sync-config", headers=config(git_author_name="Ada"))
        [result] = synced.json()["results"]
        assert (result["success"], result["mode"]) == (True, "restart")
        assert "env.GIT_AUTHOR_NAME" in result["reason"]
        assert town.kilo.live == [old]
        await old.ended.wait()
        new = town.kilo.server("pole-1")
        assert new.spec.env["GIT_AUTHOR_NAME"] == "Ada"
        assert new.spec.env["KILOCODE_TOKEN"] == old.spec.env["KILOCODE_TOKEN"]
        assert [s for s in town.logged("agent.restarted") if s["turn_resumed"]] == []


async def test_the_bearer_of_an_agent_that_has_ended_is_dead_and_its_next_start_has_another(town_on_fakes) -> None:
    async with town_on_fakes() as town:
        await town.start("pole-1")
        client, first = as_agent(town, "pole-1"), bearer(town, "pole-1")
        assert (await client.get("/broker/environment")).status_code == 200
        await town.client.post("/agents/pole-1/stop")
        assert (await client.get("/broker/environment")).status_code == 401
        await town.start("pole-1")
        assert bearer(town, "pole-1") != first
        assert (await client.get("/broker/environment")).status_code == 401


@asynccontextmanager
async def words(town: FakeTown, agent_id: str) -> AsyncIterator[AsyncIterator[bytes]]:
    """An answer of the model's that never ends, as the agent reads it; a word has come."""
    send, receive = trio.open_memory_channel[str](10)

    async def gateway(_: Any) -> Any:
        return Frames(receive)

    town.network.serve(app_of(gateway), "gateway")
    send.send_nowait("data: one\n\n")
    async with as_agent(town, agent_id).stream("POST", "/api/openrouter/chat/completions", json={}) as response:
        pieces = response.aiter_raw()
        assert await anext(pieces) == b"data: one\n\n"
        yield pieces


@pytest.mark.parametrize("end", ["stop", "crash"])
async def test_an_agent_that_ends_is_cut_off_before_its_server_has_left(town_on_fakes, end: str) -> None:
    async with town_on_fakes(kilo_api_url="http://gateway") as town:
        await town.start("pole-1")
        town.kilo.stop_seconds = 5
        client, server = as_agent(town, "pole-1"), town.kilo.server("pole-1")
        async with words(town, "pole-1") as pieces:
            if end == "stop":
                town.later(lambda: town.client.post("/agents/pole-1/stop"))
            else:
                town.kilo.kill(server)
            with trio.fail_after(1), pytest.raises(httpx2.RemoteProtocolError):
                await anext(pieces)
        assert (await client.get("/broker/environment")).status_code == 401
        assert (server.ended.is_set(), trio.current_time() - server.spawn.began < 10) == (end == "crash", True)


async def test_an_agent_that_goes_on_in_the_next_container_is_cut_off_when_its_server_has_left(
    town_on_fakes,
) -> None:
    async with town_on_fakes(kilo_api_url="http://gateway") as town:
        await town.start("pole-1")
        town.kilo.stop_seconds = 5
        client, roster = as_agent(town, "pole-1"), town.opened.town.roster
        async with words(town, "pole-1") as pieces:
            roster.evict(roster.get("pole-1"))
            await trio.sleep(4)
            assert (await client.get("/broker/environment")).status_code == 200
            with trio.fail_after(2), pytest.raises(httpx2.RemoteProtocolError):
                await anext(pieces)
        assert (await client.get("/broker/environment")).status_code == 401


async def test_a_mayor_that_comes_back_after_a_crash_has_the_bearer_that_it_had(town_on_fakes) -> None:
    async with town_on_fakes() as town:
        await town.start("mayor-1")
        client, first = as_agent(town, "mayor-1"), town.kilo.server("mayor-1")
        town.kilo.kill(first)
        await trio.sleep(10)
        assert town.kilo.server("mayor-1") is not first
        assert (await client.get("/broker/environment")).status_code == 200


async def test_a_start_that_replaces_another_one_goes_on_with_its_server_and_bearer(town_on_fakes) -> None:
    async with town_on_fakes() as town:
        await town.start("pole-1")
        first = bearer(town, "pole-1")
        await town.start("pole-1")
        assert (len(town.kilo.spawns), bearer(town, "pole-1")) == (1, first)
        assert (await as_agent(town, "pole-1").get("/broker/environment")).status_code == 200


async def test_an_expired_container_token_is_renewed_for_an_agents_call(town_on_fakes) -> None:
    async with town_on_fakes() as town:
        await town.start("pole-1")
        primed: list[str] = []

        async def worker(asked: Any) -> Any:
            if asked.path.endswith("/refresh-container-token"):
                return answer({"success": True, "data": {"token": "fresh"}})
            if asked.path.endswith("/prime"):
                primed.append(asked.headers["authorization"])
            stale = asked.headers["authorization"] == "Bearer stale"
            return answer({"success": not stale}, 401 if stale else 200)

        town.network.serve(app_of(worker), "worker")
        town.network.cut("worker")
        town.opened.town.services.credentials.replace_token(Secret("stale"))
        reply = await as_agent(town, "pole-1").get(PRIME.format("pole-1"))
        assert reply.json() == {"success": True}
        assert primed == ["Bearer stale", "Bearer fresh"]
