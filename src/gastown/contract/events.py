"""Events of agents as the control API shows them."""

from __future__ import annotations

from typing import Any

from gastown.contract.wire import Timestamp, Wire

__all__ = ["AgentEvent", "EventPage"]


class AgentEvent(Wire):
    """One event. `id` grows over the whole container, so `after=` works across agents."""

    id: int
    event: str
    data: dict[str, Any]
    timestamp: Timestamp


class EventPage(Wire):
    """`GET /agents/:id/events?after=N`."""

    events: tuple[AgentEvent, ...]
