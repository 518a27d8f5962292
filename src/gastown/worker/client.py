"""The worker API's client. Tokens are read at the moment of sending."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import httpx2
import pydantic
import structlog
import trio

from gastown.concurrency.backoff import delays
from gastown.concurrency.waiting import gradually
from gastown.contract.secret import Secret, reveal_json
from gastown.contract.worker import (
    ACCEPTS_BATCHES,
    ACCEPTS_HEADER,
    GivenToken,
    Heartbeat,
    HeartbeatAnswer,
    MayorContext,
    Nudge,
    RegistryEntry,
)
from gastown.worker.answers import MOST_JSON_BYTES, Answer, Unreadable, problems, send, usable_entries
from gastown.worker.calls import CALLBACK, outcome_of, route_of, worker_calls
from gastown.worker.tokens import LiveCredentials

__all__ = ["Registry", "Undeliverable", "WorkerClient", "WorkerError"]

log = structlog.get_logger()

_NO_ANSWER = (httpx2.HTTPError, httpx2.InvalidURL, ValueError)
"""What httpx2 raises where there is no answer; ValueError for a host or a character that cannot be encoded."""
_REFRESH_SECONDS = 10
_FIRST_PAUSE, _MOST_PAUSE = 2.0, 300.0
_SNAPSHOT = "db-snapshot"

Message = TypeVar("Message", bound=pydantic.BaseModel)


class WorkerError(Exception):
    """The worker did not answer as it should. `transient`: the same call may work later."""

    def __init__(self, call: object, problem: str, *, transient: bool, status: int | None = None) -> None:
        super().__init__(f"worker API: {call}: {problem}")
        self.transient = transient
        self.status = status

    @property
    def is_refusal(self) -> bool:
        """Whether it is the content that the worker will never take, and not the sender or the moment."""
        status = self.status
        return status is not None and 400 <= status < 500 and status not in (401, 403, 408, 429)


class Undeliverable(WorkerError):
    """What was to be sent can never arrive: its address is none, or sends us elsewhere."""

    def __init__(self, call: object, problem: str, status: int | None = None) -> None:
        super().__init__(call, problem, transient=False, status=status)

    @property
    def is_refusal(self) -> bool:
        return True


class _Binary(bytes):
    """A body that is no JSON."""


@dataclass(frozen=True)
class _Call:
    """A request below the town's address. `agent` is the rig and the id of the agent that it is about, if any."""

    method: str
    path: str
    body: Any = None
    agent: tuple[str, str] | None = None
    most_bytes: int = MOST_JSON_BYTES

    @classmethod
    def about(cls, agent: tuple[str, str], method: str, route: str, body: Any = None) -> _Call:
        """A request below the agent's address."""
        return cls(method, f"/rigs/{agent[0]}/agents/{agent[1]}/{route}", body, agent)

    def __str__(self) -> str:
        return f"{self.method} {self.path}"

    @property
    def content(self) -> bytes | None:
        return self.body if self.body is None or isinstance(self.body, bytes) else _json_bytes(self.body)

    def headers(self, token: Secret | None) -> dict[str, str]:
        headers = {"Authorization": f"Bearer {token.reveal()}"} if token else {}  # "Bearer " is no legal value
        if self.agent is not None:
            headers |= {"X-Gastown-Rig-Id": self.agent[0], "X-Gastown-Agent-Id": self.agent[1]}
        if self.body is not None:
            binary = isinstance(self.body, _Binary)
            headers["Content-Type"] = "application/octet-stream" if binary else "application/json"
        return headers


@dataclass(frozen=True)
class Registry:
    """What the worker had: the entries that validate, and how many did not."""

    entries: tuple[RegistryEntry, ...]
    skipped: int


