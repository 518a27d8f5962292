"""An agent's whole life, as one task. When it ends, nothing of the agent is left."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Literal, NoReturn

import structlog
import trio

from gastown.agents.agent import Agent
from gastown.agents.launch.broker_access import revoke
from gastown.agents.launch.environment import home_of
from gastown.agents.launch.plan import StartPlan
from gastown.agents.launch.repositories import browse_rigs
from gastown.agents.lifecycle.idle import mind_idleness
from gastown.agents.lifecycle.restart import renew
from gastown.agents.lifecycle.restart_policy import RestartPolicy, should_restart
from gastown.agents.lifecycle.startup import StartupReport, first_turn, lease_server, open_session, prepare
from gastown.agents.lifecycle.states import Leaving
from gastown.agents.lifecycle.watchdog import watch
from gastown.agents.runtime import Runtime
from gastown.agents.services import AgentServices
from gastown.agents.session.snapshots import keep_conversation, save_at_the_end
from gastown.agents.session.stream import listen
from gastown.agents.work import save_at_exit
from gastown.concurrency.slots import Priority
from gastown.concurrency.supervise import leaves
from gastown.contract.agents import AgentState
from gastown.contract.errors import ControlError, StartDeadlineExceeded, StartFailed
from gastown.kilo.errors import KiloError, ServerDied
from gastown.kilo.pool import Lease

__all__ = ["LifeOptions", "live"]

log = structlog.get_logger()

_ABORT_SECONDS = 2.0
_SAVE_SECONDS = 10.0
_PREDECESSOR_SECONDS = 20.0
_DISCARD_SECONDS = 10.0
_PROCESSES_SECONDS = 15.0
_WORK_SECONDS = 60.0
_CLEANUP_SECONDS = _PREDECESSOR_SECONDS + _DISCARD_SECONDS + 2 * _PROCESSES_SECONDS + _SAVE_SECONDS + _WORK_SECONDS


@dataclass
class LifeOptions:
    """How a life begins: how urgent it is, when its caller gives up, what it waits for first."""

    priority: Priority
    deadline: float = float("inf")
    seconds: float = 0.0
    predecessor: Agent | None = None
    release: trio.Event | None = None

    @property
    def arrival(self) -> float:
        """When the caller asked, on Trio's clock; now, where there is no caller."""
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
            agent.lifecycle.failure = _failure(agent, failures)
        if rest is not None:
            raise rest from None
    except Exception as error:  # noqa: BLE001 - see above
        agent.lifecycle.failure = _failure(agent, error)
    else:
        if agent.state is AgentState.STARTING and agent.scope.cancelled_caught:
            agent.lifecycle.failure = StartDeadlineExceeded(agent.id, agent.phases.current, options.seconds)
    finally:
        agent.phases.close()
        with trio.move_on_after(_CLEANUP_SECONDS, shield=True):
            await _leave_nothing(agent, services, options.predecessor)
        _finish(agent)
        _report_end(agent, services)


def _revoke_if_over(agent: Agent, services: AgentServices) -> None:
    """Close the broker to an agent that ends, though its processes still have seconds.

    One that goes on, in its successor or in the next container, keeps the broker until its server is gone: a turn
    that is cut off from its model counts as complete, and would not be resumed (kilo-facts 2).
    """
    if not agent.lifecycle.goes_on:
        revoke(agent.id, services)


async def _leave_nothing(agent: Agent, services: AgentServices, predecessor: Agent | None) -> None:
    """End what may be left beside the lease: a replaced attempt, a parked server, processes, unsaved words.

    A part that fails is logged, and one that takes too long is given up: the next part and the agent's end follow.
    """
    if predecessor is not None:
        with trio.move_on_after(_PREDECESSOR_SECONDS):
            await predecessor.ended.wait()
    if agent.lifecycle.leaving is Leaving.REPLACED and not agent.left_behind:
        return
    if agent.lifecycle.leaving is Leaving.REPLACED:
        await _part(_save_work, _WORK_SECONDS, agent, services)
        return
    revoke(agent.id, services)
    for part, seconds in (
        (_discard_server, _DISCARD_SECONDS),
        (_end_processes, _PROCESSES_SECONDS),  # first, or a hostile one would delay the save
        (_save_last, _SAVE_SECONDS),
        (_save_work, _WORK_SECONDS),
        (_release_user, _PROCESSES_SECONDS),  # the last one to leave a shared user ends its processes
    ):
        await _part(part, seconds, agent, services)


