"""Prompting the mayor, whatever its state is, and following its turn to the end."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Literal

import trio

from gastown.contract.agents import AgentState, AgentStatus, Condition
from gastown.contract.events import AgentEvent
from gastown.hall.control_client import ControlCallFailed, ControlClient, EventStream
from gastown.hall.hall import Hall

__all__ = ["MayorLost", "Told", "Turn", "TurnReader", "at_rest", "follow", "tell"]

_POLL_SECONDS = 0.05  # each request costs milliseconds that a starting kilo needs
_SILENCE_SECONDS = 5.0
_RECONNECT_SECONDS = 0.2
_READY_SECONDS = 120


class MayorLost(Exception):
    """The mayor cannot answer. One clear sentence."""


@dataclass(frozen=True, kw_only=True)
class Told:
    """How the prompt reached the mayor. Times are seconds on Trio's clock.

    `by` is "start" when the prompt was the one of a start, "message" when the mayor was already running.
    Its events with an id greater than `after` came afterwards; `told_at` is the wall clock's `sent_at`.
    """

    by: Literal["start", "message"]
    session_id: str | None
    after: int
    told_at: datetime
    waited_from: float
    sent_at: float
    accepted_at: float


async def tell(hall: Hall, control: ControlClient, mayor_id: str, prompt: str) -> Told:
    """Give `prompt` to the mayor: as a message when it is running or about to be, else by starting it.

    ControlCallFailed when the container refuses, MayorLost when it stays between two states for two minutes.
    """
    waited_from = trio.current_time()
    with trio.move_on_after(_READY_SECONDS):
        while True:
            told = await _try_to_tell(hall, control, mayor_id, prompt, waited_from)
            if told is not None:
                return told
            await trio.sleep(_POLL_SECONDS)
    raise MayorLost(f"the mayor was neither running nor startable for {_READY_SECONDS} s")


async def at_rest(control: ControlClient, mayor_id: str) -> AgentStatus | None:
    """The mayor's status once it neither starts nor stops; None when the container does not know it.

    MayorLost when that takes two minutes.
    """
    with trio.move_on_after(_READY_SECONDS):
        while True:
            status = await control.status(mayor_id)
            if status is None or status.status not in (AgentState.STARTING, AgentState.STOPPING):
                return status
            await trio.sleep(_POLL_SECONDS)
    raise MayorLost(f"the mayor was between two states for {_READY_SECONDS} s")


async def _try_to_tell(
    hall: Hall, control: ControlClient, mayor_id: str, prompt: str, waited_from: float
) -> Told | None:
    """None while the mayor is between two states."""
    status = await control.status(mayor_id)
    if status is not None and status.status in (AgentState.STARTING, AgentState.STOPPING):
        return None
    events = await control.events(mayor_id)
    after = events[-1].id if events else 0
    sent_at, told_at = trio.current_time(), hall.now()
    by: Literal["start", "message"]
    if status is not None and status.status is AgentState.RUNNING:
        try:
            await hall.tell_mayor(control, mayor_id, prompt)
        except ControlCallFailed as error:
            if error.status == 409:  # it ended between the two requests
                return None
            raise
        by, session_id = "message", status.session_id
    else:
        agent = await hall.start_mayor(control, prompt)
        by, session_id = "start", agent.session_id
    return Told(
        by=by,
        session_id=session_id,
        after=after,
        told_at=told_at,
        waited_from=waited_from,
        sent_at=sent_at,
        accepted_at=trio.current_time(),
    )


@dataclass(kw_only=True)
class Turn:
    """One turn as its events describe it. `reason` is kilo's name for how it ended; None while it goes on.

    `status_code` is that of the gateway's answer, where the first error has one. `used_a_tool`: a model that only
    calls tools has answered without a word.
    """

    prompted_at: datetime | None = None
    first_word_at: datetime | None = None
    ended_at: datetime | None = None
    reason: str | None = None
    error: str | None = None
    status_code: int | None = None
    used_a_tool: bool = False
    text: str = ""

    @property
    def answered(self) -> bool:
        return self.reason == "completed" and self.error is None and not self.said_nothing

    @property
    def said_nothing(self) -> bool:
        """Whether it ended well with neither word nor tool, as it does with what is no model's gateway."""
        is_empty = not self.text.strip() and not self.used_a_tool
        return self.reason == "completed" and self.error is None and is_empty

    @property
    def problem(self) -> str:
        """Why there is no answer, in few words."""
        return self.error or ("no words" if self.said_nothing else self.reason or "no reason given")


