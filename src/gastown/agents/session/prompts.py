"""Giving a running agent another prompt."""

from __future__ import annotations

from gastown.agents.agent import Agent
from gastown.agents.launch.environment import model_name

__all__ = ["send_prompt"]


async def send_prompt(agent: Agent, prompt: str) -> None:
    """Queue a prompt, which waits for the turn that is open. Raises `AgentNotRunning` and `KiloError`.

    Model and system text go with each prompt: kilo keeps the one for longer than wanted, and the other not at all.
    """
    async with agent.running().switch:
        runtime = agent.running()
        await runtime.server.rest.prompt(
            runtime.session_id,
            prompt,
            model=model_name(agent.request.model),
            system=None if agent.request.is_mayor else agent.request.system_prompt,
        )
        agent.turns.prompted()
        if agent.request.is_mayor:
            agent.saving.want()