async def _part(
    part: Callable[[Agent, AgentServices], Awaitable[None]],
    seconds: float,
    agent: Agent,
    services: AgentServices,
) -> None:
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
    if (
        agent.session_id is not None and agent.lifecycle.leaving is not Leaving.EVICTED
    ):  # a drain saves by itself, and says so
        await save_at_the_end(agent, services)


async def _save_work(agent: Agent, services: AgentServices) -> None:
    """Save what is in its directory, unless a drain does so, or the container goes down around it."""
    went_down = agent.failure is None and agent.lifecycle.leaving is None
    if agent.lifecycle.leaving is not Leaving.EVICTED and not went_down:
        await save_at_exit(agent, services)


async def _release_user(agent: Agent, services: AgentServices) -> None:
    agent.leftovers += tuple(f"process {pid}" for pid in await services.users.release(agent.id))


def _finish(agent: Agent) -> None:
    """The one terminal result of an attempt."""
    if agent.failure is not None:
        log.warning(
            "agent.failed", agent_id=agent.id, attempt=agent.attempt, phase=agent.phases.current,
            reason=agent.failure.message,
        )  # fmt: skip
    agent.lifecycle.finish()


def _report_end(agent: Agent, services: AgentServices) -> None:
    """Tell the worker, unless the agent goes on: as the start that replaced it, or in the next container.

    An agent that was not told to end goes on, too: its container went down around it.
    """
    went_down = agent.failure is None and agent.lifecycle.leaving is None
    if agent.lifecycle.goes_on or went_down:
        return
    request = agent.request
    status: Literal["completed", "failed"] = "failed" if agent.state is AgentState.FAILED else "completed"
    services.reports.completed(
        request.rig_id, agent.id, status, agent.exit_reason, request.completion_callback_url, agent.attempt
    )


async def _run(agent: Agent, services: AgentServices, options: LifeOptions) -> None:
    if options.predecessor is not None:
        agent.phases.enter("replace")
        await options.predecessor.ended.wait()
    if options.release is not None:
        agent.phases.enter("claimed")
        await options.release.wait()
    with ExitStack() as resumes_held:
        if agent.request.is_mayor:
            resumes_held.enter_context(services.pool.slots.hold_resumes())
        user = services.users.acquire(agent.request, agent.workdir)
        agent.plan = plan = StartPlan(lambda: agent.desired, agent.workdir, user, services, agent.used)
        await prepare(agent, plan, services)
        await _on_servers(agent, plan, options.priority, resumes_held)


async def _on_servers(agent: Agent, plan: StartPlan, priority: Priority, resumes_held: ExitStack) -> None:
    """Live on one server, and on another one when that dies and the agent may return."""
    policy = RestartPolicy()
    while True:
        try:
            await _on_a_server(agent, plan, priority, resumes_held)
        except Exception as error:
            pause = policy.next() if should_restart(agent, error) else None
            if pause is None:
                if agent.state is AgentState.RUNNING:
                    agent.lifecycle.become(AgentState.STOPPING)
                raise
            reason = _typed(agent, error).message
        await _return(agent, reason, pause)


async def _return(agent: Agent, reason: str, pause: float) -> None:
    agent.returning = True
    if agent.state is AgentState.RUNNING:
        agent.lifecycle.become(AgentState.STARTING, reason)
    log.warning("agent.returns", agent_id=agent.id, reason=reason, seconds=round(pause, 1))
    agent.phases.enter("pause")
    await trio.sleep(pause)


