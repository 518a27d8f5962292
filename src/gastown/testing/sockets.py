"""A websocket client for tests: frames that came, and how the connection ended."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, NamedTuple

import httpx2
import trio
from httpx2.websockets import AsyncWebSocketSession, WebSocketDisconnect
from wsproto.events import BytesMessage, TextMessage

__all__ = ["Closed", "Refused", "Socket", "open_socket", "refusal"]


_UPGRADE = {
    "Connection": "Upgrade",
    "Upgrade": "websocket",
    "Sec-WebSocket-Version": "13",
    "Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ==",
}


class Closed(NamedTuple):
    code: int
    reason: str


class Refused(NamedTuple):
    status: int
    body: Any


class Socket:
    """An open connection."""

    def __init__(self, session: AsyncWebSocketSession) -> None:
        self.session = session

    async def send(self, message: Any) -> None:
        """Text and bytes as they are, anything else as JSON."""
        if isinstance(message, bytes):
            await self.session.send_bytes(message)
        else:
            await self.session.send_text(message if isinstance(message, str) else json.dumps(message))

    async def next(self) -> str | bytes:
        event = await self.session.receive()
        assert isinstance(event, TextMessage | BytesMessage)
        return event.data if isinstance(event, TextMessage) else bytes(event.data)

    async def events(self, number: int) -> list[dict[str, Any]]:
        """The next frames, as JSON."""
        return [json.loads(await self.next()) for _ in range(number)]

    async def until(self, event: str) -> list[dict[str, Any]]:
        """Every frame up to the first of that event, it included."""
        found = await self.events(1)
        while found[-1]["event"] != event:
            found += await self.events(1)
        return found

    async def rest(self, seconds: float) -> list[Any]:
        """The frames of the next seconds."""
        found = []
        with trio.move_on_after(seconds):
            while True:
                found.append(await self.next())
        return [json.loads(frame) if isinstance(frame, str) else frame for frame in found]

    async def closed(self) -> Closed:
        """How the server ends the connection; frames before that are left out."""
        while True:
            try:
                await self.session.receive()
            except WebSocketDisconnect as end:
                return Closed(end.code, end.reason)


@asynccontextmanager
async def open_socket(client: httpx2.AsyncClient, url: str, **options: Any) -> AsyncIterator[Socket]:
    async with client.websocket(
        url, max_message_size_bytes=1 << 20, keepalive_ping_interval_seconds=None, **options
    ) as session:
        yield Socket(session)


async def refusal(client: httpx2.AsyncClient, url: str, **options: Any) -> Refused:
    """What a refused upgrade is answered with."""
    answer = await client.get(url.replace("ws", "http", 1), headers=_UPGRADE, **options)
    assert answer.status_code != 101
    return Refused(answer.status_code, answer.json() if answer.content else None)
