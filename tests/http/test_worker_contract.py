"""The worker API as the container's client meets it (contract section 2): the fake of other tests, and the hall.

What holds here of the fake holds of the hall, so what the other tests show with the one is true of the other.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx2
import pytest
import trio

from gastown.contract.events import AgentEvent
from gastown.contract.git import ReviewResult
from gastown.contract.secret import Secret
from gastown.contract.town import GitAuth
from gastown.contract.worker import Heartbeat, PrewarmComplete, RegistryEntry
from gastown.hall.domain.town import RigRecord
from gastown.hall.hall import HallOptions, open_hall
from gastown.hall.store import rig_agents
from gastown.hall.store.transaction import Transaction
from gastown.hall.tokens import mint
from gastown.testing.hall import agent_events, heartbeats
from gastown.testing.network import open_network
from gastown.testing.town import start_request
from gastown.testing.worker import FakeWorker
from gastown.worker.client import WorkerClient, WorkerError
from gastown.worker.outbox.pump import open_outbox
from gastown.worker.reports import open_reports
from gastown.worker.tokens import Credentials, LiveCredentials

NOW = datetime(2030, 5, 1, 12, tzinfo=UTC)
PLACE = "rig-1", "pole-1"
MOST = 1024 * 1024
Events = list[tuple[str, dict[str, Any]]]


@dataclass
class Side:
    """A worker, our client to it, and what can be asked of either worker behind its back.

    `events` are those of the agent in `PLACE`, `reported` the bodies of what was told once, `nudge` leaves one.
    """

    client: WorkerClient
    credentials: LiveCredentials
    http: httpx2.AsyncClient
    url: str
    expired_token: Secret
    events: Callable[[], Awaitable[Events]]
    reported: Callable[[str], Awaitable[list[dict[str, Any]]]]
    heartbeat: Callable[[], Awaitable[dict[str, Any]]]
    nudge: Callable[[str, str], Awaitable[str]]

    async def ask(self, method: str, path: str, **content: Any) -> httpx2.Response:
        """Past our client, with its token."""
        headers = {"Authorization": f"Bearer {self.credentials.current.container_token.reveal()}"}
        return await self.http.request(method, f"{self.url}/api/towns/oak{path}", headers=headers, **content)


@asynccontextmanager
async def the_fake(_: Path) -> AsyncIterator[Side]:
    async with open_network() as network:
        fake = FakeWorker(network)
        fake.batches = True
        fake.git_token = "gh"
        fake.expired = {"expired", ""}
        fake.mayor = {"success": True, "agentId": "mayor-1", "model": "m", "kilocodeToken": "k"}
        credentials = LiveCredentials(Credentials(container_token=Secret("good")))
        http = network.client()

        async def events() -> Events:
            return [(event["event_type"], event["data"]) for event in fake.agent_events(PLACE[1])]

        async def reported(report: str) -> list[dict[str, Any]]:
            return fake.reports(f"POST /{report}")

        async def heartbeat() -> dict[str, Any]:
            return fake.reports("POST /heartbeat")[-1]

        async def nudge(message: str, mode: str) -> str:
            waiting = fake.nudges.setdefault(PLACE[1], [])
            name = f"nudge-{len(waiting)}"
            waiting.append({"nudge_id": name, "message": message, "mode": mode, "priority": "low", "source": None})
            return name

        client = WorkerClient(network.client(), fake.url, "oak", credentials)
        yield Side(client, credentials, http, fake.url, Secret("expired"), events, reported, heartbeat, nudge)


@asynccontextmanager
async def the_hall(folder: Path) -> AsyncIterator[Side]:
    options = HallOptions(data_dir=folder / "oak", town_id="oak", kilocode_token=Secret("k"), now=lambda: NOW)
    async with open_hall(options) as hall, httpx2.AsyncClient(trust_env=False) as http:
        store = hall.store
        await store.save_rig("oak", RigRecord(rig_id=PLACE[0], git_url="https://x.test/r", default_branch="main"))
        await store.change_town("oak", {"git_auth": GitAuth(github_token=Secret("gh")), "default_model": "m"})
        secret = await store.jwt_secret("oak")
        assert secret is not None
        credentials = LiveCredentials(Credentials(container_token=await hall.container_token()))

        async def look(work: Callable[[Transaction], Any]) -> Any:
            return await store.transaction("oak", work)

        async def events() -> Events:
            kept: Events = await look(lambda board: agent_events(board, PLACE[1]))
            return kept

        async def reported(report: str) -> list[dict[str, Any]]:
            names = {"container-ready": "container.ready", "container-eviction": "container.eviction"}
            name = names.get(report, f"agent.{report.replace('-', '_')}")
            name = "review.complete" if report == "complete" else name
            kept = await store.events("oak")
            return [event.body for event in kept if name == event.event or report == "container-events"]

        async def heartbeat() -> dict[str, Any]:
            kept: dict[str, dict[str, Any]] = await look(heartbeats)
            return kept[PLACE[1]]

        async def nudge(message: str, mode: str) -> str:
            def leave(board: Transaction) -> str:
                if rig_agents.find_agent(board, PLACE[1]) is None:
                    rig_agents.make_agent(board, PLACE[0], "polecat", PLACE[1])
                return rig_agents.nudge(board, PLACE[0], None, PLACE[1], message, mode)

            left: str = await look(leave)
            return left

        client = WorkerClient(http, hall.url, "oak", credentials)
        expired = mint(secret, "oak", NOW - timedelta(hours=8, minutes=30))
        yield Side(client, credentials, http, hall.url, expired, events, reported, heartbeat, nudge)


@pytest.fixture(params=[the_fake, the_hall], ids=["fake", "hall"])
async def side(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Side]:
    with trio.fail_after(60):
        async with request.param(tmp_path) as side:
            yield side


def entry(agent_id: str) -> RegistryEntry:
    """Without the gateway's token, which a worker need not give back: each container has one of its own."""
    request = start_request(agent_id, envVars={"B": "2"})
    return RegistryEntry.model_validate(
        {"agentId": agent_id, "request": request, "workdir": f"/w/{agent_id}", "env": {"A": "1"}}
    )


