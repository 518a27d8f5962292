"""Probes of an agent's server, and the remedies for what they find: a lost event, a wedged or too big server."""

from __future__ import annotations

import structlog
import trio

from gastown.agents.agent import Agent
from gastown.agents.lifecycle.restart import restart_when_idle
from gastown.agents.lifecycle.restart_policy import ServerWedged
from gastown.agents.runtime import Runtime
from gastown.agents.services import AgentServices
from gastown.agents.session.stream import reconcile
from gastown.concurrency.backoff import delays
from gastown.contract.errors import AgentNotRunning
from gastown.isolation.proc import resident_bytes
from gastown.kilo.errors import KiloError, KiloRefused
from gastown.kilo.pool import Server

__all__ = ["resident_mb", "watch"]

log = structlog.get_logger()

PROBE_EVERY_SECONDS = 10.0
PROBE_SECONDS = 5.0
WEDGED_AFTER_SECONDS = 30.0
"""Three probes without an answer: six servers that boot at once delay one by 0.3 s (kilo-facts 8)."""
_RECYCLE_AGAIN_SECONDS = 15 * 60.0


async def watch(agent: Agent, runtime: Runtime, services: AgentServices) -> None:
    """Probe the server of a running agent every ten seconds, for ever. Raises `ServerWedged`."""
    async with trio.open_nursery() as nursery:
        nursery.start_soon(_probe, agent, runtime, name=f"probe {agent.id}")
        nursery.start_soon(_push_offline, agent, runtime, name=f"offline {agent.id}")
        if services.server_rss_mb:
            nursery.start_soon(_recycle, agent, runtime, services, name=f"memory {agent.id}")


async def _probe(agent: Agent, runtime: Runtime) -> None:
    while True:
        heard = agent.progress.heard
        await trio.sleep(PROBE_EVERY_SECONDS)
        server = runtime.server
        busy = await _is_busy(agent, runtime)
        if server is not runtime.server:
            continue  # another one has taken over meanwhile: this answer is not about it
        if busy is None:
            agent.progress.unanswered()
            silent = trio.current_time() - (agent.progress.unanswered_since or 0)
            if silent >= WEDGED_AFTER_SECONDS - PROBE_SECONDS:
                raise ServerWedged(silent + PROBE_SECONDS)
            continue
        agent.progress.answered()
        # Nothing was heard for a whole interval, and the server says otherwise: an event got lost.
        if busy != agent.turns.is_open and agent.progress.heard == heard:
            await _set_right(agent, server)


async def _is_busy(agent: Agent, runtime: Runtime) -> bool | None:
    """Whether the session works; None when the server does not answer."""
    with trio.move_on_after(PROBE_SECONDS):
        try:
            status = await runtime.server.rest.status(runtime.session_id, agent.workdir)
        except KiloRefused as error:
            log.warning("probe.refused", agent_id=agent.id, reason=str(error))
            return agent.turns.is_open
        except KiloError:
            return None
        return not status.is_idle
    return None


async def _set_right(agent: Agent, server: Server) -> None:
    with trio.move_on_after(PROBE_SECONDS):
        try:
            await reconcile(agent, server)
        except KiloError as error:
            log.warning("stream.not_reconciled", agent_id=agent.id, reason=str(error))


async def _push_offline(agent: Agent, runtime: Runtime) -> None:
    """Tell an offline session to try its gateway again, with pauses that grow as long as the turn is the same."""
    turn, pauses = -1, delays(2.0, 60.0)
    while True:
        request, server = agent.progress.offline_request, runtime.server
        if request is None:
            await agent.progress.changed()
            continue
        if agent.turns.changes != turn:
            turn, pauses = agent.turns.changes, delays(2.0, 60.0)
        await trio.sleep(next(pauses))
        if agent.progress.offline_request != request:
            continue
        agent.progress.offline_request = None  # one answer per request; kilo asks with a new one
        try:
            with trio.fail_after(PROBE_SECONDS):
                await server.rest.retry_network(request, agent.workdir)
        except (KiloError, trio.TooSlowError) as error:
            log.warning("offline.not_retried", agent_id=agent.id, reason=str(error) or "no answer in time")
            agent.progress.retry_failed(request)


async def _recycle(agent: Agent, runtime: Runtime, services: AgentServices) -> None:
    """Replace a server that has grown above its limit, between two turns."""
    while True:
        await trio.sleep(PROBE_EVERY_SECONDS)
        size = resident_mb(runtime.server.running.pid)
        if size <= services.server_rss_mb:
            continue
        log.warning("server.too_big", agent_id=agent.id, resident_mb=size, limit_mb=services.server_rss_mb)
        try:
            await restart_when_idle(agent, services, anyway=True, seconds=services.deadlines.start)
        except (KiloError, AgentNotRunning) as error:
            log.warning("server.not_recycled", agent_id=agent.id, reason=str(error))
        # One that is as big at once again would be replaced for ever; the limit is then too low.
        await trio.sleep(_RECYCLE_AGAIN_SECONDS)


def resident_mb(pid: int) -> int:
    """Memory of a process in MB (RSS); 0 when it is gone."""
    return resident_bytes(pid) >> 20
