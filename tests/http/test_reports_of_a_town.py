"""What the town tells its worker of itself: events, ends, heartbeats, readiness."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest
import trio

from gastown.testing.kilo import Script
from gastown.testing.launchers import CrashingKilo, DyingKilo, FakeLauncher
from gastown.testing.town import FakeTown, start_request

pytestmark = pytest.mark.virtual_time

BEAT, COMPLETED, READY = "POST /heartbeat", "POST /completed", "POST /container-ready"
busy = partial(FakeLauncher, script=Script(turn_seconds=10_000))


def completions(town: FakeTown) -> list[tuple[str, str, str | None]]:
    return [(body["agentId"], body["status"], body.get("reason")) for body in town.worker.reports(COMPLETED)]


async def test_every_event_of_an_agent_reaches_the_worker_in_its_order(town_on_fakes) -> None:
    async with town_on_fakes() as town:
        await town.start("pole-1")
        await town.start()
        await trio.sleep(20)
        await town.client.post("/agents/pole-1/stop")
        await trio.sleep(1)
        for agent in ("pole-1", "mayor-1"):
            kept = [(event["event"], event["data"]) for event in await town.events(agent)]
            sent = [(event["event_type"], event["data"]) for event in town.worker.agent_events(agent)]
            assert sent == kept
        assert town.worker.agent_events("pole-1")[-1]["data"] == {"status": "exited", "reason": None}


async def test_a_worker_that_is_away_for_a_while_still_hears_everything(town_on_fakes) -> None:
    async with town_on_fakes() as town:
        await town.start("pole-1")
        town.worker.down()
        for _ in range(20):
            await town.client.post("/agents/pole-1/message", json={"prompt": "more"})
            await trio.sleep(3)
        town.worker.up()
        await town.opened.town.services.outbox.flushed()
        kept = [(event["event"], event["data"]) for event in await town.events("pole-1")]
        sent = [(event["event_type"], event["data"]) for event in town.worker.agent_events("pole-1")]
        assert len(kept) > 300
        assert sent == kept


async def test_an_agent_that_is_stopped_has_completed(town_on_fakes) -> None:
    async with town_on_fakes(kilo=busy) as town:
        await town.start("pole-1")
        await town.client.post("/agents/pole-1/stop")
        await town.client.post("/agents/pole-1/stop")
        await trio.sleep(60)
        assert completions(town) == [("pole-1", "completed", "stopped")]


async def test_a_start_that_fails_is_reported_with_its_reason(town_on_fakes) -> None:
    async with town_on_fakes(kilo=CrashingKilo) as town:
        answer = await town.start("pole-1")
        await trio.sleep(60)
        assert completions(town) == [("pole-1", "failed", answer.json()["error"])]


async def test_an_agent_whose_server_dies_has_failed(town_on_fakes) -> None:
    async with town_on_fakes(kilo=partial(DyingKilo, seconds=30, script=Script(turn_seconds=100))) as town:
        await town.start("pole-1")
        await trio.sleep(100)
        [(agent, status, reason)] = completions(town)
        assert (agent, status) == ("pole-1", "failed")
        assert reason


async def test_an_agent_that_a_newer_start_replaces_has_not_completed(town_on_fakes) -> None:
    async with town_on_fakes(kilo=busy) as town:
        await town.start("pole-1")
        await town.start("pole-1")
        await trio.sleep(60)
        assert completions(town) == []
        await town.client.post("/agents/pole-1/stop")
        await trio.sleep(1)
        assert len(completions(town)) == 1


async def test_an_agent_that_is_evicted_has_not_completed(town_on_fakes) -> None:
    async with town_on_fakes(kilo=busy) as town:
        await town.start("pole-1")
        agent = town.opened.town.roster.get("pole-1")
        town.opened.town.roster.evict(agent)
        await agent.ended.wait()
        await trio.sleep(60)
        assert completions(town) == []


async def test_an_agent_whose_container_goes_down_around_it_has_not_completed(town_on_fakes) -> None:
    async with town_on_fakes(kilo=busy) as town:
        await town.start("pole-1")
        reports = town.opened.town.services.reports
    assert (completions(town), reports.pending) == ([], 0)


async def test_a_completion_outlives_its_agent_until_the_worker_is_there_again(town_on_fakes) -> None:
    async with town_on_fakes(kilo=busy) as town:
        await town.start("pole-1")
        town.worker.down()
        await town.client.post("/agents/pole-1/stop")
        await trio.sleep(600)
        town.worker.up()
        await town.opened.town.services.reports.flushed()
        assert completions(town) == [("pole-1", "completed", "stopped")]


async def test_a_completion_goes_to_the_callback_that_the_start_asked_for(town_on_fakes) -> None:
    async with town_on_fakes(kilo=busy) as town:
        await town.start("pole-1", completionCallbackUrl="http://worker/api/towns/oak/their/own/completed")
        await town.client.post("/agents/pole-1/stop")
        await trio.sleep(1)
        assert [call.path for call in town.worker.asked(COMPLETED)] == ["/api/towns/oak/their/own/completed"]


@pytest.mark.parametrize("url", ["ftp://x", "worker/x", "javascript:1", "http://", "http://x y"])
async def test_a_callback_that_is_no_web_address_is_a_400(town_on_fakes, url: str) -> None:
    async with town_on_fakes() as town:
        body = start_request("pole-1", completionCallbackUrl=url)
        answer = await town.client.post("/agents/start", json=body)
        assert answer.status_code == 400
        assert answer.json()["issues"][0]["path"] == ["completionCallbackUrl"]


async def test_each_active_agent_has_a_heartbeat_every_half_minute_with_its_evidence(town_on_fakes) -> None:
    async with town_on_fakes(kilo=busy) as town:
        await town.start()
        await town.start("pole-1")
        await trio.sleep_until(95)
        beats = sorted(town.worker.asked(BEAT), key=lambda call: call.body["agentId"])
        assert [(call.body["agentId"], call.at) for call in beats] == [
            (agent, at) for agent in ("mayor-1", "pole-1") for at in (30, 60, 90)
        ]
        body = beats[-1].body
        assert beats[-1].path.endswith("/rigs/rig-1/agents/pole-1/heartbeat")
        assert (body["rigId"], body["townId"], body["status"]) == ("rig-1", "oak", "running")
        assert body["timestamp"] == "2030-05-01T12:01:30.000Z"
        assert (body["processAlive"], body["messageCount"], body["activeTools"]) == (True, 2, [])
        assert body["lastEventType"] == "message.part.delta"
        assert body["eventAgeMs"] > 80_000
        assert 0 <= body["lastProbeAgeMs"] <= 10_000
        assert len({call.body["containerInstanceId"] for call in beats}) == 1


async def test_an_agent_that_has_ended_has_no_heartbeat(town_on_fakes) -> None:
    async with town_on_fakes(kilo=busy) as town:
        await town.start("pole-1")
        await trio.sleep_until(31)
        await town.client.post("/agents/pole-1/stop")
        await trio.sleep(300)
        assert len(town.worker.asked(BEAT)) == 1


async def test_heartbeats_of_an_agent_do_not_overlap_and_a_slow_one_delays_no_other(town_on_fakes) -> None:
    async with town_on_fakes(kilo=busy) as town:
        town.worker.delays[BEAT] = 45
        await town.start("pole-1")
        await trio.sleep_until(50)
        await town.start()
        town.worker.delays[BEAT] = 0
        await trio.sleep_until(125)
        by_agent = [(call.body["agentId"], call.at) for call in town.worker.asked(BEAT)]
        assert [at for agent, at in by_agent if agent == "pole-1"] == [30, 90, 120]
        assert [at for agent, at in by_agent if agent == "mayor-1"] == [60, 90, 120]


async def test_a_heartbeat_with_an_expired_token_is_repeated_with_a_fresh_one(town_on_fakes) -> None:
    async with town_on_fakes(kilo=busy) as town:
        await town.start("pole-1")
        await trio.sleep(10)
        town.worker.expired = {town.opened.town.services.credentials.current.container_token.reveal()}
        await trio.sleep_until(31)
        assert [call.bearer for call in town.worker.asked(BEAT)][1:] == ["fresh-1"]
        assert len(town.worker.reports(BEAT)) == 1


@pytest.mark.parametrize("fault", ["down", "garbage", "deaf", "wrong"])
async def test_heartbeats_go_on_whatever_became_of_the_last_one(town_on_fakes, fault: str) -> None:
    async with town_on_fakes(kilo=busy) as town:
        await town.start("pole-1")
        town.worker.garbage = {BEAT} if fault == "garbage" else set()
        town.worker.delays = {BEAT: float("inf")} if fault == "deaf" else {}
        town.worker.drain_nonce = {"not": "a nonce"} if fault == "wrong" else None
        if fault == "down":
            town.worker.down()
        await trio.sleep_until(200)
        town.worker.up()
        town.worker.garbage, town.worker.delays, town.worker.drain_nonce = set(), {}, None
        await trio.sleep_until(320)
        assert [call.at for call in town.worker.answered if call.route == BEAT][-2:] == [270, 300]


async def test_a_nonce_in_the_answer_to_a_heartbeat_is_answered_once(town_on_fakes) -> None:
    async with town_on_fakes(kilo=busy) as town:
        town.worker.drain_nonce = "n-1"
        await town.start()
        await town.start("pole-1")
        await trio.sleep_until(125)
        town.worker.drain_nonce = "n-2"
        await trio.sleep_until(185)
        assert town.worker.reports(READY) == [{"nonce": "n-1"}, {"nonce": "n-2"}]


async def health(town: FakeTown, **headers: str) -> dict[str, Any]:
    answer = await town.client.get("/health", headers={name.replace("_", "-"): v for name, v in headers.items()})
    assert answer.status_code == 200
    return answer.json()


async def test_a_nonce_of_our_town_at_health_is_answered_without_delaying_the_answer(town_on_fakes) -> None:
    async with town_on_fakes() as town:
        town.worker.delays[READY] = 5
        began = trio.current_time()
        for _ in range(2):
            assert (await health(town, X_Drain_Nonce="n-1", X_Town_Id="oak"))["status"] == "ok"
        assert trio.current_time() == began
        await trio.sleep(20)
        assert town.worker.reports(READY) == [{"nonce": "n-1"}]


@pytest.mark.parametrize(
    "headers", [{"X_Drain_Nonce": "n"}, {"X_Drain_Nonce": "n", "X_Town_Id": "elm"}, {"X_Town_Id": "oak"}]
)
async def test_a_nonce_of_nobody_or_of_another_town_is_not_answered(
    town_on_fakes, headers: dict[str, str]
) -> None:
    async with town_on_fakes() as town:
        await health(town, **headers)
        await trio.sleep(20)
        assert town.worker.asked(READY) == []
