"""How a running agent gets on: from its events, and from whether its server answers."""

from __future__ import annotations

import trio

from gastown.agents.session.event_log import Turns
from gastown.concurrency.signal import Signal
from gastown.contract.agents import Condition
from gastown.kilo.models import Asked, Replied, Status, StatusChanged, TurnClosed
from gastown.kilo.stream import KiloEvent

__all__ = ["Progress"]

_ASKED = {"permission.asked": "permission", "question.asked": "question", "suggestion.shown": "suggestion"}
_ARTICLE = {
    "permission": "a permission",
    "question": "an answer to its question",
    "suggestion": "an answer to its suggestion",
}


class Progress:
    """Facts with their age; all times are Trio's. `heard` counts the events of the agent's server.

    `probed_at` is when the server last answered a probe, `unanswered_since` when it last was asked without one.
    """

    def __init__(self, turns: Turns) -> None:
        now = trio.current_time()
        self._turns = turns
        self._changes = turns.changes
        self._turn_since = self._said_since = now
        self._said: str | None = None
        self._asked: dict[str, tuple[str, float]] = {}
        self.heard = 0
        self.heard_at = now
        self.probed_at: float | None = None
        self.unanswered_since: float | None = None
        self.offline_request: str | None = None
        self._status_said = Signal()

    def take(self, event: KiloEvent) -> None:
        """An event of the agent's session, after the turns have taken it."""
        now = trio.current_time()
        self.heard += 1
        self.heard_at = now
        if self._turns.changes != self._changes:
            self._changes, self._turn_since = self._turns.changes, now
        match event.facts:
            case Asked(id=request):
                self._asked[request] = (_ASKED[event.type], now)
            case Replied(request_id=request):
                self._asked.pop(request, None)
            case TurnClosed():
                self._asked.clear()
            case StatusChanged(status=status):
                self._status(status, now)
            case _:
                pass

    def answered(self) -> None:
        """The server has answered a probe."""
        self.probed_at, self.unanswered_since = trio.current_time(), None

    def unanswered(self) -> None:
        """A probe went without an answer."""
        if self.unanswered_since is None:
            self.unanswered_since = trio.current_time()

    def retry_failed(self, request: str) -> None:
        """An offline session could not be told to try again. It will not ask again, so its request stands."""
        if self.offline_request is None:
            self.offline_request = request

    def another_server(self) -> None:
        """What was asked of the old server is asked no more, and what it did not answer says nothing now."""
        self._asked.clear()
        self.unanswered_since = self.offline_request = None

    async def changed(self) -> None:
        """Return after the session's next status."""
        await self._status_said.wait()

    def condition(self, stalled_after: float) -> Condition:
        """The worst that is true now, with its reason and its age. `stalled_after` is in seconds."""
        now = trio.current_time()
        if self.unanswered_since is not None:
            return _condition("wedged", now - self.unanswered_since, "The server does not answer its probes")
        if self._asked:
            kind, since = next(iter(self._asked.values()))
            return _condition("waiting", now - since, f"The agent asks for {_ARTICLE[kind]}")
        if (said := self._turns.condition) is not None:
            return self._as_kilo_says(said, now)
        if not self._turns.is_open:
            return _condition("idle", now - self._turn_since)
        if now - self.heard_at > stalled_after:
            return _condition("stalled", now - self.heard_at, "Busy without an event; the server answers")
        return _condition("busy", now - self._turn_since)

    def _as_kilo_says(self, said: Status, now: float) -> Condition:
        kind = "retrying" if said.type == "retry" else "offline"
        known = {"attempt": said.attempt, "next": said.next}
        details = {key: value for key, value in known.items() if value is not None}
        return _condition(kind, now - self._said_since, said.message or "The gateway does not answer", **details)

    def _status(self, status: Status, now: float) -> None:
        self.offline_request = status.request_id if status.type == "offline" else None
        if status.type != self._said:
            self._said, self._said_since = status.type, now
        self._status_said.send()


def _condition(kind: str, age: float, reason: str | None = None, **details: int) -> Condition:
    known = {"reason": reason} if reason is not None else {}
    return Condition.model_validate({"type": kind, "age_ms": round(age * 1000), **known, **details})
