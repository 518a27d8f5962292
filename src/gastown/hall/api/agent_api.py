"""The worker API's frequent calls: events, heartbeats and nudges of agents (contract section 2)."""

from __future__ import annotations

from typing import Annotated, Any, TypeVar

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, TypeAdapter, ValidationError
from quart import Blueprint

from gastown.contract.events import ModelCall, UsageEvent
from gastown.contract.identifiers import AgentId
from gastown.contract.worker import ACCEPTS_BATCHES, ACCEPTS_HEADER, NudgeDelivered, Nudges
from gastown.hall.api.answers import Answer, ApiError, issues, ok, read_json, reply
from gastown.hall.api.context import context, on_board
from gastown.hall.api.responses import DrainNonce
from gastown.hall.api.worker_api import require_identifiers, require_token
from gastown.hall.domain.usage import Source, Use
from gastown.hall.reconcile.facts import Fact, TurnBegan, TurnEnded
from gastown.hall.store import records, rig_agents
from gastown.hall.store.records import AgentEventRecord
from gastown.hall.store.town_state import take, take_budget
from gastown.hall.store.transaction import Transaction
from gastown.hall.store.usage import count

__all__ = ["agent_api"]

_SMALL = 256 * 1024
_MOST_OF_A_BATCH = 10_000
_T = TypeVar("_T")

agent_api = Blueprint("agent_api", __name__, url_prefix="/api/towns/<town_id>/rigs/<rig_id>")
agent_api.before_request(require_token)
agent_api.before_request(require_identifiers)


class _Event(BaseModel):
    model_config = ConfigDict(extra="ignore", hide_input_in_errors=True)

    agent_id: AgentId
    event_type: Annotated[str, StringConstraints(pattern=r"^[a-zA-Z][a-zA-Z0-9_.-]{0,99}$")]
    data: dict[str, Any]
    attempt_id: Annotated[str | None, Field(alias="attemptId", max_length=200)] = None

    @property
    def use(self) -> Use | None:
        """The model call that it tells of. What does not fit the contract tells of none."""
        try:
            if self.event_type == "agent.model_call":
                call = ModelCall.model_validate(self.data)
                numbers = call.model_dump(exclude={"call_id", "model", "outcome"})
                return Use(**self._whose, call_id=call.call_id, source=Source.GATEWAY, **numbers)
            if self.event_type == "agent.usage":
                said = UsageEvent.model_validate(self.data)
                numbers = said.model_dump(include={"input", "output", "cost"})
                return Use(**self._whose, call_id=said.message_id, source=Source.KILO, **numbers)
        except ValidationError:
            pass
        return None

    @property
    def _whose(self) -> dict[str, Any]:
        return {"agent_id": self.agent_id, "attempt_id": self.attempt_id}

    @property
    def fact(self) -> Fact | None:
        """What it says about the agent's work: that a turn has begun or ended."""
        session, reason = self.data.get("sessionID"), self.data.get("reason")
        if not isinstance(session, str):
            return None
        if self.event_type == "session.turn.open":
            return TurnBegan(agent_id=self.agent_id, session_id=session)
        if self.event_type == "session.turn.close" and reason != "superseded":
            return TurnEnded(agent_id=self.agent_id, session_id=session, reason=str(reason)[:200])
        return None

    def to_record(self) -> AgentEventRecord:
        return AgentEventRecord(self.agent_id, self.event_type, self.data)


_EVENT = TypeAdapter(_Event)
_EVENTS = TypeAdapter(list[_Event])
_BODY = TypeAdapter(dict[str, Any])
_DELIVERED = TypeAdapter(NudgeDelivered)


@agent_api.post("/agent-events")
async def post_event(town_id: str, rig_id: str) -> Answer[None]:
    """Keep an event of an agent."""
    event = _valid(_EVENT, await read_json())
    return await _keep(town_id, rig_id, [event])


@agent_api.post("/agent-events/batch")
async def post_events(town_id: str, rig_id: str) -> Answer[None]:
    """Keep an array of events, all of them or none."""
    events = _valid(_EVENTS, await read_json())
    if len(events) > _MOST_OF_A_BATCH:
        raise ApiError(413, f"An array holds at most {_MOST_OF_A_BATCH} events")
    return await _keep(town_id, rig_id, events)


async def _keep(town_id: str, rig_id: str, events: list[_Event]) -> Answer[None]:
    kept = [event.to_record() for event in events]
    turns = [fact for event in events if (fact := event.fact) is not None]
    uses = [use for event in events if (use := event.use) is not None]

    def work(board: Transaction) -> None:
        records.add_agent_events(board, rig_id, kept)
        if uses:  # before the ends of turns: what they let begin goes by what was spent
            take_budget(board, count(board, uses))
        if turns:
            take(board, *turns)

    await on_board(town_id, work)
    context().store.heard.send()
    kept_all = ok()
    kept_all.headers[ACCEPTS_HEADER] = ACCEPTS_BATCHES
    return kept_all


@agent_api.post("/agents/<agent_id>/heartbeat")
async def post_heartbeat(town_id: str, rig_id: str, agent_id: str) -> Answer[DrainNonce]:
    """Keep an agent's last heartbeat."""
    body = _valid(_BODY, await read_json(_SMALL))
    await on_board(town_id, lambda board: records.keep_heartbeat(board, rig_id, agent_id, body))
    return ok(DrainNonce())


@agent_api.get("/agents/<agent_id>/pending-nudges")
async def get_nudges(town_id: str, agent_id: str, **_path: str) -> Answer[Nudges]:
    """The nudges that the agent has not received yet, the most urgent first."""
    waiting = await on_board(town_id, lambda board: rig_agents.pending_nudges(board, agent_id))
    return reply(Nudges(data=waiting))


@agent_api.post("/agents/<agent_id>/nudge-delivered")
async def post_nudge_delivered(town_id: str, agent_id: str, **_path: str) -> Answer[None]:
    """Note that the agent received the nudge; a second call changes nothing."""
    body = _valid(_DELIVERED, await read_json(_SMALL))
    await on_board(town_id, lambda board: rig_agents.mark_delivered(board, agent_id, body.nudge_id))
    return ok()


def _valid(model: TypeAdapter[_T], given: Any) -> _T:
    try:
        return model.validate_python(given)
    except ValidationError as error:
        raise ApiError(400, "Invalid request body", issues=issues(error)) from None
