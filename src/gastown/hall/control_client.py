"""The client of the control API: the calls to a container, each with its deadline."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from typing import Any, TypeVar
from urllib.parse import urlencode

import httpx2
import trio
from httpx2.websockets import (
    AsyncWebSocketSession,
    WebSocketDisconnect,
    WebSocketNetworkError,
    WebSocketUpgradeError,
)
from pydantic import ValidationError
from wsproto.events import TextMessage

from gastown.asgi.websocket_close import closing_over_pings
from gastown.contract.agents import (
    AgentList,
    AgentStatus,
    MessageRequest,
    ModelRequest,
    PublicAgent,
    StartAgentRequest,
    StopRequest,
)
from gastown.contract.events import AgentEvent, EventPage, StreamTicket
from gastown.contract.git import Changes, MergeRequest, SetupRequest
from gastown.contract.secret import Secret, reveal_json
from gastown.contract.town import Health, RefreshAnswer, RefreshTokenRequest, TownConfig
from gastown.contract.wire import Wire

__all__ = [
    "REFRESH_SECONDS",
    "START_SECONDS",
    "ControlCallFailed",
    "ControlClient",
    "EventStream",
    "open_control_client",
]

START_SECONDS = 60
REFRESH_SECONDS = 10
_QUICK_SECONDS = 10
_MESSAGE_SECONDS = 30
_CHANGES_SECONDS = 60  # the rig is fetched first, and may be busy
_STOP_SECONDS = 60  # what is in the worktree is saved first
_MOST_BYTES = 32 * 1024 * 1024
"""Of an answer, and of an event: far more than a container has to say. Agents work in it, and may mean harm."""

_Answer = TypeVar("_Answer", bound=Wire)


class ControlCallFailed(Exception):
    """A call to the container failed.

    `status` is that of its answer, or None when there was none (refused, cut, or aborted by our deadline);
    `body` is the answer's JSON, and `call` the method and path. The text leaves out the body's further keys.
    """

    def __init__(self, status: int | None, body: dict[str, Any], *, call: str) -> None:
        self.status = status
        self.body = body
        self.call = call
        details = [f"HTTP {status}"] if status is not None else []
        if body.get("phase") is not None:
            details.append(f"phase {body['phase']}")
        reason = body.get("error", "no reason given")
        super().__init__(f"{call}: {reason}" + (f" ({', '.join(details)})" if details else ""))


@dataclass(frozen=True)
class _Told:
    """An answer to `call`."""

    call: str
    status: int
    is_success: bool
    reason: str
    content: bytes


class EventStream:
    """The events of an agent as they happen."""

    def __init__(self, session: AsyncWebSocketSession) -> None:
        self._session = session

    async def next(self) -> AgentEvent | None:
        """The next event; None when the connection has ended. Cancelling it loses no event."""
        while True:
            try:
                frame = await self._session.receive()
            except (WebSocketDisconnect, WebSocketNetworkError):
                return None
            if isinstance(frame, TextMessage):
                with suppress(ValidationError):  # a message about the connection, which has no id
                    return AgentEvent.model_validate_json(frame.data)


class ControlClient:
    """Calls to one container. Each raises ControlCallFailed, and nothing else, when it does not succeed."""

    def __init__(self, client: httpx2.AsyncClient) -> None:
        self._client = client

    async def start(
        self, request: StartAgentRequest, config: TownConfig, *, attempt_id: str | None = None
    ) -> PublicAgent:
        """Start an agent; aborted after 60 s, as the contract's callers do.

        A second call with the same `attempt_id` gets the first one's answer.
        """
        answer = await self._call("POST", "/agents/start", START_SECONDS, request, config, attempt_id)
        return _parse(PublicAgent, answer)

    async def stop(self, agent_id: str, *, final: bool = False) -> None:
        """End an agent, also one that is being started; an agent that is not there has ended."""
        try:
            await self._call("POST", f"/agents/{agent_id}/stop", _STOP_SECONDS, StopRequest(final=final))
        except ControlCallFailed as error:
            if error.status != 404:
                raise

    async def agents(self) -> AgentList:
        """Every agent that the container knows."""
        return _parse(AgentList, await self._call("GET", "/agents", _QUICK_SECONDS))

    async def merge(self, request: MergeRequest, config: TownConfig) -> None:
        """Ask for a merge, whose result is reported later. The same one may be asked for again."""
        await self._call("POST", "/git/merge", _QUICK_SECONDS, request, config)

    async def changes(self, rig_id: str, branch: str, target: str) -> Changes:
        """What a branch has that its target has not, as the remote has both now. The rig must have been named."""
        query = urlencode({"branch": branch, "target": target})
        return _parse(Changes, await self._call("GET", f"/rigs/{rig_id}/changes?{query}", _CHANGES_SECONDS))

    async def set_up(self, request: SetupRequest, config: TownConfig) -> None:
        """Name a rig to the container, which clones it in the background."""
        await self._call("POST", "/repos/setup", _QUICK_SECONDS, request, config)

    async def message(self, agent_id: str, prompt: str, config: TownConfig) -> None:
        """Give a running agent its next prompt."""
        body = MessageRequest(prompt=prompt)
        await self._call("POST", f"/agents/{agent_id}/message", _MESSAGE_SECONDS, body, config)

    async def change_model(self, agent_id: str, model: str, config: TownConfig) -> None:
        """Let an agent use another model from its next turn on."""
        body = ModelRequest(model=model)
        await self._call("PATCH", f"/agents/{agent_id}/model", _MESSAGE_SECONDS, body, config)

    async def refresh_token(self, token: Secret, town_id: str) -> RefreshAnswer:
        """Give the container its next token; aborted after 10 s, as the contract's callers do."""
        body = RefreshTokenRequest(token=token, town_id=town_id)
        return _parse(RefreshAnswer, await self._call("POST", "/refresh-token", REFRESH_SECONDS, body))

    async def status(self, agent_id: str) -> AgentStatus | None:
        """The agent's status; None when the container does not know the agent."""
        try:
            return _parse(AgentStatus, await self._call("GET", f"/agents/{agent_id}/status", _QUICK_SECONDS))
        except ControlCallFailed as error:
            if error.status == 404:
                return None
            raise

    async def events(self, agent_id: str, after: int = 0) -> tuple[AgentEvent, ...]:
        """The agent's events with an id greater than `after`."""
        answer = await self._call("GET", f"/agents/{agent_id}/events?after={after}", _QUICK_SECONDS)
        return _parse(EventPage, answer).events

    @asynccontextmanager
    async def stream(self, agent_id: str, after: int = 0) -> AsyncIterator[EventStream]:
        """The agent's events with an id greater than `after`, as they happen, for the length of the block.

        What fails inside the block comes out as a group.
        """
        path = f"/agents/{agent_id}/stream"
        ticket = _parse(StreamTicket, await self._call("POST", f"{path}-ticket", _QUICK_SECONDS)).ticket
        query = {"after": str(after), "ticket": ticket}
        try:
            opening = self._client.websocket(path, params=query, max_message_size_bytes=_MOST_BYTES)
            async with closing_over_pings(opening) as session:
                yield EventStream(session)
        except WebSocketUpgradeError as refused:
            status = refused.response.status_code
            raise ControlCallFailed(status, {"error": "no stream"}, call=f"GET {path}") from refused
        except httpx2.HTTPError as error:
            problem = {"error": str(error) or type(error).__name__}
            raise ControlCallFailed(None, problem, call=f"GET {path}") from error

    async def health(self) -> Health:
        """The container's health."""
        return _parse(Health, await self._call("GET", "/health", _QUICK_SECONDS))

    async def _call(
        self,
        method: str,
        path: str,
        seconds: float,
        body: Wire | None = None,
        config: TownConfig | None = None,
        attempt_id: str | None = None,
    ) -> _Told:
        call = f"{method} {path}"
        headers = {} if config is None else {"X-Town-Config": json.dumps(reveal_json(config))}
        if attempt_id is not None:
            headers["X-Attempt-Id"] = attempt_id
        content = None
        if body is not None:
            headers["Content-Type"] = "application/json"
            # In a change of some fields, one that is null is changed, too.
            is_change = isinstance(body, ModelRequest)
            content = json.dumps(reveal_json(body, by_alias=True, exclude_unset=is_change))
        try:
            with trio.fail_after(seconds):
                told = await self._ask(method, path, headers, content)
        except trio.TooSlowError:
            raise ControlCallFailed(None, {"error": f"no answer within {seconds} s"}, call=call) from None
        except httpx2.HTTPError as error:
            raise ControlCallFailed(None, {"error": str(error) or type(error).__name__}, call=call) from error
        if not told.is_success:
            raise ControlCallFailed(told.status, _error_body(told), call=call)
        return told

    async def _ask(self, method: str, path: str, headers: dict[str, str], content: str | None) -> _Told:
        """Whatever is answered, read within bounds and as it was sent: a small compressed answer may be huge."""
        headers["Accept-Encoding"] = "identity"
        read, call = bytearray(), f"{method} {path}"
        async with self._client.stream(method, path, headers=headers, content=content) as answer:
            async for piece in answer.aiter_raw():
                read += piece
                if len(read) > _MOST_BYTES:
                    problem = {"error": f"the answer has more than {_MOST_BYTES} bytes"}
                    raise ControlCallFailed(answer.status_code, problem, call=call)
        return _Told(call, answer.status_code, answer.is_success, answer.reason_phrase, bytes(read))


@asynccontextmanager
async def open_control_client(base_url: str, token: Secret | None = None) -> AsyncIterator[ControlClient]:
    """Calls to the container at `base_url`, with the `token` of its control port when it has one.

    The connections are closed at the end of the block.
    """
    headers = {} if token is None else {"Authorization": f"Bearer {token.reveal()}"}
    # Each call sets its own deadline; and no proxy of the environment may stand between this machine and itself.
    async with httpx2.AsyncClient(base_url=base_url, headers=headers, timeout=None, trust_env=False) as client:
        yield ControlClient(client)


def _parse(model: type[_Answer], told: _Told) -> _Answer:
    try:
        return model.model_validate_json(told.content)
    except ValidationError as error:
        where = ", ".join(
            ".".join(map(str, item["loc"])) or "the whole" for item in error.errors(include_input=False)
        )
        problem = {"error": f"not an answer of the contract, see {where}"}
        raise ControlCallFailed(told.status, problem, call=told.call) from None


def _error_body(told: _Told) -> dict[str, Any]:
    try:
        body = json.loads(told.content)
    except (ValueError, RecursionError):
        body = None
    return body if isinstance(body, dict) else {"error": told.reason or "an answer without a reason"}
