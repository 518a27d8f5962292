"""Terminals in the agent's own kilo server."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import cast

import trio
from quart import Blueprint, Response, websocket

from gastown.agents.agent import Agent
from gastown.concurrency.waiting import wait_any
from gastown.contract.access import Scope
from gastown.contract.agents import AgentState
from gastown.contract.errors import AgentNotRunning, ControlError, PtyNotFound, StreamsClosed
from gastown.contract.identifiers import is_identifier
from gastown.contract.terminals import Pty, PtyChange, PtyList, PtyRemoved
from gastown.control.context import town
from gastown.control.requests import parse
from gastown.control.responses import reply
from gastown.control.route_table import Routes
from gastown.control.sockets import CloseCode, SocketRoutes, close
from gastown.kilo.errors import KiloError, KiloRefused
from gastown.kilo.pool import Server
from gastown.kilo.terminal import KiloTerminals, TerminalConnection, TerminalEnded

__all__ = ["blueprint", "routes", "sockets"]

blueprint = Blueprint("terminals", __name__)
routes = Routes(blueprint)
sockets = SocketRoutes(blueprint)

_REQUEST_SECONDS = 20.0
_WAITING_FRAMES = 256
"""Input frames that may wait until the terminal takes them; a faster client is disconnected."""
_CURSOR = re.compile(r"-1|[0-9]{1,15}")


@routes.post("/agents/<agent_id>/pty", answers={200: Pty}, scope=Scope.ATTACH)
async def open_pty(agent_id: str) -> Response:
    """The terminal that shows the agent's session: the running one, else a new one."""
    here = town()
    async with here.terminals.of(agent_id), _asking(agent_id) as (agent, terminals):
        return reply(await terminals.attached(here.services.defaults.kilo_bin, agent.running().session_id))


@routes.get("/agents/<agent_id>/pty", answers={200: PtyList})
async def list_ptys(agent_id: str) -> Response:
    """The agent's running terminals."""
    async with _asking(agent_id) as (_, terminals):
        return reply(PtyList(await terminals.all()))


@routes.get("/agents/<agent_id>/pty/<pty_id>", answers={200: Pty})
async def get_pty(agent_id: str, pty_id: str) -> Response:
    """One terminal."""
    async with _asking(agent_id, pty_id) as (_, terminals):
        return reply(await terminals.get(pty_id))


@routes.put("/agents/<agent_id>/pty/<pty_id>", body=PtyChange, answers={200: Pty}, scope=Scope.ATTACH)
async def change_pty(agent_id: str, pty_id: str) -> Response:
    """Resize a terminal, or give it another title."""
    change = await parse(PtyChange)
    async with _asking(agent_id, pty_id) as (_, terminals):
        return reply(await terminals.change(pty_id, change))


@routes.delete("/agents/<agent_id>/pty/<pty_id>", answers={200: PtyRemoved}, scope=Scope.ATTACH)
async def remove_pty(agent_id: str, pty_id: str) -> Response:
    """End a terminal and what runs in it."""
    async with _asking(agent_id, pty_id) as (_, terminals):
        return reply(PtyRemoved(await terminals.remove(pty_id)))


@sockets("/agents/<agent_id>/pty/<pty_id>/connect")
async def connect_pty(agent_id: str, pty_id: str) -> None:
    """A terminal's raw frames, both ways, replayed from `?cursor=`. Closes with 1011 when the agent or the
    terminal is gone, with 1000 when the terminal ends; the terminal outlives its viewers."""
    here = town()
    if (closed := here.services.events.hub.closed) is not None:
        raise StreamsClosed(closed)
    await websocket.accept()
    try:
        agent, server = _serving(agent_id, pty_id)
    except ControlError as error:
        await close(CloseCode.GONE, error.message)
        return
    viewer = _Viewer(agent, server, pty_id)
    await viewer.run(websocket.args.get("cursor"))
    if here.drain.is_set:
        await close(CloseCode.GOING_AWAY, "The container stops")
    else:
        await close(viewer.code, viewer.reason)


