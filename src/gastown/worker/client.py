"""The worker API's client. Tokens are read at the moment of sending."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import httpx2
import pydantic
import structlog
import trio

from gastown.contract.worker import MayorContext, RegistryEntry
from gastown.worker.tokens import LiveCredentials

__all__ = ["Registry", "WorkerClient", "WorkerError"]

log = structlog.get_logger()


class WorkerError(Exception):
    """The worker did not answer as it should. `transient`: the same call may work later."""

    def __init__(self, call: str, problem: str, *, transient: bool, status: int | None = None) -> None:
        super().__init__(f"worker API: {call}: {problem}")
        self.transient = transient
        self.status = status


@dataclass(frozen=True)
class Registry:
    """What the worker had: the entries that validate, and how many did not."""

    entries: tuple[RegistryEntry, ...]
    skipped: int


class WorkerClient:
    """Calls of one town. Each raises `WorkerError`; deadlines are the caller's (`trio.fail_after`).

    A 401 refreshes the container token once, however many calls run into it, and the call is sent again.
    """

    def __init__(
        self, client: httpx2.AsyncClient, base_url: str, town_id: str, credentials: LiveCredentials
    ) -> None:
        self._client = client
        self._base = f"{base_url.rstrip('/')}/api/towns/{town_id}"
        self._credentials = credentials
        self._refreshing = trio.Lock()
        self.town_id = town_id

    async def registry(self) -> Registry:
        """The agents of the last container. Entries that do not validate are left out, with a warning."""
        body = await self._json("GET", "/container-registry")
        rows = body.get("data") if isinstance(body, dict) else None
        if not isinstance(rows, list):
            raise WorkerError("GET /container-registry", "the answer has no list in `data`", transient=False)
        entries: list[RegistryEntry] = []
        for index, row in enumerate(rows):
            try:
                entry = RegistryEntry.model_validate(row)
                if entry.agent_id != entry.request.agent_id:
                    raise ValueError("agentId differs between the entry and its request")
                entries.append(entry)
            except ValueError as error:
                log.warning("registry.entry_skipped", index=index, problems=_problems(error))
        return Registry(tuple(entries), len(rows) - len(entries))

    async def write_registry(self, entries: list[RegistryEntry]) -> None:
        body = [entry.model_dump(mode="json", by_alias=True, exclude_none=True) for entry in entries]
        await self._json("POST", "/container-registry", body)

    async def mayor_context(self) -> MayorContext:
        body = await self._json("GET", "/mayor-id")
        try:
            return MayorContext.model_validate(body)
        except pydantic.ValidationError as error:
            raise WorkerError("GET /mayor-id", f"unusable answer: {_problems(error)}", transient=False) from None

    async def container_event(self, event: dict[str, Any]) -> None:
        await self._json("POST", "/container-events", event)

    async def snapshot(self, rig_id: str, agent_id: str) -> bytes | None:
        """The agent's stored `kilo.db`, or None when the worker says that there is none."""
        path = f"/rigs/{rig_id}/agents/{agent_id}/db-snapshot"
        try:
            answer = await self._send("GET", path, agent=(rig_id, agent_id))
        except WorkerError as error:
            if error.status == 404:
                return None
            raise
        return answer.content

    async def delete_snapshot(self, rig_id: str, agent_id: str) -> None:
        path = f"/rigs/{rig_id}/agents/{agent_id}/db-snapshot"
        await self._send("DELETE", path, agent=(rig_id, agent_id))

    async def refresh_token(self) -> None:
        """Fetch a new container token and make it live. The present one may be just expired."""
        answer = await self._once("POST", "/refresh-container-token", {}, None)
        self._raise_for(answer, "POST /refresh-container-token")
        try:
            token = answer.json()["data"]["token"]
        except (ValueError, KeyError, TypeError):
            token = None
        if not isinstance(token, str) or not token:
            raise WorkerError("POST /refresh-container-token", "the answer has no token", transient=False)
        self._credentials.replace_token(token)
        log.info("token.refreshed", generation=self._credentials.current.generation)

    async def _json(self, method: str, path: str, body: Any = None) -> Any:
        answer = await self._send(method, path, body)
        try:
            return answer.json() if answer.content else {}
        except ValueError:
            raise WorkerError(f"{method} {path}", "the answer is not JSON", transient=False) from None

    async def _send(
        self, method: str, path: str, body: Any = None, agent: tuple[str, str] | None = None
    ) -> httpx2.Response:
        token = self._credentials.current.container_token
        answer = await self._once(method, path, body, agent)
        if answer.status_code == 401:
            async with self._refreshing:
                # Another call may have refreshed it while this one waited.
                if self._credentials.current.container_token == token:
                    with trio.fail_after(10):
                        await self.refresh_token()
            answer = await self._once(method, path, body, agent)
        self._raise_for(answer, f"{method} {path}")
        return answer

    async def _once(self, method: str, path: str, body: Any, agent: tuple[str, str] | None) -> httpx2.Response:
        headers = {"Authorization": f"Bearer {self._credentials.current.container_token or ''}"}
        if agent is not None:
            headers |= {"X-Gastown-Rig-Id": agent[0], "X-Gastown-Agent-Id": agent[1]}
        try:
            return await self._client.request(method, self._base + path, json=body, headers=headers, timeout=None)
        except httpx2.HTTPError as error:
            problem = f"no answer ({type(error).__name__})"
            raise WorkerError(f"{method} {path}", problem, transient=True) from error

    @staticmethod
    def _raise_for(answer: httpx2.Response, call: str) -> None:
        status = answer.status_code
        if status >= 400:
            transient = status >= 500 or status in (408, 429)
            raise WorkerError(call, f"answered {status}", transient=transient, status=status)


def _problems(error: ValueError) -> str:
    """What was wrong and where, without any input: inputs hold credentials."""
    if isinstance(error, pydantic.ValidationError):
        return "; ".join(
            f"{'.'.join(str(part) for part in item['loc'])}: {item['msg']}"
            for item in error.errors(include_input=False, include_context=False, include_url=False)[:5]
        )
    return str(error)
