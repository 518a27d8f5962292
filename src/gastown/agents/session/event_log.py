"""What kilo says about an agent: kept, counted, and turned into the few facts that others wait for."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from itertools import count
from typing import Any

import trio

from gastown.concurrency.hub import Hub
from gastown.concurrency.signal import Signal
from gastown.contract.events import AgentEvent
from gastown.kilo.models import ErrorBody, ErrorEvent, PartDelta, Status, StatusChanged, TurnClosed, TurnOpened
from gastown.kilo.stream import KiloEvent

__all__ = ["EventLog", "TurnFailed", "Turns"]

KEPT = 2000
"""Events kept per agent (contract section 1)."""
_OPENS_WITHIN_SECONDS = 10.0
"""A turn opens 0.1 s after its prompt (kilo-facts 2); a prompt without a turn is not waited for any longer."""


class EventLog:
    """The newest events of each agent, and who listens to them. Ids grow over the whole container."""

    def __init__(self, now: Callable[[], datetime]) -> None:
        self._now = now
        self._ids = count(1)
        self.hub: Hub[AgentEvent] = Hub(KEPT)

    def append(self, agent_id: str, event: str, data: dict[str, Any]) -> AgentEvent:
        """Keep an event, and let those know who listen; waits for nobody."""
        number = next(self._ids)
        record = AgentEvent(id=number, event=event, data=data, timestamp=self._now())
        self.hub.publish(agent_id, number, record)
        return record

    def after(self, agent_id: str, last: int) -> tuple[AgentEvent, ...]:
        return tuple(self.hub.after(agent_id, last))

    def forget(self, agent_id: str) -> None:
        self.hub.forget(agent_id)


class TurnFailed(Exception):
    """The session reported an error: what the gateway answered, where it was the gateway."""

    def __init__(self, name: str, message: str, status: int | None) -> None:
        super().__init__(f"{name}: {message}")
        self.name = name
        self.message = message
        self.status = status

    @classmethod
    def of(cls, error: ErrorBody | None) -> TurnFailed:
        told = error or ErrorBody()
        message = (told.data.message or "no message")[:500]
        return cls((told.name or "UnknownError")[:500], message, told.data.status_code)


class Turns:
    """The turns of one session, as its events tell them.

    The end of a turn is `session.turn.close`; `session.idle` comes twice, early or never (kilo-facts 2).
    `changes` grows with every turn that opens or closes: who asks the server compares it before and after.
    `ended` counts the ends of work. `moved` is sent when anything of this changes.
    """

    def __init__(self) -> None:
        self.is_open = False
        self.changes = 0
        self.ended = 0
        self.awaited_until = float("-inf")
        self.moved = Signal()
        self.error: TurnFailed | None = None
        self.condition: Status | None = None
        self.opened = trio.Event()
        self.first_output = trio.Event()
        self._idle = trio.Event()
        self._idle.set()

    def expect(self) -> None:
        """Forget what was: the next `opened` and `first_output` belong to the prompt that is about to be sent."""
        self.error = None
        self.opened = trio.Event()
        self.first_output = trio.Event()

    def prompted(self) -> None:
        """A prompt was accepted: until its turn opens, or does not open in time, work is not done."""
        self.awaited_until = trio.current_time() + _OPENS_WITHIN_SECONDS
        self.moved.send()

    @property
    def is_done(self) -> bool:
        """Whether no turn is open, and none is about to be."""
        return not self.is_open and trio.current_time() >= self.awaited_until

    async def wait_idle(self) -> None:
        """Return when no turn is open."""
        await self._idle.wait()

    def take(self, event: KiloEvent) -> None:
        """`first_output` means: there is a verdict on the turn before its first word, or the first word itself."""
        match event.facts:
            case TurnOpened():
                self.changes += 1
                self._busy()
            case TurnClosed(reason="superseded"):
                self.changes += 1  # the next turn opens at once: not an end of work
                self.first_output.set()
            case TurnClosed(reason=reason):
                self.changes += 1
                self.is_open = False
                self.ended += 1
                self._idle.set()
                self.moved.send()
                if reason != "error":
                    self.first_output.set()
            case ErrorEvent(error=error):
                self.error = self.error or TurnFailed.of(error)
                self.awaited_until = float("-inf")  # an error may be all that comes of a prompt
                self.first_output.set()
                self.moved.send()
            case StatusChanged(status=status):
                self._status(status)
            case PartDelta():
                self.first_output.set()
            case _:
                pass

    def resync(self, *, busy: bool) -> None:
        """Set what a request found out, where events may have been missed."""
        self.changes += 1
        if busy:
            self._busy()
        else:
            self.is_open = False
            self._idle.set()
            self.moved.send()

    def _busy(self) -> None:
        self.is_open = True
        self.awaited_until = float("-inf")
        if self._idle.is_set():
            self._idle = trio.Event()
        self.opened.set()
        self.moved.send()

    def _status(self, status: Status) -> None:
        if status.type in ("retry", "offline"):
            self.condition = status
            self.first_output.set()
        else:
            self.condition = None
