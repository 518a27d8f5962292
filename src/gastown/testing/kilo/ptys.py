"""The terminals of a fake kilo: their routes and their websockets, without a process.

What is claimed here is what tests/kilo/test_real_terminal.py finds in the real one.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from itertools import count
from typing import Any
from urllib.parse import parse_qs

import trio

from gastown.asgi.origins import Receive, Scope, Send
from gastown.testing.asgi import Answer, App, answer

__all__ = ["FakePty", "FakePtys"]


@dataclass
class FakePty:
    """One terminal: it shows what is typed into it. `typed` is what came, frame by frame."""

    id: str
    body: dict[str, Any]
    directory: str | None
    shown: str = ""
    size: dict[str, int] = field(default_factory=lambda: {"rows": 24, "cols": 80})
    typed: list[str | bytes] = field(default_factory=list)
    viewers: list[trio.MemorySendChannel[str | bytes]] = field(default_factory=list)
    ended: trio.Event = field(default_factory=trio.Event)

    def to_json(self) -> dict[str, Any]:
        known = {name: self.body.get(name) for name in ("title", "command", "args", "cwd")}
        return {"id": self.id, "status": "running", "pid": 4711, **known}

    def show(self, text: str | bytes) -> None:
        if isinstance(text, str):
            self.shown += text
        for viewer in self.viewers:
            viewer.send_nowait(text)

    def type(self, frame: str | bytes) -> None:
        self.typed.append(frame)
        self.show(frame if isinstance(frame, str) else frame.decode())

    def end(self) -> None:
        """What the end of the process does."""
        self.ended.set()
        for viewer in self.viewers:
            viewer.close()


class FakePtys:
    """The terminals of one server. `slow` is how long making or reaching one takes."""

    def __init__(self) -> None:
        self._ids = count(1)
        self.all: dict[str, FakePty] = {}
        self.slow = 0.0

    def answer(self, method: str, parts: list[str], directory: str | None, body: Any) -> Answer:
        live = [pty for pty in self.all.values() if not pty.ended.is_set() and pty.directory == directory]
        if not parts and method == "GET":
            return answer([pty.to_json() for pty in live])
        if not parts:
            made = FakePty(f"pty_{next(self._ids)}", body, directory)
            self.all[made.id] = made
            return answer(made.to_json())
        if (pty := next((one for one in live if one.id == parts[0]), None)) is None:
            return answer({"_tag": "PtyNotFoundError", "message": f"PTY not found: {parts[0]}"}, 404)
        if method == "DELETE":
            pty.end()
            return answer(True)
        if method == "PUT":
            pty.size = body.get("size") or pty.size
        return answer(pty.to_json())

    def beside(self, app: App) -> App:
        """`app`, and the websockets of the terminals."""

        async def both(scope: Scope, receive: Receive, send: Send) -> None:
            if scope["type"] == "websocket":
                await self._connect(scope, receive, send)
            else:
                await app(scope, receive, send)

        return both

    async def _connect(self, scope: Scope, receive: Receive, send: Send) -> None:
        await receive()
        await trio.sleep(self.slow)
        pty = self.all.get(scope["path"].split("/")[2])
        query = parse_qs(scope["query_string"].decode())
        if pty is None or pty.ended.is_set() or query.get("directory") != [pty.directory]:
            await send({"type": "websocket.http.response.start", "status": 404, "headers": []})
            await send({"type": "websocket.http.response.body", "body": b""})
            return
        await send({"type": "websocket.accept"})
        cursor = int(query.get("cursor", ["0"])[0])
        viewer, frames = trio.open_memory_channel[str | bytes](1000)
        pty.viewers.append(viewer)
        if cursor >= 0 and pty.shown[cursor:]:
            viewer.send_nowait(pty.shown[cursor:])
        viewer.send_nowait(b"\x00" + json.dumps({"cursor": len(pty.shown)}).encode())
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._read, pty, receive, nursery.cancel_scope)
                async for frame in frames:
                    kind = "text" if isinstance(frame, str) else "bytes"
                    await send({"type": "websocket.send", kind: frame})
                await send({"type": "websocket.close", "code": 1000})
                nursery.cancel_scope.cancel(reason="the terminal has ended")
        finally:
            pty.viewers.remove(viewer)

    async def _read(self, pty: FakePty, receive: Receive, scope: trio.CancelScope) -> None:
        while (message := await receive())["type"] == "websocket.receive":
            pty.type(message["text"] if message.get("text") is not None else message["bytes"])
        scope.cancel(reason="the viewer has gone")
