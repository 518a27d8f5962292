"""The HTTP routes of a kilo server that a supervisor needs (kilo 7.7.7)."""

from __future__ import annotations

from contextlib import suppress
from typing import Any, NamedTuple

from gastown.kilo.client import KiloClient
from gastown.kilo.errors import KiloGarbled
from gastown.kilo.models import (
    ASK,
    LIST,
    MESSAGES,
    PROVIDERS,
    SESSION,
    SESSIONS,
    STATUSES,
    TOOL_IDS,
    Ask,
    Message,
    Session,
    Status,
    read,
)

__all__ = ["ASKS", "KiloRest", "ModelName", "Session"]

ASKS = ("permission", "question", "suggestion")
"""What kilo 7.7.7 can wait for a person with, beside its network (`retry_network`)."""


class ModelName(NamedTuple):
    """A model as kilo names it. Everything goes through the `kilo` provider, whose names are `vendor/model`."""

    provider: str
    model: str

    @classmethod
    def parse(cls, name: str) -> ModelName:
        """`vendor/model`, with or without `kilo/` before it."""
        return cls("kilo", name.removeprefix("kilo/"))


class KiloRest:
    """Requests to one server. Raises what `KiloClient` does; deadlines are the caller's."""

    def __init__(self, client: KiloClient) -> None:
        self._client = client

    async def tool_ids(self, directory: str) -> frozenset[str]:
        """The registered tools. Asking boots the directory's instance: the first turn then need not."""
        query = {"directory": directory}
        found = await self._client.ask(TOOL_IDS, "GET", "/experimental/tool/ids", query=query)
        return frozenset(found)

    async def create_session(self, directory: str, title: str) -> Session:
        body, query = {"title": title}, {"directory": directory}
        return await self._client.ask(SESSION, "POST", "/session", body, query)

    async def sessions(self, directory: str) -> list[Session]:
        """The top-level sessions of `directory`, the one that changed last first."""
        query = {"directory": directory, "roots": "true"}
        found = await self._client.ask(SESSIONS, "GET", "/session", query=query)
        return [session for session in found if session.parent_id is None]

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

    async def messages(self, session: str, *, newest: int) -> list[Message]:
        """The newest messages, the oldest of them first."""
        path = f"/session/{session}/message"
        return await self._client.ask(MESSAGES, "GET", path, query={"limit": str(newest)})

    async def resume_interrupted(self, session: str, *, model: str) -> bool:
        """Go on where the conversation was broken off; False when nothing is left to do.

        An interrupted turn is resumed. A prompt that waited for its turn is stored but no longer queued: it is
        sent again under its own ids, which stores nothing twice (both measured on 7.7.7).
        """
        messages = await self.messages(session, newest=1)
        if not messages:
            return False
        newest = messages[-1]
        if newest.info.role == "assistant":
            if not newest.is_interrupted:
                return False
            await self.resume(session, newest.info.id)
            return True
        await self._send_again(session, newest, model)
        return True

    async def resend_unanswered(self, session: str, *, model: str) -> bool:
        """Send the newest message again if it is a prompt that nothing answers; else return False.

        For a session that is idle though it has just accepted a prompt: kilo 7.7.7 stores one that comes while the
        first turn of a fresh instance is being aborted, and opens no turn for it.
        """
        messages = await self.messages(session, newest=1)
        if not messages or messages[-1].info.role != "user":
            return False
        await self._send_again(session, messages[-1], model)
        return True

    async def _send_again(self, session: str, message: Message, model: str) -> None:
        texts = [part for part in message.parts if part.type == "text"]
        parts = [{"id": part.id, "type": "text", "text": part.text or ""} for part in texts]
        body = {"messageID": message.info.id, **_prompt(parts, model, message.info.system)}
        await self._client.call("POST", f"/session/{session}/prompt_async", body)

    async def status(self, session: str, directory: str) -> Status:
        """What the session says of itself. kilo lists only those that are not idle."""
        known = await self._client.ask(STATUSES, "GET", "/session/status", query={"directory": directory})
        return known.get(session) or Status(type="idle")

    async def retry_network(self, request: str, directory: str) -> None:
        """Tell an offline session to ask its gateway again now; it would wait for ever (kilo-facts 2)."""
        await self._client.call("POST", f"/network/{request}/reply", {}, {"directory": directory})

    async def asks(self, kind: str, directory: str) -> list[Ask]:
        """What waits for an answer now, of one of the `ASKS`. An entry that cannot be read is left out."""
        path = f"/{kind}"
        found = []
        for entry in await self._client.ask(LIST, "GET", path, query={"directory": directory}):
            with suppress(KiloGarbled):
                found.append(read(ASK, entry, "GET", path))
        return found

    async def answer(self, kind: str, request: str, directory: str, *, allow: bool) -> None:
        """Answer a permission for this once, or refuse it; a question or a suggestion can only be refused."""
        if kind == "permission":
            route, body = "reply", {"reply": "once" if allow else "reject"}
        else:
            route, body = "reject" if kind == "question" else "dismiss", {}
        await self._client.call("POST", f"/{kind}/{request}/{route}", body, {"directory": directory})

    async def set_model(self, session: str, model: str) -> None:
        """Change the model of a session from its next turn on; a running turn is not touched."""
        name = ModelName.parse(model)
        body = {"model": {"providerID": name.provider, "id": name.model}}
        await self._client.call("POST", f"/api/session/{session}/model", body)

    async def knows_model(self, directory: str, model: str) -> bool:
        """Whether a prompt with `model` would be accepted rather than end in "Model not found"."""
        name = ModelName.parse(model)
        query = {"directory": directory}
        known = await self._client.ask(PROVIDERS, "GET", "/config/providers", query=query)
        return any(name.model in found.models for found in known.providers if found.id == name.provider)


def _prompt(parts: list[dict[str, str]], model: str | None, system: str | None) -> dict[str, Any]:
    body: dict[str, Any] = {"parts": parts}
    if model is not None:
        name = ModelName.parse(model)
        body["model"] = {"providerID": name.provider, "modelID": name.model}
    if system:
        body["system"] = system
    return body
