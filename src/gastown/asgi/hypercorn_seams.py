"""Every use of hypercorn 0.18 beyond its public API. An upgrade of hypercorn has to check this file.

Tests on real connections cover all parts.
"""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from functools import partial
from itertools import chain
from typing import Any, cast

import h11
import trio
from hypercorn.app_wrappers import ASGIWrapper
from hypercorn.config import Config
from hypercorn.events import Closed, Event, Updated
from hypercorn.protocol import ProtocolWrapper
from hypercorn.protocol.events import Data, StreamClosed
from hypercorn.protocol.h11 import H11Protocol
from hypercorn.protocol.http_stream import HTTPStream
from hypercorn.protocol.ws_stream import ASGIWebsocketState, WebsocketBuffer, WSStream
from hypercorn.trio.tcp_server import TCPServer
from hypercorn.trio.worker_context import WorkerContext
from hypercorn.typing import ASGIFramework, ConnectionState
from wsproto.connection import ConnectionState as WebsocketState
from wsproto.events import CloseConnection, Message
from wsproto.frame_protocol import CloseReason

__all__ = ["MOST_HEADER_BYTES", "Burst", "Connections", "Watcher", "burst_of", "hang_up"]

Burst = Callable[[Sequence[bytes]], Awaitable[None]]
"""Writes several websocket frames at once."""

MOST_HEADER_BYTES = 256 * 1024
"""Of a request's first line and its headers together, however they are cut into packets."""
_MOST_HEADERS = 1000
_FIRST_REQUEST_SECONDS = 10.0
_RESERVED_SECONDS = 2.0
_LINGER_SECONDS, _LINGER_BYTES = 2.0, 1024 * 1024
_TOO_LARGE = f"The headers of a request may have {MOST_HEADER_BYTES} bytes in {_MOST_HEADERS} lines"


class Watcher:
    """What the owner of a connection hears of it. This one is for an owner that wants to hear nothing.

    A `reserved` connection has less time for its request.
    """

    reserved = False

    def waits(self, now_idle: bool) -> None:
        """It waits for a request from now on, or has one."""

    def cut(self, reason: str) -> None:
        """The server ends it: `silent`, `headers` or `message`."""


_UNWATCHED = Watcher()


class Connections:
    """Serves single connections, each with `run`; what fails in one comes out of that call.

    `hypercorn.trio.serve` gives the exception of one connection to the nursery of all. In 0.18 a client raises one
    at will (an upgrade that is refused, then one more request on the same connection), and the whole server ends.
    """

    def __init__(self, app: ASGIFramework, config: Config) -> None:
        self._app = ASGIWrapper(app)
        self._config = config
        self._config.h11_max_incomplete_size = MOST_HEADER_BYTES
        self._context = WorkerContext(None)

    async def run(self, stream: trio.abc.Stream, watcher: Watcher = _UNWATCHED) -> None:
        """Serve one connection to its end, and close it."""
        # hypercorn's type says that every stream is an encrypted one.
        encrypted = cast("trio.SSLStream[trio.SocketStream]", stream)
        connection = _Connection(self._app, self._config, self._context, ConnectionState({}), encrypted)
        connection.watcher = watcher
        await connection.run()

    async def stop(self) -> None:
        """Let each connection end after the request that it serves now. Waits for nothing."""
        await self._context.terminated.set()


class _Connection(TCPServer):
    """A connection that ends with its peer, and soon when the peer says nothing.

    hypercorn's idle timer goes on after the peer's end and keeps the socket open for as long as it runs.
    """

    watcher: Watcher = _UNWATCHED
    _spoken_to = False
    _over = False

    async def protocol_send(self, event: Event) -> None:
        if isinstance(event, Updated):
            if self._over:
                return
            self._spoken_to = True
            self.watcher.waits(event.idle)
        await super().protocol_send(event)

    async def _read_data(self) -> None:
        usual = self.protocol
        usual.protocol = _Http1.in_place_of(usual, self)
        await super()._read_data()
        self._over = True
        await self.idle_task.stop()

    async def _idle_timeout(self) -> None:
        if not self._spoken_to:
            with trio.move_on_after(
                _RESERVED_SECONDS if self.watcher.reserved else _FIRST_REQUEST_SECONDS
            ) as scope:
                await self.context.terminated.wait()
            if scope.cancelled_caught:
                self.watcher.cut("silent")
            with trio.CancelScope(shield=True):  # as hypercorn does: it waits for nothing
                await self._initiate_server_close()
        else:
            await super()._idle_timeout()

    async def linger(self) -> None:
        """Read and drop what a client that has been refused still sends, so that it comes to read its answer."""
        left = _LINGER_BYTES
        with trio.move_on_after(_LINGER_SECONDS), suppress(trio.BrokenResourceError, trio.ClosedResourceError):
            await cast(trio.SocketStream, self.stream).send_eof()
            while left > 0 and (piece := await self.stream.receive_some(65536)):
                left -= len(piece)


