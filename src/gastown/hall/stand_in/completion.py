"""A completion in the shapes of the protocol: one object, or the frames of a stream."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any
from uuid import uuid4

from gastown.hall.stand_in.player import Played

__all__ = ["Completion"]

_WORD = re.compile(r"\s*\S+|\s+$")
_PIECE = 64
"""Characters of a call's arguments in one frame: a client that puts calls together has something to do."""


@dataclass(frozen=True, kw_only=True)
class Completion:
    """One answer. `created` is seconds since the epoch, `words_asked` the length of the question."""

    id: str
    model: str
    created: int
    words_asked: int
    said: Played
    calls: tuple[dict[str, Any], ...]

    @classmethod
    def of(cls, said: Played, *, model: str, words_asked: int, now: float) -> Completion:
        """The completion that says and calls what is `said`. Its calls have ids of their own."""
        calls = tuple(
            {
                "id": f"call_{uuid4().hex}",
                "type": "function",
                "function": {"name": call.tool, "arguments": json.dumps(call.arguments, ensure_ascii=False)},
            }
            for call in said.calls
        )
        return cls(
            id=f"stand-in-{uuid4().hex}",
            model=model,
            created=int(now),
            words_asked=words_asked,
            said=said,
            calls=calls,
        )

    @property
    def finish(self) -> str:
        return "tool_calls" if self.calls else "stop"

    @property
    def usage(self) -> dict[str, float]:
        """Words, for want of a tokenizer; the cost in USD is what the script says."""
        calls = " ".join(call["function"]["arguments"] for call in self.calls)
        said = len(self.said.text.split()) + len(calls.split())
        return {
            "prompt_tokens": self.words_asked,
            "completion_tokens": said,
            "total_tokens": self.words_asked + said,
            "cost": self.said.cost,
        }

    def whole(self) -> dict[str, Any]:
        """The answer as one object."""
        message: dict[str, Any] = {"role": "assistant", "content": self.said.text}
        if self.calls:
            message["tool_calls"] = list(self.calls)
        choice = {"index": 0, "message": message, "finish_reason": self.finish}
        return self._base("chat.completion") | {"choices": [choice], "usage": self.usage}

    def frames(self) -> Iterable[bytes]:
        """The stream's frames: one a word, those of the calls, the end with its usage, the mark of the end."""
        deltas = [{"content": word} for word in _WORD.findall(self.said.text)]
        deltas += [delta for index, call in enumerate(self.calls) for delta in _pieces(index, call)]
        for number, delta in enumerate(deltas or [{"content": ""}]):
            yield self._chunk(delta if number else {"role": "assistant", **delta})
        yield self._chunk({}, finish=self.finish, usage=self.usage)
        yield b"data: [DONE]\n\n"

    def _chunk(self, delta: Mapping[str, Any], *, finish: str | None = None, **more: Any) -> bytes:
        choice = {"index": 0, "delta": delta, "finish_reason": finish}
        frame = self._base("chat.completion.chunk") | {"choices": [choice]} | more
        return f"data: {json.dumps(frame)}\n\n".encode()

    def _base(self, kind: str) -> dict[str, Any]:
        return {"id": self.id, "object": kind, "created": self.created, "model": self.model}


def _pieces(index: int, call: Mapping[str, Any]) -> Iterable[dict[str, Any]]:
    """The deltas of one call: its name first, then its arguments piece by piece."""
    name, arguments = call["function"]["name"], call["function"]["arguments"]
    head = {"index": index, "id": call["id"], "type": "function", "function": {"name": name, "arguments": ""}}
    yield {"tool_calls": [head]}
    for start in range(0, len(arguments), _PIECE):
        piece = {"arguments": arguments[start : start + _PIECE]}
        yield {"tool_calls": [{"index": index, "function": piece}]}
