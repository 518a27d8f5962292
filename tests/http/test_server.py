"""The traps of the web stack that this house depends on (ADR 0001), on real sockets.

A guard in real time fails a test in which nothing happens; under the frozen clock, nothing happens that needs a
time-out of the server's.
"""

from __future__ import annotations

import socket
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, closing
from typing import Any

import httpx2
import pytest
import structlog
import trio
from quart import Response
from quart_trio import QuartTrio

from gastown.control import server
from gastown.control.server import CannotListen, listen_on, serve_app

GUARD_SECONDS = 30
BIG = 64 * 1024 * 1024


def app() -> QuartTrio:
    here = QuartTrio("trap")

    @here.get("/small")
    async def small() -> str:
        return "small"

    @here.get("/big")
    async def big() -> Response:
        return Response(b"x" * BIG)

    return here


@asynccontextmanager
async def guarded() -> AsyncIterator[None]:
    """Fail after half a minute of real time, whatever Trio's clock says."""
    over = threading.Event()
    async with trio.open_nursery() as nursery:

        async def guard() -> None:
            if not await trio.to_thread.run_sync(over.wait, GUARD_SECONDS, abandon_on_cancel=True):
                raise AssertionError("nothing happened without a time-out of the server")

        nursery.start_soon(guard)
        try:
            yield
        finally:
            over.set()
            nursery.cancel_scope.cancel()


@asynccontextmanager
async def serving() -> AsyncIterator[tuple[int, trio.Event]]:
    """The port, and the event that stops the server; leaving the block waits until it has stopped."""
    listener, stop = listen_on("127.0.0.1", 0), trio.Event()
    port = listener.getsockname()[1]
    async with trio.open_nursery() as nursery:
        await nursery.start(serve_app, app(), listener, stop)
        yield port, stop
        stop.set()


async def test_an_idle_kept_alive_connection_does_not_hold_the_stop(mock_clock):
    async with guarded(), serving() as (port, stop), await trio.open_tcp_stream("127.0.0.1", port) as stream:
        await stream.send_all(b"GET /small HTTP/1.1\r\nHost: x\r\n\r\n")
        received = b""
        while not received.endswith(b"small"):
            received += await stream.receive_some(65536)
        stop.set()
        assert await stream.receive_some(65536) == b""


async def test_a_client_that_stops_reading_does_not_hold_the_stop_for_ever(monkeypatch):
    monkeypatch.setattr(server, "DEAD_PEER_MS", 500)
    with trio.socket.socket() as deaf:
        deaf.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        async with guarded(), serving() as (port, stop):
            await deaf.connect(("127.0.0.1", port))
            await deaf.send(b"GET /big HTTP/1.1\r\nHost: x\r\n\r\n")
            assert await deaf.recv(16)
            stop.set()


def test_a_taken_port_is_one_clear_line():
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(CannotListen, match=f"cannot listen on .*:{port}: Address already in use"):
            listen_on("127.0.0.1", port)


def test_an_address_of_another_machine_is_one_clear_line():
    with pytest.raises(CannotListen, match=r"cannot listen on 192\.0\.2\.1:0"):
        listen_on("192.0.2.1", 0)


def test_who_connects_before_the_server_accepts_waits_and_is_not_refused() -> None:
    with closing(listen_on("127.0.0.1", 0)) as listener:
        socket.create_connection(listener.getsockname()).close()


async def test_an_app_that_crashes_is_answered_for_and_logged():
    async def crash(*_channels: Any) -> None:
        raise UnicodeError("not sayable")

    listener, stop = listen_on("127.0.0.1", 0), trio.Event()
    port = listener.getsockname()[1]
    with structlog.testing.capture_logs() as logs:
        async with guarded(), trio.open_nursery() as nursery:
            await nursery.start(serve_app, crash, listener, stop)
            async with httpx2.AsyncClient(trust_env=False) as client:
                answer = await client.get(f"http://127.0.0.1:{port}/agents?token=secret")
            stop.set()
    assert answer.status_code == 500
    (line,) = (line for line in logs if line["event"] == "app.crashed")
    assert (line["log_level"], line["path"], line["exc_info"]) == ("error", "/agents", True)
