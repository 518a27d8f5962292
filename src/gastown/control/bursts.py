"""Text messages as websocket frames, so that many go out in one write.

Through ASGI every message is a write of its own, 70 µs each, and is encoded again for every client. Frames from a
server carry no mask, so the bytes of a message are the same for all clients: they are made once, and joined
(ADR 0010).
"""

from __future__ import annotations

__all__ = ["EXTENSION", "text_frame", "text_of"]

EXTENSION = "gastown.burst"
"""The key in the scope's `extensions` under which the writer of the connection is found."""


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
