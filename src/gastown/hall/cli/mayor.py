"""Prompting the mayor, whatever its state is, and following its turn to the end."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime
from typing import TYPE_CHECKING, Literal

import trio

from gastown.contract.agents import AgentState, AgentStatus, Condition
from gastown.contract.events import AgentEvent
from gastown.hall.cli.turn import Turn, TurnReader, is_held_up
from gastown.hall.control_client import ControlCallFailed, ControlClient, EventStream

if TYPE_CHECKING:  # a command that only follows a turn needs no hall, and starts the sooner
    from gastown.hall.hall import Hall

__all__ = ["MayorLost", "Told", "at_rest", "follow", "tell"]

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
                if is_held_up(event):
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
