"""New credentials or another configuration: live at the broker, and in servers at the end of their turns."""

from __future__ import annotations

import trio

from gastown.agents.agent import Agent
from gastown.agents.lifecycle.restart import begin_renewal
from gastown.agents.lifecycle.startup import say_dropped
from gastown.agents.services import AgentServices
from gastown.contract.agents import AgentState
from gastown.contract.errors import AgentNotRunning
from gastown.contract.town import RefreshResult

__all__ = ["renew_all"]


async def renew_all(agents: list[Agent], services: AgentServices) -> tuple[RefreshResult, ...]:
    """What the newest credentials and configuration mean for each agent, in the order of `agents`.

    A server that the change made unequal, since a part of it is frozen in the server's environment, is replaced
    at the end of its turn. Restarts queue in the order of `agents`.
    """
    return tuple([await _renew(agent, services) for agent in agents])


async def _renew(agent: Agent, services: AgentServices) -> RefreshResult:
    began = trio.current_time()
    say_dropped(agent, services)
    differences: tuple[str, ...] = ()
    if agent.state is AgentState.RUNNING and (runtime := agent.runtime) is not None:
        differences = runtime.server.spec.differences(runtime.plan.spec())
    if differences:
        try:
            await begin_renewal(agent, services)
        except AgentNotRunning:  # it has ended meanwhile: no server of it is left to renew
            differences = ()
    return RefreshResult(
        agent_id=agent.id,
        success=True,
        duration_ms=round((trio.current_time() - began) * 1000),
        mode="restart" if differences else "live",
        reason=f"restarts at the end of its turn for {', '.join(differences)}" if differences else None,
    )
