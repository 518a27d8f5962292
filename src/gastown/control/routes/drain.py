"""`/drain`: shut the container down in order, and follow its progress."""

from __future__ import annotations

from quart import Blueprint, Response

from gastown.contract.drain import DrainRequest, DrainState
from gastown.control.context import town
from gastown.control.requests import parse
from gastown.control.responses import reply
from gastown.control.route_table import Routes

__all__ = ["blueprint", "routes"]

blueprint = Blueprint("drain", __name__)
routes = Routes(blueprint)


@routes.get("/drain", answers={200: DrainState})
async def state() -> Response:
    """How far the drain is: its phase, the seconds left, a receipt for each agent; or that there is none."""
    return reply(town().drain.to_wire())


@routes.post("/drain", body=DrainRequest, answers={202: DrainState}, body_optional=True)
async def begin() -> Response:
    """Drain as after a SIGTERM; the process then ends with code 0. The body may be left out."""
    body = await parse(DrainRequest, absent=DrainRequest())
    drain = town().drain
    drain.ask("POST /drain", body.budget_seconds)
    return reply(drain.to_wire(), 202)
