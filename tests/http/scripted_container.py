"""An application that answers as a container does, by a script."""

from __future__ import annotations

import json
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import trio
from quart import Response, request, websocket
from quart_trio import QuartTrio

from gastown.hall.control_client import ControlClient, open_control_client
from gastown.hall.server import serving

MOMENT = "2030-05-01T12:00:00.000Z"
STATUS = {
    "agentId": "mayor-1",
    "status": "running",
    "serverPort": 4096,
    "sessionId": "ses_1",
    "startedAt": MOMENT,
    "lastActivityAt": MOMENT,
    "activeTools": [],
    "messageCount": 1,
    "exitReason": None,
}
PUBLIC = STATUS | {
    "rigId": "mayor-oak",
    "townId": "oak",
    "role": "mayor",
    "name": "mayor",
    "workdir": "/w",
    "lastEventType": None,
    "lastEventAt": None,
    "model": "m",
    "organizationId": None,
}


@dataclass
class ScriptedContainer:
    """Answers each path with the next of its scripted answers, the last one for good; keeps what it was asked."""

    answers: dict[str, list[tuple[int, Any]]] = field(default_factory=dict)
    streams: list[list[dict[str, Any]]] = field(default_factory=list)
    """The events of each websocket in turn; the last one stays open."""
    opened: list[dict[str, str]] = field(default_factory=list)
    asked: list[tuple[str, Any, dict[str, Any]]] = field(default_factory=list)

    async def answer(self, path: str) -> Response:
        raw = await request.get_data()
        assert isinstance(raw, bytes)
        config = json.loads(request.headers.get("X-Town-Config", "{}"))
        self.asked.append((f"{request.method} /{path}", json.loads(raw or b"null"), config))
        script = self.answers.get(f"/{path}", [(404, {"error": "Not found"})])
        status, body = script.pop(0) if len(script) > 1 else script[0]
        if body is None:
            await trio.sleep_forever()
        content = body if isinstance(body, bytes) else json.dumps(body).encode()
        return Response(content, status, content_type="application/json")

    async def stream(self, **_path: str) -> None:
        self.opened.append(dict(websocket.args))
        await websocket.accept()
        for event in self.streams.pop(0):
            await websocket.send(json.dumps(event))
        if not self.streams:
            await trio.sleep_forever()

    def paths(self) -> list[str]:
        return [path for path, _, _ in self.asked]


@asynccontextmanager
async def controlled(container: ScriptedContainer) -> AsyncIterator[ControlClient]:
    """Calls to `container` over a loopback socket."""
    app = QuartTrio("container")
    app.add_url_rule("/<path:path>", "any", container.answer, methods=["GET", "POST", "PATCH"])
    app.add_websocket("/agents/<agent_id>/stream", "stream", container.stream)
    async with (
        serving(lambda _: app, host="127.0.0.1", port=0, logger=logging.getLogger("test")) as url,
        open_control_client(url) as control,
    ):
        yield control
