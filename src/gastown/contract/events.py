"""Events of agents as the control API shows them."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field

from gastown.contract.identifiers import AgentId
from gastown.contract.wire import Timestamp, Wire

__all__ = ["AgentEvent", "EventPage", "StreamTicket", "Subscribe"]


class AgentEvent(Wire):
    """One event. `id` grows over the whole container, so `after=` works across agents."""

    id: int
    event: str
    data: dict[str, Any]
    timestamp: Timestamp


class EventPage(Wire):
    """`GET /agents/:id/events?after=N`."""

    events: tuple[AgentEvent, ...]


class StreamTicket(Wire):
    """`POST /agents/:id/stream-ticket`: opens one websocket, as `?ticket=`."""

    ticket: str
    expires_at: Timestamp


class Subscribe(Wire):
    """A message of the client of an event stream: send this agent's events too, those after the id `after`."""

    type: Literal["subscribe"]
    agent_id: AgentId
    after: Annotated[int, Field(ge=0)] | None = None