class WorkerClient:
    """Calls of one town. Each raises `WorkerError`; deadlines are the caller's (`trio.fail_after`).

    A 401 refreshes the container token once, however many calls run into it, and the call is sent again.
    `refused` is the token that was answered so last; `calls` counts every request. `is_configured` is false for
    the stand-in of a container without a worker (`NoWorker`).
    """

    is_configured = True

    def __init__(
        self, client: httpx2.AsyncClient, base_url: str, town_id: str, credentials: LiveCredentials
    ) -> None:
        self._client = client
        self._base = f"{base_url.rstrip('/')}/api/towns/{town_id}"
        self._credentials = credentials
        self._refreshing = trio.Lock()
        self._refreshes = 0
        self._refresh_failure: WorkerError | None = None
        self._unproved: Secret | None = None
        self._refresh_after = -math.inf
        self._pauses = delays(_FIRST_PAUSE, _MOST_PAUSE)
        self.refused: Secret | None = None
        self.town_id = town_id
        self.calls = worker_calls()

    async def registry(self) -> Registry:
        """The agents of the last container. Entries that do not validate are left out, with a warning."""
        rows = await self._rows(_Call("GET", "/container-registry"))

        def skipped(index: int, problems: str) -> None:
            log.warning("registry.entry_skipped", index=index, problems=problems)

        entries = await usable_entries(rows, RegistryEntry, skipped)
        return Registry(entries, len(rows) - len(entries))

    async def write_registry(self, entries: list[RegistryEntry]) -> None:
        """Store the agents that run now, in place of what was stored before."""
        rows = await gradually(_json_bytes(reveal_json(one, by_alias=True, exclude_none=True)) for one in entries)
        await self._json(_Call("POST", "/container-registry", b"[" + b",".join(rows) + b"]"))

    async def mayor_context(self) -> MayorContext:
        """What the mayor's next start will bring, so that its server can be started before."""
        return await self._message(MayorContext, _Call("GET", "/mayor-id"))

    async def container_event(self, event: dict[str, Any]) -> None:
        """Send a piece of telemetry."""
        await self._json(_Call("POST", "/container-events", event))

    async def snapshot(self, rig_id: str, agent_id: str, *, most_bytes: int) -> bytes | None:
        """The agent's stored `kilo.db`, or None when the worker says that there is none.

        One of more than `most_bytes` is not read: `WorkerError`.
        """
        call = replace(_Call.about((rig_id, agent_id), "GET", _SNAPSHOT), most_bytes=most_bytes)
        try:
            return (await self._send(call)).content()
        except WorkerError as error:
            if error.status == 404:
                return None
            raise
        except Unreadable as error:
            raise WorkerError(call, str(error), transient=False) from None

    async def save_snapshot(self, rig_id: str, agent_id: str, content: bytes) -> None:
        """Store the agent's `kilo.db` in place of the one before."""
        await self._send(_Call.about((rig_id, agent_id), "POST", _SNAPSHOT, _Binary(content)))

    async def delete_snapshot(self, rig_id: str, agent_id: str) -> None:
        """Forget the agent's stored `kilo.db`: kilo cannot use it."""
        await self._send(_Call.about((rig_id, agent_id), "DELETE", _SNAPSHOT))

    async def agent_events(self, rig_id: str, agent_id: str, content: bytes, *, batch: bool) -> bool:
        """Send one event of an agent, or an array of them; whether the worker takes arrays from now on."""
        path = f"/rigs/{rig_id}/agent-events" + ("/batch" if batch else "")
        call = _Call("POST", path, content, (rig_id, agent_id))
        answer = await self._send(call)
        _json_of(answer, call)
        accepts = str(answer.headers.get(ACCEPTS_HEADER, ""))
        return ACCEPTS_BATCHES in (word.strip() for word in accepts.split(","))

    async def report(self, report: str, body: dict[str, Any], agent: tuple[str, str] | None) -> None:
        """Tell the worker something about an agent (rig and id), or about the container."""
        if agent is None:
            await self._json(_Call("POST", f"/{report}", body))
        else:
            await self._json(_Call.about(agent, "POST", report, body))

    async def call_back(self, url: str, body: dict[str, Any]) -> None:
        """Post to an address of the caller's choice. Only the worker's own gets the container's token."""
        call = "POST to a callback"
        if url.startswith(f"{self._base}/"):
            await self._send(_Call("POST", url.removeprefix(self._base), body))
            return
        headers = {"Content-Type": "application/json"}
        with self.calls.attempt(CALLBACK) as counted:
            try:
                answer = await send(self._client, "POST", url, content=_json_bytes(body), headers=headers)
            except _NO_ANSWER as error:
                counted.outcome = "no_answer"
                raise _no_answer(call, error) from None
            counted.outcome = outcome_of(answer.status)
        if 300 <= answer.status < 400:
            raise Undeliverable(call, f"answered {answer.status}", answer.status)
        _raise_for(answer, call)

    async def forward(self, method: str, route: str, body: Any, agent: tuple[str, str]) -> tuple[int, Any]:
        """Ask for an agent (rig and id) what its caller wants to know: the worker's status and its JSON."""
        call = _Call.about(agent, method, route, body)
        answer = await self._answer(call)
        if answer.status < 400:
            _raise_for(answer, call)
        return answer.status, _json_of(answer, call)

    async def heartbeat(self, beat: Heartbeat) -> str | None:
        """Send a heartbeat; the drain nonce of the answer, where it has one."""
        body = beat.model_dump(mode="json", by_alias=True)
        call = _Call.about((beat.rig_id, beat.agent_id), "POST", "heartbeat", body)
        data = (await self._message(HeartbeatAnswer, call)).data
        return data.drain_nonce if data is not None else None

    async def pending_nudges(self, rig_id: str, agent_id: str) -> tuple[Nudge, ...]:
        """The prompts that wait for an agent, most urgent first. Unusable ones are left out, with a warning."""
        rows = await self._rows(_Call.about((rig_id, agent_id), "GET", "pending-nudges"))

        def skipped(index: int, problems: str) -> None:
            log.warning("nudges.entry_skipped", agent_id=agent_id, index=index, problems=problems)

        return await usable_entries(rows, Nudge, skipped)

    async def git_token(self, rig_id: str) -> Secret | None:
        """A new git token for a rig; None only where there is no worker."""
        call = _Call("POST", f"/rigs/{rig_id}/refresh-git-token", {})
        return (await self._message(GivenToken, call)).data.token

    async def refresh_token(self) -> None:
        """Fetch a new container token and make it live. The present one may be just expired."""
        call = _Call("POST", "/refresh-container-token", {})
        answer = await self._once(call)
        _raise_for(answer, call)
        given = self._unproved = _message_of(GivenToken, answer, call).data.token
        self._credentials.replace_token(given)
        log.info("token.refreshed", generation=self._credentials.current.generation)

    async def _json(self, call: _Call) -> Any:
        return _json_of(await self._send(call), call)

    async def _message(self, model: type[Message], call: _Call) -> Message:
        """The answer as a `model`."""
        return _message_of(model, await self._send(call), call)

    async def _rows(self, call: _Call) -> list[Any]:
        """The list in the answer's `data`, its entries unchecked."""
        body = await self._json(call)
        rows = body.get("data") if isinstance(body, dict) else None
        if not isinstance(rows, list):
            raise WorkerError(call, "the answer has no list in `data`", transient=False)
        return rows

    async def _send(self, call: _Call) -> Answer:
        answer = await self._answer(call)
        _raise_for(answer, call)
        return answer

    async def _answer(self, call: _Call) -> Answer:
        """Whatever the worker says, once it accepts our token."""
        token = self._credentials.current.container_token
        answer = await self._once(call)
        if answer.status == 401:
            await self.renew_token(token, str(call))
            answer = await self._once(call)
        if answer.status != 401 and answer.status < 500:
            self._proved()
        return answer

    async def renew_token(self, refused: Secret | None, call: str = "a call of an agent") -> None:
        """Have a newer token than the one that `call` was refused with.

        A call that waits for another one's refresh shares its result. Where that fails, this call raises.
        """
        seen = self._refreshes
        async with self._refreshing:
            if self._credentials.current.container_token != refused:
                return
            self._spare(refused, call)
            if self._refreshes == seen or self._refresh_failure is None:
                self._refresh_failure = await self._try_refresh()
                self._refreshes += 1
            if (error := self._refresh_failure) is not None:
                problem = f"answered 401, and the token could not be refreshed ({error})"
                raise WorkerError(call, problem, transient=error.transient, status=401) from error

    def _spare(self, refused: Secret | None, call: str) -> None:
        """Raise where a worker that refuses the very tokens that it gives is to be left alone for a while."""
        now = trio.current_time()
        if refused is not None and refused is self._unproved:
            self._unproved = None
            self._refresh_after = now + next(self._pauses)
        if now < self._refresh_after:
            seconds = math.ceil(self._refresh_after - now)
            problem = (
                f"answered 401, also to the token that it gave last; it is asked for another one in {seconds} s"
            )
            raise WorkerError(call, problem, transient=True, status=401)

    def _proved(self) -> None:
        """The worker has accepted our token."""
        if self._unproved is not None or self._refresh_after > -math.inf:
            self._unproved, self._refresh_after = None, -math.inf
            self._pauses = delays(_FIRST_PAUSE, _MOST_PAUSE)

    async def _try_refresh(self) -> WorkerError | None:
        """Refresh the token; why that failed."""
        try:
            with trio.fail_after(_REFRESH_SECONDS):
                await self.refresh_token()
        except WorkerError as error:
            return error
        except trio.TooSlowError:
            problem = f"no answer in {_REFRESH_SECONDS} s"
            return WorkerError("POST /refresh-container-token", problem, transient=True)
        return None

    async def _once(self, call: _Call) -> Answer:
        token = self._credentials.current.container_token
        with self.calls.attempt(route_of(call.path)) as counted:
            try:
                answer = await send(
                    self._client,
                    call.method,
                    self._base + call.path,
                    content=call.content,
                    headers=call.headers(token),
                    most_bytes=call.most_bytes,
                )
            except _NO_ANSWER as error:
                counted.outcome = "no_answer"
                raise _no_answer(call, error) from error
            counted.outcome = outcome_of(answer.status)
            if answer.status == 401:
                self.refused = token
            return answer