def _serving(agent_id: str, pty_id: str | None) -> tuple[Agent, Server]:
    """A running agent and its server. Raises `AgentNotFound`, `AgentNotRunning` or `PtyNotFound`."""
    agent = town().roster.get(agent_id)
    server = agent.running().server
    if pty_id is not None and not is_identifier(pty_id):
        raise PtyNotFound(pty_id)
    return agent, server


@asynccontextmanager
async def _asking(agent_id: str, pty_id: str | None = None) -> AsyncIterator[tuple[Agent, KiloTerminals]]:
    """The terminals of a running agent. What kilo says about them becomes the caller's 404, or a 409."""
    agent, server = _serving(agent_id, pty_id)
    try:
        with trio.fail_after(_REQUEST_SECONDS):  # noqa: ASYNC100 - what waits is in the caller's block
            yield agent, server.terminals()
    except KiloError as error:
        if pty_id is not None and isinstance(error, KiloRefused) and error.status == 404:
            raise PtyNotFound(pty_id) from error
        if agent.state is not AgentState.RUNNING:
            raise AgentNotRunning(agent.id, agent.state) from error
        raise


class _Viewer:
    """One websocket at one terminal. `code` and `reason` are why it ended; known when `run` has returned."""

    def __init__(self, agent: Agent, server: Server, pty_id: str) -> None:
        self.code, self.reason = CloseCode.GONE, "The terminal is gone"
        self._agent = agent
        self._server = server
        self._pty_id = pty_id
        self._scope = trio.CancelScope()
        self._typed, self._waiting = trio.open_memory_channel[str | bytes](_WAITING_FRAMES)

    async def run(self, cursor: str | None) -> None:
        """Until the terminal, its server or the viewer's patience ends."""
        start = int(cursor) if cursor is not None and _CURSOR.fullmatch(cursor) else None
        with self._scope:
            async with trio.open_nursery() as nursery:
                # The client is read from the beginning (P9): what it types early waits.
                nursery.start_soon(self._listen, name="terminal reader")
                nursery.start_soon(self._watch, name="terminal watch")
                await self._look(nursery, start)

    def _end(self, code: CloseCode, reason: str) -> None:
        if not self._scope.cancel_called:
            self.code, self.reason = code, reason
            self._scope.cancel(reason=reason)

    async def _listen(self) -> None:
        while True:
            frame = cast(str | bytes | None, await websocket.receive())  # P10: empty bytes arrive as None
            try:
                self._typed.send_nowait(b"" if frame is None else frame)
            except trio.WouldBlock:
                self._end(CloseCode.TOO_MUCH, "More input than the terminal takes")
                return

    async def _watch(self) -> None:
        await wait_any(self._server.retirement, self._server.ended)
        if self._agent.state is AgentState.RUNNING and self._server.retirement.is_set():
            self._end(CloseCode.GONE, "The agent's server was replaced: open its terminal again")
        else:
            self._end(CloseCode.GONE, "The agent's server has ended")

    async def _look(self, nursery: trio.Nursery, cursor: int | None) -> None:
        try:
            async with self._server.terminals().connect(self._pty_id, cursor) as terminal:
                nursery.start_soon(self._type, terminal, name="terminal writer")
                await self._show(terminal)
        except KiloRefused as error:
            reason = PtyNotFound(self._pty_id).message if error.status == 404 else str(error)
            self._end(CloseCode.GONE, reason)
        except KiloError as error:
            self._end(CloseCode.GONE, str(error))

    async def _show(self, terminal: TerminalConnection) -> None:
        """Raises nothing: what is raised in here would leave the connection as a group."""
        try:
            while True:
                await websocket.send(await terminal.receive())
        except TerminalEnded:
            self._end(CloseCode.ENDED, "The terminal has ended")
        except KiloError as error:
            self._end(CloseCode.GONE, str(error))

    async def _type(self, terminal: TerminalConnection) -> None:
        try:
            async for frame in self._waiting:
                await terminal.send(frame)
        except KiloError as error:
            self._end(CloseCode.GONE, str(error))
