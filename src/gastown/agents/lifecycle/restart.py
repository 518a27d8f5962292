"""Changing a running agent: its model, its credentials, its server. The session survives all of it.

A restart starts the new server beside the old one. Until the new one is ready nothing of the agent has
changed: a failure, a time-out or a cancelled caller leaves the old server serving, and the agent listening to
it. The switch itself is short and is not given up half-way.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial

import structlog
import trio

from gastown.agents.agent import Agent
from gastown.agents.launch.environment import model_name
from gastown.agents.lifecycle.startup import spec_of
from gastown.agents.services import AgentServices
from gastown.agents.session.stream import listen
from gastown.concurrency.phases import PhaseLog
from gastown.concurrency.slots import Priority
from gastown.concurrency.supervise import Start
from gastown.contract.agents import AgentState, ModelRequest
from gastown.contract.errors import AgentNotRunning
from gastown.contract.town import RefreshResult
from gastown.kilo.errors import KiloError
from gastown.kilo.pool import Lease, Server

__all__ = ["Refresh", "change_model", "refresh_all", "renew_server", "restart", "restart_when_idle"]

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


async def restart(agent: Agent, services: AgentServices, queued: Callable[[], None] = lambda: None) -> bool:
    """Give a running agent a server of its newest spec; False when it has that already.

    An open turn is interrupted and goes on at the new server. The deadline of `services.deadlines.refresh`
    seconds runs from the moment when a slot is free. `queued` is called in the instant in which the agent takes
    its place in the queue. Raises `KiloError`, and `AgentNotRunning` when the agent ends meanwhile.
    """
    async with agent.swapping:
        lease = _lease_of(agent)
        if spec_of(agent, services).fingerprint == lease.server.spec.fingerprint:
            return False
        queued()
        await _restart(agent, services, lease, services.deadlines.refresh, only_idle=False)
        return True


async def restart_when_idle(agent: Agent, services: AgentServices, *, anyway: bool = False) -> bool:
    """Like `restart`, at the end of the turn: one that opens while the new server starts puts it off again.

    `anyway`: also when the server is of the newest spec already. Nobody waits, so a spawn has all its time.
    """
    while True:
        await agent.turns.wait_idle()
        async with agent.swapping:
            lease = _lease_of(agent)
            if not anyway and spec_of(agent, services).fingerprint == lease.server.spec.fingerprint:
                return False
            try:
                await _restart(agent, services, lease, services.deadlines.start, only_idle=True)
            except TurnOpened:
                continue
            return True


async def _restart(
    agent: Agent, services: AgentServices, lease: Lease, seconds: float, *, only_idle: bool
) -> None:
    phases = PhaseLog()
    phases.enter("queue")
    async with services.restarts:
        with await services.pool.slots.take(Priority.REFRESH):
            with trio.move_on_after(seconds):
                await _replace_server(agent, services, lease, phases, only_idle=only_idle)
                return
            raise RestartTimedOut(seconds, phases.current)


async def _replace_server(
    agent: Agent, services: AgentServices, lease: Lease, phases: PhaseLog, *, only_idle: bool
) -> None:
    successor = await lease.spawn_beside(spec_of(agent, services), phases)
    try:
        if only_idle and not agent.turns.is_done:
            raise TurnOpened
        await _take_over(agent, lease, successor, phases)
    except BaseException:
        if lease.server is not successor:
            with trio.move_on_after(_SWITCH_SECONDS, shield=True):
                await services.pool.retire(successor)
        raise


async def _take_over(agent: Agent, lease: Lease, successor: Server, phases: PhaseLog) -> None:
    """Listen to the successor, then make it the agent's server. Up to the switch all of it can be undone."""
    phases.enter("events")
    await successor.rest.status(str(agent.session_id), agent.workdir)
    hearing = await _nursery_of(agent).start(listen, agent, successor, name=f"events {agent.id}")
    async with agent.switching:
        if agent.lease is not lease or agent.listening is None:
            hearing.cancel(reason="the agent has ended meanwhile")
            raise AgentNotRunning(agent.id, agent.state)
        phases.enter("switch")
        interrupted = not agent.turns.is_done
        with trio.move_on_after(_SWITCH_SECONDS, shield=True):
            agent.listening.cancel(reason="another server takes over")
            agent.listening = hearing
            await lease.replace(successor)
            agent.turns.resync(busy=False)
            agent.progress.another_server()
            if interrupted:
                await _go_on(agent, successor)
    log.info("agent.restarted", agent_id=agent.id, port=successor.port, turn_resumed=interrupted)


async def _go_on(agent: Agent, server: Server) -> None:
    """Take up the turn that the end of the old server interrupted, or the prompt that waited behind it."""
    try:
        if await server.rest.resume_interrupted(str(agent.session_id), model=model_name(agent.request.model)):
            agent.turns.prompted()
    except KiloError as error:
        log.warning("turn.not_taken_up", agent_id=agent.id, reason=str(error))


