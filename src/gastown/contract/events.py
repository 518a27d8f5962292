"""Events of agents as the control API shows them."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field

from gastown.contract.identifiers import AgentId
from gastown.contract.wire import Timestamp, Wire

__all__ = ["AgentEvent", "EventPage", "StreamTicket", "Subscribe", "Usage", "UsageEvent"]


class AgentEvent(Wire):
    """One event. `id` grows over the whole container, so `after=` works across agents.

    `attempt_id` is the attempt at the agent that it belongs to.
    """

    id: int
    event: str
    data: dict[str, Any]
    timestamp: Timestamp
    attempt_id: str | None = Field(default=None, exclude_if=lambda attempt: attempt is None)


class Usage(Wire):
    """What model calls came to: tokens that the model was given, cached ones too, tokens that it made, and USD.

    `cost` is null when the price is not known.
    """

    input: int
    output: int
    cost: float | None


class UsageEvent(Usage):
    """The data of an event `agent.usage`: a message of the assistant has completed. Each message is told once."""

    session_id: str
    message_id: str
    model: str | None = None


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