class _Http1(H11Protocol):
    """HTTP/1 only, and with limits at which the server stops to read."""

    _connection: _Connection

    @classmethod
    def in_place_of(cls, usual: ProtocolWrapper, connection: _Connection) -> _Http1:
        made = cls(
            usual.app, usual.config, usual.context, usual.task_group, usual.state, usual.ssl, usual.client,
            usual.server, usual.send,
        )  # fmt: skip
        made._connection = connection
        return made

    async def handle(self, event: Event) -> None:
        try:
            await super().handle(event)
        except _MessageTooLarge:
            self._connection.watcher.cut("message")
            if isinstance(self.stream, WSStream):
                closing = CloseConnection(code=CloseReason.MESSAGE_TOO_BIG)
                await self.stream._send_wsproto_event(closing)  # noqa: SLF001  # pyright: ignore[reportPrivateUsage]
            await self._close_stream()  # the app hears that its client is gone
            await self._connection.linger()
            await self.send(Closed())

    async def _check_protocol(self, event: h11.Request) -> None:
        """Change to no other protocol. HTTP/2 in the clear has no use here, and limits of its own."""

    async def _create_stream(self, request: h11.Request) -> None:
        if request.http_version not in (b"1.0", b"1.1"):
            await self._send_error_response(505)
            await self.send(Closed())
        elif len(request.headers) > _MOST_HEADERS or _size_of(request) > MOST_HEADER_BYTES:
            await self._send_error_response(431)
            await self.send(Closed())
        else:
            await super()._create_stream(request)
            if isinstance(self.stream, WSStream):
                self.stream.buffer = _BoundedMessage(self.config.websocket_max_message_size)

    async def _send_error_response(self, status_code: int) -> None:
        if status_code != 431:
            await super()._send_error_response(status_code)
            return
        self._connection.watcher.cut("headers")
        content = json.dumps({"error": _TOO_LARGE}).encode()
        own = [
            (b"content-type", b"application/json"),
            (b"content-length", str(len(content)).encode()),
            (b"connection", b"close"),
        ]
        headers = list(chain(own, self.config.response_headers("h11")))
        await self._send_h11_event(h11.Response(status_code=431, headers=headers))
        await self._send_h11_event(h11.Data(data=content))
        await self._send_h11_event(h11.EndOfMessage())
        await self._connection.linger()


def _size_of(request: h11.Request) -> int:
    """How many bytes a request's first line and its headers have at least."""
    line = len(request.method) + len(request.target) + len(" HTTP/1.1\r\n") + 1
    return line + sum(len(name) + len(value) + len(":\r\n") for name, value in request.headers)


class _MessageTooLarge(Exception):
    """A websocket's message has more bytes than it may. It is not hypercorn's own, after which it reads on."""


class _BoundedMessage(WebsocketBuffer):
    """A message of a websocket that is not there whole yet."""

    def extend(self, event: Message[Any]) -> None:
        if self.length + len(event.data) > self.max_length:
            self.clear()
            raise _MessageTooLarge
        super().extend(event)


async def hang_up(send: Callable[..., Any]) -> None:
    """Close the connection of hypercorn's `send` without an answer, for which ASGI has no word.

    Raises `TypeError` when `send` is not hypercorn's own.
    """
    stream = getattr(send, "__self__", None)
    if not isinstance(stream, HTTPStream):
        raise TypeError("hypercorn's own `send` is needed here")
    stream.closed = True  # else hypercorn would still try a 500
    await stream.send(StreamClosed(stream_id=stream.stream_id))


def burst_of(send: Callable[..., Any]) -> Burst | None:
    """What writes frames to the websocket of hypercorn's `send`; None when `send` is not hypercorn's own.

    Compression is not agreed on: it costs 40 µs a message and client, and would make the bytes differ. ADR 0010
    says what happens without this seam.
    """
    stream = getattr(send, "__self__", None)
    if not isinstance(stream, WSStream):
        return None
    stream.handshake.extensions = None
    return partial(_write, stream)


async def _write(stream: WSStream, frames: Sequence[bytes]) -> None:
    """Write `frames`, unless the peer is gone or going. Returns when the kernel has them; cannot be cancelled."""
    if (
        stream.closed
        or stream.state is not ASGIWebsocketState.CONNECTED
        or stream.connection.state is not WebsocketState.OPEN
    ):
        await trio.lowlevel.checkpoint()
        return
    await stream.send(Data(stream_id=stream.stream_id, data=b"".join(frames)))