def _raise_for(answer: Answer, call: object) -> None:
    status = answer.status
    if not 200 <= status < 300:  # also where it sends us elsewhere: to a page to log in at, say
        transient = status >= 500 or status in (408, 429)
        raise WorkerError(call, f"answered {status}", transient=transient, status=status)


def _no_answer(call: object, error: Exception) -> WorkerError:
    """`error` is one of `_NO_ANSWER`; its text is not told, for the address may hold a credential."""
    if isinstance(error, httpx2.HTTPError) and not isinstance(error, httpx2.UnsupportedProtocol):
        return WorkerError(call, f"no answer ({type(error).__name__})", transient=True)
    return Undeliverable(call, f"the address cannot be used ({type(error).__name__})")


def _json_bytes(body: Any) -> bytes:
    """JSON in ASCII: a lone surrogate in a text cannot break it."""
    return json.dumps(body).encode("ascii")


def _json_of(answer: Answer, call: object) -> Any:
    try:
        return answer.json()
    except Unreadable as error:
        raise WorkerError(call, str(error), transient=False) from None


def _message_of(model: type[Message], answer: Answer, call: object) -> Message:
    """The answer as a `model`; raises `WorkerError` when it is none."""
    try:
        return model.model_validate(_json_of(answer, call))
    except pydantic.ValidationError as error:
        raise WorkerError(call, f"unusable answer: {problems(error)}", transient=False) from None
