"""An agent's whole life, as one task. When it ends, nothing of the agent is left."""

from __future__ import annotations

from contextlib import ExitStack
from typing import Literal, NoReturn

import structlog
import trio

from gastown.agents.agent import Agent
from gastown.agents.launch.broker_access import admit, revoke
from gastown.agents.launch.environment import home_of
from gastown.agents.launch.repositories import browse_rigs
from gastown.agents.lifecycle.idle import mind_idleness
from gastown.agents.lifecycle.restart_policy import RestartPolicy, should_restart
from gastown.agents.lifecycle.startup import StartupReport, first_turn, lease_server, open_session, prepare
from gastown.agents.lifecycle.watchdog import watch
from gastown.agents.services import AgentServices
from gastown.agents.session.snapshots import keep_conversation, save_at_the_end
from gastown.agents.session.stream import listen
from gastown.concurrency.slots import Priority
from gastown.concurrency.supervise import leaves
from gastown.contract.agents import AgentState
from gastown.contract.errors import ControlError, StartDeadlineExceeded, StartFailed
from gastown.kilo.errors import KiloError, ServerDied
from gastown.kilo.pool import Lease, Server

__all__ = ["LifeOptions", "live"]

log = structlog.get_logger()

_ABORT_SECONDS = 2.0
_SAVE_SECONDS = 10.0
_PREDECESSOR_SECONDS = 20.0
_DISCARD_SECONDS = 10.0
_PROCESSES_SECONDS = 15.0
_CLEANUP_SECONDS = _PREDECESSOR_SECONDS + _DISCARD_SECONDS + 2 * _PROCESSES_SECONDS + _SAVE_SECONDS


class LifeOptions:
    """How a life begins: how urgent it is, when its caller gives up, what it waits for first."""

    def __init__(
        self,
        priority: Priority,
        *,
        deadline: float = float("inf"),
        seconds: float = 0.0,
        predecessor: Agent | None = None,
        release: trio.Event | None = None,
    ) -> None:
        self.priority = priority
        self.deadline = deadline
        self.seconds = seconds
        self.predecessor = predecessor
        self.release = release

    @property
    def arrival(self) -> float:
        """When the caller asked, on Trio's clock; now, where nobody did."""
        return self.deadline - self.seconds if self.deadline < float("inf") else trio.current_time()


async def live(agent: Agent, services: AgentServices, options: LifeOptions) -> None:
    """Run `agent` from its start to its end. Raises nothing: a failure becomes `agent.failure`.

    Cancelling `agent.scope` ends it; so does its deadline, as long as it is starting.
    """
    agent.scope.deadline = options.deadline
    try:
        with agent.scope:
            await _run(agent, services, options)
    except BaseExceptionGroup as group:  # the boundary of an agent: its failure is its own
        failures, rest = group.split(Exception)
        if failures is not None:
            agent.failure = _typed(agent, failures)
        if rest is not None:
            raise rest from None
    except Exception as error:  # noqa: BLE001 - see above
        agent.failure = _typed(agent, error)
    else:
        if agent.state is AgentState.STARTING and agent.scope.cancelled_caught:
            agent.failure = StartDeadlineExceeded(agent.id, agent.phases.current, options.seconds)
    finally:
        agent.phases.close()
        with trio.move_on_after(_CLEANUP_SECONDS, shield=True):
            await _leave_nothing(agent, services, options.predecessor)
        _finish(agent)
        _report_end(agent, services)


def _close_door(agent: Agent, services: AgentServices) -> None:
    """An agent that ends may do nothing more in its own name, though its processes have seconds to leave.

    One that goes on, in its successor or in the next container, keeps its way until its server is gone: a turn
    that is cut off from its model counts as complete, and would not be taken up (kilo-facts 2).
    """
    if not (agent.successor_waits or agent.evicted):
        revoke(agent.id, services)


