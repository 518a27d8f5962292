"""Event streams on real sockets: clients that are slow, deaf or gone. Real time, with a guard."""

from __future__ import annotations

import json
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from types import SimpleNamespace
from typing import Any

import httpx2
import pytest
import trio

from gastown.agents.session.event_log import EventLog
from gastown.asgi.origins import Callers
from gastown.control import server
from gastown.control.app import create_app
from gastown.control.auth.policy import AccessPolicy
from gastown.control.auth.tickets import Tickets
from gastown.control.auth.tokens import Tokens
from gastown.control.server import listen_on, serve_app
from gastown.logs import LiveRedactor
from gastown.testing.sockets import Closed, open_socket

GUARD_SECONDS = 60
NOW = datetime(2030, 5, 1, 12, 0, tzinfo=UTC)
OPEN_POLICY = AccessPolicy(Tokens({}), Callers(loopback_only=True))
UPGRADE = (
    b"GET /agents/a/stream HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
)


@asynccontextmanager
async def serving() -> AsyncIterator[tuple[EventLog, int, trio.Event]]:
    """The streams of a town that has nothing else; its log, its port, and what stops it."""
    events = EventLog(lambda: NOW)
    here: Any = SimpleNamespace(
        services=SimpleNamespace(events=events),
        tickets=Tickets(),
        policy=OPEN_POLICY,
        now=lambda: NOW,
        redactor=LiveRedactor(tuple),
    )
    listener, stop = listen_on("127.0.0.1", 0), trio.Event()
    port = listener.getsockname()[1]
    with trio.fail_after(GUARD_SECONDS):
        async with trio.open_nursery() as nursery:
            await nursery.start(serve_app, create_app(here), listener, stop)
            yield events, port, stop
            stop.set()


@asynccontextmanager
async def small_client(port: int) -> AsyncIterator[trio.SocketStream]:
    """A connected websocket with next to no room for what it does not read."""
    client = trio.socket.socket()
    client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    await client.connect(("127.0.0.1", port))
    async with trio.SocketStream(client) as stream:
        await stream.send_all(UPGRADE)
        assert b"101" in await stream.receive_some(4096)
        yield stream


async def publish(events: EventLog, number: int) -> None:
    for count in range(number):
        events.append("a", "e", {"text": "x" * 1000})
        if count % 50 == 0:
            await trio.lowlevel.checkpoint()


def ids_of(frames: list[dict[str, Any]]) -> list[int]:
    """What frames stand for: their own id, or all that a gap says are lost."""
    told: list[int] = []
    for frame in frames:
        gap = frame["event"] == "stream.gap"
        told += range(frame["data"]["from"], frame["data"]["to"] + 1) if gap else [frame["id"]]
    return told


def cut(data: bytes) -> tuple[int, bytes, bytes] | None:
    """Opcode and content of the first frame in `data`, and the rest; None when it is not whole."""
    if len(data) < 4:
        return None
    start, size = (4, int.from_bytes(data[2:4], "big")) if data[1] == 126 else (2, data[1])
    if len(data) < start + size:
        return None
    return data[0] & 15, data[start : start + size], data[start + size :]


async def frames_until(stream: trio.SocketStream, last: int) -> list[dict[str, Any]]:
    """Every text frame up to that of the event `last`; pings are left out."""
    data, frames = b"", []
    while not frames or frames[-1]["id"] != last:
        data += await stream.receive_some(65536)
        while (found := cut(data)) is not None:
            opcode, content, data = found
            if opcode == 1:
                frames.append(json.loads(content))
    return frames


async def test_a_client_that_does_not_read_loses_what_it_is_told_and_slows_nobody():
    async with serving() as (events, port, _), httpx2.AsyncClient() as http, small_client(port) as slow:
        async with open_socket(http, f"ws://127.0.0.1:{port}/agents/a/stream") as quick:
            seen: list[dict[str, Any]] = []
            async with trio.open_nursery() as nursery:

                async def read() -> None:
                    while not seen or seen[-1]["id"] < 20_000:
                        seen.extend(await quick.events(1))

                nursery.start_soon(read)
                for _ in range(40):
                    await publish(events, 500)
                    while not seen or seen[-1]["id"] < events.hub.newest:
                        await trio.sleep(0.001)  # the quick one keeps up; the slow one has not read a byte
        assert [frame["id"] for frame in seen] == list(range(1, 20_001))
        late = await frames_until(slow, 20_000)
        assert ids_of(late) == list(range(1, 20_001))
        assert [frame["event"] for frame in late].count("stream.gap") >= 1


async def test_a_client_that_never_reads_is_ended_by_the_kernel(monkeypatch):
    monkeypatch.setattr(server, "DEAD_PEER_MS", 500)
    async with serving() as (events, port, _), small_client(port):
        await publish(events, 20_000)
        while events.hub._rings["a"].readers:
            await trio.sleep(0.05)


async def test_streams_are_closed_with_a_reason_when_the_server_stops():
    async with (
        serving() as (events, port, stop),
        httpx2.AsyncClient() as http,
        open_socket(http, f"ws://127.0.0.1:{port}/ws") as stream,
    ):
        events.hub.close("The container stops")
        stop.set()
        assert await stream.closed() == Closed(1001, "The container stops")


@pytest.mark.parametrize("path", ["/ws?ticket=wrong", "/no/such/socket"])
async def test_a_refused_upgrade_is_the_last_request_of_its_connection(path: str):
    """On a further one hypercorn 0.18 crashes, and takes the whole server along."""
    async with serving() as (_, port, _), await trio.open_tcp_stream("127.0.0.1", port) as stream:
        await stream.send_all(UPGRADE.replace(b"/agents/a/stream", path.encode()))
        received = b""
        while data := await stream.receive_some(65536):
            received += data
        assert b"connection: close" in received.lower()


async def test_a_connection_that_fails_does_not_end_the_server(monkeypatch):
    """hypercorn 0.18 raises on a request after a refused upgrade, and gives that to the nursery of all."""
    monkeypatch.setattr(server, "_refuse_and_close", lambda send, message: send(message))
    async with serving() as (_, port, _):
        async with await trio.open_tcp_stream("127.0.0.1", port) as stream:
            await stream.send_all(UPGRADE.replace(b"/agents/a/stream", b"/no/such/socket"))
            await stream.receive_some(65536)
            await stream.send_all(b"GET /no HTTP/1.1\r\nHost: localhost\r\n\r\n")
            while await stream.receive_some(65536):
                pass
        async with httpx2.AsyncClient() as http:
            assert (await http.get(f"http://127.0.0.1:{port}/no")).status_code == 404