async def test_the_registry_is_empty_first_and_then_what_was_written_last(side: Side) -> None:
    assert (await side.client.registry()).entries == ()
    await side.client.write_registry([entry("pole-1"), entry("mayor-1")])
    await side.client.write_registry([entry("pole-1")])
    stored = await side.client.registry()
    assert (stored.entries, stored.skipped) == ((entry("pole-1"),), 0)


async def test_the_mayor_context_names_the_mayor_its_model_and_its_token(side: Side) -> None:
    context = await side.client.mayor_context()
    assert context.success
    assert context.agent_id is not None
    assert (context.model, context.kilocode_token) == ("m", Secret("k"))


async def test_a_snapshot_is_none_then_what_was_stored_then_none_again(side: Side) -> None:
    content = bytes(range(256)) * 1000
    assert await side.client.snapshot(*PLACE, most_bytes=MOST) is None
    await side.client.save_snapshot(*PLACE, b"older")
    await side.client.save_snapshot(*PLACE, content)
    assert await side.client.snapshot(*PLACE, most_bytes=MOST) == content
    assert await side.client.snapshot("rig-1", "other", most_bytes=MOST) is None
    await side.client.delete_snapshot(*PLACE)
    assert await side.client.snapshot(*PLACE, most_bytes=MOST) is None


async def test_events_arrive_in_their_order_one_by_one_and_in_arrays(side: Side) -> None:
    one = b'{"agent_id":"pole-1","event_type":"a.one","data":{"n":1}}'
    two = b'{"agent_id":"pole-1","event_type":"a.two","data":{"text":"\\u00fc \\ud800"}}'
    assert await side.client.agent_events(*PLACE, one, batch=False)
    assert await side.client.agent_events(*PLACE, b"[" + two + b"," + one + b"]", batch=True)
    assert await side.events() == [("a.one", {"n": 1}), ("a.two", {"text": "ü \ud800"}), ("a.one", {"n": 1})]


async def test_what_the_outbox_sends_arrives_whole_and_in_order(side: Side) -> None:
    async with open_outbox(side.client, most=10_000, most_bytes=1 << 24) as outbox:
        for number in range(1200):
            outbox.put(*PLACE, AgentEvent(id=number + 1, event="message.x", data={"n": number}, timestamp=NOW))
        await outbox.flushed()
        assert (outbox.figures().sent, outbox.figures().lost) == (1200, 0)
    assert await side.events() == [("message.x", {"n": number}) for number in range(1200)]


async def test_reports_arrive_with_their_bodies(side: Side) -> None:
    async with open_reports(side.client) as reports:
        reports.completed(*PLACE, "failed", "it broke")
        reports.waiting("mayor-oak", "mayor-1", NOW)
        reports.container_ready("nonce-1")
        reports.review_completed("rig-1", "e-1", ReviewResult(entry_id="e-1", status="merged", message="m"))
        await reports.flushed()
        assert reports.lost == 0
    await side.client.report("eviction-context", {"branch": "b", "agent_name": "n", "saved_at": "t"}, PLACE)
    await side.client.report("container-eviction", {}, None)
    expected = {
        "completed": {"agentId": "pole-1", "status": "failed", "reason": "it broke"},
        "waiting": {"agentId": "mayor-1", "firedAt": "2030-05-01T12:00:00.000Z"},
        "container-ready": {"nonce": "nonce-1"},
        "eviction-context": {"branch": "b", "agent_name": "n", "saved_at": "t"},
        "container-eviction": {},
        "complete": {"entry_id": "e-1", "status": "merged", "message": "m"},
    }
    for report, body in expected.items():
        [kept] = await side.reported(report)
        assert kept.items() >= body.items(), report


