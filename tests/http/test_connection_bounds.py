"""What a client may take of a server: connections, headers, messages. Real hypercorn on real sockets."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import pytest
import structlog
import trio
from structlog.typing import EventDict

from gastown.asgi.crowd import Crowd
from gastown.asgi.hypercorn_seams import MOST_HEADER_BYTES
from gastown.asgi.serving import listen, quiet_config, serve_connections

GUARD_SECONDS = 30
REQUEST = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"
UPGRADE = (
    b"GET /ws HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
    b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
)
H2C = (
    b"GET / HTTP/1.1\r\nHost: x\r\nConnection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\n"
    b"HTTP2-Settings: AAMAAABkAAQAAP__\r\n\r\n"
)
MESSAGE_LIMIT = 100_000


@dataclass
class App:
    """Answers with the length of `X-Long`; holds a request for /held; takes what a websocket says."""

    held: trio.Event = field(default_factory=trio.Event)
    gone: trio.Event = field(default_factory=trio.Event)
    longest: int = 0

    async def __call__(self, scope: dict[str, Any], receive: Any, send: Any) -> None:
        if scope["type"] == "websocket":
            await self.talk(receive, send)
            return
        if scope["path"] == "/held":
            await self.held.wait()
        long = dict(scope["headers"]).get(b"x-long", b"")
        content = str(len(long)).encode()
        headers = [(b"content-length", str(len(content)).encode())]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": content, "more_body": False})

    async def talk(self, receive: Any, send: Any) -> None:
        await receive()
        await send({"type": "websocket.accept"})
        while (message := await receive())["type"] == "websocket.receive":
            self.longest = max(self.longest, len(message["bytes"] or message["text"]))
        self.gone.set()


@dataclass
class Server:
    port: int
    crowd: Crowd
    app: App
    logs: list[EventDict]

    async def open(self) -> trio.SocketStream:
        return await trio.open_tcp_stream("127.0.0.1", self.port)

    async def size(self, wanted: int) -> None:
        """Return when there are that many connections."""
        while self.crowd.size != wanted:
            await trio.lowlevel.checkpoint()


@asynccontextmanager
async def serving(most: int = 100, reserved: int = 0) -> AsyncIterator[Server]:
    app, crowd = App(), Crowd("control", most, reserved)
    listener, stop = listen("127.0.0.1", 0, 5000), trio.Event()
    config = quiet_config(1)
    config.websocket_max_message_size = MESSAGE_LIMIT
    serve = partial(serve_connections, crowd=crowd, probes=("/health",))
    with structlog.testing.capture_logs() as logs, trio.fail_after(GUARD_SECONDS):
        async with trio.open_nursery() as nursery:
            port = listener.getsockname()[1]
            await nursery.start(serve, app, config, listener, stop)
            yield Server(port, crowd, app, logs)
            app.held.set()
            stop.set()


async def read_all(client: trio.SocketStream) -> bytes:
    found = b""
    try:
        async for piece in client:
            found += piece
    except trio.BrokenResourceError:
        pass
    return found


async def answer(client: trio.SocketStream, request: bytes = REQUEST) -> bytes:
    """The first bytes of the answer."""
    await client.send_all(request)
    return bytes(await client.receive_some(65536))


async def test_a_client_that_leaves_without_a_word_holds_no_connection() -> None:
    """hypercorn's idle timer outlives the end of its client, and with it the socket (B4)."""
    async with serving() as server:
        for _ in range(50):
            await (await server.open()).aclose()
        await server.size(0)


async def test_a_client_that_leaves_after_an_answer_holds_no_connection() -> None:
    async with serving() as server:
        async with await server.open() as client:
            assert b"200" in await answer(client)
        await server.size(0)


async def test_a_full_server_ends_the_connection_that_has_waited_longest_and_serves_the_new_one() -> None:
    async with serving(most=3) as server:
        silent = [await server.open() for _ in range(3)]
        await server.size(3)
        async with await server.open() as client:
            assert b"200" in await answer(client)
        assert await read_all(silent[0]) == b""
        assert server.crowd.cut["crowded"] == 1
        for client in silent:
            await client.aclose()


