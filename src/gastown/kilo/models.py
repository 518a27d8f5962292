"""What we read of a kilo server's JSON (kilo 7.7.7), and the one place that judges it.

An agent works in the server, and may make it say anything. So whatever becomes state of ours passes `parse` and
`read`, which raise `KiloGarbled` for all that no kilo says. Keys that we do not read are kept as they are: much of
this is relayed to clients.
"""

from __future__ import annotations

from collections.abc import Mapping
from math import isfinite
from types import MappingProxyType
from typing import Annotated, Any, TypeVar

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, TypeAdapter, ValidationError
from pydantic_core import from_json

from gastown.contract.terminals import Pty
from gastown.kilo.errors import KiloGarbled

__all__ = [
    "ASK", "EVENTS", "LIST", "MESSAGES", "PROVIDERS", "PTY", "PTYS", "REFUSAL", "SESSION", "SESSIONS", "STATUSES",
    "TOOL_IDS", "Ask", "Asked", "ErrorBody", "ErrorEvent", "EventFacts", "Message", "MessageUpdated", "Part",
    "PartDelta", "PartUpdated", "Replied", "Session", "Status", "StatusChanged", "TurnClosed", "TurnOpened",
    "parse", "read", "read_frame",
]  # fmt: skip

T = TypeVar("T")

_DEEPEST = 100
"""Levels of arrays and objects. pydantic reads 200, and writes an event some levels deeper than kilo sent it."""

Id = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_][A-Za-z0-9._:@-]{0,255}$")]
"""Wide enough for any kilo, and nothing that a path would have to quote: ids are parts of later requests."""
_Name = Annotated[str, StringConstraints(max_length=500)]
_Count = Annotated[int, Field(ge=0, le=2**53)]


class _Model(BaseModel):
    model_config = ConfigDict(extra="allow", frozen=True, strict=True, hide_input_in_errors=True)

    def given(self) -> dict[str, Any]:
        """The JSON object that this was read from."""
        return self.model_dump(by_alias=True, exclude_unset=True)


class Session(_Model):
    """A conversation. `parent_id`: the session whose turn opened this one, for a tool."""

    id: Id
    directory: str
    parent_id: Id | None = Field(default=None, alias="parentID")


class Status(_Model):
    """What a session says of itself: idle, busy, retry (`attempt`, `next` in epoch ms), offline (`request_id`)."""

    type: _Name
    attempt: _Count | None = None
    message: str | None = None
    next: _Count | None = None
    request_id: Id | None = Field(default=None, alias="requestID")

    @property
    def is_idle(self) -> bool:
        return self.type == "idle"


class _ErrorData(_Model):
    message: str | None = None
    status_code: int | None = Field(default=None, alias="statusCode")


class ErrorBody(_Model):
    """kilo's `{name, data: {message}}`, of an answer, an event or a message."""

    name: str | None = None
    data: _ErrorData = _ErrorData()


class _RefusalData(_Model):
    message: str


class _Refusal(_Model):
    name: str
    data: _RefusalData


class _Time(_Model):
    completed: int | float | None = None


class _MessageInfo(_Model):
    id: Id
    role: str
    error: ErrorBody | None = None
    time: _Time = _Time()
    system: str | None = None

    @property
    def is_aborted(self) -> bool:
        return self.error is not None and self.error.name == "MessageAbortedError"


class _ToolState(_Model):
    status: str | None = None


class Part(_Model):
    id: Id
    type: str
    text: str | None = None
    tool: _Name | None = None
    state: _ToolState | None = None


class Message(_Model):
    """A stored message: a prompt (`role` user) or an answer (assistant)."""

    info: _MessageInfo
    parts: list[Part]

    @property
    def is_interrupted(self) -> bool:
        """Whether an answer has no end, as a killed server leaves it, or was aborted, as TERM does (measured)."""
        return self.info.is_aborted or "completed" not in self.info.time.model_fields_set


class Ask(_Model):
    """Something that kilo waits for a person to answer: a permission, a question or a suggestion."""

    id: Id
    permission: _Name | None = None
    patterns: list[str] = []
    metadata: dict[str, Any] = {}


class _Provider(_Model):
    id: str
    models: dict[str, Any] = {}


class _Providers(_Model):
    providers: list[_Provider]


class _Facts(BaseModel):
    """What we read of an event. The event itself is kept beside it."""

    model_config = ConfigDict(frozen=True, strict=True, hide_input_in_errors=True)


class _Payload(_Facts):
    type: _Name
    properties: dict[str, Any] | None = None


class _Frame(_Facts):
    payload: _Payload


class TurnOpened(_Facts):
    """`session.turn.open`."""


class TurnClosed(_Facts):
    """`session.turn.close`. `reason`: completed, error, interrupted, or superseded by the next turn."""

    reason: str | None = None


class StatusChanged(_Facts):
    """`session.status`."""

    status: Status


class ErrorEvent(_Facts):
    """`session.error`."""

    error: ErrorBody | None = None


