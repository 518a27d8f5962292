"""`/agents/…/pending-nudges` and `/nudge-delivered`: forwarded to the worker, and its answer forwarded back."""

from __future__ import annotations

from typing import Any

import pydantic
from quart import Blueprint, Response

from gastown.contract.errors import WorkerUnavailable
from gastown.contract.wire import Wire
from gastown.contract.worker import Acknowledged, NudgeDelivered, Nudges, WorkerRefusal
from gastown.control.context import town
from gastown.control.requests import parse
from gastown.control.responses import reply
from gastown.control.route_table import Routes

__all__ = ["blueprint", "routes"]

blueprint = Blueprint("nudges", __name__)
routes = Routes(blueprint)


@routes.get("/agents/<agent_id>/pending-nudges", answers={200: Nudges})
async def pending_nudges(agent_id: str) -> Response:
    """The prompts that wait for an agent at the worker."""
    return await _pass_on("GET", "pending-nudges", None, agent_id, Nudges)


@routes.post("/agents/<agent_id>/nudge-delivered", body=NudgeDelivered, answers={200: Acknowledged})
async def nudge_delivered(agent_id: str) -> Response:
    """Tell the worker that an agent has a nudge; this container will not deliver it again."""
    body = await parse(NudgeDelivered)
    here = town()
    here.roster.get(agent_id)
    here.services.nudges.delivered(agent_id, body.nudge_id)
    return await _pass_on("POST", "nudge-delivered", body.model_dump(by_alias=True), agent_id, Acknowledged)


async def _pass_on(method: str, route: str, body: Any, agent_id: str, model: type[Wire]) -> Response:
    here = town()
    rig_id = here.roster.get(agent_id).request.rig_id
    status, answer = await here.services.nudges.forward(method, route, body, (rig_id, agent_id))
    try:
        told = (model if status < 400 else WorkerRefusal).model_validate(answer)
    except pydantic.ValidationError as error:
        raise WorkerUnavailable from error
    return reply(told, status)