async def change_model(agent: Agent, services: AgentServices, change: ModelRequest) -> None:
    """Use another model from the next turn on, without a restart where kilo can do that.

    A new small model, another organisation, and a model that the server does not know are in its frozen
    configuration: those restart it in the background, at the end of the turn.
    """
    update: dict[str, str | None] = {"model": change.model}
    if "small_model" in change.model_fields_set:
        update["small_model"] = change.small_model
    if "organization_id" in change.model_fields_set:
        update["organization_id"] = change.organization_id
    before, agent.request = agent.request, agent.request.model_copy(update=update)
    if agent.state is not AgentState.RUNNING or agent.lease is None or agent.session_id is None:
        agent.announce()
        return
    frozen = (before.small_model or None, before.organization_id) != (
        agent.request.small_model or None,
        agent.request.organization_id,
    )
    async with agent.switching:
        rest = agent.lease.server.rest
        if not frozen and await rest.knows_model(agent.workdir, change.model):
            await rest.set_model(agent.session_id, change.model)
        else:
            frozen = True
    agent.announce()
    if frozen:
        _nursery_of(agent).start_soon(renew_server, agent, services, name=f"restart {agent.id}")


async def renew_server(agent: Agent, services: AgentServices) -> None:
    """`restart_when_idle` for a task of its own: the agent goes on with the old server when that fails."""
    try:
        await restart_when_idle(agent, services)
    except (KiloError, AgentNotRunning) as error:
        log.warning("agent.restart_failed", agent_id=agent.id, reason=str(error))


@dataclass
class _One:
    """`queued`: it has its place in the queue, or it will not take one before others do."""

    agent: Agent
    queued: trio.Event = field(default_factory=trio.Event)
    result: RefreshResult | None = None


class Refresh:
    """A refresh of all agents under way: what is known of each so far, and when all is known."""

    def __init__(self, agents: list[Agent]) -> None:
        self.done = trio.Event()
        self._began = trio.current_time()
        self._each = [_One(agent) for agent in agents]

    def results(self) -> tuple[RefreshResult, ...]:
        """One for each agent; who is not finished is `pending`, and goes on."""
        return tuple(one.result or self._pending(one) for one in self._each)

    def _pending(self, one: _One) -> RefreshResult:
        return RefreshResult(
            agent_id=one.agent.id,
            success=False,
            duration_ms=_since(self._began),
            error="Still waiting for its restart, which goes on; the old server serves until then",
            pending=True,
        )

    async def run(self, services: AgentServices) -> None:
        """Restart every agent side by side, the mayor first in the queue. One's failure is its own."""
        try:
            async with trio.open_nursery() as nursery:
                for one in self._each:
                    nursery.start_soon(self._refresh, one, services, name=f"refresh {one.agent.id}")
                    # Trio runs tasks in any order: without this wait the mayor would be first by chance.
                    await one.queued.wait()
        finally:
            self.done.set()

    async def _refresh(self, one: _One, services: AgentServices) -> None:
        began = trio.current_time()
        problem: str | None = None
        try:
            if not one.agent.settled.is_set() or one.agent.swapping.locked():
                one.queued.set()
            await one.agent.settled.wait()
            await restart(one.agent, services, one.queued.set)
        except AgentNotRunning:
            # It ended meanwhile, or its start failed: nothing of it carries an old token.
            log.info("refresh.agent_gone", agent_id=one.agent.id)
        except KiloError as error:
            problem = str(error)
            log.warning("refresh.failed", agent_id=one.agent.id, reason=problem)
        except Exception as error:  # the boundary of an agent: a bug in its restart is not the others' end
            problem = f"The restart failed: {type(error).__name__}"
            log.exception("refresh.crashed", agent_id=one.agent.id)
        finally:
            one.queued.set()
        one.result = RefreshResult(
            agent_id=one.agent.id, success=problem is None, duration_ms=_since(began), error=problem
        )


def refresh_all(agents: list[Agent], services: AgentServices, start: Start) -> Refresh:
    """Begin a refresh that outlives its caller, as a task that `start` begins."""
    refresh = Refresh(agents)
    start("refresh", partial(refresh.run, services))
    return refresh


def _since(moment: float) -> int:
    return round((trio.current_time() - moment) * 1000)


def _nursery_of(agent: Agent) -> trio.Nursery:
    """The nursery of a running agent, as long as it takes new tasks. Ask at the moment of use."""
    nursery = agent.nursery
    if agent.state is not AgentState.RUNNING or nursery is None or nursery.cancel_scope.cancel_called:
        raise AgentNotRunning(agent.id, agent.state)
    return nursery


def _lease_of(agent: Agent) -> Lease:
    if agent.state is not AgentState.RUNNING or agent.lease is None:
        raise AgentNotRunning(agent.id, agent.state)
    return agent.lease
