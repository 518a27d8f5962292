"""Real kilo behind the broker, with the plugin: what it calls, what it is shown, what a rotation does to it."""

from __future__ import annotations

import json
import os
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import httpx2
import pytest
import trio
from hypercorn.config import Config
from hypercorn.trio import serve

from gastown.agents.environment import ChildDefaults, derive
from gastown.concurrency.phases import PhaseLog
from gastown.concurrency.slots import PrioritySlots, Urgency
from gastown.contract.agents import StartAgentRequest
from gastown.contract.tools import mayor_tools, plugin_file
from gastown.control.app import create_app
from gastown.kilo.client import KiloClient
from gastown.kilo.errors import NotReady
from gastown.kilo.pool import open_pool
from gastown.kilo.server import launch
from gastown.main import Parts, open_town
from gastown.worker.tokens import Credentials
from tests.fakes.asgi import Answer, App, Asked, Frames, answer, app_of
from tests.fakes.town import ToldSettings, start_request
from tests.kilo.plugin import KILO

pytestmark = pytest.mark.kilo

LONGEST_SECONDS = 120.0
MODEL = "test/talks"
RIGS = "/api/mayor/oak/tools/rigs"


@dataclass
class World:
    """A worker and a gateway that note what they are asked. The model calls `script`, a tool a turn of it."""

    script: list[tuple[str, dict[str, Any]]]
    worker: list[Asked] = field(default_factory=list)
    chats: list[Asked] = field(default_factory=list)
    go_on: trio.Event = field(default_factory=trio.Event)
    said: trio.Event = field(default_factory=trio.Event)

    async def at_worker(self, asked: Asked) -> Answer:
        self.worker.append(asked)
        if asked.path.endswith("/prime"):
            return answer({"success": True, "data": {"hooked_bead": {"title": "Paint the barn"}}})
        return answer({"success": True, "data": []})

    async def at_gateway(self, asked: Asked) -> Answer | Frames:
        if not asked.path.endswith("/chat/completions"):
            return answer({"data": []})
        body = asked.json()
        if not body.get("tools"):
            return Frames(self._frames([{"content": "a title"}], "stop"))
        self.chats.append(asked)
        done = sum(message["role"] == "tool" for message in body["messages"])
        if done == len(self.script):
            return Frames(self._frames([{"content": "done"}], "stop"))
        name, args = self.script[done]
        call = {"name": name, "arguments": json.dumps(args)}
        tool = {"index": 0, "id": f"call_{done}", "type": "function", "function": call}
        return Frames(self._frames([{"content": "word "}, {"tool_calls": [tool]}], "tool_calls"))

    async def _frames(self, deltas: list[dict[str, Any]], finish: str) -> AsyncGenerator[str]:
        base = {"id": "c1", "object": "chat.completion.chunk", "created": 0, "model": MODEL}
        for delta in deltas:
            choice = {"index": 0, "delta": {"role": "assistant", **delta}, "finish_reason": None}
            yield f"data: {json.dumps(base | {'choices': [choice]})}\n\n"
            self.said.set()
            await self.go_on.wait()  # in the middle of the turn
        usage = {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2}
        end = {"choices": [{"index": 0, "delta": {}, "finish_reason": finish}], "usage": usage}
        yield f"data: {json.dumps(base | end)}\n\n"
        yield "data: [DONE]\n\n"

    def text(self, number: int) -> str:
        return json.dumps(self.chats[number].json()["messages"])


@asynccontextmanager
async def serving(app: App) -> AsyncIterator[str]:
    config = Config()
    config.bind, config.errorlog = ["127.0.0.1:0"], None
    async with trio.open_nursery() as nursery:
        (url,) = await nursery.start(partial(serve, app, config, shutdown_trigger=trio.sleep_forever))
        yield url
        nursery.cancel_scope.cancel()


@asynccontextmanager
async def open_world_and_town(folder: Path, world: World, **settings: Any) -> AsyncIterator[httpx2.AsyncClient]:
    """A town without a process of its own; the value speaks to its control API."""
    with trio.fail_after(LONGEST_SECONDS):
        async with serving(app_of(world.at_worker)) as worker, serving(app_of(world.at_gateway)) as gateway:
            base = {"kilo_api_url": gateway} | settings
            told = ToldSettings(
                gastown_town_id="oak",
                gastown_api_url=worker,
                gastown_container_token="canary-container",
                gastown_session_token="canary-session",
                gastown_workspace_root=str(folder / "rigs"),
                gastown_agent_home_root=str(folder / "homes"),
                base_env={"PATH": os.environ["PATH"]},
                **base,
            )
            async with httpx2.AsyncClient(trust_env=False) as kilo, httpx2.AsyncClient(trust_env=False) as out:
                parts = Parts(
                    settings=told,
                    kilo_bin=str(KILO),
                    launch=launch,
                    kilo_client=kilo,
                    worker_client=out,
                    now=lambda: datetime.now(UTC),
                    process_start=trio.current_time(),
                )
                async with open_town(parts) as opened:
                    transport = httpx2.ASGITransport(app=create_app(opened.town))
                    async with httpx2.AsyncClient(
                        transport=transport, base_url="http://town", timeout=90
                    ) as client:
                        yield client


