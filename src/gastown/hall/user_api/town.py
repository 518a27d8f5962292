"""The routes about a town as a whole: how it is, its mayor, its end."""

from __future__ import annotations

import trio

from gastown.contract.agents import ListedAgent
from gastown.hall.api.answers import ApiError
from gastown.hall.api.context import context, on_board
from gastown.hall.control_client import ControlCallFailed
from gastown.hall.user_api import bodies, shown, views
from gastown.hall.user_api.routes import Route

__all__ = ["ROUTES"]

_CONTAINER_SECONDS = 2
"""A container that does not say how its agents are by then is shown without it."""


async def get_status(town: str) -> shown.TownStatus:
    """How the town is now: its container, its agents, and what waits for a person."""
    live = await _live()
    return await on_board(town, lambda board: views.status(board, live))


async def _live() -> tuple[ListedAgent, ...]:
    container = context().desk.container
    if container is None:
        return ()
    with trio.move_on_after(_CONTAINER_SECONDS):
        try:
            return (await container.agents()).agents
        except ControlCallFailed:
            return ()
    return ()


async def tell_mayor(town: str, body: bodies.Prompt) -> shown.MayorTold:
    """Give the mayor a prompt; its answer is in its events, at the container."""
    del town
    tell = context().desk.tell_mayor
    if tell is None:
        raise ApiError(503, "The town has no container now: its mayor cannot be told anything")
    return shown.MayorTold.model_validate(await tell(body.text), from_attributes=True)


async def end(town: str, body: bodies.Empty) -> shown.TownStatus:
    """Let the town end in order, as Ctrl-C does. The answer is how it was; it is down once its hall is gone."""
    del body
    before = await get_status(town)
    end_town = context().desk.end
    if end_town is None:
        raise ApiError(409, "This hall cannot be told to end")
    end_town()
    return before


ROUTES = (
    Route(method="GET", path="/status", handler=get_status, answer=shown.TownStatus),
    Route(method="POST", path="/mayor", handler=tell_mayor, answer=shown.MayorTold, body=bodies.Prompt),
    Route(method="POST", path="/end", handler=end, answer=shown.TownStatus, body=bodies.Empty),
)
