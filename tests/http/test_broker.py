"""The broker between agents and two upstreams, on virtual time and memory streams."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from io import StringIO
from typing import Any

import httpx2
import pytest
import structlog
import trio

from gastown import logs
from gastown.broker.forward import BrokerApp
from gastown.broker.grants import AgentIdentity, Gateway, Grant, Grants
from gastown.contract.secret import Secret
from gastown.testing.asgi import Answer, Asked, Frames, answer, app_of
from gastown.testing.network import MemoryNetwork, open_network

pytestmark = pytest.mark.virtual_time

POLE = AgentIdentity("pole-1", "r1", "oak", "polecat")
OTHER = AgentIdentity("pole-2", "r1", "oak", "polecat")
MAYOR = AgentIdentity("mayor-1", "mayor-oak", "oak", "mayor")
PRIME = "/api/towns/oak/rigs/r1/agents/pole-1/prime"
STATUS = "/api/towns/oak/rigs/r1/agents/pole-1/status"
CHAT = "/api/openrouter/chat/completions"


@dataclass
class Access:
    """What an agent may have now."""

    token: Secret | None = field(default_factory=lambda: Secret("canary-gateway-1"))
    organization: str | None = "org-1"
    environment: dict[str, Secret] = field(default_factory=dict)

    def gateway(self) -> Gateway:
        return Gateway(self.token, self.organization)

    def variables(self) -> Mapping[str, Secret]:
        return self.environment


@dataclass
class Upstreams:
    worker_url: str | None = "http://worker"
    gateway_url: str = "http://gateway"
    own_gateway_url: str | None = None
    worker_token: Secret | None = field(default_factory=lambda: Secret("canary-worker-1"))
    renewals: list[Secret | None] = field(default_factory=list)
    renewed: Secret | None = field(default_factory=lambda: Secret("canary-worker-2"))

    async def renew_worker_token(self, refused: Secret | None) -> bool:
        self.renewals.append(refused)
        if self.renewed is None:
            return False
        self.worker_token = self.renewed
        return True


@dataclass
class Bench:
    """A broker at http://broker, what stands behind it, and what they were asked."""

    network: MemoryNetwork
    grants: Grants
    upstreams: Upstreams
    log: StringIO
    access: Access = field(default_factory=Access)
    worker: list[Asked] = field(default_factory=list)
    gateway: list[Asked] = field(default_factory=list)
    expired: set[str] = field(default_factory=set)
    replies: dict[str, Answer | Frames] = field(default_factory=dict)

    def admit(self, identity: AgentIdentity = POLE) -> Grant:
        return self.grants.admit(identity, self.access)

    def client(self, grant: Grant | None = None) -> httpx2.AsyncClient:
        client = self.network.client("http://broker")
        if grant is not None:
            client.headers["authorization"] = f"Bearer {grant.bearer.reveal()}"
        return client

    async def at_worker(self, asked: Asked) -> Answer | Frames:
        self.worker.append(asked)
        if asked.headers.get("authorization", "").removeprefix("Bearer ") in self.expired:
            return answer({"success": False, "error": "expired"}, 401)
        return self.replies.get(asked.path, answer({"success": True, "data": {"body": asked.body.decode()}}))

    async def at_gateway(self, asked: Asked) -> Answer | Frames:
        self.gateway.append(asked)
        return self.replies.get(asked.path, answer({"data": []}))


@asynccontextmanager
async def open_bench() -> AsyncIterator[Bench]:
    log = StringIO()
    logs.configure(tuple, log)
    try:
        with trio.fail_after(600):
            async with open_network() as network:
                bench = Bench(network, Grants(), Upstreams(), log)
                network.serve(app_of(bench.at_worker), "worker")
                network.serve(app_of(bench.at_gateway), "gateway")
                network.serve(BrokerApp(bench.grants, network.client(), bench.upstreams), "broker")
                yield bench
    finally:
        structlog.reset_defaults()


@pytest.fixture
async def bench() -> AsyncIterator[Bench]:
    async with open_bench() as bench:
        yield bench
        # Of every test: no credential is in the log.
        assert "canary" not in bench.log.getvalue()
        assert "gtb." not in bench.log.getvalue()


async def test_a_call_goes_on_with_the_live_token_and_the_brokers_word_for_who_it_is(bench: Bench) -> None:
    client = bench.client(bench.admit())
    lies = {
        "X-Gastown-Agent-Id": "pole-2",
        "x-gastown-rig-id": "r9",
        "X-Forwarded-For": "1.2.3.4",
        "Cookie": "a=b",
    }
    reply = await client.post(STATUS, json={"message": "m"}, headers=lies)
    [asked] = bench.worker
    assert reply.json()["data"]["body"] == asked.body.decode() == '{"message":"m"}'
    assert asked.headers["authorization"] == "Bearer canary-worker-1"
    assert (asked.headers["x-gastown-agent-id"], asked.headers["x-gastown-rig-id"]) == ("pole-1", "r1")
    assert asked.headers["host"] == "worker"
    assert {"x-forwarded-for", "cookie"} & asked.headers.keys() == set()


