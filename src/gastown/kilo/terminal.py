"""Terminals inside a kilo server: its PTY routes, and a connection to one of them (kilo-facts 7)."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from httpx2.websockets import AsyncWebSocketSession, WebSocketDisconnect, WebSocketNetworkError
from wsproto.events import BytesMessage, TextMessage
from wsproto.utilities import LocalProtocolError

from gastown.contract.terminals import Pty, PtyChange
from gastown.kilo.client import KiloClient
from gastown.kilo.errors import KiloError
from gastown.kilo.models import PTY, PTYS

__all__ = ["KiloTerminals", "TerminalConnection", "TerminalEnded", "TerminalLost"]

_MOST_MESSAGE_BYTES = 1024 * 1024
"""kilo replays a terminal in pieces of 64 k characters; httpx2 alone would refuse those of more bytes (P20)."""
_SHELL = "/bin/sh"
_PASSWORD = "GASTOWN_TERMINAL_PASSWORD"  # noqa: S105 - the name of the variable
_ATTACH = (
    f'KILO_SERVER_USERNAME=kilo KILO_SERVER_PASSWORD="${_PASSWORD}" && unset {_PASSWORD}'
    ' && export KILO_SERVER_USERNAME KILO_SERVER_PASSWORD && exec "$0" "$@"'
)
"""kilo blanks its password in the environment of a terminal, whatever is asked for (measured, 7.7.7), and its
client takes it from there or from the command line, which everybody can read."""


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


class KiloTerminals:
    """The terminals of one working directory. Raises what `KiloClient` raises; deadlines are the caller's."""

    def __init__(self, client: KiloClient, directory: str) -> None:
        self._client = client
        self._query = {"directory": directory}
        self._directory = directory

    async def all(self) -> tuple[Pty, ...]:
        """Those whose process lives."""
        return await self._client.ask(PTYS, "GET", "/pty", None, self._query)

    async def get(self, pty_id: str) -> Pty:
        return await self._client.ask(PTY, "GET", f"/pty/{pty_id}", None, self._query)

    async def attached(self, kilo_bin: str, session: str) -> Pty:
        """The running terminal that shows a session, made when there is none. Callers take turns."""
        endpoint = self._client.endpoint
        args = ("-c", _ATTACH, kilo_bin, "attach", endpoint.url, f"--session={session}")
        for pty in await self.all():
            if (pty.command, pty.args, pty.status) == (_SHELL, args, "running"):
                return pty
        body = {
            "command": _SHELL,
            "args": args,
            "cwd": self._directory,
            "title": "kilo attach",
            "env": {_PASSWORD: endpoint.password.reveal()},
        }
        return await self._client.ask(PTY, "POST", "/pty", body, self._query)

    async def change(self, pty_id: str, change: PtyChange) -> Pty:
        body = change.model_dump(by_alias=True, exclude_none=True)
        return await self._client.ask(PTY, "PUT", f"/pty/{pty_id}", body, self._query)

    async def remove(self, pty_id: str) -> bool:
        """End a terminal and what runs in it."""
        return bool(await self._client.call("DELETE", f"/pty/{pty_id}", None, self._query))

    @asynccontextmanager
    async def connect(self, pty_id: str, cursor: int | None) -> AsyncIterator[TerminalConnection]:
        """Look at a terminal, from what it showed at `cursor` on (None: all that is kept, -1: only what comes).

        What fails inside the block comes out as a group: catch it there.
        """
        # kilo never answers an upgrade that is the first question about a directory's terminals (7.7.7).
        await self.get(pty_id)
        query = self._query | ({"cursor": str(cursor)} if cursor is not None else {})
        async with self._client.websocket(
            f"/pty/{pty_id}/connect", query, most_message_bytes=_MOST_MESSAGE_BYTES
        ) as session:
            yield TerminalConnection(session)