async def test_any_number_of_silent_connections_leaves_room_for_a_probe() -> None:
    """And the log has one line of it."""
    async with serving(most=5, reserved=2) as server:
        silent = [await server.open() for _ in range(60)]
        async with await server.open() as client:
            assert b"200" in await answer(client, b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n")
        assert len([line for line in server.logs if line["event"] == "connections.cut"]) == 1
        assert server.crowd.size <= 7
        for client in silent:
            await client.aclose()


async def test_a_server_whose_connections_all_work_answers_probes_and_refuses_the_rest() -> None:
    async with serving(most=2, reserved=2) as server:
        busy = [await server.open() for _ in range(2)]
        for client in busy:
            await client.send_all(b"GET /held HTTP/1.1\r\nHost: x\r\n\r\n")
        while not all(seat.waits_since is None for seat in server.crowd._seats) or server.crowd.size < 2:
            await trio.lowlevel.checkpoint()
        async with await server.open() as client:
            assert b" 503 " in await answer(client)
        async with await server.open() as client:
            assert b" 200 " in await answer(client, b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n")
        server.app.held.set()
        for client in busy:
            assert b" 200 " in await client.receive_some(65536)
            await client.aclose()


async def test_a_silent_connection_is_closed_in_seconds(mock_clock: trio.testing.MockClock) -> None:
    async with serving() as server:
        async with await server.open() as client:
            await client.send_all(b"GET / HTTP/1.1\r\nHost")  # half of a request is not one
            await server.size(1)
            await trio.testing.wait_all_tasks_blocked()
            mock_clock.jump(11)
            assert await read_all(client) == b""
        assert server.crowd.cut["silent"] == 1


@pytest.mark.parametrize("step", [1400, 20_000, MOST_HEADER_BYTES * 2])
@pytest.mark.parametrize("size", [20_000, MOST_HEADER_BYTES - 100])
async def test_headers_within_the_limit_pass_however_they_are_cut(step: int, size: int) -> None:
    async with serving() as server, await server.open() as client:
        request = b"GET / HTTP/1.1\r\nHost: x\r\nX-Long: " + b"x" * size + b"\r\n\r\n"
        for start in range(0, len(request), step):
            await client.send_all(request[start : start + step])
        head, body = await client.receive_some(65536), await client.receive_some(65536)
        assert (head[:13], body) == (b"HTTP/1.1 200 ", str(size).encode())


@pytest.mark.parametrize("step", [1400, 100_000, MOST_HEADER_BYTES * 2])
@pytest.mark.parametrize("size", [MOST_HEADER_BYTES, MOST_HEADER_BYTES + 50_000])
async def test_larger_headers_are_answered_with_431_and_logged(step: int, size: int) -> None:
    async with serving() as server, await server.open() as client:
        request = b"GET / HTTP/1.1\r\nHost: x\r\nX-Long: " + b"x" * size + b"\r\n\r\n"
        for start in range(0, len(request), step):
            await client.send_all(request[start : start + step])
        head, _, body = (await read_all(client)).partition(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 431 ")
        assert str(MOST_HEADER_BYTES) in json.loads(body)["error"]
        assert [line["reason"] for line in server.logs if line["event"] == "connections.cut"] == ["headers"]


async def test_a_request_with_a_thousand_headers_is_refused() -> None:
    async with serving() as server, await server.open() as client:
        lines = b"".join(b"X-%d: y\r\n" % number for number in range(1000))
        assert b" 431 " in await answer(client, b"GET / HTTP/1.1\r\nHost: x\r\n" + lines + b"\r\n")


@pytest.mark.parametrize(
    ("request_bytes", "status"),
    [(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", b" 505 "), (H2C, b" 200 ")],
    ids=["prior knowledge", "upgrade"],
)
async def test_there_is_no_http_2(request_bytes: bytes, status: bytes) -> None:
    """Neither with prior knowledge nor by an upgrade: nothing of ours speaks it, and it has limits of its own."""
    async with serving() as server, await server.open() as client:
        assert status in await answer(client, request_bytes)


def frame(content: bytes, *, first: bool, last: bool) -> bytes:
    """A masked binary frame; the mask is zero."""
    short = len(content) < 65536
    head = bytes([(0x80 if last else 0) | (2 if first else 0), 0x80 | (126 if short else 127)])
    return head + len(content).to_bytes(2 if short else 8, "big") + bytes(4) + content


async def test_a_websocket_message_within_the_limit_arrives_in_any_number_of_fragments() -> None:
    async with serving() as server, await server.open() as client:
        assert b" 101 " in await answer(client, UPGRADE)
        for number in range(10):
            await client.send_all(frame(bytes(MESSAGE_LIMIT // 10), first=number == 0, last=number == 9))
        while not server.app.longest:
            await trio.lowlevel.checkpoint()
        assert server.app.longest == MESSAGE_LIMIT


async def test_an_endless_websocket_message_is_not_read_beyond_its_limit() -> None:
    """The client is told 1009, and what it can still send is bounded (B5)."""
    sent, fragment = 0, 60_000
    async with serving() as server, await server.open() as client:
        assert b" 101 " in await answer(client, UPGRADE)
        with suppress(trio.BrokenResourceError):
            while sent < 500_000_000:
                await client.send_all(frame(bytes(fragment), first=not sent, last=False))
                sent += fragment
        await server.app.gone.wait()
        assert server.app.longest == 0
        assert server.crowd.cut["message"] == 1
    assert sent < 50_000_000  # the limit, what is dropped, and what the kernel holds


async def test_a_client_that_listens_hears_why_its_websocket_ends() -> None:
    async with serving() as server, await server.open() as client:
        assert b" 101 " in await answer(client, UPGRADE)
        await client.send_all(frame(bytes(MESSAGE_LIMIT + 1), first=True, last=False))
        said = await read_all(client)
        assert said[:1] == b"\x88"
        assert int.from_bytes(said[2:4], "big") == 1009
