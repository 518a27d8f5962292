"""What an agent's server says it does: each event is kept, then read, in one order."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from datetime import datetime
from typing import Any

from gastown.agents.session.condition import Progress
from gastown.agents.session.event_log import Turns
from gastown.agents.session.usage import UsageMeter
from gastown.kilo.models import Message, MessageUpdated, Part, PartUpdated, TurnClosed
from gastown.kilo.stream import KiloEvent

__all__ = ["Activity"]

_REMEMBERED_MESSAGES = 64


class Activity:
    """The facts that an agent's events come to. `newest_message` is the greatest id of the agent's session.

    `keep` records an event for clients and for the worker. `turn_ended` is called after each end of a turn.
    """

    def __init__(
        self,
        now: Callable[[], datetime],
        keep: Callable[[str, dict[str, Any]], None],
        turn_ended: Callable[[], None],
    ) -> None:
        self.turns = Turns()
        self.progress = Progress(self.turns)
        self.last_at = now()
        self.last_event_type: str | None = None
        self.last_event_at: datetime | None = None
        self.newest_message: str | None = None
        self.message_count = 0
        self.usage = UsageMeter()
        self._now = now
        self._keep = keep
        self._turn_ended = turn_ended
        self._tools: dict[str, str] = {}
        self._messages: OrderedDict[str, None] = OrderedDict()

    @property
    def active_tools(self) -> tuple[str, ...]:
        return tuple(sorted(set(self._tools.values())))

    def take(self, event: KiloEvent, session_id: str | None) -> None:
        """Take in an event of the agent's server, whose conversation is `session_id`.

        All steps happen without a checkpoint, so that no task sees half of them. Their order counts:

        1. the time of the last event;
        2. the event is kept, so that an event of ours that follows from it (`agent.status`) has a later id;
        3. the turns, if the event is of the agent's own session and not of a session that it opened for a tool;
        4. the progress, which compares the turns with what they were;
        5. messages and tools, of any session;
        6. `turn_ended`: a save that it asks for has all of the above.
        """
        self.last_event_type = event.type
        self.last_event_at = self.last_at = self._now()
        self._keep(event.type, event.properties)
        if event.session_id == session_id:
            self.turns.take(event)
            self.progress.take(event)
        match event.facts:
            case MessageUpdated(info=info):
                self._count_message(info.id, of_agent=event.session_id == session_id)
                self._measure(event)
            case PartUpdated(part=part):
                self._follow_tool(part)
            case TurnClosed():
                self._turn_ended()
            case _:
                pass

    def goes_on_after(self, newest: Message, session_id: str) -> None:
        """The agent's session has messages of earlier attempts, up to `newest`: they are not this attempt's."""
        self.newest_message = newest.info.id
        if newest.info.time.completed is not None:
            self._messages[newest.info.id] = None
            self.usage.passed(session_id, newest.info.id)

    def _count_message(self, message_id: str, *, of_agent: bool) -> None:
        if of_agent:
            self.newest_message = max(self.newest_message or "", message_id)
        if message_id in self._messages:
            return
        self.message_count += 1
        self._messages[message_id] = None
        if len(self._messages) > _REMEMBERED_MESSAGES:
            self._messages.popitem(last=False)

    def _measure(self, event: KiloEvent) -> None:
        used = self.usage.take(event.session_id, event.properties.get("info"))
        if used is not None:
            self._keep("agent.usage", used.model_dump(by_alias=True))

    def _follow_tool(self, part: Part) -> None:
        if part.type != "tool":
            return
        if part.tool is not None and part.state is not None and part.state.status in ("pending", "running"):
            self._tools[part.id] = part.tool
        else:
            self._tools.pop(part.id, None)
