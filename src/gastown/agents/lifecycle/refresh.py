"""New credentials where the broker adds them: they are live already, and hardly anything is left to do."""

from __future__ import annotations

from functools import partial

import trio

from gastown.agents.agent import Agent
from gastown.agents.lifecycle.restart import renew_server
from gastown.agents.lifecycle.startup import spec_of
from gastown.agents.services import AgentServices
from gastown.concurrency.supervise import Start
from gastown.contract.agents import AgentState
from gastown.contract.town import RefreshResult

__all__ = ["rotate"]


def rotate(agents: list[Agent], services: AgentServices, start: Start) -> tuple[RefreshResult, ...]:
    """What the newest credentials and configuration mean for each agent.

    A server that the change made unequal, since a part of it is frozen in the server's environment, is
    replaced at the end of its turn, by a task that `start` begins.
    """
    return tuple(_rotate(agent, services, start) for agent in agents)


def _rotate(agent: Agent, services: AgentServices, start: Start) -> RefreshResult:
    began = trio.current_time()
    differences: tuple[str, ...] = ()
    if agent.state is AgentState.RUNNING and agent.lease is not None:
        differences = agent.lease.server.spec.differences(spec_of(agent, services))
    if differences:
        start(f"restart {agent.id}", partial(renew_server, agent, services))
    return RefreshResult(
        agent_id=agent.id,
        success=True,
        duration_ms=round((trio.current_time() - began) * 1000),
        mode="restart" if differences else "live",
        reason=f"restarts at the end of its turn for {', '.join(differences)}" if differences else None,
    )
