"""A language model gateway for a real kilo: it answers by the name of the model that is asked."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator
from typing import Any

import trio

from gastown.testing.asgi import Answer, App, Asked, Frames, answer, app_of

__all__ = ["ACTS", "MODELS", "REFUSES", "SLOW", "STEADY", "TALKS", "gateway"]

TALKS, STEADY, SLOW, REFUSES, ACTS = MODELS = (
    "test/talks",
    "test/steady",
    "test/slow",
    "test/refuses",
    "test/acts",
)
_PAUSES = {TALKS: 0.0, STEADY: 0.3, SLOW: float("inf")}


def gateway() -> App:
    """`TALKS` says three words at once and `STEADY` one after the other, `SLOW` says one and never another,
    `ACTS` runs a command first, and `REFUSES` is a 401. What kilo asks for beside models and completions is a 404.
    """

    async def handle(asked: Asked) -> Answer | Frames:
        if asked.path.endswith("/models"):
            return answer({"data": [_model(name) for name in MODELS]})
        if not asked.path.endswith("/chat/completions"):
            return answer({"error": {"message": "not here", "code": 404}}, 404)
        body = asked.json()
        model = body["model"]
        if model == ACTS and body.get("tools") and body["messages"][-1]["role"] != "tool":
            return Frames(_command(model))
        if model == REFUSES:
            return answer({"error": {"message": "no such token", "code": 401}}, 401)
        return Frames(_words(model))

    return app_of(handle)


async def _words(model: str) -> AsyncGenerator[str]:
    for number in range(3):
        yield _chunk(model, {"role": "assistant", "content": f"word{number} "})
        await trio.sleep(_PAUSES.get(model, 0.0))
    for frame in _end(model, "stop"):
        yield frame


async def _command(model: str) -> AsyncGenerator[str]:
    call = {"name": "bash", "arguments": json.dumps({"command": "echo hello", "description": "Says hello"})}
    tool = {"index": 0, "id": "call_1", "type": "function", "function": call}
    yield _chunk(model, {"role": "assistant", "tool_calls": [tool]})
    for frame in _end(model, "tool_calls"):
        yield frame


def _end(model: str, finish: str) -> tuple[str, str]:
    usage = {"prompt_tokens": 1, "completion_tokens": 3, "total_tokens": 4}
    return _chunk(model, {}, finish, usage=usage), "data: [DONE]\n\n"


def _chunk(model: str, delta: dict[str, Any], finish: str | None = None, **more: Any) -> str:
    base = {"id": "c1", "object": "chat.completion.chunk", "created": 0, "model": model}
    choice = {"index": 0, "delta": delta, "finish_reason": finish}
    return f"data: {json.dumps(base | {'choices': [choice]} | more)}\n\n"


def _model(name: str) -> dict[str, Any]:
    return {
        "id": name,
        "name": name,
        "context_length": 200_000,
        "architecture": {"input_modalities": ["text"], "output_modalities": ["text"], "tokenizer": "none"},
        "top_provider": {"context_length": 200_000, "max_completion_tokens": 64_000},
        "pricing": {"prompt": "0", "completion": "0"},
        "supported_parameters": ["tools"],
    }
