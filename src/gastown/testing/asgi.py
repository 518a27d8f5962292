"""Small ASGI apps for fakes: a request that has been read whole, and an answer to it."""

from __future__ import annotations

import json
from base64 import b64encode
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qsl

import trio

from gastown.asgi.origins import Receive, Scope, Send

__all__ = ["Answer", "App", "Asked", "Frames", "answer", "app_of", "locked"]

App = Callable[[Any, Any, Any], Awaitable[None]]
"""An ASGI app as any framework types it."""


@dataclass(frozen=True)
class Asked:
    """A request. Header names are in lower case; `at` is when it was complete, on Trio's clock."""

    method: str
    path: str
    query: Mapping[str, str]
    headers: Mapping[str, str]
    body: bytes
    at: float = field(default_factory=trio.current_time)

    def json(self) -> Any:
        """The body's JSON; None when it is empty. Raises `ValueError` when it is something else."""
        return json.loads(self.body) if self.body else None


@dataclass(frozen=True)
class Answer:
    """A whole answer."""

    status: int = 200
    body: bytes = b""
    content_type: str = "application/json"
    headers: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Frames:
    """An event stream: every frame that comes out of `source`, until it ends or the client goes."""

    source: trio.MemoryReceiveChannel[str] | AsyncGenerator[str]


def answer(value: Any = None, status: int = 200, headers: Mapping[str, str] | None = None) -> Answer:
    """`value` as JSON; nothing at all for a 204."""
    return Answer(status, b"" if status == 204 else json.dumps(value).encode(), headers=headers or {})


def app_of(handle: Callable[[Asked], Awaitable[Answer | Frames]]) -> App:
    """An ASGI app that answers with what `handle` returns. A client that goes cancels `handle`."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            raise NotImplementedError(scope["type"])  # how hypercorn learns that there is no lifespan
        if (body := await _whole_body(receive)) is None:
            return
        asked = Asked(
            scope["method"],
            scope["path"],
            dict(parse_qsl(scope["query_string"].decode(), keep_blank_values=True)),
            {name.decode().lower(): value.decode("latin-1") for name, value in scope["headers"]},
            body,
        )
        async with trio.open_nursery() as nursery:

            async def until_gone() -> None:
                while (await receive())["type"] != "http.disconnect":
                    pass
                nursery.cancel_scope.cancel(reason="the client is gone")

            nursery.start_soon(until_gone)
            reply = await handle(asked)
            await (_stream(reply, send) if isinstance(reply, Frames) else _send(reply, send))
            nursery.cancel_scope.cancel(reason="answered")

    return app


def locked(app: App, user: str, password: str) -> App:
    """`app` for callers that show the password, as kilo asks for it; an empty 401 for all others."""
    key = b"Basic " + b64encode(f"{user}:{password}".encode())
    refusal = [(b"www-authenticate", b'Basic realm="Secure Area"'), (b"content-length", b"0")]

    async def door(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan" or (b"authorization", key) in scope["headers"]:
            await app(scope, receive, send)
            return
        kind = "http.response" if scope["type"] == "http" else "websocket.http.response"
        with trio.CancelScope(shield=True):  # P7
            await send({"type": f"{kind}.start", "status": 401, "headers": refusal})
            await send({"type": f"{kind}.body", "body": b""})

    return door


async def _whole_body(receive: Receive) -> bytes | None:
    body = b""
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            return None
        body += bytes(message.get("body", b""))
        if not message.get("more_body"):
            return body


async def _send(reply: Answer, send: Send) -> None:
    # P7: the end of the answer is what tells the client's end apart from the server's.
    with trio.CancelScope(shield=True):
        headers = [
            (b"content-type", reply.content_type.encode()),
            (b"content-length", str(len(reply.body)).encode()),
            *((name.encode(), value.encode()) for name, value in reply.headers.items()),
        ]
        await send({"type": "http.response.start", "status": reply.status, "headers": headers})
        await send({"type": "http.response.body", "body": reply.body})


async def _stream(reply: Frames, send: Send) -> None:
    headers = [(b"content-type", b"text/event-stream")]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    async with aclosing(reply.source):
        async for frame in reply.source:
            await send({"type": "http.response.body", "body": frame.encode(), "more_body": True})
    await send({"type": "http.response.body", "body": b""})