@dataclass
class TurnReader:
    """Reads the turn of our prompt out of the mayor's events.

    A running mayor may be in the middle of another turn; ours begins with a user's message that is not older
    than `told_at` (kilo tells of older ones again). Events of other sessions, which are the mayor's own
    subagents', and words that it only thinks are left out.
    """

    session_id: str | None
    told_at: datetime
    begun: bool = False
    turn: Turn = field(default_factory=Turn)
    _thoughts: set[str] = field(default_factory=set[str])

    def take(self, event: AgentEvent) -> str:
        """Take the next event; the text that it adds to the answer."""
        data = event.data
        if self.session_id is not None and data.get("sessionID") != self.session_id:
            return ""
        match event.event:
            case "message.updated" if self._is_ours(_inner(data, "info")):
                self.begun = True
                self.turn.prompted_at = self.turn.prompted_at or event.timestamp
            case "message.part.updated" if _inner(data, "part").get("type") == "reasoning":
                self._thoughts.add(str(_inner(data, "part").get("id")))
            case "message.part.updated" if self.begun and _inner(data, "part").get("type") == "tool":
                self.turn.used_a_tool = True
            case "message.part.delta" if self.begun:
                return self._words(event)
            case "session.error" if self.begun and self.turn.error is None:
                self.turn.error, self.turn.status_code = _error_text(data), _status_code(data)
            case "session.turn.close" if self.begun and data.get("reason") != "superseded":
                self.turn.reason = str(data.get("reason"))
                self.turn.ended_at = event.timestamp
            case _:
                pass
        return ""

    def _is_ours(self, message: dict[str, Any]) -> bool:
        created = _inner(message, "time").get("created")  # epoch milliseconds
        if message.get("role") != "user" or not isinstance(created, int | float):
            return False
        return int(created) >= int(self.told_at.timestamp() * 1000)

    def _words(self, event: AgentEvent) -> str:
        delta = event.data.get("delta")
        thought = event.data.get("partID") in self._thoughts
        if event.data.get("field") != "text" or not isinstance(delta, str) or thought:
            return ""
        self.turn.first_word_at = self.turn.first_word_at or event.timestamp
        self.turn.text += delta
        return delta


async def follow(
    control: ControlClient,
    mayor_id: str,
    told: Told,
    say: Callable[[str], None],
    note: Callable[[Condition], None],
) -> Turn:
    """Follow the turn of what was told until it ends, however long the model takes.

    `say` gets the answer's text as it comes, `note` what holds the agent up, once for each reason. MayorLost when
    the agent ends before its turn does. Deadlines are the caller's.
    """
    follower = _Follower(control, mayor_id, TurnReader(told.session_id, told.told_at, begun=told.by == "start"))
    last = told.after
    while True:
        async with control.stream(mayor_id, last) as stream:
            last, ended = await follower.read(stream, last, say, note)
        if ended:
            return follower.reader.turn
        await follower.look_after(note)
        await trio.sleep(_RECONNECT_SECONDS)


@dataclass
class _Follower:
    """Reads one connection after the other, and asks how a silent mayor is."""

    control: ControlClient
    mayor_id: str
    reader: TurnReader
    _noted: set[str] = field(default_factory=set[str])

    async def read(
        self, stream: EventStream, last: int, say: Callable[[str], None], note: Callable[[Condition], None]
    ) -> tuple[int, bool]:
        """Read one connection; the id of its last event, and whether the turn has ended."""
        turn = self.reader.turn
        while True:
            event: AgentEvent | None = None
            with trio.move_on_after(_SILENCE_SECONDS) as silence:
                event = await stream.next()
            if event is not None:
                last = event.id
                if (text := self.reader.take(event)) and turn.ended_at is None:
                    self._noted.clear()
                    say(text)
                if turn.ended_at is not None:
                    return last, True
                if _says_held_up(event):
                    await self.look_after(note)
            elif not silence.cancelled_caught:
                return last, False
            elif turn.error is not None:
                return last, True  # an error without a turn: no more events will come
            else:
                await self.look_after(note)

    async def look_after(self, note: Callable[[Condition], None]) -> None:
        """Note why a silent mayor is silent, if its status says so; MayorLost when it has ended."""
        status = await self.control.status(self.mayor_id)
        if status is None or status.status in (AgentState.EXITED, AgentState.FAILED):
            reason = status.exit_reason if status is not None else None
            raise MayorLost(f"the mayor ended before its turn did: {reason or 'no reason given'}")
        condition = status.condition
        if condition is None or condition.type == "busy":
            return
        if (noted := f"{condition.type} {condition.reason}") not in self._noted:
            self._noted.add(noted)
            note(condition)


def _says_held_up(event: AgentEvent) -> bool:
    """Whether kilo waits for the gateway: it then says so again and again, and is never silent for long."""
    return event.event == "session.status" and _inner(event.data, "status").get("type") in ("retry", "offline")


def _inner(data: dict[str, Any], key: str) -> dict[str, Any]:
    inner = data.get(key)
    return inner if isinstance(inner, dict) else {}


def _error_text(data: dict[str, Any]) -> str:
    error = _inner(data, "error")
    message = _inner(error, "data").get("message") or "no message"
    return f"{error.get('name') or 'UnknownError'}: {message}"[:500]


def _status_code(data: dict[str, Any]) -> int | None:
    code = _inner(_inner(data, "error"), "data").get("statusCode")
    return code if isinstance(code, int) else None
