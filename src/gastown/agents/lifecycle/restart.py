"""Changing a running agent: its model, its server. The session survives all of it.

A restart starts the new server beside the old one, between two turns. Until the new one is ready nothing of the
agent has changed: a failure or a time-out leaves the old server serving, and the agent listening to it. The
switch itself is short and is not given up half-way.
"""

from __future__ import annotations

from typing import Any

import structlog
import trio

from gastown.agents.agent import Agent
from gastown.agents.launch.environment import model_name
from gastown.agents.runtime import Runtime
from gastown.agents.services import AgentServices
from gastown.agents.session.stream import listen
from gastown.concurrency.backoff import delays
from gastown.concurrency.phases import PhaseLog
from gastown.concurrency.slots import Priority
from gastown.contract.agents import AgentState, ModelRequest
from gastown.contract.errors import AgentNotRunning
from gastown.kilo.errors import KiloError
from gastown.kilo.pool import Server

__all__ = ["begin_renewal", "change_model", "renew", "restart_when_idle"]

log = structlog.get_logger()

_SWITCH_SECONDS = 10.0


class RestartTimedOut(KiloError):
    """The new server was not ready in time; the old one goes on."""

    def __init__(self, seconds: float, phase: str) -> None:
        super().__init__(f"the new server was not ready after {seconds:g} s (phase {phase}); the old one goes on")


class TurnOpened(KiloError):
    """A turn began while the new server started; the old one goes on with it."""

    def __init__(self) -> None:
        super().__init__("a turn has begun meanwhile; the old server goes on with it")


async def begin_renewal(agent: Agent, services: AgentServices) -> None:
    """Let a task of the agent renew its server. Returns when that has its place in the queue for a restart, or
    waits for the end of a turn. Raises `AgentNotRunning`.
    """
    nursery = agent.running().nursery
    if nursery.cancel_scope.cancel_called:  # it ends in this very tick, and takes no task any more
        raise AgentNotRunning(agent.id, agent.state)
    await nursery.start(renew, agent, services, name=f"restart {agent.id}")


async def renew(
    agent: Agent, services: AgentServices, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED
) -> None:
    """Give an agent a server of its newest spec. One that is not ready in time is tried again, with growing
    pauses and twice the time, up to that of a start; any other failure is logged, and the old server goes on.
    """
    pauses, seconds = delays(5.0, 300.0), services.deadlines.refresh
    try:
        while True:
            try:
                await restart_when_idle(agent, services, seconds=seconds, task_status=task_status)
                return
            except RestartTimedOut as error:
                log.warning("agent.restart_failed", agent_id=agent.id, reason=str(error))
            seconds = min(2 * seconds, max(seconds, services.deadlines.start))
            task_status = trio.TASK_STATUS_IGNORED
            await trio.sleep(next(pauses))
    except (KiloError, AgentNotRunning) as error:
        log.warning("agent.restart_failed", agent_id=agent.id, reason=str(error))


async def restart_when_idle(
    agent: Agent,
    services: AgentServices,
    *,
    anyway: bool = False,
    seconds: float | None = None,
    task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
) -> bool:
    """Give a running agent a server of its newest spec at the end of its turn; False when it has that already.

    A turn that opens while the new server starts puts the restart off again. The deadline of `seconds`
    (`services.deadlines.refresh` without) runs from the moment when a slot is free. `anyway`: also when the server
    is of the newest spec. Reports started before its first wait. Raises `KiloError`, and `AgentNotRunning` when
    the agent ends meanwhile.
    """
    task_status.started()
    while True:
        await agent.turns.wait_idle()
        async with agent.running().swap:
            runtime = agent.running()
            if not (anyway or runtime.is_stale):
                return False
            try:
                await _restart(agent, services, runtime, seconds or services.deadlines.refresh)
            except TurnOpened:
                continue
            return True


async def _restart(agent: Agent, services: AgentServices, runtime: Runtime, seconds: float) -> None:
    phases = PhaseLog()
    phases.enter("queue")
    async with services.restarts:
        with await services.pool.slots.take(Priority.REFRESH):
            with trio.move_on_after(seconds):
                await _replace_server(agent, services, runtime, phases)
                return
            raise RestartTimedOut(seconds, phases.current)


async def _replace_server(agent: Agent, services: AgentServices, runtime: Runtime, phases: PhaseLog) -> None:
    successor = await runtime.lease.spawn_beside(runtime.plan.spec(), phases)
    try:
        if not agent.turns.is_done:
            raise TurnOpened
        await _take_over(agent, runtime, successor, phases)
    except BaseException:
        if runtime.server is not successor:
            with trio.move_on_after(_SWITCH_SECONDS, shield=True):
                await services.pool.retire(successor)
        raise


async def _take_over(agent: Agent, runtime: Runtime, successor: Server, phases: PhaseLog) -> None:
    """Listen to the successor, then make it the agent's server. Up to the switch all of it can be undone."""
    phases.enter("events")
    await successor.rest.status(runtime.session_id, agent.workdir)
    hearing = await agent.running().nursery.start(listen, agent, successor, name=f"events {agent.id}")
    try:
        async with runtime.switch:
            if agent.runtime is not runtime:
                raise AgentNotRunning(agent.id, agent.state)
            if successor.ended.is_set():
                raise successor.death()
            phases.enter("switch")
            interrupted = not agent.turns.is_done
            with trio.move_on_after(_SWITCH_SECONDS, shield=True):
                runtime.listening.cancel(reason="another server takes over")
                runtime.listening = hearing
                await runtime.lease.replace(successor)
                agent.turns.resync(busy=False)
                agent.progress.another_server()
                if interrupted:
                    await _go_on(agent, runtime)
    finally:
        if runtime.listening is not hearing:
            hearing.cancel(reason="the new server does not take over")
    log.info("agent.restarted", agent_id=agent.id, port=successor.port, turn_resumed=interrupted)


async def _go_on(agent: Agent, runtime: Runtime) -> None:
    """Resume the turn that the end of the old server interrupted, or the prompt that waited for its end."""
    model = model_name(agent.request.model)
    try:
        if await runtime.server.rest.resume_interrupted(runtime.session_id, model=model):
            agent.turns.prompted()
    except KiloError as error:
        log.warning("turn.not_taken_up", agent_id=agent.id, reason=str(error))


async def change_model(agent: Agent, services: AgentServices, change: ModelRequest, given: int) -> None:
    """Use another model from the next turn on, without a restart where kilo can do that. `given` is the generation
    of the request.

    A new small model, and a model that the server does not know, are in its frozen configuration: those restart it
    in the background, at the end of the turn. Where the server cannot be asked (`KiloError`), nothing has changed.
    """
    fields: dict[str, Any] = {"model": change.model}
    fields |= {n: getattr(change, n) for n in ("small_model", "organization_id") if n in change.model_fields_set}
    before = agent.request
    agent.change(given, fields)
    agent.announce()  # a prompt that comes meanwhile is for the new model
    if agent.state is not AgentState.RUNNING:
        return
    frozen = (before.small_model or None) != (agent.request.small_model or None)
    try:
        known = not frozen and await _take_model(agent, change.model)
    except KiloError:
        agent.change(given, {name: getattr(before, name) for name in fields})
        agent.announce()
        raise
    if not known:
        await begin_renewal(agent, services)


async def _take_model(agent: Agent, model: str) -> bool:
    """Let the running server use another model; False when it does not know that one."""
    async with agent.running().switch:
        runtime = agent.running()
        if not await runtime.server.rest.knows_model(agent.workdir, model):
            return False
        await runtime.server.rest.set_model(runtime.session_id, model)
        return True
