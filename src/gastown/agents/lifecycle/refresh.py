"""New credentials where the broker adds them: they are live already, and hardly anything is left to do."""

from __future__ import annotations

from collections.abc import Callable

import structlog
import trio

from gastown.agents.agent import Agent
from gastown.agents.lifecycle.restart import restart_when_idle
from gastown.agents.lifecycle.startup import spec_of
from gastown.agents.services import AgentServices
from gastown.contract.agents import AgentState
from gastown.contract.errors import AgentNotRunning
from gastown.contract.town import RefreshResult
from gastown.kilo.errors import KiloError

__all__ = ["rotate"]

log = structlog.get_logger()


def rotate(
    agents: list[Agent], services: AgentServices, start_soon: Callable[..., None]
) -> tuple[RefreshResult, ...]:
    """What the newest credentials and configuration mean for each agent.

    A server that the change made unequal, since a part of it is frozen in the server's environment, is
    replaced at the end of its turn, by a task of `start_soon`.
    """
    return tuple(_rotate(agent, services, start_soon) for agent in agents)


def _rotate(agent: Agent, services: AgentServices, start_soon: Callable[..., None]) -> RefreshResult:
    began = trio.current_time()
    differences: tuple[str, ...] = ()
    if agent.state is AgentState.RUNNING and agent.lease is not None:
        differences = agent.lease.server.spec.differences(spec_of(agent, services))
    if differences:
        start_soon(_replace, agent, services, name=f"restart {agent.id}")
    return RefreshResult(
        agent_id=agent.id,
        success=True,
        duration_ms=round((trio.current_time() - began) * 1000),
        mode="restart" if differences else "live",
        reason=f"restarts at the end of its turn for {', '.join(differences)}" if differences else None,
    )


async def _replace(agent: Agent, services: AgentServices) -> None:
    try:
        await restart_when_idle(agent, services)
    except (KiloError, AgentNotRunning) as error:
        log.warning("agent.restart_failed", agent_id=agent.id, reason=str(error))
