"""The mayor's tools, asked of the real server itself: they are there whenever it is handed out, or it is not."""

from __future__ import annotations

import json
import os
import signal
from contextlib import AbstractAsyncContextManager
from dataclasses import replace
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
import trio

from gastown.boot.hydrate import hydrate
from gastown.contract.tools import mayor_tools
from gastown.kilo.server import RunningServer, launch
from gastown.kilo.spec import ServerSpec
from tests.kilo.town import eventually
from tests.kilo.world import MODEL, Place, World, open_world_and_town, request

pytestmark = pytest.mark.kilo

KNOWN = {
    "agentId": "mayor-1",
    "model": MODEL,
    "smallModel": MODEL,
    "kilocodeToken": "canary-gateway-0",
    "organizationId": None,
}


async def tools_of_the_only_server(town: Place) -> tuple[int, set[str]]:
    """The process of the town's one server, and which of the mayor's tools it says that it has."""
    [server] = town.opened.town.services.pool.servers
    return server.running.pid, set(mayor_tools()) & await server.rest.tool_ids(server.spec.cwd)


async def another_server(town: Place, *before: int) -> int:
    """Wait until the mayor runs on one server, which is none of those before."""

    async def look() -> int:
        pids = [server.running.pid for server in town.opened.town.services.pool.servers]
        status = (await town.client.get("/agents/mayor-1/status")).json()
        return pids[0] if status["status"] == "running" and len(pids) == 1 and pids[0] not in before else 0

    return await eventually(look, 120)


async def test_the_mayor_has_its_twenty_tools_after_a_prewarm_a_start_a_swap_and_a_crash(
    tmp_path: Path, log: StringIO
) -> None:
    world = World([], mayor=KNOWN)
    world.go_on.set()
    everything = set(mayor_tools())
    assert len(everything) == 20
    async with open_world_and_town(tmp_path, world) as town:
        await hydrate(town.opened.hydration)
        warm, tools = await tools_of_the_only_server(town)
        assert tools == everything, "after the prewarm"

        assert (await town.client.post("/agents/start", json=request("mayor-1"))).status_code == 201
        assert await tools_of_the_only_server(town) == (warm, everything), "after the start"
        await town.turn_closed("mayor-1")

        swap = {"model": MODEL, "smallModel": "test/another"}
        assert (await town.client.patch("/agents/mayor-1/model", json=swap)).json() == {"updated": True}
        swapped = await another_server(town, warm)
        assert await tools_of_the_only_server(town) == (swapped, everything), "after the swap"

        os.kill(swapped, signal.SIGKILL)
        back = await another_server(town, warm, swapped)
        assert await tools_of_the_only_server(town) == (back, everything), "after the crash"
    assert "broker.refused" not in log.getvalue()


@pytest.mark.parametrize("withheld", ["GASTOWN_AGENT_ROLE", "GASTOWN_TOWN_ID"])
async def test_a_mayors_server_that_was_kept_from_knowing_who_it_is_is_refused_and_everybody_hears_why(
    tmp_path: Path, log: StringIO, withheld: str
) -> None:
    def forgetful(spec: ServerSpec) -> AbstractAsyncContextManager[RunningServer]:
        return launch(replace(spec, env={name: value for name, value in spec.env.items() if name != withheld}))

    world, everything = World([], mayor=KNOWN), sorted(mayor_tools())
    world.go_on.set()
    async with open_world_and_town(tmp_path, world, launcher=forgetful) as town:
        await hydrate(town.opened.hydration)
        started = await town.client.post("/agents/start", json=request("mayor-1"))
        health = (await town.client.get("/health")).json()

        async def told() -> list[dict[str, Any]]:
            events = [asked.json() for asked in world.worker if asked.path.endswith("/container-events")]
            missing = [event for event in events if event["event"] == "agent.tools_missing"]
            return missing if len(missing) == 2 else []

        with trio.fail_after(20):
            events = await eventually(told)
    assert (started.status_code, "without the tools" in started.json()["error"]) == (500, True)
    assert (health["servers"], health["refused"]) == (0, [{"agentId": "mayor-1", "missing": everything}])
    assert health["hydration"]["prewarm"].startswith("failed: NotReady: ")
    assert [(event["agentId"], event["missing"]) for event in events] == [("mayor-1", everything)] * 2
    refused = [line for line in map(json.loads, log.getvalue().splitlines()) if line["event"] == "server.refused"]
    assert [line["missing"] for line in refused] == [everything] * 2
    assert world.chats == []  # not one word went to a model
