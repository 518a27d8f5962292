"""Events of agents as the control API shows them."""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import Field

from gastown.contract.identifiers import AgentId
from gastown.contract.wire import Timestamp, Wire

__all__ = [
    "AgentEvent",
    "EventPage",
    "ModelCall",
    "ModelCalls",
    "StreamTicket",
    "Subscribe",
    "Usage",
    "UsageEvent",
]


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
    """The data of an event `agent.usage`: a message of the assistant has completed. Each message is told once.

    These are kilo's own figures, which an agent can make it say. Those of the gateway are in `agent.model_call`.
    """

    session_id: str
    message_id: str
    model: str | None = None


class ModelCall(Wire):
    """The data of an event `agent.model_call`: an answer of a model has come through the broker. Told once each.

    The numbers are the gateway's. `input` has the `cached` tokens, `output` those of the `reasoning`; `cost` is in
    USD, null when the gateway did not say it. `outcome`: counted; missing, the answer did not say its usage;
    unreadable, it was too large or compressed; cut, it did not come to its end. Tokens are then 0. `call_id`
    tells an event that comes a second time.
    """

    call_id: str
    model: str | None
    outcome: Literal["counted", "missing", "unreadable", "cut"]
    input: int
    output: int
    cached: int
    reasoning: int
    cost: float | None


class ModelCalls(Wire):
    """Model calls together. `cost` is the sum of what is known, null when nothing is; `unpriced` are the calls of
    which it is not known.
    """

    calls: int = 0
    unpriced: int = 0
    input: int = 0
    output: int = 0
    cached: int = 0
    reasoning: int = 0
    cost: float | None = None

    def plus(self, call: ModelCall) -> Self:
        """These and one more."""
        cost = self.cost if call.cost is None else (self.cost or 0) + call.cost
        return type(self)(
            calls=self.calls + 1,
            unpriced=self.unpriced + (call.cost is None),
            input=self.input + call.input,
            output=self.output + call.output,
            cached=self.cached + call.cached,
            reasoning=self.reasoning + call.reasoning,
            cost=cost,
        )


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
