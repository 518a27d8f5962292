"""Hearing an agent's server: its events as they come, and what was missed while the stream was away."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

import structlog
import trio

from gastown.agents.agent import Agent
from gastown.agents.session.asks import answer_asks
from gastown.kilo.errors import KiloError
from gastown.kilo.models import Asked, Message, Status
from gastown.kilo.pool import Server
from gastown.kilo.stream import KiloEvent

__all__ = ["listen", "reconcile"]

log = structlog.get_logger()

_NEWEST = 20
"""Messages asked for after a gap: more than a turn of some minutes stores while no stream is open."""
_TRIES = 3


async def listen(agent: Agent, server: Server, *, task_status: trio.TaskStatus[trio.CancelScope]) -> None:
    """Follow a server's events; reports started with the scope that ends it. Raises `ServerDied` if it dies.

    The death of one that has not taken over yet is for the restart to tell: the agent has another server.
    """
    again, gaps = trio.open_memory_channel[None](1)
    asked, asks = trio.open_memory_channel[None](1)

    def reconnected() -> None:
        with suppress(trio.WouldBlock):
            again.send_nowait(None)
        look_for_asks()

    def look_for_asks() -> None:
        with suppress(trio.WouldBlock):
            asked.send_nowait(None)

    def take(event: KiloEvent) -> None:
        agent.take(event)
        if isinstance(event.facts, Asked):
            look_for_asks()

    with trio.CancelScope() as scope:
        async with trio.open_nursery() as nursery:

            async def watch() -> None:
                await server.ended.wait()
                nursery.cancel_scope.cancel(reason="the server has ended")

            nursery.start_soon(watch, name=f"watch {agent.id}")
            nursery.start_soon(_fill, agent, server, gaps, name=f"reconcile {agent.id}")
            nursery.start_soon(answer_asks, agent, server, asks, name=f"asks {agent.id}")
            await nursery.start(server.follow, take, reconnected, name=f"stream {agent.id}")
            task_status.started(scope)
        # Raised outside of the nursery, so that it is a plain exception and not a group of one.
        if agent.runtime is None or agent.runtime.server is server:
            raise server.death()


async def _fill(agent: Agent, server: Server, gaps: trio.MemoryReceiveChannel[None]) -> None:
    async for _ in gaps:
        try:
            await reconcile(agent, server)
        except KiloError as error:
            # A server that cannot be asked is the watchdog's to judge, or its stream breaks once more.
            log.warning("stream.not_reconciled", agent_id=agent.id, reason=str(error))


async def reconcile(agent: Agent, server: Server) -> None:
    """Tell the agent what its server says now, as events like any other.

    kilo replays nothing (kilo-facts 2), so messages come from the session and the turn from its status. A
    message that was heard already comes a second time, with its newest text. Raises `KiloError`.
    """
    session = agent.session_id
    if session is None:
        return
    messages, status = await _ask(agent, server, session)
    missed = _missed(session, messages, agent.activity.newest_message)
    for event in missed:
        agent.take(event)
    agent.take(KiloEvent("session.status", session, {"sessionID": session, "status": status.given()}))
    busy = not status.is_idle
    if busy != agent.turns.is_open:
        end: dict[str, Any] = {} if busy else {"reason": _how_it_ended(messages)}
        kind = "session.turn.open" if busy else "session.turn.close"
        agent.take(KiloEvent(kind, session, {"sessionID": session, **end}))
    log.info("stream.reconciled", agent_id=agent.id, events=len(missed), busy=busy)


async def _ask(agent: Agent, server: Server, session: str) -> tuple[list[Message], Status]:
    """Messages and status of one moment: asked again when an event came in between, which is newer."""
    tries = 0
    while True:
        tries += 1
        heard = agent.progress.heard
        messages = await server.rest.messages(session, newest=_NEWEST)
        status = await server.rest.status(session, agent.workdir)
        if agent.progress.heard == heard or tries == _TRIES:
            return messages, status


def _missed(session: str, messages: list[Message], newest: str | None) -> list[KiloEvent]:
    """The newest message that was heard of, which may have grown, and all after it. Ids sort by age."""
    events = []
    for message in messages:
        if newest is not None and message.info.id < newest:
            continue
        events.append(KiloEvent("message.updated", session, {"sessionID": session, "info": message.info.given()}))
        events.extend(
            KiloEvent("message.part.updated", session, {"sessionID": session, "part": part.given()})
            for part in message.parts
        )
    return events


def _how_it_ended(messages: list[Message]) -> str:
    info = messages[-1].info if messages else None
    if info is None or info.error is None or info.error.name is None:
        return "completed"
    return "interrupted" if info.is_aborted else "error"