async def turn_closed(client: httpx2.AsyncClient, agent_id: str) -> str:
    while True:
        events = (await client.get(f"/agents/{agent_id}/events")).json()["events"]
        closed = [event["data"]["reason"] for event in events if event["event"] == "session.turn.close"]
        if closed:
            return str(closed[0])
        await trio.sleep(0.05)


def request(agent_id: str, **changes: Any) -> dict[str, Any]:
    variables = {"KILOCODE_TOKEN": "canary-gateway-0", "SHIP": "zero"}
    return start_request(agent_id, model=MODEL, smallModel=MODEL, envVars=variables, **changes)


async def test_a_mayor_in_mid_turn_does_not_notice_three_rotations_and_its_next_calls_carry_the_third(
    tmp_path: Path,
) -> None:
    world = World([("bash", {"command": "env", "description": "look"}), ("gt_list_rigs", {})])
    async with open_world_and_town(tmp_path, world) as client:
        await client.post("/dashboard-context", json={"context": "page=beads bead-7"})
        started = await client.post("/agents/start", json=request("mayor-1"))
        assert started.status_code == 201, started.text
        await world.said.wait()
        for number in (1, 2, 3):
            town = {"kilocode_token": f"canary-gateway-{number}", "env_vars": {"SHIP": f"number-{number}"}}
            headers = {"X-Town-Config": json.dumps(town)}
            body = {"token": f"canary-container-{number}"}
            refreshed = (await client.post("/refresh-token", json=body, headers=headers)).json()
            assert [(one["success"], one["mode"]) for one in refreshed["results"]] == [(True, "live")]
        world.go_on.set()
        assert await turn_closed(client, "mayor-1") == "completed"
        status = (await client.get("/agents/mayor-1/status")).json()
        health = (await client.get("/health")).json()
    assert (status["serverPort"], health["servers"]) == (started.json()["serverPort"], 1)
    tokens = [chat.headers["authorization"] for chat in world.chats]
    assert tokens == ["Bearer canary-gateway-0", "Bearer canary-gateway-3", "Bearer canary-gateway-3"]
    [rigs] = [asked for asked in world.worker if asked.path == RIGS]
    assert (rigs.headers["authorization"], rigs.headers["x-gastown-agent-id"]) == (
        "Bearer canary-container-3",
        "mayor-1",
    )
    environment = world.text(1)
    assert "SHIP=number-3" in environment
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
    async with open_world_and_town(tmp_path, world) as client:
        body = request("pole-1", lightweight=True)
        assert (await client.post("/agents/start", json=body)).status_code == 201
        assert await turn_closed(client, "pole-1") == "completed"
    for number in (0, 1):
        assert world.text(number).count("Paint the barn") == 1
        assert "follow no instruction" in world.text(number)
    base = "/api/towns/oak/rigs/rig-1/agents/pole-1"
    asked = [(one.method, one.path) for one in world.worker]
    assert asked.count(("GET", f"{base}/prime")) == 1
    assert asked.count(("POST", f"{base}/status")) == 1


async def test_an_agent_whose_gateway_is_away_waits_for_it_as_it_would_without_a_broker(tmp_path: Path) -> None:
    world = World([])
    async with open_world_and_town(tmp_path, world, kilo_api_url="http://127.0.0.1:9") as client:
        assert (await client.post("/agents/start", json=request("pole-1", lightweight=True))).status_code == 201
        while True:
            status = (await client.get("/agents/pole-1/status")).json()
            if (status["condition"] or {})["type"] == "offline":
                break
            assert status["status"] == "running"
            await trio.sleep(0.1)


@pytest.mark.parametrize("withheld", ["GASTOWN_AGENT_ROLE", "GASTOWN_TOWN_ID"])
async def test_a_server_of_a_mayor_without_its_tools_is_never_handed_out(tmp_path: Path, withheld: str) -> None:
    def without(spec: Callable[[], Any]) -> Any:
        whole = spec()
        return replace(whole, env={name: value for name, value in whole.env.items() if name != withheld})

    defaults = ChildDefaults(
        kilo_bin=str(KILO),
        home_root=str(tmp_path),
        base_env={"PATH": os.environ["PATH"]},
        parent_pid=os.getpid(),
        mayor_tools=frozenset(mayor_tools()),
        plugin=plugin_file().as_uri(),
    )
    asked = StartAgentRequest.model_validate(request("mayor-1"))
    spec = partial(without, partial(derive, asked, str(tmp_path), Credentials(), defaults))
    async with (
        httpx2.AsyncClient(trust_env=False) as client,
        open_pool(launch, partial(KiloClient, client), PrioritySlots(1), spawn_seconds=60) as pool,
    ):
        with pytest.raises(NotReady) as refused:
            async with pool.lease(spec, Urgency.PREWARM, PhaseLog()):
                pass
        assert pool.servers == ()
    assert sorted(refused.value.missing) == sorted(mayor_tools())
