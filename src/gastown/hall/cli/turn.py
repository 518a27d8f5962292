"""One turn, read out of an agent's events. They come from an agent: one of another shape says nothing."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from types import MappingProxyType
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from gastown.contract.events import AgentEvent

__all__ = ["Turn", "TurnReader", "is_held_up"]

_MOST_OF_AN_ERROR = 500
"""Characters of an error that are shown."""


class _Model(BaseModel):
    model_config = ConfigDict(frozen=True, strict=True, hide_input_in_errors=True)


class _Created(_Model):
    created: int | float


class _Message(_Model):
    role: str
    time: _Created


class _MessageUpdated(_Model):
    info: _Message


class _Part(_Model):
    id: str
    type: str


class _PartUpdated(_Model):
    part: _Part


class _Words(_Model):
    field: Literal["text"]
    delta: str
    part_id: str | None = Field(default=None, alias="partID")


class _ErrorData(_Model):
    message: str | None = None
    status_code: int | None = Field(default=None, alias="statusCode")


class _Error(_Model):
    name: str | None = None
    data: _ErrorData = _ErrorData()


class _Failed(_Model):
    error: _Error | None = None


class _Closed(_Model):
    reason: str | None = None


class _State(_Model):
    type: str


class _StatusChanged(_Model):
    status: _State


_Facts = _MessageUpdated | _PartUpdated | _Words | _Failed | _Closed | _StatusChanged
_EVENTS: Mapping[str, TypeAdapter[_Facts]] = MappingProxyType(
    {
        "message.updated": TypeAdapter(_MessageUpdated),
        "message.part.updated": TypeAdapter(_PartUpdated),
        "message.part.delta": TypeAdapter(_Words),
        "session.error": TypeAdapter(_Failed),
        "session.turn.close": TypeAdapter(_Closed),
        "session.status": TypeAdapter(_StatusChanged),
    }
)


def _read(event: AgentEvent) -> _Facts | None:
    kind = _EVENTS.get(event.event)
    try:
        return kind.validate_python(event.data) if kind is not None else None
    except ValidationError:
        return None


def is_held_up(event: AgentEvent) -> bool:
    """Whether kilo waits for the gateway: it then says so again and again, and is never silent for long."""
    facts = _read(event)
    return isinstance(facts, _StatusChanged) and facts.status.type in ("retry", "offline")


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
    _part: str | None = None

    def take(self, event: AgentEvent) -> str:
        """Take the next event; the text that it adds to the answer."""
        if self.session_id is not None and event.data.get("sessionID") != self.session_id:
            return ""
        match _read(event):
            case _MessageUpdated(info=message) if self._is_ours(message):
                self.begun = True
                self.turn.prompted_at = self.turn.prompted_at or event.timestamp
            case _PartUpdated(part=_Part(type="reasoning", id=part_id)):
                self._thoughts.add(part_id)
            case _PartUpdated(part=_Part(type="tool")) if self.begun:
                self.turn.used_a_tool = True
            case _Words() as words if self.begun and words.part_id not in self._thoughts:
                self.turn.first_word_at = self.turn.first_word_at or event.timestamp
                begins = "\n\n" if self._part not in (None, words.part_id) else ""  # after a call of a tool
                self._part = words.part_id
                self.turn.text += begins + words.delta
                return begins + words.delta
            case _Failed(error=error) if self.begun and self.turn.error is None:
                self.turn.error = _in_words(error or _Error())
                self.turn.status_code = error.data.status_code if error is not None else None
            case _Closed(reason=reason) if self.begun and reason != "superseded":
                self.turn.reason, self.turn.ended_at = str(reason), event.timestamp
            case _:
                pass
        return ""

    def _is_ours(self, message: _Message) -> bool:
        return message.role == "user" and int(message.time.created) >= int(self.told_at.timestamp() * 1000)


def _in_words(error: _Error) -> str:
    return f"{error.name or 'UnknownError'}: {error.data.message or 'no message'}"[:_MOST_OF_AN_ERROR]
