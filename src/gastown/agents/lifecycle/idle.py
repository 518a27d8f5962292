"""Agents without work: the mayor is reported as waiting; any other one gets a nudge, or exits after a while.

Work ends when a turn closes and no other is open or about to be (a `superseded` turn is followed by the next at
once). Whether the worker has nudges is asked when idleness begins, every 15 s while it lasts, and once more
before the agent exits; while a turn is open, every 30 s, and then only an `immediate` one is delivered, which
kilo reads at the next step of the turn.
"""

from __future__ import annotations

import structlog
import trio

from gastown.agents.agent import Agent
from gastown.agents.lifecycle.states import Leaving
from gastown.agents.runtime import Runtime
from gastown.agents.services import AgentServices
from gastown.agents.session.prompts import send_prompt
from gastown.contract.agents import AgentState, Role
from gastown.contract.errors import AgentNotRunning
from gastown.kilo.errors import KiloError

__all__ = ["mind_idleness"]

log = structlog.get_logger()

_ASK_IDLE_SECONDS = 15.0
_ASK_BUSY_SECONDS = 30.0
_IMMEDIATE = "immediate"


async def mind_idleness(agent: Agent, runtime: Runtime, services: AgentServices) -> None:
    """Follow the work of a running agent. Ends the agent when it has been idle for too long.

    A resumed agent with nothing left to do is idle from the beginning, and its mayor is not reported as waiting:
    no turn has ended.
    """
    if agent.request.is_mayor:
        await _report_waiting(agent, runtime, services)
    else:
        await _nudge_or_leave(agent, runtime, services)


async def _report_waiting(agent: Agent, runtime: Runtime, services: AgentServices) -> None:
    while True:
        await _until_done(agent, runtime)
        if agent.turns.ended > agent.ends_reported:
            services.reports.waiting(agent.request.rig_id, agent.id, services.now(), agent.attempt)
        agent.ends_reported = agent.turns.ended
        await _until_work(agent)


async def _nudge_or_leave(agent: Agent, runtime: Runtime, services: AgentServices) -> None:
    limit = services.deadlines.idle
    if agent.request.role == Role.REFINERY:
        limit = services.deadlines.refinery_idle
    while True:
        while not await _is_done_within(agent, runtime, _ASK_BUSY_SECONDS):
            await _nudge(agent, services, only_immediate=True)
        if not await _rest(agent, runtime, services, limit):
            return


async def _rest(agent: Agent, runtime: Runtime, services: AgentServices, limit: float) -> bool:
    """Wait out one period without work; False when the agent now ends, as nothing came."""
    until = trio.current_time() + limit
    ended = agent.turns.ended
    while True:
        asked = trio.current_time()
        await _nudge(agent, services, only_immediate=False)
        if not agent.turns.is_done or agent.turns.ended != ended:
            return True
        if asked >= until:
            return not await _leave(agent, runtime)
        with trio.move_on_at(min(until, asked + _ASK_IDLE_SECONDS)):
            await _until_work(agent)
            return True


async def _leave(agent: Agent, runtime: Runtime) -> bool:
    """End an idle agent; False when a prompt was accepted at the last moment."""
    async with runtime.switch:
        if not agent.turns.is_done or agent.state is not AgentState.RUNNING:
            return False
        agent.lifecycle.leave(Leaving.IDLE)
        return True


async def _nudge(agent: Agent, services: AgentServices, *, only_immediate: bool) -> None:
    """Deliver the most urgent nudge, if there is one."""
    request, desk = agent.request, services.nudges
    waiting = await desk.pending(request.rig_id, agent.id)
    nudge = next((one for one in waiting if one.mode == _IMMEDIATE or not only_immediate), None)
    if nudge is None:
        return
    # Before it is sent: a delivery that is cut half-way may have arrived, and must not be made again.
    desk.delivered(agent.id, nudge.nudge_id)
    try:
        await send_prompt(agent, nudge.message)
    except (AgentNotRunning, KiloError) as error:
        desk.not_delivered(agent.id, nudge.nudge_id)
        log.warning("nudge.not_delivered", agent_id=agent.id, nudge_id=nudge.nudge_id, reason=str(error))
        return
    log.info("nudge.delivered", agent_id=agent.id, nudge_id=nudge.nudge_id, mode=nudge.mode)
    desk.report(request.rig_id, agent.id, nudge.nudge_id)


async def _until_done(agent: Agent, runtime: Runtime) -> None:
    await _is_done_within(agent, runtime, float("inf"))


async def _is_done_within(agent: Agent, runtime: Runtime, seconds: float) -> bool:
    """Wait for the end of work, for so long at most; whether it has come.

    While one server takes over from another nothing is certain, so that is waited for.
    """
    with trio.move_on_after(seconds):
        while True:
            async with runtime.switch:
                moved, seen = agent.turns.moved, agent.turns.moved.count
                if agent.turns.is_done:
                    return True
            with trio.move_on_at(float("inf") if agent.turns.is_open else agent.turns.awaited_until):
                await moved.wait(after=seen)
    return False


async def _until_work(agent: Agent) -> None:
    """Return when work has begun, or has begun and ended already."""
    ended = agent.turns.ended
    while agent.turns.is_done and agent.turns.ended == ended:
        await agent.turns.moved.wait()
