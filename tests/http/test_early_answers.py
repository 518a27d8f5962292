"""Answers that do not wait for the request's body, on real sockets: none is lost, and no connection is left.

hypercorn's reader waits for room in the queue of a handler. One that has answered without reading would leave it
waiting for ever: a connection, a task and a socket for every such request.
"""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress

import pytest
import trio
from quart_trio import QuartTrio

from gastown.asgi import serving as connections
from gastown.broker.listener import open_broker, upstream_client
from gastown.control.server import listen_on, serve_app
from gastown.hall.server import serving
from tests.http.test_broker_sockets import Nowhere

GUARD_SECONDS = 60
LARGE = 32 * 1024 * 1024
"""More than the buffers of a loopback connection hold."""


def refusing() -> QuartTrio:
    app = QuartTrio("refusing")
    app.config["MAX_CONTENT_LENGTH"] = 1024

    @app.post("/anything")
    async def refuse() -> tuple[str, int]:
        return "no", 403

    return app


@asynccontextmanager
async def control() -> AsyncIterator[int]:
    listener, stop = listen_on("127.0.0.1", 0), trio.Event()
    port = listener.getsockname()[1]
    with trio.fail_after(GUARD_SECONDS):
        async with trio.open_nursery() as nursery:
            await nursery.start(serve_app, refusing(), listener, stop)
            yield port
            stop.set()


@asynccontextmanager
async def hall() -> AsyncIterator[int]:
    with trio.fail_after(GUARD_SECONDS):
        async with serving(
            lambda _: refusing(), host="127.0.0.1", port=0, logger=logging.getLogger("test")
        ) as url:
            yield int(url.rpartition(":")[2])


@asynccontextmanager
async def broker() -> AsyncIterator[int]:
    with trio.fail_after(GUARD_SECONDS):
        async with upstream_client() as client, open_broker(client, Nowhere()) as opened:
            yield int(opened.url.rpartition(":")[2])


Server = Callable[[], AbstractAsyncContextManager[int]]
every_server = pytest.mark.parametrize("server", [control, hall, broker])


@pytest.fixture
def live(monkeypatch: pytest.MonkeyPatch) -> set[object]:
    """The connections that a server has now."""
    served: set[object] = set()
    serve = connections._serve_one

    async def counted(*arguments: object) -> None:
        served.add(token := object())
        try:
            await serve(*arguments)
        finally:
            served.discard(token)

    monkeypatch.setattr(connections, "_serve_one", counted)
    return served


async def gone(live: set[object]) -> None:
    while live:
        await trio.sleep(0.01)


def head(framing: str) -> bytes:
    return f"POST /anything HTTP/1.1\r\nHost: localhost\r\n{framing}\r\n\r\n".encode()


async def answer_to(stream: trio.SocketStream) -> bytes:
    """All that the server says until it has no more to say, or has closed."""
    said = b""
    while b"\r\n\r\n" not in said:
        more = await stream.receive_some(65536)
        assert more, "the server closed without an answer"
        said += more
    return said


@every_server
async def test_a_client_that_writes_its_whole_body_before_it_reads_gets_the_answer(
    server: Server, live: set[object]
) -> None:
    async with server() as port, await trio.open_tcp_stream("127.0.0.1", port) as stream:
        await stream.send_all(head(f"Content-Length: {LARGE}"))
        await stream.send_all(b"x" * LARGE)
        assert (await answer_to(stream)).startswith((b"HTTP/1.1 401", b"HTTP/1.1 403"))


@every_server
async def test_the_connection_takes_the_next_request_behind_the_body(server: Server, live: set[object]) -> None:
    async with server() as port, await trio.open_tcp_stream("127.0.0.1", port) as stream:
        for _ in range(3):
            await stream.send_all(head(f"Content-Length: {LARGE // 8}") + b"x" * (LARGE // 8))
            assert b" 40" in await answer_to(stream)
        assert len(live) == 1


@every_server
async def test_the_answer_comes_while_the_client_still_writes(server: Server, live: set[object]) -> None:
    async with server() as port, await trio.open_tcp_stream("127.0.0.1", port) as stream:
        await stream.send_all(head("Transfer-Encoding: chunked") + b"5\r\nhello\r\n")
        assert b" 40" in await answer_to(stream)


@every_server
async def test_a_client_that_never_stops_writing_is_cut(
    server: Server, live: set[object], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connections, "DISCARD_SECONDS", 0.3)
    async with server() as port, await trio.open_tcp_stream("127.0.0.1", port) as stream:
        await stream.send_all(head("Transfer-Encoding: chunked"))
        with suppress(trio.BrokenResourceError):
            while True:
                await stream.send_all(b"10000\r\n" + b"x" * 0x10000 + b"\r\n")
        await gone(live)


@every_server
async def test_a_client_that_stops_in_the_middle_of_its_body_is_let_go(
    server: Server, live: set[object], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connections, "DISCARD_SECONDS", 0.3)
    async with server() as port, await trio.open_tcp_stream("127.0.0.1", port) as stream:
        await stream.send_all(head(f"Content-Length: {LARGE}") + b"x" * 1000)
        assert b" 40" in await answer_to(stream)
        await gone(live)


@every_server
async def test_a_client_that_leaves_in_the_middle_of_its_body_leaves_nothing(
    server: Server, live: set[object]
) -> None:
    async with server() as port:
        for _ in range(5):
            async with await trio.open_tcp_stream("127.0.0.1", port) as stream:
                await stream.send_all(head(f"Content-Length: {LARGE}") + b"x" * 3_000_000)
        await gone(live)
