"""Events as they happen: `/ws` and `/agents/:id/stream`, and the tickets for them."""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any, cast

import pydantic
import structlog
import trio
from quart import Blueprint, Response, websocket

from gastown.asgi.hypercorn_seams import Burst
from gastown.concurrency.hub import Gap, HubClosed, Published, Subscription
from gastown.contract.access import Scope
from gastown.contract.errors import StreamsClosed
from gastown.contract.events import AgentEvent, StreamTicket, Subscribe
from gastown.contract.identifiers import printable
from gastown.contract.wire import iso
from gastown.control.auth.policy import ticket_agent
from gastown.control.auth.tickets import LIFETIME_SECONDS
from gastown.control.bursts import EXTENSION, text_frame, text_of
from gastown.control.context import town
from gastown.control.requests import event_id
from gastown.control.responses import reply
from gastown.control.route_table import Routes
from gastown.control.sockets import CloseCode, SocketRoutes, close

__all__ = ["blueprint", "routes", "sockets"]

log = structlog.get_logger()

blueprint = Blueprint("streams", __name__)
routes = Routes(blueprint)
sockets = SocketRoutes(blueprint)

_JSON = json.JSONEncoder(separators=(",", ":"))
_BURST_BYTES = 256 * 1024
_MOST_AGENTS = 200
"""Agents that one connection may subscribe to, known or not."""
_KEPT_FAULTS = 8
_TOO_SLOW = "Read too slowly, or asked for too late: these events are no longer kept"


@routes.post("/agents/<agent_id>/stream-ticket", answers={200: StreamTicket}, scope=Scope.ATTACH)
async def stream_ticket(agent_id: str) -> Response:
    """A ticket that opens one websocket of this agent, for a minute. The agent need not exist yet."""
    here = town()
    ticket = here.tickets.issue(agent_id)
    return reply(StreamTicket(ticket=ticket, expires_at=here.now() + timedelta(seconds=LIFETIME_SECONDS)))


@sockets("/ws")
async def events_of_all() -> None:
    """Live events of all agents; with `?agentId=` what `/agents/:id/stream` gives."""
    await _stream(websocket.args.get("agentId") or None)


@sockets("/agents/<agent_id>/stream")
async def events_of_one(agent_id: str) -> None:
    """An agent's kept events (after the id in `?after=`), then live ones. `?ticket=` is a stream ticket."""
    await _stream(agent_id)


async def _stream(agent_id: str | None) -> None:
    here = town()
    hub = here.services.events.hub
    if hub.closed is not None:
        raise StreamsClosed(hub.closed)
    await websocket.accept()
    with hub.subscribe() as subscription:
        stream = _Stream(subscription, ticket_agent(), here.now)
        if agent_id is None:
            subscription.follow_all()
        else:
            subscription.follow(agent_id, event_id(websocket.args.get("after")))
        async with trio.open_nursery() as nursery:
            # One task always reads (P9): a client that sends while it does not read must not block its end.
            nursery.start_soon(stream.listen, name="websocket reader")
            try:
                await stream.write(_burst())
            except HubClosed as closed:
                await close(CloseCode.GOING_AWAY, str(closed))
            nursery.cancel_scope.cancel(reason="the websocket is closed")


def _burst() -> Burst:
    """The writer of several frames: hypercorn's connection, else one message after the other."""
    extensions = cast(dict[str, Any], websocket.scope["extensions"])
    burst: Burst | None = extensions.get(EXTENSION)
    if burst is not None:
        return burst

    async def one_by_one(frames: Sequence[bytes]) -> None:
        for frame in frames:
            await trio.lowlevel.checkpoint()  # P8: to a peer that has left, send() never waits
            await websocket.send(text_of(frame))

    return one_by_one


@dataclass
class _Stream:
    """One connection: its client's subscriptions, and the frames sent. `only` is the agent its ticket is for."""

    subscription: Subscription[AgentEvent]
    only: str | None
    now: Callable[[], datetime]
    faults: deque[str] = field(default_factory=lambda: deque(maxlen=_KEPT_FAULTS))

    async def listen(self) -> None:
        """Handle the client's messages, until cancelled."""
        while True:
            fault = self._obey(await websocket.receive())
            if fault is not None:
                self.faults.append(fault)
                self.subscription.wake()

    async def write(self, burst: Burst) -> None:
        """Write what the subscription brings, as fast as the client takes it. Raises `HubClosed` at the end."""
        while True:
            entries = await self.subscription.next()
            frames = [self._own_frame("stream.error", None, {"message": fault}) for fault in self.faults]
            self.faults.clear()
            size = 0
            for entry in entries:
                frames.append(frame := self._lost(entry) if isinstance(entry, Gap) else _frame(entry))
                size += len(frame)
                if size >= _BURST_BYTES:
                    await burst(frames)
                    frames, size = [], 0
            if frames:
                await burst(frames)

    def _obey(self, message: str | bytes | None) -> str | None:
        """Carry out the client's message; returns what is wrong with it, or None."""
        try:
            asked = Subscribe.model_validate_json(message or "")
        except pydantic.ValidationError as error:
            return _sentence(error)
        agent_id, keys = asked.agent_id, self.subscription.keys
        if self.only not in (None, agent_id):
            return f"The stream ticket of this connection is for agent {printable(str(self.only))}"
        if agent_id not in keys and len(keys) >= _MOST_AGENTS:
            return f"A connection may subscribe to {_MOST_AGENTS} agents"
        self.subscription.follow(agent_id, asked.after)
        return None

    def _lost(self, gap: Gap) -> bytes:
        log.info("stream.gap", agent_id=gap.key, first=gap.first, last=gap.last)
        data = {"from": gap.first, "to": gap.last, "reason": _TOO_SLOW}
        return self._own_frame("stream.gap", gap.key, data, gap.last)

    def _own_frame(
        self, event: str, agent_id: str | None, data: dict[str, Any], number: int | None = None
    ) -> bytes:
        """A frame that no ring holds. A gap has the id of the last event that it stands for."""
        return _written(agent_id, number, event, data, self.now())


def _sentence(error: pydantic.ValidationError) -> str:
    first = error.errors(include_input=False, include_context=False, include_url=False)[0]
    where = ".".join(str(part) for part in first["loc"])
    return f"{where}: {first['msg']}" if where else first["msg"]


def _frame(entry: Published[AgentEvent]) -> bytes:
    """The frame of an event, made once for all connections."""
    if entry.wire is None:
        event = entry.item
        entry.wire = _written(entry.key, event.id, event.event, event.data, event.timestamp, event.attempt_id)
    return entry.wire


def _written(
    agent_id: str | None,
    number: int | None,
    event: str,
    data: dict[str, Any],
    moment: datetime,
    attempt_id: str | None = None,
) -> bytes:
    frame = {"agentId": agent_id, "id": number, "event": event, "data": data, "timestamp": iso(moment)}
    if attempt_id is not None:
        frame["attemptId"] = attempt_id
    return text_frame(_JSON.encode(frame).encode())