async def _leave_nothing(agent: Agent, services: AgentServices, predecessor: Agent | None) -> None:
    """What may still be there beside the lease: a replaced attempt, and a server that was parked for this one.

    A part that fails is logged, and keeps neither the next one from its turn nor the agent from its end; nor does
    one whose time is up.
    """

    if predecessor is not None:
        with trio.move_on_after(_PREDECESSOR_SECONDS):
            await predecessor.ended.wait()
    if agent.successor_waits:
        return
    revoke(agent.id, services)
    for part, seconds in (
        (_discard_server, _DISCARD_SECONDS),
        (_end_processes, _PROCESSES_SECONDS),  # or one that means harm would keep the save from its end
        (_save_last, _SAVE_SECONDS),
        (_release_user, _PROCESSES_SECONDS),  # who shares the user has ended nothing meanwhile: it is ours to do
    ):
        with trio.move_on_after(seconds):
            try:
                await part(agent, services)
            except Exception:  # a boundary: the next part has its turn
                log.exception("agent.cleanup_failed", agent_id=agent.id)


async def _discard_server(agent: Agent, services: AgentServices) -> None:
    await services.pool.discard((agent.workdir, home_of(services.defaults, agent.id)))


async def _end_processes(agent: Agent, services: AgentServices) -> None:
    await services.users.end_processes(agent.id)


async def _save_last(agent: Agent, services: AgentServices) -> None:
    if agent.session_id is not None and not agent.evicted:  # a drain saves by itself, and says so
        await save_at_the_end(agent, services)


async def _release_user(agent: Agent, services: AgentServices) -> None:
    agent.leftovers += tuple(f"process {pid}" for pid in await services.users.release(agent.id))


def _finish(agent: Agent) -> None:
    """The one terminal result of an attempt."""
    _forget_lease(agent)
    if agent.failure is not None:
        log.warning(
            "agent.failed", agent_id=agent.id, attempt=agent.attempt, phase=agent.phases.current,
            reason=agent.failure.message,
        )  # fmt: skip
    if agent.failure is not None:
        agent.become(AgentState.FAILED, agent.failure.message)
    elif agent.state is AgentState.STARTING:
        agent.become(AgentState.FAILED, "the container went down")
    else:
        agent.become(AgentState.EXITED)
    agent.ended.set()


def _report_end(agent: Agent, services: AgentServices) -> None:
    """Tell the worker, unless the agent goes on: as the start that replaced it, or in the next container.

    So does one that nobody ended: its container went down around it.
    """
    went_down = agent.failure is None and not agent.scope.cancel_called
    if agent.evicted or agent.successor_waits or went_down:
        return
    request = agent.request
    status: Literal["completed", "failed"] = "failed" if agent.state is AgentState.FAILED else "completed"
    services.reports.completed(
        request.rig_id, agent.id, status, agent.exit_reason, request.completion_callback_url
    )


def _forget_lease(agent: Agent) -> None:
    if agent.lease is not None:
        agent.leftovers += tuple(f"process {pid}" for pid in agent.lease.leftovers)
        agent.lease = None


async def _run(agent: Agent, services: AgentServices, options: LifeOptions) -> None:
    if options.predecessor is not None:
        agent.phases.enter("replace")
        await options.predecessor.ended.wait()
    if options.release is not None:
        agent.phases.enter("claimed")
        await options.release.wait()
    with ExitStack() as calm:
        if agent.request.is_mayor:
            calm.enter_context(services.pool.slots.hold_resumes())
        agent.user = services.users.acquire(agent.request, agent.workdir)
        agent.endpoint = admit(lambda: agent.desired, agent.user, services)
        await prepare(agent, services)
        await _on_servers(agent, services, options.priority, calm)


async def _on_servers(agent: Agent, services: AgentServices, priority: Priority, calm: ExitStack) -> None:
    """Live on one server, and on another one when that dies and the agent may return."""
    policy = RestartPolicy()
    while True:
        try:
            await _on_a_server(agent, services, priority, calm)
        except Exception as error:
            pause = policy.next() if should_restart(agent, error) else None
            if pause is None:
                if agent.state is AgentState.RUNNING:
                    agent.become(AgentState.STOPPING)
                raise
            reason = _typed(agent, error).message
        await _return(agent, reason, pause)


