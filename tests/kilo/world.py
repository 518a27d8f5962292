"""A town in this process around the real kilo, between a worker and a gateway that note what they are asked."""

from __future__ import annotations

import json
import os
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any, cast

import httpx2
import trio
from hypercorn.config import Config
from hypercorn.trio import serve

from gastown.assembly import Open, Parts, open_town
from gastown.contract.secret import Secret
from gastown.control.app import create_app
from gastown.kilo.client import http_client
from gastown.kilo.server import Launcher, launch
from gastown.testing.asgi import Answer, App, Asked, Frames, answer, app_of
from gastown.testing.town import ToldSettings, start_request
from tests.kilo.plugin import KILO

__all__ = ["MODEL", "Place", "World", "open_world_and_town", "request", "serving"]

LONGEST_SECONDS = 180.0
MODEL = "test/talks"


@dataclass
class World:
    """A worker and a gateway that note what they are asked. The model calls `script`, a tool a turn of it.

    `mayor` is what the worker says of the town's mayor, `other` what the gateway says beside its models: `paths`
    are all that the gateway was asked for.
    """

    script: list[tuple[str, dict[str, Any]]]
    mayor: dict[str, Any] | None = None
    other: dict[str, Any] = field(default_factory=dict)
    worker: list[Asked] = field(default_factory=list)
    gateway: list[Asked] = field(default_factory=list)
    chats: list[Asked] = field(default_factory=list)
    go_on: trio.Event = field(default_factory=trio.Event)
    said: trio.Event = field(default_factory=trio.Event)

    async def at_worker(self, asked: Asked) -> Answer:
        self.worker.append(asked)
        if asked.path.endswith("/mayor-id") and self.mayor is not None:
            return answer({"success": True, **self.mayor})
        if asked.path.endswith("/prime"):
            return answer({"success": True, "data": {"hooked_bead": {"title": "Paint the barn"}}})
        return answer({"success": True, "data": []})

    async def at_gateway(self, asked: Asked) -> Answer | Frames:
        self.gateway.append(asked)
        if not asked.path.endswith("/chat/completions"):
            return answer(self.other.get(asked.path, {"data": []}))
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


@dataclass(frozen=True)
class Place:
    """An open town; `client` speaks to its control API."""

    client: httpx2.AsyncClient
    opened: Open

    async def events(self, agent_id: str) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = (await self.client.get(f"/agents/{agent_id}/events")).json()["events"]
        return found

    async def turn_closed(self, agent_id: str) -> str:
        """Why the agent's first turn has ended; waits for it."""
        while True:
            closed = [
                e["data"]["reason"] for e in await self.events(agent_id) if e["event"] == "session.turn.close"
            ]
            if closed:
                return str(closed[0])
            await trio.sleep(0.05)


@asynccontextmanager
async def serving(app: App) -> AsyncIterator[str]:
    config = Config()
    config.bind, config.errorlog = ["127.0.0.1:0"], None
    async with trio.open_nursery() as nursery:
        (url,) = await nursery.start(partial(serve, app, config, shutdown_trigger=trio.sleep_forever))
        yield url
        nursery.cancel_scope.cancel()


@asynccontextmanager
async def open_world_and_town(
    folder: Path,
    world: World,
    *,
    launcher: Launcher = launch,
    environment: Mapping[str, str] | None = None,
    **settings: Any,
) -> AsyncIterator[Place]:
    """A town without a process of its own for the length of the block, not hydrated.

    `environment` is what its servers get beside their own.
    """
    with trio.fail_after(LONGEST_SECONDS):
        async with serving(app_of(world.at_worker)) as worker, serving(app_of(world.at_gateway)) as gateway:
            base = {"kilo_api_url": gateway} | settings
            inherited = {"PATH": os.environ["PATH"], "KILO_API_URL": base["kilo_api_url"]}
            told = ToldSettings(
                gastown_town_id="oak",
                gastown_api_url=worker,
                gastown_container_token=Secret("canary-container"),
                gastown_session_token=Secret("canary-session"),
                gastown_workspace_root=str(folder / "rigs"),
                gastown_agent_home_root=str(folder / "homes"),
                base_env=inherited | dict(environment or {}),
                **base,
            )
            async with http_client() as kilo, httpx2.AsyncClient(trust_env=False) as out:
                parts = Parts(
                    settings=told,
                    kilo_bin=str(KILO),
                    launch=launcher,
                    kilo_client=kilo,
                    worker_client=out,
                    now=lambda: datetime.now(UTC),
                    process_start=trio.current_time(),
                )
                async with open_town(parts) as opened:
                    transport = httpx2.ASGITransport(app=cast("Any", create_app(opened.town)))
                    async with httpx2.AsyncClient(
                        transport=transport, base_url="http://127.0.0.1", timeout=90
                    ) as client:
                        yield Place(client, opened)


def request(agent_id: str, **changes: Any) -> dict[str, Any]:
    variables = {"KILOCODE_TOKEN": "canary-gateway-0", "SHIP": "zero"}
    return start_request(agent_id, model=MODEL, smallModel=MODEL, envVars=variables, **changes)
