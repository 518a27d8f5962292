"""Many text messages to a websocket in one write.

Through ASGI every message is a write of its own, 70 µs each, and encoded for every client anew. Frames from a
server carry no mask, so the bytes of a message are the same for all clients: they are made once, and joined.
ADR 0010 says which seam of hypercorn this uses, and what happens when it is gone.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import Any

import trio
from hypercorn.protocol.events import Data
from hypercorn.protocol.ws_stream import ASGIWebsocketState, WSStream
from wsproto.connection import ConnectionState

__all__ = ["EXTENSION", "Burst", "burst_of", "text_frame", "text_of"]

EXTENSION = "gastown.burst"
"""The key in the scope's `extensions` under which the writer of the connection is found."""

Burst = Callable[[Sequence[bytes]], Awaitable[None]]


def text_frame(text: bytes) -> bytes:
    """A whole text message as a server sends it (RFC 6455, 5.2)."""
    size = len(text)
    if size < 126:
        return bytes((0x81, size)) + text
    if size < 1 << 16:
        return b"\x81\x7e" + size.to_bytes(2, "big") + text
    return b"\x81\x7f" + size.to_bytes(8, "big") + text


def text_of(frame: bytes) -> str:
    """The text in a frame of `text_frame`."""
    return frame[{126: 4, 127: 10}.get(frame[1], 2) :].decode()


def burst_of(send: Callable[..., Any]) -> Burst | None:
    """What writes frames to the connection behind hypercorn's `send`; None when that is not what it was.

    Compression is not agreed on: it costs 40 µs a message and client, and would make the bytes differ.
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
        or stream.connection.state is not ConnectionState.OPEN
    ):
        await trio.lowlevel.checkpoint()
        return
    await stream.send(Data(stream_id=stream.stream_id, data=b"".join(frames)))