async def test_the_gateway_sees_the_live_token_and_organisation(bench: Bench) -> None:
    client = bench.client(bench.admit())
    lie = {"X-KILOCODE-ORGANIZATIONID": "org-9", "X-KILOCODE-TASKID": "ses_1"}
    await client.post(CHAT, json={}, headers=lie)
    bench.access.token, bench.access.organization = Secret("canary-gateway-2"), None
    await client.post(CHAT, json={}, headers=lie)
    seen = [(a.headers["authorization"], a.headers.get("x-kilocode-organizationid")) for a in bench.gateway]
    assert seen == [("Bearer canary-gateway-1", "org-1"), ("Bearer canary-gateway-2", None)]
    assert bench.gateway[0].headers["x-kilocode-taskid"] == "ses_1"
    assert not any(name.startswith("x-gastown") for name in bench.gateway[0].headers)


async def test_a_rotated_worker_token_is_on_the_next_call(bench: Bench) -> None:
    client = bench.client(bench.admit())
    for token in ("canary-a", "canary-b", "canary-c"):
        bench.upstreams.worker_token = Secret(token)
        await client.get(PRIME)
    assert [a.headers["authorization"] for a in bench.worker] == [
        "Bearer canary-a", "Bearer canary-b", "Bearer canary-c",
    ]  # fmt: skip


@pytest.mark.parametrize(
    "header",
    [
        None,
        "",
        "Bearer",
        "Bearer x",
        "Bearer gtb.x.y",
        "Basic {b}",
        "Bearer {b}x",
        "Bearer {cut}",
        "Bearer {other}",
    ],
)
async def test_what_is_no_bearer_of_an_agent_is_401_and_reaches_nobody(bench: Bench, header: str | None) -> None:
    grant, other = bench.admit(), bench.admit(OTHER)
    bearer = grant.bearer.reveal()
    crossed = f"gtb.{grant.name}.{other.bearer.reveal().rpartition('.')[2]}"
    headers = {}
    if header is not None:
        headers = {"authorization": header.format(b=bearer, cut=bearer[:-1], other=crossed)}
    reply = await bench.client().get(PRIME, headers=headers)
    assert (reply.status_code, reply.headers["www-authenticate"]) == (401, "Bearer")
    assert bench.worker == []


async def test_two_authorizations_are_none(bench: Bench) -> None:
    grant = bench.admit()
    twice = [
        ("authorization", f"Bearer {grant.bearer.reveal()}"),
        ("authorization", f"Bearer {grant.bearer.reveal()}"),
    ]
    assert (await bench.client().get(PRIME, headers=twice)).status_code == 401


async def test_two_agents_cannot_use_each_others_paths(bench: Bench) -> None:
    mine, other = bench.client(bench.admit()), bench.client(bench.admit(OTHER))
    assert (await mine.get(PRIME)).status_code == 200
    assert (await other.get(PRIME)).status_code == 403
    assert (await mine.get(PRIME.replace("pole-1", "pole-2"))).status_code == 403
    refusals = [line for line in map(json.loads, bench.log.getvalue().splitlines()) if "refused" in line["event"]]
    assert [line["path"] for line in refusals] == [PRIME, PRIME.replace("pole-1", "pole-2")]
    assert len(bench.worker) == 1


async def test_the_end_of_an_agent_ends_its_bearer_at_once_and_cuts_what_it_has_under_way(bench: Bench) -> None:
    send, receive = trio.open_memory_channel[str](10)
    bench.replies[CHAT] = Frames(receive)
    client, other = bench.client(bench.admit()), bench.client(bench.admit(OTHER))
    send.send_nowait("data: one\n\n")
    async with client.stream("POST", CHAT, json={}) as response:
        pieces = response.aiter_raw()
        assert await anext(pieces) == b"data: one\n\n"
        bench.grants.revoke("pole-1")
        with pytest.raises(httpx2.RemoteProtocolError):
            await anext(pieces)
    assert (await client.get(PRIME)).status_code == 401
    assert (await other.get(PRIME.replace("pole-1", "pole-2"))).status_code == 200


def test_an_agent_that_is_admitted_again_keeps_its_bearer_and_one_that_has_changed_does_not() -> None:
    grants = Grants()
    first = grants.admit(POLE, Access())
    newer = Access()
    assert grants.admit(POLE, newer) is first
    assert first.access is newer
    changed = grants.admit(POLE._replace(rig_id="r2"), newer)
    assert changed.bearer != first.bearer
    assert (grants.find(first.bearer.reveal()), grants.find(changed.bearer.reveal())) == (None, changed)
    grants.revoke("pole-1")
    assert grants.find(changed.bearer.reveal()) is None
    assert grants.admit(POLE, newer).bearer not in (first.bearer, changed.bearer)


