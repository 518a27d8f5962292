"""A stand-in for the LLM gateway: it plays a script, or says that no model is connected."""

from __future__ import annotations

from collections.abc import AsyncIterable, AsyncIterator
from dataclasses import replace
from types import TracebackType
from typing import Any, Self

import trio
from quart import Blueprint, Response, request
from quart.wrappers.response import ResponseBody

from gastown.contract.secret import Secret
from gastown.hall.api.answers import ApiError, answer, read_json
from gastown.hall.api.context import StandIn, context
from gastown.hall.domain.town import DEFAULT_MODEL, DEFAULT_SMALL_MODEL
from gastown.hall.stand_in.completion import Completion
from gastown.hall.stand_in.conversation import messages_of
from gastown.hall.stand_in.player import Played, play

__all__ = ["gateway", "stand_in_text"]

_EXCERPT = 200

gateway = Blueprint("gateway", __name__, url_prefix="/api/openrouter")


def stand_in_text(question: str) -> str:
    """The whole answer to `question`, of which it quotes a bounded excerpt."""
    plain = " ".join("".join(c if c.isprintable() else " " for c in question).split())
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
        return _error(401, "Not the gateway token of this town")
    body = await read_json()
    if not isinstance(body, dict) or not isinstance(body.get("messages"), list):
        return _error(400, "messages must be an array")
    said = _said(stand_in, body)
    seconds = stand_in.turn_seconds if said.seconds is None else said.seconds
    if said.error is not None:
        await trio.sleep(seconds)
        return _error(said.error.status, said.error.message)
    completion = _completion(said, body)
    if body.get("stream") is not True:
        await trio.sleep(seconds)
        return answer(completion.whole())
    reply = Response(_FrameByFrame(completion, seconds), content_type="text/event-stream")
    reply.headers["Cache-Control"] = "no-store"
    reply.timeout = None  # P11: else a turn of more than 60 s is cut in the middle
    return reply


def _said(stand_in: StandIn, body: dict[str, Any]) -> Played:
    """The script's answer, where one plays and fits; else the one sentence."""
    played = None if stand_in.script is None else play(stand_in.script, body)
    if played is None:
        asked = [message.text for message in messages_of(body) if message.said_by == "user"]
        return Played(text=stand_in_text(asked[-1] if asked else ""))
    if played.error is not None and not stand_in.failures.fails(body, played.error):
        return replace(played, error=None)
    return played


def _completion(said: Played, body: dict[str, Any]) -> Completion:
    model = body.get("model")
    return Completion.of(
        said,
        model=model if isinstance(model, str) else DEFAULT_MODEL,
        words_asked=sum(len(message.text.split()) for message in messages_of(body)),
        now=context().now().timestamp(),
    )


def _error(status: int, message: str) -> Response:
    """In the shape that a client of a gateway reads: an object with a message."""
    return answer({"error": {"message": message, "code": status}}, status)


class _FrameByFrame(ResponseBody, AsyncIterator[bytes]):
    """The body of a streamed answer. P12: a plain iterator, since a generator would be cancelled inside."""

    def __init__(self, completion: Completion, seconds: float) -> None:
        self._frames = list(completion.frames())
        self._pause = seconds / len(self._frames)
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
