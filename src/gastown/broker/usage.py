"""What an answer of a model came to, read while it passes: nothing is held back, and no shape of it is a fault."""

from __future__ import annotations

import json
import secrets
from collections.abc import Callable
from typing import Any, Self

from gastown.contract.events import ModelCall

__all__ = ["AnswerReader", "Meter"]

_MOST_BYTES = 1024 * 1024
"""Of an answer that is one document, and of one event of a stream. What is larger is not read."""
_MOST = 2**53
"""Of tokens or USD in one answer."""
_LONGEST_MODEL = 500
_DONE = b"[DONE]"

# By API: chat completions, responses, messages.
_INPUT = ("prompt_tokens", "input_tokens")
_OUTPUT = ("completion_tokens", "output_tokens")
_GIVEN_DETAILS = ("prompt_tokens_details", "input_tokens_details")
_MADE_DETAILS = ("completion_tokens_details", "output_tokens_details")
_APART = ("cache_read_input_tokens", "cache_creation_input_tokens")
"""Of the messages API alone, which keeps cached input apart from `input_tokens`."""


class AnswerReader:
    """Reads an answer piece by piece, however it is cut.

    Usage may come at the end, at the beginning, in several chunks that each have a part of it, or in chunks that
    each have the sum so far: of every number the largest counts. `is_complete`: the answer has said that it ends,
    so what it says of its usage is all there.
    """

    def __init__(self, *, encoded: bool = False) -> None:
        """`encoded`: the answer is compressed, although that was not asked for, and cannot be read."""
        self.is_complete = False
        self._ended = False
        self._unreadable = encoded
        self._is_document: bool | None = None
        self._rest = bytearray()
        self._overlong = False
        self._event: list[bytes] = []
        self._event_bytes = 0
        self._numbers: dict[str, float] = {}
        self._model: str | None = None

    def feed(self, piece: bytes) -> None:
        """Take in the next bytes."""
        if self._unreadable:
            return
        if self._is_document is None:
            head = (bytes(self._rest) + piece).lstrip(b"\xef\xbb\xbf \t\r\n")
            if not head:
                return
            self._is_document = head.startswith((b"{", b"["))
        if self._is_document:
            self._rest += piece
            if len(self._rest) > _MOST_BYTES:
                self._unreadable = True
                self._rest.clear()
            return
        *lines, rest = piece.replace(b"\r", b"\n").split(b"\n")
        for line in lines:
            self._extend(line)
            self._end_line()
        self._extend(rest)

    def end(self) -> None:
        """The answer has come to its end, and was not cut."""
        self._ended = True
        if self._is_document:
            if not self._parse(bytes(self._rest)):
                self._unreadable = True
        else:
            self._end_line()
            self._end_event()
        self.is_complete = True

    def call(self) -> ModelCall:
        """What is known of the call now."""
        if self._numbers:
            outcome = "counted"
        elif self._unreadable:
            outcome = "unreadable"
        else:
            outcome = "missing" if self._ended else "cut"
        known = self._numbers
        tokens = {name: int(known.get(name, 0)) for name in ("input", "output", "cached", "reasoning")}
        tokens["input"] = min(tokens["input"] + int(known.get("apart", 0)), _MOST)
        return ModelCall.model_validate(
            {
                "call_id": secrets.token_hex(8),
                "model": self._model,
                "outcome": outcome,
                "cost": known.get("cost"),
                **tokens,
            }
        )

    def _extend(self, piece: bytes) -> None:
        if self._overlong or len(self._rest) + len(piece) > _MOST_BYTES:
            self._overlong = True
            self._rest.clear()
        else:
            self._rest += piece

    def _end_line(self) -> None:
        line, overlong = bytes(self._rest), self._overlong
        self._rest.clear()
        self._overlong = False
        if overlong:
            return
        if not line.strip():
            self._end_event()
        elif line.startswith(b"data:"):
            self._data(line[len(b"data:") :].strip())

    def _data(self, data: bytes) -> None:
        """A line of data: mostly a whole event, rarely a line of one."""
        if data == _DONE:
            self.is_complete = True
        elif not self._event and data.startswith(b"{") and data.endswith(b"}"):
            self._parse(data)
        elif self._event_bytes + len(data) <= _MOST_BYTES:
            self._event.append(data)
            self._event_bytes += len(data)

    def _end_event(self) -> None:
        event = b"\n".join(self._event)
        self._event.clear()
        self._event_bytes = 0
        if event:
            self._parse(event)

    def _parse(self, text: bytes) -> bool:
        """Take in a document, where it may say something of usage; False when it is no JSON."""
        if b'"usage"' not in text:
            return True
        try:
            document = json.loads(text)
        except (ValueError, RecursionError):
            return False
        if isinstance(document, dict):
            # The API of messages begins with a `message`, that of responses has its `response` in each event.
            for place in (document, document.get("message"), document.get("response")):
                self._take(_object(place))
            if document.get("type") == "response.completed":
                self.is_complete = True
        return True

    def _take(self, place: dict[str, Any]) -> None:
        usage, model = _object(place.get("usage")), place.get("model")
        if usage and isinstance(model, str) and model:
            self._model = model[:_LONGEST_MODEL]
        for name, value in _numbers(usage).items():
            if value is not None:
                self._numbers[name] = max(value, self._numbers.get(name, 0))


class Meter:
    """Tells what a call came to, once: when the answer says that it ends, else at the end of the block, however
    that comes. Without a reader it tells nothing.
    """

    def __init__(self, reader: AnswerReader | None, tell: Callable[[ModelCall], None]) -> None:
        self._reader = reader
        self._tell = tell

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_error: object) -> None:
        self._settle()

    def feed(self, piece: bytes) -> None:
        """Take in the next bytes, before they go on: who reads them then finds their usage counted."""
        if self._reader is not None:
            self._reader.feed(piece)
            if self._reader.is_complete:
                self._settle()

    def end(self) -> None:
        """The answer was not cut."""
        if self._reader is not None:
            self._reader.end()
            self._settle()

    def _settle(self) -> None:
        if self._reader is not None:
            call, self._reader = self._reader.call(), None
            self._tell(call)


def _numbers(usage: dict[str, Any]) -> dict[str, float | None]:
    given, made = (
        next((_object(usage[name]) for name in names if name in usage), {})
        for names in (_GIVEN_DETAILS, _MADE_DETAILS)
    )
    apart = [_amount(usage.get(name)) for name in _APART]
    read = _first(_amount(given.get("cached_tokens")), apart[0])
    return {
        "input": _first(*(_amount(usage.get(name)) for name in _INPUT)),
        "output": _first(*(_amount(usage.get(name)) for name in _OUTPUT)),
        "cached": read,
        "reasoning": _amount(made.get("reasoning_tokens")),
        "apart": sum(one or 0 for one in apart) if "input_tokens" in usage and any(apart) else None,
        "cost": _cost(usage),
    }


def _cost(usage: dict[str, Any]) -> float | None:
    """In USD. Of a key of the user's own at a provider, the gateway's cost is its fee: the provider's counts."""
    upstream = _amount(_object(usage.get("cost_details")).get("upstream_inference_cost"))
    return upstream if usage.get("is_byok") is True and upstream is not None else _amount(usage.get("cost"))


def _first(*values: float | None) -> float | None:
    return next((value for value in values if value is not None), None)


def _object(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _amount(value: Any) -> float | None:
    if isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value <= _MOST:
        return value
    return None
