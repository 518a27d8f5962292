"""The net below the pinned permissions: what a kilo server asks a person for is answered by rule, at once.

No person sits at a headless server, and kilo waits for ever: for a change of its own configuration files, which
AGENTS.md is for it, it asks whatever is allowed (7.7.7).
"""

from __future__ import annotations

import structlog
import trio

from gastown.agents.agent import Agent
from gastown.concurrency.backoff import delays
from gastown.kilo.errors import KiloError
from gastown.kilo.models import Ask
from gastown.kilo.pool import Server
from gastown.kilo.rest import ASKS

__all__ = ["answer_asks"]

log = structlog.get_logger()

_SECONDS = 10.0
_FIRST_DELAY, _MOST_DELAY = 0.2, 60.0
_AT_A_TIME = 20
_CLOSED = object()
_NEED_A_PERSON = ("skillShell", "sandboxEscalation")
"""In an ask's metadata: an allowance by anything but a person is void for kilo, which then waits on."""
_PATTERNS, _PATTERN_LENGTH = 5, 200


async def answer_asks(agent: Agent, server: Server, asked: trio.MemoryReceiveChannel[None]) -> None:
    """Answer what waits at `server` each time that `asked` says so, until nothing waits; runs until cancelled.

    Permissions are allowed once; questions and suggestions are refused, which ends the turn. What is asked for is
    looked up, not taken from events: one may have been missed, and a session that a tool opened asks, too.
    """
    async for _ in asked:
        for pause in delays(_FIRST_DELAY, _MOST_DELAY):
            if not await _answer_all(agent, server):
                break
            with trio.move_on_after(pause):  # what is asked meanwhile does not wait for its end
                if await anext(asked, _CLOSED) is _CLOSED:
                    return


async def _answer_all(agent: Agent, server: Server) -> bool:
    """Whether to look again: something was answered, or could not be."""
    again = False
    for kind in ASKS:
        try:
            with trio.fail_after(_SECONDS):
                asks = await server.rest.asks(kind, agent.workdir)
        except (KiloError, trio.TooSlowError) as error:
            _failed(agent, kind, error)
            again = True
            continue
        again = again or bool(asks)
        for ask in asks[:_AT_A_TIME]:
            await _answer(agent, server, kind, ask)
    return again


async def _answer(agent: Agent, server: Server, kind: str, ask: Ask) -> None:
    allow = kind == "permission" and not any(ask.metadata.get(name) for name in _NEED_A_PERSON)
    try:
        with trio.fail_after(_SECONDS):
            await server.rest.answer(kind, ask.id, agent.workdir, allow=allow)
    except (KiloError, trio.TooSlowError) as error:
        _failed(agent, kind, error)
        return
    reply = "allowed" if allow else "refused"
    server.asks.add(kind, reply)
    patterns = [pattern[:_PATTERN_LENGTH] for pattern in ask.patterns[:_PATTERNS]]
    agent.record(
        "agent.ask_answered", {"kind": kind, "permission": ask.permission, "patterns": patterns, "reply": reply}
    )


def _failed(agent: Agent, kind: str, error: Exception) -> None:
    reason = str(error) or f"no answer in {_SECONDS:g} s"
    log.warning("agent.asks_not_answered", agent_id=agent.id, kind=kind, reason=reason)
