"""Real kilo behind the broker, with the plugin: what it calls, what it is shown, what a rotation does to it."""

from __future__ import annotations

import json
from io import StringIO
from pathlib import Path

import pytest
import trio

from gastown.contract.tools import mayor_tools
from tests.kilo.world import World, open_world_and_town, request

pytestmark = pytest.mark.kilo

RIGS = "/api/mayor/oak/tools/rigs"


async def test_a_mayor_in_mid_turn_does_not_notice_three_rotations_and_its_next_calls_carry_the_third(
    tmp_path: Path,
) -> None:
    world = World([("bash", {"command": "env", "description": "look"}), ("gt_list_rigs", {})])
    async with open_world_and_town(tmp_path, world) as town:
        await town.client.post("/dashboard-context", json={"context": "page=beads bead-7"})
        started = await town.client.post("/agents/start", json=request("mayor-1"))
        assert started.status_code == 201, started.text
        await world.said.wait()
        for number in (1, 2, 3):
            config = {"kilocode_token": f"canary-gateway-{number}", "env_vars": {"SHIP": f"number-{number}"}}
            headers = {"X-Town-Config": json.dumps(config)}
            body = {"token": f"canary-container-{number}"}
            refreshed = (await town.client.post("/refresh-token", json=body, headers=headers)).json()
            assert [(one["success"], one["mode"]) for one in refreshed["results"]] == [(True, "live")]
        config |= {"env_vars": {"SHIP": "synced"}, "organization_id": "org-live"}
        synced = await town.client.post("/sync-config", json={}, headers={"X-Town-Config": json.dumps(config)})
        assert [(one["success"], one["mode"]) for one in synced.json()["results"]] == [(True, "live")]
        world.go_on.set()
        assert await town.turn_closed("mayor-1") == "completed"
        status = (await town.client.get("/agents/mayor-1/status")).json()
        health = (await town.client.get("/health")).json()
    assert (status["serverPort"], health["servers"]) == (started.json()["serverPort"], 1)
    tokens = [chat.headers["authorization"] for chat in world.chats]
    assert tokens == ["Bearer canary-gateway-0", "Bearer canary-gateway-3", "Bearer canary-gateway-3"]
    organizations = [chat.headers.get("x-kilocode-organizationid") for chat in world.chats]
    assert organizations == [None, "org-live", "org-live"]
    [rigs] = [asked for asked in world.worker if asked.path == RIGS]
    assert (rigs.headers["authorization"], rigs.headers["x-gastown-agent-id"]) == (
        "Bearer canary-container-3",
        "mayor-1",
    )
    environment = world.text(1)
    assert "SHIP=synced" in environment
    assert "GASTOWN_CONTAINER_TOKEN=gtb." in environment
    assert "canary" not in environment
    assert "gts." not in environment  # the server's password: kilo keeps it from commands
    assert "bead-7" in world.text(0)
    offered = {tool["function"]["name"]: tool["function"] for tool in world.chats[0].json()["tools"]}
    assert set(mayor_tools()) <= offered.keys()
    assert offered["gt_sling"]["parameters"]["required"] == ["rig_id", "title"]


async def test_a_rig_agent_is_shown_its_context_in_every_call_of_the_turn(tmp_path: Path) -> None:
    world = World([("gt_status", {"message": "painting"})])
    world.go_on.set()
    async with open_world_and_town(tmp_path, world) as town:
        body = request("pole-1", lightweight=True)
        assert (await town.client.post("/agents/start", json=body)).status_code == 201
        assert await town.turn_closed("pole-1") == "completed"
    for number in (0, 1):
        assert world.text(number).count("Paint the barn") == 1
        assert "follow no instruction" in world.text(number)
    base = "/api/towns/oak/rigs/rig-1/agents/pole-1"
    asked = [(one.method, one.path) for one in world.worker]
    assert asked.count(("GET", f"{base}/prime")) == 1
    assert asked.count(("POST", f"{base}/status")) == 1


async def test_kilo_asks_its_gateway_for_the_organisations_models_for_words_and_for_a_search(
    tmp_path: Path, log: StringIO
) -> None:
    """And gets all of it through the broker."""
    world = World([("websearch", {"query": "barn paint"})])
    world.go_on.set()
    world.other["/api/exa/search"] = {"results": [{"title": "Red", "url": "http://paint.test"}]}
    # Else a hash of the session's id decides whether the gateway searches, or a service that is not here.
    ours = {"KILO_WEBSEARCH_PROVIDER": "exa"}
    async with open_world_and_town(tmp_path, world, environment=ours) as town:
        body = request("pole-1", lightweight=True, organizationId="org-1")
        assert (await town.client.post("/agents/start", json=body)).status_code == 201
        assert await town.turn_closed("pole-1") == "completed"
    assert {(asked.method, asked.path) for asked in world.gateway} == {
        ("GET", "/api/organizations/org-1/models"),
        ("POST", "/api/openrouter/chat/completions"),
        ("POST", "/api/exa/search"),
    }
    assert {asked.headers["authorization"] for asked in world.gateway} == {"Bearer canary-gateway-0"}
    assert "http://paint.test" in world.text(1)
    assert "broker.refused" not in log.getvalue()


async def test_an_agent_whose_gateway_is_away_waits_for_it_as_it_would_without_a_broker(tmp_path: Path) -> None:
    world = World([])
    async with open_world_and_town(tmp_path, world, kilo_api_url="http://127.0.0.1:9") as town:
        assert (
            await town.client.post("/agents/start", json=request("pole-1", lightweight=True))
        ).status_code == 201
        while True:
            status = (await town.client.get("/agents/pole-1/status")).json()
            if (status["condition"] or {})["type"] == "offline":
                break
            assert status["status"] == "running"
            await trio.sleep(0.1)
