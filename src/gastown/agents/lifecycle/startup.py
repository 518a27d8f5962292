"""The steps of a start: workspace, conversation, server, session, first prompt."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from difflib import get_close_matches
from typing import Literal

import structlog
import trio

from gastown.agents.agent import Agent
from gastown.agents.launch.environment import dropped_variables, model_name
from gastown.agents.launch.kilo_config import project_files
from gastown.agents.launch.plan import StartPlan, workspace
from gastown.agents.launch.repositories import prepare_worktree, write_instructions
from gastown.agents.runtime import Runtime
from gastown.agents.services import AgentServices
from gastown.agents.session.event_log import TurnFailed
from gastown.agents.session.snapshots import restore_conversation
from gastown.concurrency.slots import Priority
from gastown.concurrency.waiting import wait_any
from gastown.contract.agents import Role
from gastown.contract.errors import StartFailed
from gastown.contract.worker import StartupPhaseEvent
from gastown.git.errors import GitError
from gastown.git.workspace import OutsideRoot
from gastown.isolation.agent_users import prepare_home
from gastown.isolation.users import run_as
from gastown.kilo.errors import KiloError, ServerDied
from gastown.kilo.pool import Lease, Server

__all__ = ["StartupReport", "first_turn", "lease_server", "open_session", "prepare", "say_dropped"]

log = structlog.get_logger()

_ASK_AFTER_SECONDS = 5.0
"""After this the server is asked whether the turn has opened: no wait relies on an event alone."""

_ABOUT_THE_MODEL = (400, 404)
_ACTIONS = {
    401: "Check the gateway token of the town",
    402: "Add credits to the account or organisation that pays for the gateway",
    403: "Check that the token may use this model and organisation",
    404: "Choose another model",
}


class StartupReport:
    """Reports the startup phases of one attempt to the worker as they pass."""

    def __init__(self, agent: Agent, services: AgentServices) -> None:
        self._agent = agent
        self._telemetry = services.telemetry
        self._began = self._last = trio.current_time()

    def reached(self, label: Literal["db_hydrated", "sdk_ready", "session_created"]) -> None:
        now = trio.current_time()
        request = self._agent.request
        self._telemetry.send(
            StartupPhaseEvent(
                town_id=request.town_id,
                agent_id=request.agent_id,
                role=request.role,
                label=label,
                elapsed_ms=round((now - self._began) * 1000),
                phase_ms=round((now - self._last) * 1000),
            )
        )
        self._last = now


async def prepare(agent: Agent, plan: StartPlan, services: AgentServices) -> None:
    """Make the working directory, or make sure that it is there."""
    agent.phases.enter("workspace")
    say_dropped(agent, services)
    _say_unknown_role(agent)
    if agent.request.works_in_repository:
        await prepare_worktree(agent, services)
    else:
        try:
            await workspace(plan)
            if agent.request.is_mayor:
                await write_instructions(agent, services)
        except GitError as error:
            lasting = isinstance(error, OutsideRoot)
            raise StartFailed(f"Agent {agent.id}: {error}", phase="workspace", retryable=not lasting) from error
    if ignored := await run_as(plan.user, project_files, agent.workdir):
        agent.record("agent.project_config_ignored", {"files": ignored})


def _say_unknown_role(agent: Agent) -> None:
    """A role that we do not know is a rig agent's like any other; perhaps another one was meant."""
    role = agent.request.role
    if role not in list(Role):
        nearest = next(iter(get_close_matches(role, list(Role), 1)), None)
        agent.record("agent.role_unknown", {"role": role, "nearest": nearest})


def say_dropped(agent: Agent, services: AgentServices) -> None:
    """Tell which custom variables the agent does not get, where that is not what was told last."""
    live, defaults = services.credentials.current, services.defaults
    dropped = dropped_variables(agent.desired, live, defaults, agent.user)
    if dropped != agent.dropped:
        agent.dropped = dropped
        agent.record("agent.variables_dropped", {"names": dropped})


