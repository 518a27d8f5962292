"""The routes about a town's settings, which hold at once: for what begins, and for the agents that are up."""

from __future__ import annotations

from dataclasses import replace

import trio

from gastown.contract.agents import AgentState, ListedAgent
from gastown.hall.api.answers import ApiError
from gastown.hall.api.context import context, on_board
from gastown.hall.control_client import ControlCallFailed, ControlClient
from gastown.hall.domain.policy import Policy
from gastown.hall.domain.town import TownRecord, town_config
from gastown.hall.store import policies
from gastown.hall.store.town_state import take_rules
from gastown.hall.store.transaction import Transaction
from gastown.hall.user_api import bodies, shown
from gastown.hall.user_api.routes import Route

__all__ = ["ROUTES"]

_UP = (AgentState.STARTING, AgentState.RUNNING)
_MODELS = {"model", "models"}


async def pause(town: str, body: bodies.Empty) -> shown.Configuration:
    """Let nothing new begin; turns that run go on."""
    del body
    return await _changed(town, bodies.Settings(), paused=True)


async def resume(town: str, body: bodies.Empty) -> shown.Configuration:
    """Let work begin again."""
    del body
    return await _changed(town, bodies.Settings(), paused=False)


async def get_config(town: str) -> shown.Configuration:
    """The town's settings."""
    return await on_board(town, _configuration)


async def set_config(town: str, body: bodies.Settings) -> shown.Configuration:
    """Change the settings that the body names. They hold at once; agents that are up use another model from their
    next turn on.
    """
    changes = body.model_dump(exclude_unset=True, exclude=_MODELS)
    before = await context().store.town(town)
    changed = await _changed(town, body, **changes)
    after = await context().store.town(town)
    if before is not None and after is not None:
        await _change_models_of_agents(before, after)
    return changed


async def _changed(town: str, body: bodies.Settings, **changes: object) -> shown.Configuration:
    def do(board: Transaction) -> shown.Configuration:
        after: Policy = replace(policies.policy(board), **changes)  # type: ignore[arg-type]  # of a body's fields
        policies.change_policy(board, after)
        model, of_roles = policies.models(board)
        if "model" in body.model_fields_set:
            model = body.model
        merged = of_roles | {role.value: own for role, own in (body.models or {}).items()}
        policies.change_models(board, model, {role: own for role, own in merged.items() if own is not None})
        take_rules(board)
        return _configuration(board)

    return await on_board(town, do)


def _configuration(board: Transaction) -> shown.Configuration:
    policy, (model, of_roles) = policies.policy(board), policies.models(board)
    return shown.Configuration(
        slots=policy.slots,
        paused=policy.paused,
        model=model,
        models=of_roles,
        budget_day=policy.budget_day,
        budget_bead=policy.budget_bead,
        time_zone=policy.time_zone,
    )


async def _change_models_of_agents(before: TownRecord, town: TownRecord) -> None:
    """Give each agent that is up the model that is set for it now, where that has changed.

    ApiError when one does not take it.
    """
    container = context().desk.container
    if container is None or (before.default_model, before.role_models) == (town.default_model, town.role_models):
        return
    refused: list[str] = []
    try:
        listed = (await container.agents()).agents
    except ControlCallFailed as error:
        raise ApiError(502, f"The setting is kept, and holds for starts; not yet changed: {error}") from error
    async with trio.open_nursery() as nursery:
        for agent in listed:
            model = _model_of(town, agent)
            if agent.status in _UP and model not in (_model_of(before, agent), agent.model):
                nursery.start_soon(_change_model, container, town, agent.agent_id, model, refused)
    if refused:
        raise ApiError(502, f"The setting is kept, and holds for starts; not yet changed: {'; '.join(refused)}")


def _model_of(town: TownRecord, agent: ListedAgent) -> str:
    rig = next((rig for rig in town.rigs if rig.rig_id == agent.rig_id), None)
    return town.model_for(agent.role, rig)


async def _change_model(
    container: ControlClient, town: TownRecord, agent_id: str, model: str, refused: list[str]
) -> None:
    try:
        await container.change_model(agent_id, model, town_config(town, context().url))
    except ControlCallFailed as error:
        refused.append(f"{agent_id} ({error})")


ROUTES = (
    Route(method="POST", path="/pause", handler=pause, answer=shown.Configuration, body=bodies.Empty),
    Route(method="POST", path="/resume", handler=resume, answer=shown.Configuration, body=bodies.Empty),
    Route(method="GET", path="/config", handler=get_config, answer=shown.Configuration),
    Route(method="PATCH", path="/config", handler=set_config, answer=shown.Configuration, body=bodies.Settings),
)
