"""What the worker is told once: in order per agent, until it has taken it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime

import httpx2
import pytest
import structlog
import trio

from gastown.contract.secret import Secret
from gastown.testing.asgi import Answer, Asked, answer, app_of
from gastown.testing.network import MemoryNetwork, open_network
from gastown.testing.town import TOWN
from gastown.testing.worker import FakeWorker
from gastown.worker.client import WorkerClient
from gastown.worker.no_worker import NoWorker
from gastown.worker.reports import Reports, open_reports
from gastown.worker.tokens import Credentials, LiveCredentials

pytestmark = pytest.mark.virtual_time

COMPLETED, WAITING, READY = "POST /completed", "POST /waiting", "POST /container-ready"
NOW = datetime(2030, 5, 1, 12, tzinfo=UTC)


@dataclass
class Desk:
    reports: Reports
    worker: FakeWorker
    network: MemoryNetwork


@asynccontextmanager
async def open_desk(worker: Callable[[MemoryNetwork], FakeWorker] = FakeWorker) -> AsyncIterator[Desk]:
    async with open_network() as network:
        fake = worker(network)
        client = WorkerClient(
            network.client(), fake.url, TOWN, LiveCredentials(Credentials(container_token=Secret("t")))
        )
        async with open_reports(client) as reports:
            yield Desk(reports, fake, network)


async def test_reports_say_what_the_contract_says() -> None:
    async with open_desk() as desk:
        desk.reports.completed("r", "a", "failed", "it broke")
        desk.reports.completed("r", "b", "completed", None)
        desk.reports.waiting("r", "m", NOW)
        desk.reports.nudge_delivered("r", "a", "n1")
        desk.reports.container_ready("nonce")
        await desk.reports.flushed()
        said = {(call.path.removeprefix(f"/api/towns/{TOWN}"), str(call.body)) for call in desk.worker.answered}
        assert said == {
            ("/rigs/r/agents/a/completed", str({"agentId": "a", "status": "failed", "reason": "it broke"})),
            ("/rigs/r/agents/b/completed", str({"agentId": "b", "status": "completed"})),
            ("/rigs/r/agents/m/waiting", str({"agentId": "m", "firedAt": "2030-05-01T12:00:00.000Z"})),
            ("/rigs/r/agents/a/nudge-delivered", str({"nudge_id": "n1"})),
            ("/container-ready", str({"nonce": "nonce"})),
        }
        headers = {call.route: call.headers for call in desk.worker.answered}
        assert headers[WAITING]["x-gastown-agent-id"] == "m"
        assert "x-gastown-agent-id" not in headers[READY]


@pytest.mark.parametrize("fault", ["down", 500, 401, 429, "deaf", "garbage"])
async def test_a_report_is_repeated_until_it_has_arrived(fault: str | int) -> None:
    async with open_desk() as desk:
        if fault == "down":
            desk.worker.down()
        elif fault == "deaf":
            desk.worker.delays[COMPLETED] = float("inf")
        elif fault == "garbage":
            desk.worker.garbage = {COMPLETED}
        else:
            desk.worker.statuses[COMPLETED] = int(fault)
        desk.reports.completed("r", "a", "completed", None)
        await trio.sleep(600)
        assert desk.reports.pending == 1
        desk.worker.up()
        desk.worker.statuses.clear()
        desk.worker.delays.clear()
        desk.worker.garbage = set()
        await desk.reports.flushed()
        assert (len(desk.worker.reports(COMPLETED)), desk.reports.lost) == (1, 0)


async def test_a_report_that_the_worker_refuses_is_given_up_and_the_next_one_goes_out() -> None:
    async with open_desk() as desk:
        desk.worker.statuses[COMPLETED] = 404
        desk.reports.completed("r", "a", "completed", None)
        desk.reports.waiting("r", "a", NOW)
        await desk.reports.flushed()
        assert len(desk.worker.asked(COMPLETED)) == 1
        assert (len(desk.worker.reports(WAITING)), desk.reports.lost) == (1, 1)


async def test_the_reports_of_an_agent_arrive_in_their_order_and_do_not_hold_up_another_one() -> None:
    async with open_desk() as desk:
        desk.worker.delays[COMPLETED] = 5
        desk.reports.completed("r", "a", "failed", "first")
        desk.reports.completed("r", "a", "completed", "second")
        desk.reports.completed("r", "b", "completed", "other")
        await trio.sleep(6)
        assert {body["reason"] for body in desk.worker.reports(COMPLETED)} == {"first", "other"}
        await desk.reports.flushed()
        assert desk.worker.reports(COMPLETED)[-1]["reason"] == "second"


async def test_flushed_does_not_wait_for_what_is_reported_later() -> None:
    async with open_desk() as desk, trio.open_nursery() as nursery:
        desk.worker.delays[WAITING] = 1

        async def go_on() -> None:
            for _ in range(50):
                desk.reports.waiting("r", "m", NOW)
                await trio.sleep(0.5)

        nursery.start_soon(go_on)
        await trio.sleep(0.1)
        await desk.reports.flushed()
        assert trio.current_time() == 1


async def test_a_reason_that_is_no_proper_text_is_reported_all_the_same() -> None:
    async with open_desk() as desk:
        desk.reports.completed("r", "a", "failed", "half a \ud83d")
        await desk.reports.flushed()
        assert desk.worker.reports(COMPLETED)[0]["reason"] == "half a \ud83d"


@pytest.mark.parametrize("token", ["", "ü", "a b", "a\n", 5])
async def test_a_token_that_cannot_be_sent_is_none(token: object) -> None:
    async with open_desk() as desk:
        desk.worker.expired = {"t"}
        desk.worker.next_token = token
        desk.reports.completed("r", "a", "completed", None)
        await trio.sleep(10)
        assert desk.reports.pending == 1
        desk.worker.next_token = None
        await desk.reports.flushed()


async def test_a_nonce_is_answered_once() -> None:
    async with open_desk() as desk:
        for nonce in ("n1", "n1", "n2", "n1"):
            desk.reports.container_ready(nonce)
            await desk.reports.flushed()
        assert desk.worker.reports(READY) == [{"nonce": "n1"}, {"nonce": "n2"}]


async def test_nonces_that_nobody_takes_do_not_pile_up() -> None:
    async with open_desk() as desk:
        desk.worker.down()
        for number in range(10_000):
            desk.reports.container_ready(f"n{number}")
        assert desk.reports.pending == 20


async def test_reports_that_nobody_takes_do_not_pile_up_for_ever() -> None:
    async with open_desk() as desk:
        desk.worker.down()
        for _ in range(3000):
            desk.reports.waiting("r", "m", NOW)
        assert (desk.reports.pending, desk.reports.lost) == (2000, 1000)


async def test_a_callback_gets_the_completion_in_place_of_the_worker_and_no_token() -> None:
    seen: list[Asked] = []

    async def callback(asked: Asked) -> Answer:
        seen.append(asked)
        return answer({}, 500 if len(seen) == 1 else 200)

    async with open_desk() as desk:
        desk.network.serve(app_of(callback), "caller")
        desk.reports.completed("r", "a", "completed", "idle", "http://caller/done/1?x=2")
        await desk.reports.flushed()
        assert [(asked.path, asked.query, asked.json()) for asked in seen[1:]] == [
            ("/done/1", {"x": "2"}, {"agentId": "a", "status": "completed", "reason": "idle"})
        ]
        assert "authorization" not in seen[0].headers
        assert desk.worker.calls == []


async def test_a_callback_at_the_worker_itself_gets_the_token() -> None:
    async with open_desk() as desk:
        url = f"{desk.worker.url}/api/towns/{TOWN}/rigs/r/agents/a/completed"
        desk.reports.completed("r", "a", "completed", "idle", url)
        await desk.reports.flushed()
        assert [call.bearer for call in desk.worker.answered] == ["t"]


async def test_a_callback_that_looks_like_the_worker_gets_no_token() -> None:
    async with open_desk() as desk:
        desk.network.serve(desk.network._sites["worker", 80], "worker.evil")
        desk.reports.completed("r", "a", "completed", "idle", f"http://worker.evil/api/towns/{TOWN}/x/completed")
        await desk.reports.flushed()
        assert [call.bearer for call in desk.worker.calls] == [""]


async def test_without_a_worker_nothing_is_kept() -> None:
    async with open_reports(NoWorker()) as reports:
        reports.completed("r", "a", "completed", None)
        await reports.flushed()
        assert reports.pending == 0


async def soon(reports: Reports) -> None:
    with trio.fail_after(60):
        await reports.flushed()


@pytest.mark.parametrize("path", ["x\x01y", "x\x7f", "x\ud800"])
@pytest.mark.parametrize("at", ["http://caller", "the worker"])
async def test_a_callback_that_is_no_address_is_dropped_and_the_next_report_goes_out(at: str, path: str) -> None:
    """One that is stored comes again with every container, and may be older than its check."""
    async with open_desk() as desk:
        base = f"{desk.worker.url}/api/towns/{TOWN}" if at == "the worker" else at
        with structlog.testing.capture_logs() as logs:
            desk.reports.completed("r", "a", "completed", None, f"{base}/{path}")
            desk.reports.waiting("r", "a", NOW)
            await soon(desk.reports)
        assert (len(desk.worker.reports(WAITING)), desk.reports.lost) == (1, 1)
        assert [line["event"] for line in logs] == ["report.refused"]


@pytest.mark.parametrize("host", ["caller:abc", "[::1", ""])
async def test_a_callback_at_a_host_that_is_none_is_dropped(host: str) -> None:
    async with open_desk() as desk:
        desk.reports.completed("r", "a", "completed", None, f"http://{host}/done")
        await soon(desk.reports)
        assert desk.reports.lost == 1


async def test_a_callback_at_a_host_that_cannot_be_looked_up_is_dropped() -> None:
    async with httpx2.AsyncClient(trust_env=False) as client:
        worker = WorkerClient(client, "http://worker", TOWN, LiveCredentials(Credentials()))
        async with open_reports(worker) as reports:
            reports.completed("r", "a", "completed", None, f"http://{'a' * 64}.example/done")
            await soon(reports)
            assert reports.lost == 1