async def test_the_git_token_is_given_out(side: Side) -> None:
    assert await side.client.git_token("rig-1") == Secret("gh")


async def test_telemetry_is_taken(side: Side) -> None:
    event = PrewarmComplete(town_id="oak", agent_id="mayor-1", duration_ms=5).model_dump(
        mode="json", by_alias=True
    )
    await side.client.container_event(event)
    assert await side.reported("container-events") == [event]


async def test_a_heartbeat_is_taken_and_asks_for_nothing(side: Side) -> None:
    beat = Heartbeat.model_validate(
        {
            "agentId": "pole-1",
            "rigId": "rig-1",
            "townId": "oak",
            "status": "running",
            "timestamp": NOW,
            "lastEventType": None,
            "lastEventAt": None,
            "activeTools": ("bash",),
            "messageCount": 3,
            "containerInstanceId": "c-1",
            "processAlive": True,
        }
    )
    assert await side.client.heartbeat(beat) is None
    assert await side.heartbeat() == json.loads(beat.model_dump_json(by_alias=True))


async def test_a_nudge_is_pending_until_it_is_said_to_be_delivered(side: Side) -> None:
    assert await side.client.pending_nudges(*PLACE) == ()
    name = await side.nudge("look at this", "immediate")
    [nudge] = await side.client.pending_nudges(*PLACE)
    assert (nudge.nudge_id, nudge.message, nudge.mode) == (name, "look at this", "immediate")
    status, answer = await side.client.forward("GET", "pending-nudges", None, PLACE)
    assert (status, answer["data"][0]["nudge_id"]) == (200, name)
    async with open_reports(side.client) as reports:
        reports.nudge_delivered(*PLACE, name)
        await reports.flushed()
        assert reports.lost == 0
    assert await side.client.pending_nudges(*PLACE) == ()


async def test_an_expired_token_is_refreshed_once_for_the_calls_that_ran_into_it(side: Side) -> None:
    side.credentials.replace_token(side.expired_token)
    generation = side.credentials.current.generation
    async with trio.open_nursery() as nursery:
        for _ in range(5):
            nursery.start_soon(side.client.registry)
    assert side.credentials.current.generation == generation + 1
    assert side.credentials.current.container_token != side.expired_token


async def test_without_a_token_every_call_is_401(side: Side) -> None:
    routes = [
        ("GET", "/container-registry"),
        ("POST", "/container-registry"),
        ("GET", "/mayor-id"),
        ("GET", "/rigs/rig-1/agents/pole-1/db-snapshot"),
        ("POST", "/rigs/rig-1/agents/pole-1/db-snapshot"),
        ("DELETE", "/rigs/rig-1/agents/pole-1/db-snapshot"),
        ("POST", "/rigs/rig-1/agent-events"),
        ("POST", "/rigs/rig-1/agent-events/batch"),
        ("GET", "/rigs/rig-1/agents/pole-1/pending-nudges"),
        *(
            ("POST", f"/rigs/rig-1/agents/pole-1/{report}")
            for report in ("nudge-delivered", "heartbeat", "completed", "waiting", "eviction-context")
        ),
        ("POST", "/rigs/rig-1/refresh-git-token"),
        ("POST", "/rigs/rig-1/review-queue/e-1/complete"),
        *(("POST", f"/container-{report}") for report in ("ready", "eviction", "events")),
    ]
    for method, path in routes:
        answer = await side.http.request(method, f"{side.url}/api/towns/oak{path}", json={})
        assert (answer.status_code, answer.json()["success"]) == (401, False), path


@pytest.mark.parametrize("path", ["/no-such-route", "/rigs/rig-1/agents/pole-1/no-such-route"])
async def test_an_unknown_route_is_a_404_that_no_retry_would_change(side: Side, path: str) -> None:
    answer = await side.ask("POST", path, json={})
    assert (answer.status_code, answer.json()["success"]) == (404, False)
    with pytest.raises(WorkerError, match="answered 404") as refusal:
        await side.client.report(path.removeprefix("/"), {}, None)
    assert refusal.value.is_refusal