async def _on_a_server(agent: Agent, plan: StartPlan, priority: Priority, resumes_held: ExitStack) -> NoReturn:
    services = plan.services
    report = StartupReport(agent, services)
    with trio.CancelScope() as starting, ExitStack() as after:
        if agent.returning:
            starting.deadline = trio.current_time() + services.deadlines.start
        async with lease_server(agent, plan, priority, report) as lease:
            after.callback(_note_leftovers, agent, lease)
            if agent.is_resumed:
                # No caller waits for a resume, so its clock starts when its turn has come.
                starting.deadline = trio.current_time() + services.deadlines.start
            try:
                session_id, old_session = await open_session(agent, lease.server)
                report.reached("session_created")
                async with trio.open_nursery() as nursery:
                    agent.runtime = runtime = Runtime(plan, lease, session_id, nursery)
                    await _follow(agent, runtime)
                    await first_turn(agent, runtime, old_session=old_session)
                    await trio.lowlevel.checkpoint_if_cancelled()  # ready when its time was up: that is too late
                    resumes_held.close()
                    starting.deadline = float("inf")
                    _running(agent, runtime)
                    await trio.sleep_forever()
            except BaseException as error:
                if not should_restart(agent, error):
                    if agent.state is AgentState.RUNNING:
                        agent.lifecycle.become(AgentState.STOPPING)
                    _revoke_if_over(agent, services)
                raise
            finally:
                agent.runtime = None
                if agent.lifecycle.leaving is Leaving.REPLACED:
                    with trio.move_on_after(_ABORT_SECONDS, shield=True):
                        await _leave_to_successor(agent, lease)
    raise StartDeadlineExceeded(agent.id, agent.phases.current, services.deadlines.start)


def _note_leftovers(agent: Agent, lease: Lease) -> None:
    agent.leftovers += tuple(f"process {pid}" for pid in lease.leftovers)


async def _follow(agent: Agent, runtime: Runtime) -> None:
    agent.phases.enter("events")
    agent.progress.another_server()
    runtime.listening = await runtime.nursery.start(listen, agent, runtime.server, name=f"events {agent.id}")


def _running(agent: Agent, runtime: Runtime) -> None:
    """The start is over: begin all that goes on beside a running agent."""
    services, start = runtime.plan.services, runtime.nursery.start_soon
    runtime.lease.settled()
    agent.phases.close()
    agent.scope.deadline = float("inf")
    agent.lifecycle.become(AgentState.RUNNING)
    browse_rigs(agent, services)
    start(watch, agent, runtime, services, name=f"watchdog {agent.id}")
    start(keep_conversation, agent, services, name=f"snapshots {agent.id}")
    start(mind_idleness, agent, runtime, services, name=f"idle clock {agent.id}")
    if runtime.is_stale:  # what is frozen in the server has changed since its spawn
        start(renew, agent, services, name=f"restart {agent.id}")


async def _leave_to_successor(agent: Agent, lease: Lease) -> None:
    """End the open turn, and leave the server to the start that replaces this one: it may be just the same.

    Without an answer in time the server is not parked, and ends with its lease.
    """
    if lease.server.ended.is_set():
        return
    try:
        if agent.session_id is not None and agent.turns.is_open:
            await lease.server.rest.abort(agent.session_id)
        lease.park()
    except KiloError as error:
        log.info("agent.not_parked", agent_id=agent.id, reason=str(error))


def _failure(agent: Agent, error: Exception) -> ControlError | None:
    """None for the death of a server whose agent was told to end in that instant: it has ended as it was told."""
    if agent.lifecycle.leaving is not None and all(isinstance(cause, KiloError) for cause in leaves(error)):
        log.info("agent.ended_with_its_server", agent_id=agent.id, reason=_typed(agent, error).message)
        return None
    return _typed(agent, error)


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