@asynccontextmanager
async def lease_server(
    agent: Agent, plan: StartPlan, priority: Priority, report: StartupReport
) -> AsyncIterator[Lease]:
    """The agent's server for the length of the block, its database restored before.

    A database that kilo cannot open is set aside, the stored one deleted, and the start tried once more.
    """
    services = plan.services
    agent.phases.enter("snapshot")
    await prepare_home(plan.home, plan.user)
    await restore_conversation(agent, services)
    report.reached("db_hydrated")

    def leasing() -> AbstractAsyncContextManager[Lease]:
        return services.pool.lease(plan.spec, priority, agent.phases)

    async with AsyncExitStack() as stack:
        try:
            lease = await stack.enter_async_context(leasing())
        except ServerDied as error:
            if not error.database_unusable:
                raise
            await services.snapshots.reject(plan.home, agent.request.rig_id, agent.id, plan.user)
            lease = await stack.enter_async_context(leasing())
        report.reached("sdk_ready")
        yield lease


async def open_session(agent: Agent, server: Server) -> tuple[str, bool]:
    """Find or make the agent's session; returns its id, and whether it is an old one.

    A mayor goes on with the newest session of its directory, and so does every agent that was there before.
    """
    agent.phases.enter("session")
    try:
        goes_on = agent.request.is_mayor or agent.is_resumed or agent.returning
        known = await server.rest.sessions(agent.workdir) if goes_on else []
        session = known[0] if known else await server.rest.create_session(agent.workdir, agent.request.name)
        if known and agent.activity.newest_message is None:
            # What a stream has missed is asked for later, and must not bring back the past.
            for newest in await server.rest.messages(session.id, newest=1):
                agent.activity.goes_on_after(newest, session.id)
    except KiloError as error:
        raise await server.explain(error) from error
    agent.session_id = session.id
    return session.id, bool(known)


async def first_turn(agent: Agent, runtime: Runtime, *, old_session: bool) -> None:
    """Get the session going: the prompt, or the rest of an interrupted turn, or nothing.

    Returns when the turn is open and has had a moment to fail. A model that is still thinking is a success.
    """
    agent.phases.enter("initial_prompt")
    rest, session = runtime.server.rest, runtime.session_id
    agent.turns.expect()
    if (agent.is_resumed or agent.returning) and old_session:
        if not await rest.resume_interrupted(session, model=model_name(agent.request.model)):
            return
        agent.record("agent.turn_taken_up", {"reason": "The turn was interrupted, or its prompt still waited"})
    elif agent.request.prompt:
        await rest.prompt(
            session,
            agent.request.prompt,
            model=model_name(agent.request.model),
            system=None if agent.request.is_mayor else agent.request.system_prompt,
        )
    else:
        return
    await _turn_opened(agent, runtime)
    runtime.lease.settled()
    with trio.move_on_after(runtime.plan.services.deadlines.first_word):
        await agent.turns.first_output.wait()
    if agent.turns.error is not None:
        raise prompt_failure(agent.turns.error, model_name(agent.request.model))


async def _turn_opened(agent: Agent, runtime: Runtime) -> None:
    turns, server, session = agent.turns, runtime.server, runtime.session_id
    while not (turns.opened.is_set() or turns.first_output.is_set()):
        with trio.move_on_after(_ASK_AFTER_SECONDS) as patience:
            await wait_any(turns.opened, turns.first_output)
        if patience.cancelled_caught:
            status = await server.rest.status(session, agent.workdir)
            if not status.is_idle:
                turns.resync(busy=True)
            elif await server.rest.resend_unanswered(session, model=model_name(agent.request.model)):
                log.warning("agent.prompt_sent_again", agent_id=agent.id)


def prompt_failure(error: TurnFailed, model: str) -> StartFailed:
    """The failure of a start whose first turn failed. A model that the gateway does not know is named."""
    status = error.status
    about = f" (model {model})" if status in _ABOUT_THE_MODEL and model not in error.message else ""
    return StartFailed(
        f"The first prompt failed: {error.message}{about}",
        phase="initial_prompt",
        status=status,
        error_type=error.name,
        action=_ACTIONS.get(status) if status is not None else None,
        retryable=status is None or status >= 500 or status in (408, 429),
    )