async def _return(agent: Agent, reason: str, pause: float) -> None:
    agent.returning = True
    _forget_lease(agent)
    if agent.state is AgentState.RUNNING:
        agent.become(AgentState.STARTING, reason)
    log.warning("agent.returns", agent_id=agent.id, reason=reason, seconds=round(pause, 1))
    agent.phases.enter("pause")
    await trio.sleep(pause)


async def _on_a_server(agent: Agent, services: AgentServices, priority: Priority, calm: ExitStack) -> NoReturn:
    report = StartupReport(agent, services)
    with trio.CancelScope() as starting:
        if agent.returning:
            starting.deadline = trio.current_time() + services.deadlines.start
        async with lease_server(agent, services, priority, report) as lease:
            agent.lease = lease
            if agent.is_resumed:
                # Nobody waits for a resume, so its clock starts when its turn has come.
                starting.deadline = trio.current_time() + services.deadlines.start
            try:
                old_session = await open_session(agent, lease.server)
                report.reached("session_created")
                async with trio.open_nursery() as nursery:
                    await _follow(agent, lease.server, nursery)
                    await first_turn(agent, services, lease, old_session=old_session)
                    calm.close()
                    starting.deadline = float("inf")
                    _running(agent, lease)
                    browse_rigs(agent, services)
                    nursery.start_soon(watch, agent, services, name=f"watchdog {agent.id}")
                    nursery.start_soon(keep_conversation, agent, services, name=f"snapshots {agent.id}")
                    nursery.start_soon(mind_idleness, agent, services, name=f"idle clock {agent.id}")
                    await trio.sleep_forever()
            except BaseException as error:
                if not should_restart(agent, error):
                    if agent.state is AgentState.RUNNING:
                        agent.become(AgentState.STOPPING)
                    _close_door(agent, services)
                raise
            finally:
                agent.nursery = agent.listening = None
                if agent.successor_waits:
                    with trio.move_on_after(_ABORT_SECONDS, shield=True):
                        await _leave_to_successor(agent, lease)
    raise StartDeadlineExceeded(agent.id, agent.phases.current, services.deadlines.start)


async def _follow(agent: Agent, server: Server, nursery: trio.Nursery) -> None:
    agent.phases.enter("events")
    agent.progress.another_server()
    agent.nursery = nursery
    agent.listening = await nursery.start(listen, agent, server, name=f"events {agent.id}")


def _running(agent: Agent, lease: Lease) -> None:
    lease.settled()
    agent.phases.close()
    agent.scope.deadline = float("inf")
    agent.become(AgentState.RUNNING)


async def _leave_to_successor(agent: Agent, lease: Lease) -> None:
    """End the open turn, and leave the server to the start that replaces this one: it may be just the same.

    Without an answer in time the server is not left to anybody, and ends with its lease.
    """
    if lease.server.ended.is_set():
        return
    try:
        if agent.session_id is not None and agent.turns.is_open:
            await lease.server.rest.abort(agent.session_id)
        lease.park()
    except KiloError as error:
        log.info("agent.not_parked", agent_id=agent.id, reason=str(error))


def _typed(agent: Agent, error: Exception) -> ControlError:
    """The failure that a caller gets to see: the server's death before anything that followed from it."""
    causes = leaves(error)
    cause = next((c for kind in (ServerDied, ControlError) for c in causes if isinstance(c, kind)), causes[0])
    if isinstance(cause, ControlError):
        return cause
    phase, kind = agent.phases.current, type(cause).__name__
    if isinstance(cause, KiloError):
        return StartFailed(f"Agent {agent.id}: {cause}", phase=phase, error_type=kind)
    log.error("agent.crashed", agent_id=agent.id, phase=phase, exc_info=error)
    return StartFailed(f"Agent {agent.id} failed in phase {phase}: {kind}", phase=phase, error_type=kind)