class _MessageRef(_Facts):
    id: Id


class MessageUpdated(_Facts):
    """`message.updated`."""

    info: _MessageRef


class PartUpdated(_Facts):
    """`message.part.updated`."""

    part: Part


class PartDelta(_Facts):
    """`message.part.delta`: words of the answer."""


class Asked(_Facts):
    """`permission.asked`, `question.asked` and `suggestion.shown`."""

    id: Id


class Replied(_Facts):
    """The end of what was asked: a permission or a question was replied to, or rejected."""

    request_id: Id = Field(alias="requestID")


EventFacts = (
    TurnOpened
    | TurnClosed
    | StatusChanged
    | ErrorEvent
    | MessageUpdated
    | PartUpdated
    | PartDelta
    | Asked
    | Replied
)

EVENTS: Mapping[str, TypeAdapter[Any]] = MappingProxyType(
    {
        "session.turn.open": TypeAdapter(TurnOpened),
        "session.turn.close": TypeAdapter(TurnClosed),
        "session.status": TypeAdapter(StatusChanged),
        "session.error": TypeAdapter(ErrorEvent),
        "message.updated": TypeAdapter(MessageUpdated),
        "message.part.updated": TypeAdapter(PartUpdated),
        "message.part.delta": TypeAdapter(PartDelta),
        "permission.asked": TypeAdapter(Asked),
        "question.asked": TypeAdapter(Asked),
        "suggestion.shown": TypeAdapter(Asked),
        "permission.replied": TypeAdapter(Replied),
        "question.replied": TypeAdapter(Replied),
        "question.rejected": TypeAdapter(Replied),
        "suggestion.accepted": TypeAdapter(Replied),
        "suggestion.dismissed": TypeAdapter(Replied),
    }
)
"""The events that we read. All others are relayed and not read."""

ASK = TypeAdapter(Ask)
LIST = TypeAdapter(list[Any])
MESSAGES = TypeAdapter(list[Message])
PROVIDERS = TypeAdapter(_Providers)
PTY = TypeAdapter(Pty)
PTYS = TypeAdapter(tuple[Pty, ...])
REFUSAL = TypeAdapter(_Refusal)
SESSION = TypeAdapter(Session)
SESSIONS = TypeAdapter(list[Session])
STATUSES = TypeAdapter(dict[str, Status])
TOOL_IDS = TypeAdapter(list[str])


def parse(data: bytes, method: str, path: str) -> Any:
    """JSON that can be written again. Raises `KiloGarbled` for a lone surrogate, for numbers that are none (NaN,
    infinite), and for what is nested deeper than `_DEEPEST`.
    """
    try:
        found = from_json(data, allow_inf_nan=False)
    except ValueError as error:
        raise KiloGarbled(method, path, "something that is not JSON") from error
    _check([found], method, path)
    return found


def read_frame(data: bytes, method: str, path: str) -> _Payload:
    """What a frame of the event stream carries. Raises `KiloGarbled`.

    Parsed and judged in one pass: a flood has thousands a second, nearly all flat, with text in each value.
    """
    try:
        payload = _Frame.model_validate_json(data).payload
    except ValidationError as error:
        raise _garbled(error, method, path) from None
    if payload.properties is not None:
        nested = [value for value in payload.properties.values() if type(value) is not str]
        if nested:
            _check(nested, method, path)
    return payload


def read(kind: TypeAdapter[T], given: Any, method: str, path: str) -> T:
    """`given` as a value of `kind`. Raises `KiloGarbled`, which quotes nothing of what was given."""
    try:
        return kind.validate_python(given)
    except (ValidationError, RecursionError) as error:
        raise _garbled(error, method, path) from None


def _garbled(error: ValidationError | RecursionError, method: str, path: str) -> KiloGarbled:
    return KiloGarbled(method, path, f"what no kilo says ({_problem(error)})")


def _problem(error: ValidationError | RecursionError) -> str:
    if isinstance(error, RecursionError):
        return "too deep"
    first = error.errors(include_url=False, include_input=False, include_context=False)[0]
    return f"{'.'.join(map(str, first['loc']))[:80]}: {first['msg'][:200]}".removeprefix(": ")


def _check(values: list[Any], method: str, path: str) -> None:
    """Raises `KiloGarbled` for values that are nested too deep, or hold a number that is none."""
    for _ in range(_DEEPEST):
        values = _inside(values, method, path)
        if not values:
            return
    raise KiloGarbled(method, path, f"JSON that is nested deeper than {_DEEPEST}")


def _inside(level: list[Any], method: str, path: str) -> list[Any]:
    """What the arrays and objects of `level` hold. A number too large for a float was read as infinite."""
    inside: list[Any] = []
    for value in level:
        kind = type(value)
        if kind is dict:
            inside.extend(value.values())
        elif kind is list:
            inside.extend(value)
        elif kind is float and not isfinite(value):
            raise KiloGarbled(method, path, "a number that is too large, or none")
    return inside
