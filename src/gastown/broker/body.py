"""An agent's request body on its way upstream."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import trio

__all__ = ["ClientGone", "RequestBody", "TooLarge"]

_REPLAYABLE = 256 * 1024


class TooLarge(Exception):
    """The body has more bytes than it may."""


class ClientGone(Exception):
    """The agent went away before its request was whole."""


class RequestBody:
    """A body that comes in pieces. A small one is read whole first, so that it can be sent a second time."""

    def __init__(self, receive: Callable[[], Awaitable[Any]], limit: int) -> None:
        self._receive = receive
        self._limit = limit
        self._size = 0
        self._head: list[bytes] = []
        self._whole = trio.Event()

    async def begin(self) -> None:
        """Read as much as can be kept for a second sending. Raises `TooLarge` and `ClientGone`."""
        while not self.is_whole and self._size < _REPLAYABLE:
            self._head.append(await self._next())

    @property
    def is_whole(self) -> bool:
        """Whether all of it has come."""
        return self._whole.is_set()

    def content(self) -> bytes | AsyncIterator[bytes]:
        """What is sent on. It can be asked for again when all of it was here the first time."""
        return b"".join(self._head) if self.is_whole else self._pieces()

    async def ended_by_client(self) -> None:
        """Wait until the agent goes. While its body still comes, the reader of the body notices that."""
        await self._whole.wait()
        while (await self._receive())["type"] != "http.disconnect":
            pass

    async def _pieces(self) -> AsyncIterator[bytes]:
        for piece in self._head:
            yield piece
        self._head.clear()
        while not self.is_whole:
            yield await self._next()

    async def _next(self) -> bytes:
        message = await self._receive()
        if message["type"] == "http.disconnect":
            raise ClientGone
        piece: bytes = message.get("body", b"")
        self._size += len(piece)
        if self._size > self._limit:
            raise TooLarge
        if not message.get("more_body", False):
            self._whole.set()
        return piece
