"""The end of a server: what runs has its graceful time, and no more. Real sockets."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import trio

from gastown.asgi.serving import listen, quiet_config, serve_connections

GUARD_SECONDS = 30
REQUEST = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"


@dataclass
class Slow:
    """An app that answers when `go` is set."""

    asked: trio.Event = field(default_factory=trio.Event)
    go: trio.Event = field(default_factory=trio.Event)

    async def __call__(self, scope: dict[str, Any], receive: Any, send: Any) -> None:
        self.asked.set()
        await self.go.wait()
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"4")]})
        await send({"type": "http.response.body", "body": b"done", "more_body": False})


@asynccontextmanager
async def asked(app: Slow, graceful_seconds: float) -> AsyncIterator[tuple[trio.SocketStream, trio.Event]]:
    """A client that waits for its answer, and the event that stops the server. At the end the server has ended."""
    listener, stop = listen("127.0.0.1", 0, 1000), trio.Event()
    port = listener.getsockname()[1]
    with trio.fail_after(GUARD_SECONDS):
        async with trio.open_nursery() as nursery:
            await nursery.start(serve_connections, app, quiet_config(graceful_seconds), listener, stop)
            async with await trio.open_tcp_stream("127.0.0.1", port) as client:
                await client.send_all(REQUEST)
                await app.asked.wait()
                yield client, stop


async def read_all(client: trio.SocketStream) -> bytes:
    try:
        return b"".join([piece async for piece in client])
    except trio.BrokenResourceError:
        return b""


async def test_a_request_that_runs_when_the_server_stops_is_answered() -> None:
    app = Slow()
    async with asked(app, GUARD_SECONDS) as (client, stop):
        stop.set()
        await trio.testing.wait_all_tasks_blocked()
        app.go.set()
        assert (await read_all(client)).endswith(b"done")


async def test_a_request_that_hangs_is_cut_after_the_graceful_time() -> None:
    app = Slow()
    async with asked(app, 0.05) as (client, stop):
        stop.set()
        assert await read_all(client) == b""


async def test_a_server_that_stops_takes_no_further_connection() -> None:
    app = Slow()
    async with asked(app, GUARD_SECONDS) as (client, stop):
        stop.set()
        await trio.testing.wait_all_tasks_blocked()
        port = client.socket.getpeername()[1]
        refused = False
        try:
            await (await trio.open_tcp_stream("127.0.0.1", port)).aclose()
        except OSError:
            refused = True
        app.go.set()
        await read_all(client)
    assert refused
