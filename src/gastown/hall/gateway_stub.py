"""A stand-in for the LLM gateway: it speaks the protocol, and its answers say that no model is connected."""

from __future__ import annotations

import json
import re
from collections.abc import AsyncIterable, AsyncIterator, Iterable
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self
from uuid import uuid4

import trio
from quart import Blueprint, Response, request
from quart.wrappers.response import ResponseBody

from gastown.contract.secret import Secret
from gastown.hall.api.answers import ApiError, answer, read_json
from gastown.hall.api.context import StandIn, context
from gastown.hall.domain.town import DEFAULT_MODEL, DEFAULT_SMALL_MODEL

__all__ = ["gateway", "stand_in_text"]

_EXCERPT = 200
_WORD = re.compile(r"\s*\S+")
_ADDED_BY_KILO = re.compile(r"<environment_details>.*?</environment_details>", re.DOTALL)

gateway = Blueprint("gateway", __name__, url_prefix="/api/openrouter")


def stand_in_text(question: str) -> str:
    """The whole answer to `question`, of which it quotes a bounded excerpt."""
    asked = _ADDED_BY_KILO.sub("", question)
    plain = " ".join("".join(c if c.isprintable() else " " for c in asked).split())
    excerpt = plain if len(plain) <= _EXCERPT else plain[:_EXCERPT].rstrip() + "…"
    return (
        "This is the stand-in of the embedded hall: no language model is connected, because no "
        f"KILOCODE_TOKEN was given. You wrote: “{excerpt}”. Everything else here is real; with "
        "KILOCODE_TOKEN set, a model answers."
    )


@gateway.get("/models")
async def models() -> Response:
    """The models of a town that configures none. Not secret, so it asks for no token, as the real one."""
    return answer({"data": [_model(DEFAULT_MODEL), _model(DEFAULT_SMALL_MODEL)]})


@gateway.post("/chat/completions")
async def chat_completions() -> Response:
    """One completion, streamed when it is asked for so; 401 without the town's gateway token."""
    stand_in = context().stand_in
    if stand_in is None:
        raise ApiError(404, "Not found")
    scheme, _, shown = request.headers.get("Authorization", "").partition(" ")
    if scheme != "Bearer" or Secret(shown) != stand_in.token:
        # In the shape that a client of a gateway reads: an object with a message.
        return answer({"error": {"message": "Not the gateway token of this town", "code": 401}}, 401)
    body = await read_json()
    if not isinstance(body, dict) or not isinstance(body.get("messages"), list):
        return answer({"error": {"message": "messages must be an array", "code": 400}}, 400)
    completion = _Completion.of(body)
    if body.get("stream") is not True:
        await trio.sleep(stand_in.turn_seconds)
        return answer(completion.whole(context().now().timestamp()))
    reply = Response(
        _WordByWord(completion, stand_in, context().now().timestamp()), content_type="text/event-stream"
    )
    reply.headers["Cache-Control"] = "no-store"
    reply.timeout = None  # P11: else a turn of more than 60 s is cut in the middle
    return reply


@dataclass(frozen=True)
class _Completion:
    """One answer and the frames that it is made of."""

    id: str
    model: str
    text: str
    words_asked: int

    @classmethod
    def of(cls, body: dict[str, Any]) -> _Completion:
        model = body.get("model")
        texts = [
            (message.get("role"), _text(message)) for message in body["messages"] if isinstance(message, dict)
        ]
        question = next((text for role, text in reversed(texts) if role == "user"), "")
        return cls(
            id=f"stand-in-{uuid4().hex}",
            model=model if isinstance(model, str) else DEFAULT_MODEL,
            text=stand_in_text(question),
            words_asked=sum(len(text.split()) for _, text in texts),
        )

    @property
    def usage(self) -> dict[str, int]:
        """Words, for want of a tokenizer."""
        said = len(self.text.split())
        return {
            "prompt_tokens": self.words_asked,
            "completion_tokens": said,
            "total_tokens": self.words_asked + said,
        }

    def whole(self, created: float) -> dict[str, Any]:
        message = {"role": "assistant", "content": self.text}
        choice = {"index": 0, "message": message, "finish_reason": "stop"}
        return self._frame("chat.completion", created) | {"choices": [choice], "usage": self.usage}

    def frames(self, created: float) -> Iterable[bytes]:
        """The stream's frames: one a word, then the end with its usage, then the mark of the end."""
        base = self._frame("chat.completion.chunk", created)
        for number, word in enumerate(_WORD.findall(self.text)):
            delta = {"content": word} if number else {"role": "assistant", "content": word}
            yield _sse(base | {"choices": [{"index": 0, "delta": delta, "finish_reason": None}]})
        end = {"index": 0, "delta": {}, "finish_reason": "stop"}
        yield _sse(base | {"choices": [end], "usage": self.usage})
        yield b"data: [DONE]\n\n"

    def _frame(self, kind: str, created: float) -> dict[str, Any]:
        return {"id": self.id, "object": kind, "created": int(created), "model": self.model}


class _WordByWord(ResponseBody, AsyncIterator[bytes]):
    """The body of a streamed answer. P12: a plain iterator, since a generator would be cancelled inside."""

    def __init__(self, completion: _Completion, stand_in: StandIn, created: float) -> None:
        self._frames = list(completion.frames(created))
        self._pause = stand_in.turn_seconds / len(self._frames)
        self._next = 0

    async def __aenter__(self) -> AsyncIterable[bytes]:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Nothing is held: there is nothing to give back."""

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> bytes:
        if self._next == len(self._frames):
            raise StopAsyncIteration
        await trio.sleep(self._pause)
        self._next += 1
        return self._frames[self._next - 1]


def _text(message: dict[str, Any]) -> str:
    """The text of a message, whose content is a string or a list of parts."""
    content = message.get("content")
    if isinstance(content, list):
        parts = [part.get("text") for part in content if isinstance(part, dict)]
        return "\n".join(part for part in parts if isinstance(part, str))
    return content if isinstance(content, str) else ""


def _sse(frame: dict[str, Any]) -> bytes:
    return f"data: {json.dumps(frame)}\n\n".encode()


def _model(name: str) -> dict[str, Any]:
    return {
        "id": name,
        "name": f"{name} (stand-in)",
        "context_length": 200_000,
        "architecture": {"input_modalities": ["text"], "output_modalities": ["text"], "tokenizer": "none"},
        "top_provider": {"context_length": 200_000, "max_completion_tokens": 64_000},
        "pricing": {"prompt": "0", "completion": "0"},
        "supported_parameters": ["tools"],
    }
