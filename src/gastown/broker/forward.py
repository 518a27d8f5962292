"""One request of an agent: its identity, where it may go, and forwarding it and its answer, piece by piece."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Any

import httpx2
import structlog
import trio
from hypercorn.typing import HTTPResponseBodyEvent

from gastown.asgi.serving import Exchange
from gastown.broker.body import ClientGone, RequestBody, TooLarge
from gastown.broker.grants import Grant, Grants, Used
from gastown.broker.headers import MOST_HEADER_BYTES, Headers, NotSendable, for_agent, for_upstream
from gastown.broker.metrics import BrokerMetrics, Passage
from gastown.broker.policy import Refused, Route, To, gateway_path, own_gateway_path, route
from gastown.broker.upstreams import Upstreams
from gastown.broker.usage import AnswerReader, Meter
from gastown.concurrency.supervise import leaves
from gastown.contract.access import bearer_of
from gastown.contract.secret import reveal_map

__all__ = ["BrokerApp"]

log = structlog.get_logger()

_WORKER_BODY_LIMIT = 4 * 1024 * 1024
_GATEWAY_BODY_LIMIT = 64 * 1024 * 1024
_CONNECT_SECONDS = 10.0
_LOGGED_PATH = 200
_CLOSE_SECONDS = 5.0

_DESTINATIONS = {To.WORKER: "worker", To.GATEWAY: "gateway", To.REFRESH: "broker", To.ENVIRONMENT: "broker"}

Receive = Callable[[], Awaitable[Any]]
Send = Callable[[Any], Awaitable[None]]

_END: HTTPResponseBodyEvent = {"type": "http.response.body", "body": b"", "more_body": False}


class BrokerApp:
    """The broker as an ASGI application. `figures` count what passes."""

    def __init__(self, grants: Grants, client: httpx2.AsyncClient, upstreams: Upstreams) -> None:
        self._grants = grants
        self._client = client
        self._upstreams = upstreams
        self.figures = BrokerMetrics()

    async def __call__(self, scope: Mapping[str, Any], receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            raise NotImplementedError(scope["type"])  # how the server learns that there is no other protocol
        exchange = Exchange(receive, send)
        headers: Headers = list(scope["headers"])
        if sum(len(name) + len(value) for name, value in headers) > MOST_HEADER_BYTES:
            await self._deny(exchange, 431, "The headers are too large")
            return
        grant = self._grants.find(bearer_of(headers))
        if grant is None:
            log.warning("broker.unknown_bearer", method=scope["method"])
            await self._deny(exchange, 401, "Not the bearer of an agent of this town")
            return
        try:
            goal = route(grant.identity, scope["method"], scope["raw_path"], scope["query_string"])
        except Refused as refusal:
            log.warning(
                "broker.refused", agent_id=grant.identity.agent_id, method=scope["method"],
                status=refusal.status, path=(refusal.path or "")[:_LOGGED_PATH] or None,
            )  # fmt: skip
            await self._deny(exchange, refusal.status, str(refusal))
            return
        with self.figures.passage(_DESTINATIONS[goal.to]) as passage, grant.call() as call:
            await self._serve(grant, goal, passage, scope, exchange)
        if call.cancelled_caught:
            log.info("broker.cut", agent_id=grant.identity.agent_id, path=goal.path)

    async def _deny(self, exchange: Exchange, status: int, message: str) -> None:
        with self.figures.passage("broker") as passage:
            passage.outcome = "denied"
            await _refuse(exchange.send, status, message)

    async def _serve(
        self, grant: Grant, goal: Route, passage: Passage, scope: Mapping[str, Any], exchange: Exchange
    ) -> None:
        match goal.to:
            case To.ENVIRONMENT:
                await _answer(exchange.send, 200, {"variables": reveal_map(grant.access.variables())})
                passage.ends_with(200)
            case To.REFRESH:
                # The agent's token is its bearer, which does not expire. The town's real one is renewed by
                # the call that is refused with it; an agent cannot ask for that.
                await _answer(exchange.send, 200, {"success": True, "data": {"token": grant.bearer.reveal()}})
                passage.ends_with(200)
            case To.WORKER | To.GATEWAY:
                tell = self.figures.models.counting(grant.used)  # of the attempt of now, whichever comes meanwhile
                await _Forward(self._client, self._upstreams, grant, goal, passage, scope, exchange, tell).run()


@dataclass(eq=False)
class _Forward:
    """A request that goes on to an upstream, and its answer."""

    client: httpx2.AsyncClient
    upstreams: Upstreams
    grant: Grant
    goal: Route
    passage: Passage
    scope: Mapping[str, Any]
    exchange: Exchange
    tell: Used
    began: float = field(default_factory=trio.current_time)
    answered: bool = False

    def __post_init__(self) -> None:
        limit = _WORKER_BODY_LIMIT if self.goal.to is To.WORKER else _GATEWAY_BODY_LIMIT
        self.body = RequestBody(self.exchange.receive, limit)

    async def run(self) -> None:
        """Answers in every case, except to an agent that is gone. An answer that breaks off is cut, not ended."""
        try:
            await self.body.begin()
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._leave_with_client, nursery.cancel_scope, name="broker client")
                await self._there_and_back()
                nursery.cancel_scope.cancel(reason="answered")
        except* ClientGone:
            pass
        except* NotSendable as group:
            self.passage.outcome = "denied"
            name = str(leaves(group)[0])
            log.warning("broker.not_sendable", to=self.goal.to.value, header=name)
            await self._fail(
                502, f"The town's value for the header {name} cannot be sent: it is empty, or not plain ASCII"
            )
        except* TooLarge:
            self.passage.outcome = "denied"
            await self._fail(413, "The body is too large")
        except* httpx2.HTTPError as group:
            kinds = sorted({type(error).__name__ for error in leaves(group)})
            self.passage.outcome = "no_answer"
            log.warning("broker.no_answer", to=self.goal.to.value, path=self.goal.path, problems=kinds)
            if self.goal.to is To.GATEWAY and not self.answered:
                # What kilo would see without a broker: it waits for the network then; a status fails the turn.
                await self.exchange.hang_up()
            else:
                await self._fail(502, f"The {self.goal.to.value} does not answer ({', '.join(kinds)})")

    async def _leave_with_client(self, scope: trio.CancelScope) -> None:
        await self.body.ended_by_client()
        scope.cancel(reason="the agent is gone")

    async def _there_and_back(self) -> None:
        token, again = self.upstreams.worker_token, self.body.is_whole
        response = await self._ask()
        if response is None:
            return
        try:
            refused = self.goal.to is To.WORKER and response.status_code == 401
            # Also for a body that was not kept: when the agent sends it again, there is a token that is good.
            if refused and await self.upstreams.renew_worker_token(token) and again:
                await response.aclose()
                response = await self._ask() or response
            await self._hand_back(response)
        finally:
            with trio.move_on_after(_CLOSE_SECONDS, shield=True):
                await response.aclose()

    def _address(self) -> str | None:
        """Where the request goes; None where this town has nothing that would answer it."""
        ups, path = self.upstreams, self.goal.path
        if self.goal.to is To.WORKER:
            return None if ups.worker_url is None else ups.worker_url + path
        if ups.own_gateway_url is not None:
            own = own_gateway_path(path)
            return None if own is None else ups.own_gateway_url + own
        return ups.gateway_url + gateway_path(path, self.grant.access.gateway().organization)

    async def _ask(self) -> httpx2.Response | None:
        """Send the request on, with what is live now; None when that cannot be, which has been answered then."""
        address = self._address()
        if address is None:
            self.passage.outcome = "denied"
            if self.goal.to is To.WORKER:
                await self._fail(503, "This town has no orchestrator")
            else:
                await self._fail(404, "The town's own gateway has models, and nothing else")
            return None
        query = self.scope["query_string"]
        request = self.client.build_request(
            self.scope["method"],
            address + (f"?{query.decode('ascii')}" if query else ""),
            headers=for_upstream(list(self.scope["headers"]), self.grant.bearer.reveal(), self._own_headers()),
            content=self.body.content(),
            timeout=httpx2.Timeout(None, connect=_CONNECT_SECONDS),
        )
        return await self.client.send(request, stream=True)

    def _own_headers(self) -> dict[str, str]:
        identity = self.grant.identity
        if self.goal.to is To.WORKER:
            token = self.upstreams.worker_token
            own = {"x-gastown-agent-id": identity.agent_id, "x-gastown-rig-id": identity.rig_id}
        else:
            gateway = self.grant.access.gateway()
            token = gateway.token
            organization = gateway.organization if self.upstreams.own_gateway_url is None else None
            own = {"x-kilocode-organizationid": organization} if organization else {}
            if self.goal.is_model_call:
                own["accept-encoding"] = "identity"  # its usage is read
        return own | ({"authorization": f"Bearer {token.reveal()}"} if token else {})

    async def _hand_back(self, response: httpx2.Response) -> None:
        self.answered = True
        headers = for_agent((name.lower(), value) for name, value in response.headers.raw)
        await self.exchange.send(
            {"type": "http.response.start", "status": response.status_code, "headers": headers}
        )
        with self._meter(response) as meter:
            async for piece in response.aiter_raw():
                self.passage.answering()
                meter.feed(piece)
                await self.exchange.send({"type": "http.response.body", "body": piece, "more_body": True})
            meter.end()
        await self.exchange.send(_END)
        self.passage.answering()
        self.passage.ends_with(response.status_code)
        log.debug(
            "broker.forwarded", agent_id=self.grant.identity.agent_id, path=self.goal.path,
            status=response.status_code, ms=round((trio.current_time() - self.began) * 1000, 1),
        )  # fmt: skip

    def _meter(self, response: httpx2.Response) -> Meter:
        """What reads the answer of a model, for the length of its block. A refused call costs nothing."""
        if not (self.goal.is_model_call and response.is_success):
            return Meter(None, self.tell)
        encoding = response.headers.get("content-encoding", "identity").strip().lower()
        return Meter(AnswerReader(encoded=encoding not in ("", "identity")), self.tell)

    async def _fail(self, status: int, message: str) -> None:
        """Answer with an error; where an answer has begun, leaving it unfinished cuts the connection."""
        if not self.answered:
            self.answered = True
            await _refuse(self.exchange.send, status, message)


async def _refuse(send: Send, status: int, message: str) -> None:
    await _answer(send, status, {"success": False, "error": message})


async def _answer(send: Send, status: int, body: dict[str, Any]) -> None:
    content = json.dumps(body).encode()
    headers = [
        (b"content-type", b"application/json"),
        (b"content-length", str(len(content)).encode()),
        (b"cache-control", b"no-store"),
    ]
    if status == HTTPStatus.UNAUTHORIZED:
        headers.append((b"www-authenticate", b"Bearer"))
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({**_END, "body": content})
