"""Terminals inside a kilo server: its PTY routes, and a connection to one of them (kilo-facts 7)."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import httpx2
from httpx2.websockets import (
    AsyncWebSocketSession,
    WebSocketDisconnect,
    WebSocketNetworkError,
    WebSocketUpgradeError,
)
from wsproto.events import BytesMessage, TextMessage
from wsproto.utilities import LocalProtocolError

from gastown.contract.terminals import Pty, PtyChange
from gastown.kilo.errors import KiloError, KiloRefused, KiloUnreachable
from gastown.kilo.rest import KiloRest

__all__ = ["KiloTerminals", "TerminalConnection", "TerminalEnded", "TerminalLost"]

_MOST_MESSAGE_BYTES = 1024 * 1024
"""kilo replays a terminal in pieces of 64 k characters; httpx2 alone would refuse those of more bytes (P20)."""


class TerminalEnded(KiloError):
    """The terminal's process has ended, and kilo has closed the connection in order."""


class TerminalLost(KiloError):
    """The connection broke: the server is gone, or going."""


class TerminalConnection:
    """A viewer of a terminal. Frames go through as they are: text stays text, bytes stay bytes."""

    def __init__(self, session: AsyncWebSocketSession) -> None:
        self._session = session

    async def send(self, frame: str | bytes) -> None:
        """Raises `TerminalLost`."""
        try:
            if isinstance(frame, str):
                await self._session.send_text(frame)
            else:
                await self._session.send_bytes(frame)
        except (WebSocketNetworkError, LocalProtocolError) as error:
            raise TerminalLost("the connection to the terminal broke") from error

    async def receive(self) -> str | bytes:
        """The next frame. Raises `TerminalEnded` or `TerminalLost`."""
        while True:
            try:
                event = await self._session.receive()
            except WebSocketDisconnect as closed:
                if closed.code == 1000:
                    raise TerminalEnded("the terminal has ended") from None
                raise TerminalLost(f"kilo closed the terminal with {closed.code}") from None
            except WebSocketNetworkError as error:
                raise TerminalLost("the connection to the terminal broke") from error
            if isinstance(event, TextMessage):
                return event.data
            if isinstance(event, BytesMessage):
                return bytes(event.data)


class KiloTerminals(KiloRest):
    """The terminals of one working directory. Raises what `KiloRest` raises; deadlines are the caller's."""

    def __init__(self, client: httpx2.AsyncClient, url: str, directory: str) -> None:
        super().__init__(client, url)
        self._query = {"directory": directory}
        self._directory = directory

    async def all(self) -> tuple[Pty, ...]:
        """Those whose process lives."""
        return tuple(Pty.model_validate(item) for item in await self._call("GET", "/pty", query=self._query))

    async def get(self, pty_id: str) -> Pty:
        return Pty.model_validate(await self._call("GET", f"/pty/{pty_id}", query=self._query))

    async def attached(self, kilo_bin: str, session: str) -> Pty:
        """The running terminal that shows a session, made when there is none. Callers take turns."""
        args = ("attach", self.url, f"--session={session}")
        for pty in await self.all():
            if (pty.command, pty.args, pty.status) == (kilo_bin, args, "running"):
                return pty
        body = {"command": kilo_bin, "args": args, "cwd": self._directory, "title": "kilo attach"}
        return Pty.model_validate(await self._call("POST", "/pty", body, self._query))

    async def change(self, pty_id: str, change: PtyChange) -> Pty:
        body = change.model_dump(by_alias=True, exclude_none=True)
        return Pty.model_validate(await self._call("PUT", f"/pty/{pty_id}", body, self._query))

    async def remove(self, pty_id: str) -> bool:
        """End a terminal and what runs in it."""
        return bool(await self._call("DELETE", f"/pty/{pty_id}", query=self._query))

    @asynccontextmanager
    async def connect(self, pty_id: str, cursor: int | None) -> AsyncIterator[TerminalConnection]:
        """Look at a terminal, from what it showed at `cursor` on (None: all that is kept, -1: only what comes).

        What fails inside the block comes out as a group: catch it there.
        """
        path = f"/pty/{pty_id}/connect"
        query = self._query | ({"cursor": str(cursor)} if cursor is not None else {})
        try:
            async with self._client.websocket(
                self.url.replace("http", "ws", 1) + path,
                params=query,
                max_message_size_bytes=_MOST_MESSAGE_BYTES,
                # P20: whoever reads slowly would be cut. The server is on loopback, and watched.
                keepalive_ping_interval_seconds=None,
                timeout=None,
            ) as session:
                yield TerminalConnection(session)
        except WebSocketUpgradeError as error:
            raise KiloRefused("GET", path, error.response.status_code, "Error", "no websocket") from None
        except httpx2.TransportError as error:
            raise KiloUnreachable(f"no answer to GET {path}: {type(error).__name__}") from error
