"""Stream tickets: access to a websocket for clients that cannot send a header with it."""

from __future__ import annotations

import secrets
from collections import OrderedDict
from typing import NamedTuple

import trio

__all__ = ["LIFETIME_SECONDS", "MOST_TICKETS", "Tickets"]

LIFETIME_SECONDS = 60.0
MOST_TICKETS = 1000


class _Ticket(NamedTuple):
    agent_id: str
    expires: float


class Tickets:
    """The outstanding tickets. Each opens one websocket of one agent; the agent need not exist yet."""

    def __init__(self) -> None:
        self._outstanding: OrderedDict[str, _Ticket] = OrderedDict()

    def __len__(self) -> int:
        return len(self._outstanding)

    def issue(self, agent_id: str) -> str:
        """A new ticket; the oldest one is dropped when there are too many."""
        name = secrets.token_urlsafe(32)
        self._outstanding[name] = _Ticket(agent_id, trio.current_time() + LIFETIME_SECONDS)
        while len(self._outstanding) > MOST_TICKETS:
            self._outstanding.popitem(last=False)
        return name

    def use(self, name: str) -> str | None:
        """Use up a ticket; returns the agent that it is for, None when it is unknown, used or expired."""
        ticket = self._outstanding.pop(name, None)
        if ticket is None or ticket.expires <= trio.current_time():
            return None
        return ticket.agent_id
