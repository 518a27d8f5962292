"""A request's body in pieces, unpacked where it is compressed, with a bound for the next piece and its time."""

from __future__ import annotations

import zlib

import trio

from gastown.asgi.origins import Receive

__all__ = ["Body", "ClientLeft", "Unreadable"]

_STALL_SECONDS = 60.0
_PIECE = 256 * 1024
_GZIP = 31  # zlib's number for it


class ClientLeft(Exception):
    """The client has gone, or sends nothing more for a minute."""


class Unreadable(Exception):
    """The body is not what it should be. One sentence."""


class Body:
    """The body of one request; one task reads it. `whole`: all of it has been read."""

    def __init__(self, receive: Receive, encoding: str) -> None:
        """Raises `Unreadable` for an encoding that is not known."""
        if encoding not in ("", "identity", "gzip", "x-gzip"):
            raise Unreadable("The body is compressed in a way that is not known here; gzip is")
        self._receive = receive
        self._unpack = zlib.decompressobj(_GZIP) if "gzip" in encoding else None
        self._packed = b""
        self._ahead = b""
        self._ended = False
        self.whole = False

    async def read(self) -> bytes:
        """The next piece, empty after the last. Raises `ClientLeft`, `Unreadable`."""
        if self._ahead:
            piece, self._ahead = self._ahead, b""
            return piece
        while not self.whole:
            piece = self._unpacked() if self._packed or self._ended else b""
            if piece:
                return piece
            if self._ended:
                self.whole = True
            else:
                await self._more()
        return b""

    def put_back(self, piece: bytes) -> None:
        """Let the next `read` begin with `piece`."""
        self._ahead = piece + self._ahead

    async def drop(self) -> None:
        """Read the rest for nothing. Raises as `read`."""
        while await self.read():
            pass

    async def left(self) -> None:
        """Return when the client has gone, once the body is whole."""
        while (await self._receive())["type"] != "http.disconnect":
            pass

    async def _more(self) -> None:
        try:
            with trio.fail_after(_STALL_SECONDS):
                message = await self._receive()
        except trio.TooSlowError:
            raise ClientLeft from None
        if message["type"] != "http.request":
            raise ClientLeft
        self._packed += message.get("body", b"")
        self._ended = not message.get("more_body", False)

    def _unpacked(self) -> bytes:
        if self._unpack is None:
            piece, self._packed = self._packed, b""
            return piece
        try:
            piece = self._unpack.decompress(self._packed, _PIECE)
        except zlib.error:
            raise Unreadable("The body is not gzip, as it says that it is") from None
        self._packed = self._unpack.unconsumed_tail
        if self._unpack.eof:
            self._packed = b""
        elif self._ended and not piece and not self._packed:
            raise Unreadable("The body ends within what is compressed")
        return piece