async def test_every_piece_of_an_answer_comes_through_when_it_is_said(bench: Bench) -> None:
    """The upstream says the next word only when the agent has the one before: nothing is held back."""
    send, receive = trio.open_memory_channel[str](0)
    bench.replies[CHAT] = Frames(receive)
    async with bench.client(bench.admit()).stream("POST", CHAT, json={}) as response:
        assert response.headers["content-type"] == "text/event-stream"
        pieces = response.aiter_raw()
        for number in range(5):
            await send.send(f"data: {number}\n\n")
            assert await anext(pieces) == f"data: {number}\n\n".encode()
        send.close()
        assert [piece async for piece in pieces] == []


async def test_a_large_body_goes_on_while_it_comes(bench: Bench) -> None:
    began = trio.Event()

    async def first_half(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            raise NotImplementedError
        size = 0
        while (message := await receive()).get("more_body"):
            size += len(message["body"])
            began.set()
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": str(size).encode()})

    bench.network.serve(first_half, "gateway")

    async def pieces() -> AsyncIterator[bytes]:
        for _ in range(10):
            yield b"x" * 100_000
        await began.wait()  # else nobody would ever read on
        yield b"y" * 100_000

    reply = await bench.client(bench.admit()).post(CHAT, content=pieces())
    assert reply.text == "1100000"


@pytest.mark.parametrize("size", [10, 1_000_000], ids=["small", "large"])
async def test_an_agent_that_leaves_takes_its_call_along(bench: Bench, size: int) -> None:
    send, receive = trio.open_memory_channel[str](10)
    bench.replies[CHAT] = Frames(receive)
    send.send_nowait("data: one\n\n")
    client = bench.client(bench.admit())
    async with client.stream("POST", CHAT, content=b"x" * size) as response:
        await anext(response.aiter_raw())
    with pytest.raises(trio.BrokenResourceError):  # noqa: PT012  whichever of them finds the other end gone
        while True:
            await send.send("data: more\n\n")
            await trio.sleep(0.1)


async def test_an_upstream_that_breaks_off_is_no_end_of_the_answer(bench: Bench) -> None:
    send, receive = trio.open_memory_channel[str](10)
    bench.replies[CHAT] = Frames(receive)
    send.send_nowait("data: one\n\n")
    async with bench.client(bench.admit()).stream("POST", CHAT, json={}) as response:
        pieces = response.aiter_raw()
        await anext(pieces)
        bench.network.cut("gateway")
        with pytest.raises(httpx2.RemoteProtocolError):
            await anext(pieces)


async def test_a_401_of_the_worker_renews_the_token_once_and_sends_the_same_again(bench: Bench) -> None:
    bench.expired.add("canary-worker-1")
    client = bench.client(bench.admit())
    reply = await client.post(STATUS, json={"message": "m"})
    assert reply.json()["data"]["body"] == '{"message":"m"}'
    assert bench.upstreams.renewals == [Secret("canary-worker-1")]
    assert [a.headers["authorization"] for a in bench.worker] == [
        "Bearer canary-worker-1",
        "Bearer canary-worker-2",
    ]


async def test_a_body_that_was_not_kept_is_sent_again_by_its_agent_and_finds_a_new_token(bench: Bench) -> None:
    bench.expired.add("canary-worker-1")
    client = bench.client(bench.admit())
    reply = await client.post(STATUS, content=b"x" * 1_000_000)
    assert (reply.status_code, bench.upstreams.renewals, len(bench.worker)) == (
        401,
        [Secret("canary-worker-1")],
        1,
    )
    assert (await client.post(STATUS, content=b"x" * 1_000_000)).status_code == 200


@pytest.mark.parametrize("renewed", [None, Secret("canary-worker-2")])
async def test_a_401_that_stays_goes_back_to_the_agent(bench: Bench, renewed: str | None) -> None:
    bench.expired |= {"canary-worker-1", "canary-worker-2"}
    bench.upstreams.renewed = renewed
    reply = await bench.client(bench.admit()).get(PRIME)
    assert (reply.status_code, reply.json()["error"]) == (401, "expired")
    assert len(bench.upstreams.renewals) == 1


async def test_a_401_of_the_gateway_is_not_ours_to_cure(bench: Bench) -> None:
    bench.replies[CHAT] = answer({"error": {"message": "no"}}, 401)
    assert (await bench.client(bench.admit()).post(CHAT, json={})).status_code == 401
    assert bench.upstreams.renewals == []


async def test_an_agent_that_refreshes_its_token_gets_its_bearer_and_never_the_towns(bench: Bench) -> None:
    grant = bench.admit()
    reply = await bench.client(grant).post("/api/towns/oak/refresh-container-token", json={})
    assert reply.json() == {"success": True, "data": {"token": grant.bearer.reveal()}}
    assert bench.worker == []


async def test_the_live_environment_is_that_of_the_agent_who_asks(bench: Bench) -> None:
    bench.access.environment = {"GH_TOKEN": Secret("canary-github")}
    reply = await bench.client(bench.admit()).get("/broker/environment")
    assert reply.json() == {"variables": {"GH_TOKEN": "canary-github"}}
    assert reply.headers["cache-control"] == "no-store"


async def test_a_body_that_is_too_large_is_413(bench: Bench) -> None:
    client = bench.client(bench.admit())

    async def pieces() -> AsyncIterator[bytes]:
        for _ in range(50):
            yield b"x" * 100_000

    assert (await client.post(STATUS, content=pieces())).status_code == 413
    assert (await client.get(PRIME)).status_code == 200


async def test_headers_that_are_too_large_are_431(bench: Bench) -> None:
    client = bench.client(bench.admit())
    reply = await client.get(PRIME, headers={f"x-{number}": "y" * 5000 for number in range(14)})
    assert reply.status_code == 431


async def test_an_upstream_that_is_away_is_a_502_and_a_town_without_a_worker_a_503(bench: Bench) -> None:
    client = bench.client(bench.admit())
    bench.network.unplug("worker")
    away = await client.get(PRIME)
    bench.upstreams.worker_url = None
    none = await client.get(PRIME)
    assert (away.status_code, none.status_code) == (502, 503)
    assert "ConnectError" in away.json()["error"]


async def test_a_gateway_that_is_away_ends_the_connection_as_it_would_without_a_broker(bench: Bench) -> None:
    client = bench.client(bench.admit())
    bench.network.unplug("gateway")
    for _ in range(2):
        with pytest.raises(httpx2.RemoteProtocolError, match="without sending a response"):
            await client.post(CHAT, json={})
    bench.network.plug("gateway")
    assert (await client.post(CHAT, json={})).status_code == 200


async def test_headers_of_the_connection_stay_on_it(bench: Bench) -> None:
    client = bench.client(bench.admit())
    await client.get(PRIME, headers={"Connection": "X-Hop", "X-Hop": "1", "TE": "trailers", "X-End": "2"})
    assert {"x-hop", "te"} & bench.worker[0].headers.keys() == set()
    assert bench.worker[0].headers["x-end"] == "2"


async def test_a_cookie_of_an_upstream_reaches_no_agent(bench: Bench) -> None:
    async def baker(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            raise NotImplementedError
        headers = [(b"set-cookie", b"town=1"), (b"connection", b"x-hop"), (b"x-hop", b"1"), (b"x-end", b"2")]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": json.dumps({"success": True}).encode()})

    bench.network.serve(baker, "worker")
    reply = await bench.client(bench.admit()).get(PRIME)
    assert {"set-cookie", "x-hop"} & reply.headers.keys() == set()
    assert reply.headers["x-end"] == "2"


async def test_what_an_agent_did_not_ask_to_be_packed_is_not(bench: Bench) -> None:
    client = bench.client(bench.admit())
    del client.headers["accept-encoding"]
    await client.get(PRIME)
    assert bench.worker[0].headers["accept-encoding"] == "identity"


async def test_a_bearer_in_another_header_stays_behind(bench: Bench) -> None:
    grant = bench.admit()
    await bench.client(grant).get(PRIME, headers={"X-Api-Key": grant.bearer.reveal()})
    assert "x-api-key" not in bench.worker[0].headers


@pytest.mark.parametrize(
    "name",
    ["X_Gastown_Agent_Id", "x_gastown-rig_id", "X.Gastown.Agent.Id", "X_Forwarded_For", "X_Town_Config", "Cookie"],
)
async def test_no_spelling_of_a_header_of_ours_is_passed_on(bench: Bench, name: str) -> None:
    """A server behind a gateway reads `X_A` as `X-A`: an agent could say that it is another one."""
    grant = bench.admit()
    async with bench.client(grant) as client:
        assert (await client.get(PRIME, headers={name: "pole-2"})).status_code == 200
    [asked] = bench.worker
    assert "pole-2" not in asked.headers.values()


@pytest.mark.parametrize("token", ["tökén-🤖", "two\nlines", "ends with a space "])
async def test_a_gateway_token_that_no_header_can_have_is_a_502_that_says_so(bench: Bench, token: str) -> None:
    bench.access.token = Secret(token)
    async with bench.client(bench.admit()) as client:
        refused = await client.post(CHAT, json={})
    assert refused.status_code == 502
    assert "authorization cannot be sent" in refused.json()["error"]
    assert bench.gateway == []
