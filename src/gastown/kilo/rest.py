"""The HTTP routes of a kilo server that a supervisor needs (kilo 7.7.7)."""

from __future__ import annotations

import re
from typing import Any, NamedTuple

from gastown.kilo.client import KiloClient
from gastown.kilo.errors import KiloGarbled

__all__ = ["KiloRest", "ModelName", "Session"]

_SESSION_ID = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._:@-]{0,255}")
"""Wide enough for any kilo, and nothing that a path would have to quote: the id is a part of later requests."""


class ModelName(NamedTuple):
    """A model as kilo names it. Everything goes through the `kilo` provider, whose names are `vendor/model`."""

    provider: str
    model: str

    @classmethod
    def parse(cls, name: str) -> ModelName:
        """`vendor/model`, with or without `kilo/` before it."""
        return cls("kilo", name.removeprefix("kilo/"))


class Session(NamedTuple):
    id: str
    directory: str


class KiloRest:
    """Requests to one server. Raises what `KiloClient` does; deadlines are the caller's.

    An answer that holds no usable session is `KiloGarbled`: what an agent's server says becomes the agent's state.
    """

    def __init__(self, client: KiloClient) -> None:
        self._client = client

    async def tool_ids(self, directory: str) -> frozenset[str]:
        """The registered tools. Asking boots the directory's instance: the first turn then need not."""
        return frozenset(await self._client.call("GET", "/experimental/tool/ids", query={"directory": directory}))

    async def create_session(self, directory: str, title: str) -> Session:
        answer = await self._client.call("POST", "/session", {"title": title}, {"directory": directory})
        return _session(answer, "POST")

    async def sessions(self, directory: str) -> list[Session]:
        """The top-level sessions of `directory`, the one that changed last first."""
        answer = await self._client.call("GET", "/session", query={"directory": directory, "roots": "true"})
        if not isinstance(answer, list):
            raise KiloGarbled("GET", "/session", "something that is no list of sessions")
        return [_session(item, "GET") for item in answer if not (isinstance(item, dict) and item.get("parentID"))]

    async def prompt(
        self, session: str, text: str, *, model: str | None = None, system: str | None = None
    ) -> None:
        """Queue a prompt. The 204 says nothing about success: only `session.turn.open` does (kilo-facts 2)."""
        body = _prompt([{"type": "text", "text": text}], model, system)
        await self._client.call("POST", f"/session/{session}/prompt_async", body)

    async def abort(self, session: str) -> None:
        await self._client.call("POST", f"/session/{session}/abort", {})

    async def resume(self, session: str, message_id: str) -> None:
        """Go on with an interrupted turn, without a new user message."""
        await self._client.call("POST", f"/kilocode/session/{session}/resume", {"messageID": message_id})

    async def messages(self, session: str, *, newest: int) -> list[dict[str, Any]]:
        """The newest messages as kilo gives them, `{info, parts}` each, the oldest of them first."""
        path = f"/session/{session}/message"
        found: list[dict[str, Any]] = await self._client.call("GET", path, query={"limit": str(newest)})
        return found

    async def resume_interrupted(self, session: str, *, model: str) -> bool:
        """Go on where the conversation was broken off; False when nothing is left to do.

        An interrupted turn is resumed. A prompt that waited for its turn is stored but no longer queued: it is
        sent again under its own ids, which stores nothing twice (both measured on 7.7.7).
        """
        messages = await self.messages(session, newest=1)
        if not messages:
            return False
        info = messages[-1]["info"]
        if info["role"] == "assistant":
            if not _is_interrupted(info):
                return False
            await self.resume(session, info["id"])
            return True
        await self._send_again(session, messages[-1], model)
        return True

    async def resend_unanswered(self, session: str, *, model: str) -> bool:
        """Send the newest message again if it is a prompt that nothing answers; else return False.

        For a session that is idle though it has just accepted a prompt: kilo 7.7.7 stores one that comes while the
        first turn of a fresh instance is being aborted, and opens no turn for it.
        """
        messages = await self.messages(session, newest=1)
        if not messages or messages[-1]["info"]["role"] != "user":
            return False
        await self._send_again(session, messages[-1], model)
        return True

    async def _send_again(self, session: str, message: dict[str, Any], model: str) -> None:
        info = message["info"]
        texts = [part for part in message["parts"] if part["type"] == "text"]
        parts = [{"id": part["id"], "type": "text", "text": part["text"]} for part in texts]
        body = _prompt(parts, model, info.get("system"))
        await self._client.call("POST", f"/session/{session}/prompt_async", {"messageID": info["id"], **body})

    async def status(self, session: str, directory: str) -> dict[str, Any]:
        """`{"type": "idle"}`, or what kilo says: busy, retry or offline, with details."""
        answer = await self._client.call("GET", "/session/status", query={"directory": directory})
        found: dict[str, Any] = answer.get(session, {"type": "idle"})
        return found

    async def retry_network(self, request: str, directory: str) -> None:
        """Tell an offline session to ask its gateway again now; it would wait for ever (kilo-facts 2)."""
        await self._client.call("POST", f"/network/{request}/reply", {}, {"directory": directory})

    async def set_model(self, session: str, model: str) -> None:
        """Change the model of a session from its next turn on; a running turn is not touched."""
        name = ModelName.parse(model)
        body = {"model": {"providerID": name.provider, "id": name.model}}
        await self._client.call("POST", f"/api/session/{session}/model", body)

    async def knows_model(self, directory: str, model: str) -> bool:
        """Whether a prompt with `model` would be accepted rather than end in "Model not found"."""
        name = ModelName.parse(model)
        answer = await self._client.call("GET", "/config/providers", query={"directory": directory})
        return any(
            name.model in provider.get("models", {})
            for provider in answer.get("providers", [])
            if provider.get("id") == name.provider
        )


def _session(given: Any, method: str) -> Session:
    """A session as `method /session` gives it; raises `KiloGarbled` for what is none."""
    match given:
        case {"id": str(name), "directory": str(directory)} if _SESSION_ID.fullmatch(name):
            return Session(name, directory)
        case _:
            raise KiloGarbled(method, "/session", "a session that cannot be used")


def _prompt(parts: list[dict[str, str]], model: str | None, system: str | None) -> dict[str, Any]:
    body: dict[str, Any] = {"parts": parts}
    if model is not None:
        name = ModelName.parse(model)
        body["model"] = {"providerID": name.provider, "modelID": name.model}
    if system:
        body["system"] = system
    return body


def _is_interrupted(info: dict[str, Any]) -> bool:
    """A killed server leaves an answer without an end; one that is told to leave ends it as aborted (measured)."""
    aborted = (info.get("error") or {}).get("name") == "MessageAbortedError"
    return aborted or "completed" not in info.get("time", {})
