"""All that is used of hypercorn 0.18 beyond what it offers as an API: whoever upgrades it looks here.

What fails when a seam is gone is said at each of them; tests on real connections hold all three.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import Any, cast

import trio
from hypercorn.app_wrappers import ASGIWrapper
from hypercorn.config import Config
from hypercorn.protocol.events import Data, StreamClosed
from hypercorn.protocol.http_stream import HTTPStream
from hypercorn.protocol.ws_stream import ASGIWebsocketState, WSStream
from hypercorn.trio.tcp_server import TCPServer
from hypercorn.trio.worker_context import WorkerContext
from hypercorn.typing import ASGIFramework, ConnectionState
from wsproto.connection import ConnectionState as WebsocketState

__all__ = ["Burst", "Connections", "burst_of", "hang_up"]

Burst = Callable[[Sequence[bytes]], Awaitable[None]]
"""Writes several websocket frames at once."""


class Connections:
    """Serves single connections, each with `run`; what fails in one comes out of that call.

    `hypercorn.trio.serve` gives the exception of one connection to the nursery of all. In 0.18 a client raises one
    at will (an upgrade that is refused, then one more request on the same connection), and the whole server ends.
    """

    def __init__(self, app: ASGIFramework, config: Config) -> None:
        self._app = ASGIWrapper(app)
        self._config = config
        self._context = WorkerContext(None)

    async def run(self, stream: trio.abc.Stream) -> None:
        """Serve one connection to its end, and close it."""
        # hypercorn's type says that every stream is an encrypted one.
        encrypted = cast("trio.SSLStream[trio.SocketStream]", stream)
        await TCPServer(self._app, self._config, self._context, ConnectionState({}), encrypted).run()

    async def stop(self) -> None:
        """Let each connection end after the request that it serves now. Waits for nothing."""
        await self._context.terminated.set()


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
