"""An agent's conversation beyond its server: restored before the start, saved while it runs and when it ends."""

from __future__ import annotations

from typing import NoReturn

import structlog
import trio

from gastown.agents.agent import Agent
from gastown.agents.launch.environment import home_of
from gastown.agents.services import AgentServices
from gastown.concurrency.backoff import delays
from gastown.contract.agents import SnapshotState
from gastown.contract.errors import StartFailed
from gastown.worker.snapshots.store import NotSaved, Restored

__all__ = ["keep_conversation", "restore_conversation", "save_at_the_end", "save_conversation"]

log = structlog.get_logger()

_GATHER_SECONDS = 1.0
"""From a message's acceptance to the copy: kilo stores the message a moment after its 204."""
_UNSETTLED = "the stored conversation could not be asked for; nothing is uploaded before it can"


async def restore_conversation(agent: Agent, services: AgentServices) -> Restored:
    """Leave the agent's database in its home, before any server of it runs.

    While the worker is away it is asked again, with back-off, for a third of a start's time; another third is
    always left for the spawn. `unavailable` after that: the agent starts with what is there, unsettled.
    """
    home, start = home_of(services.defaults, agent.id), services.deadlines.start
    if await services.snapshots.is_unsettled(home, agent.user):
        # One that was parked for this start has the database open that may have to give way.
        await services.pool.discard((agent.workdir, home))
    now = trio.current_time()
    until = min(now + start / 3, max(now + 1, trio.current_effective_deadline() - start / 3))
    pauses = delays(0.5, 5.0)
    outcome: Restored = "unavailable"
    try:
        with trio.move_on_at(until):
            while outcome == "unavailable":
                outcome = await services.snapshots.restore(
                    home, agent.request.rig_id, agent.id, unused=True, user=agent.user
                )
                if outcome == "unavailable":
                    await trio.sleep(next(pauses))
    except OSError as error:
        reason = f"Agent {agent.id}: its database cannot be put in place: {error.strerror or error}"
        raise StartFailed(reason, phase="snapshot") from error
    if outcome == "unavailable":
        agent.saving.is_(SnapshotState.UNSETTLED, _UNSETTLED)
        agent.saving.want()
    log.info("snapshot.restored", agent_id=agent.id, outcome=outcome)
    return outcome


async def save_conversation(agent: Agent, services: AgentServices) -> bool:
    """Save once; False when there is nothing to save or nowhere to. Raises `NotSaved`."""
    home = home_of(services.defaults, agent.id)
    try:
        saved = await services.snapshots.save(home, agent.request.rig_id, agent.id, agent.user)
    except NotSaved as error:
        agent.saving.is_(error.state, str(error))
        log.warning("snapshot.not_saved", agent_id=agent.id, state=error.state, reason=str(error))
        raise
    if saved:
        agent.saving.saved(services.now())
    return saved


async def keep_conversation(agent: Agent, services: AgentServices) -> NoReturn:
    """Save whenever it is wanted, until cancelled: one save at a time, again with back-off while it may work."""
    if agent.request.is_mayor:
        agent.saving.want()  # its first prompt, too, was a message
    while True:
        await agent.saving.wanted()
        await trio.sleep(_GATHER_SECONDS)
        await save_at_the_end(agent, services)


async def save_at_the_end(agent: Agent, services: AgentServices) -> bool | None:
    """Save, again and again while it fails for a reason that may pass; put it under a deadline.

    Returns whether the conversation is saved; None when there is none, or no worker to keep it.
    """
    pauses = delays(0.5, 30.0)
    while True:
        try:
            return True if await save_conversation(agent, services) else None
        except NotSaved as error:
            if not error.transient:
                return False
        await trio.sleep(next(pauses))
