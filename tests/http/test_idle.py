"""What agents do without work: the mayor's people are told, others get their nudges, or exit."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest
import trio

from gastown.testing.kilo import Script
from gastown.testing.launchers import FakeLauncher
from gastown.testing.town import FakeTown

pytestmark = pytest.mark.virtual_time

PENDING, DELIVERED, WAITING = "GET /pending-nudges", "POST /nudge-delivered", "POST /waiting"


def nudge(name: str, mode: str = "wait-idle") -> dict[str, Any]:
    return {"nudge_id": name, "message": f"do {name}", "mode": mode, "priority": "high", "source": "mayor-1"}


def nudged(town: FakeTown, agent_id: str = "pole-1") -> list[str]:
    """The prompts that an agent got beside its first."""
    return [prompt["parts"][0]["text"] for prompt in town.kilo.server(agent_id).kilo.prompts[1:]]


async def state(town: FakeTown, agent_id: str = "pole-1") -> tuple[str, str | None]:
    status = await town.status(agent_id)
    return status["status"], status["exitReason"]


def slow(turn_seconds: float) -> Any:
    return partial(FakeLauncher, script=Script(turn_seconds=turn_seconds))


async def test_each_end_of_the_mayors_work_is_reported_once(town_on_fakes) -> None:
    async with town_on_fakes() as town:
        await town.start()
        await trio.sleep(10)
        await town.client.post("/agents/mayor-1/message", json={"prompt": "and?"})
        await trio.sleep(100)
        first, second = town.worker.asked(WAITING)
        assert first.path.endswith("/rigs/mayor-oak/agents/mayor-1/waiting")
        attempt = town.opened.town.roster.get("mayor-1").attempt
        assert first.body == {"agentId": "mayor-1", "firedAt": "2030-05-01T12:00:04.300Z", "attemptId": attempt}
        assert second.body["firedAt"] > first.body["firedAt"]


async def test_a_turn_that_is_superseded_is_no_end_of_work(town_on_fakes) -> None:
    async with town_on_fakes(kilo=slow(20)) as town:
        await town.start()
        await town.client.post("/agents/mayor-1/message", json={"prompt": "and?"})
        await trio.sleep(100)
        closed = [e["data"]["reason"] for e in await town.events() if e["event"] == "session.turn.close"]
        assert closed == ["superseded", "completed"]
        assert len(town.worker.reports(WAITING)) == 1


async def test_a_waiting_mayor_is_reported_when_the_worker_is_there_again(town_on_fakes) -> None:
    async with town_on_fakes() as town:
        await town.start()
        town.worker.down()
        await trio.sleep(120)
        assert town.worker.reports(WAITING) == []
        town.worker.up()
        await trio.sleep(20)
        assert len(town.worker.reports(WAITING)) == 1


async def test_a_mayor_never_exits_by_idling_and_is_never_nudged(town_on_fakes) -> None:
    async with town_on_fakes() as town:
        town.worker.nudges["mayor-1"] = [nudge("n1")]
        await town.start()
        await trio.sleep(5 * 3600)
        assert await state(town, "mayor-1") == ("running", None)
        assert town.worker.asked(PENDING) == []


async def test_a_resumed_mayor_whose_conversation_is_complete_is_not_reported_as_waiting(town_on_fakes) -> None:
    async with town_on_fakes() as town:
        town.worker.registry = [town.entry("mayor-1")]
        home = town.kilo.home("mayor-1")
        home.session(town.entry("mayor-1")["workdir"], "old")
        await town.hydrated()
        await trio.sleep(100)
        assert await town.condition() == "idle"
        assert town.worker.asked(WAITING) == []


async def test_an_agent_without_work_exits_after_two_minutes_and_says_that_it_has_completed(town_on_fakes) -> None:
    async with town_on_fakes() as town:
        await town.start("pole-1")
        attempt = town.opened.town.roster.get("pole-1").attempt
        ended = trio.current_time() + 2
        await trio.sleep_until(ended + 118)
        assert await state(town) == ("running", None)
        await trio.sleep(5)
        assert await state(town) == ("exited", "idle")
        assert town.worker.reports("POST /completed") == [
            {"agentId": "pole-1", "status": "completed", "reason": "idle", "attemptId": attempt}
        ]


async def test_a_refinery_has_ten_minutes(town_on_fakes) -> None:
    async with town_on_fakes() as town:
        await town.start("ref-1", role="refinery")
        await trio.sleep(590)
        assert await state(town, "ref-1") == ("running", None)
        await trio.sleep(30)
        assert await state(town, "ref-1") == ("exited", "idle")


async def test_the_settings_say_how_long_is_too_long(town_on_fakes) -> None:
    async with town_on_fakes(agent_idle_timeout_ms=20_000, refinery_idle_timeout_ms=40_000) as town:
        await town.start("pole-1")
        await town.start("ref-1", role="refinery", branch="r")
        await trio.sleep(25)
        assert (await state(town))[0] == "exited"
        assert (await state(town, "ref-1"))[0] == "running"
        await trio.sleep(20)
        assert (await state(town, "ref-1"))[0] == "exited"


async def test_an_agent_that_works_does_not_idle_however_long_its_turn_takes(town_on_fakes) -> None:
    async with town_on_fakes(kilo=slow(3600)) as town:
        await town.start("pole-1")
        await trio.sleep(3500)
        assert await state(town) == ("running", None)
        await trio.sleep(100 + 100)
        assert await state(town) == ("running", None)


async def test_a_message_begins_the_clock_anew(town_on_fakes) -> None:
    async with town_on_fakes() as town:
        await town.start("pole-1")
        for _ in range(5):
            await trio.sleep(100)
            assert (await town.client.post("/agents/pole-1/message", json={"prompt": "more"})).status_code == 200
        await trio.sleep(100)
        assert await state(town) == ("running", None)
        await trio.sleep(30)
        assert await state(town) == ("exited", "idle")


async def test_a_message_in_the_last_moment_is_not_lost(town_on_fakes) -> None:
    async with town_on_fakes(kilo=partial(FakeLauncher, script=Script(open_seconds=3))) as town:
        await town.start("pole-1")
        closed = trio.current_time() + 1.5 + 0.5
        await trio.sleep_until(closed + 118)
        answers = []
        for _ in range(30):  # every 0.1 s around the end of the two minutes
            answers.append((await town.client.post("/agents/pole-1/message", json={"prompt": "x"})).status_code)
            await trio.sleep(0.1)
        assert set(answers) == {200}
        assert await state(town) == ("running", None)


async def test_a_prompt_that_is_accepted_while_the_exit_waits_keeps_the_agent(town_on_fakes) -> None:
    """The exit waits for a prompt that is on its way to the server, and is given up when that is accepted."""
    async with town_on_fakes() as town:
        await town.start("pole-1")
        await trio.sleep(100)
        async with town.opened.town.roster.get("pole-1").running().switch:
            message = town.later(lambda: town.client.post("/agents/pole-1/message", json={"prompt": "more"}))
            await trio.sleep(30)
        assert (await message.result()).status_code == 200
        await trio.sleep(10)
        assert await state(town) == ("running", None)


async def test_work_that_came_and_ended_during_the_last_question_begins_the_clock_anew(town_on_fakes) -> None:
    async with town_on_fakes() as town:
        await town.start("pole-1")
        town.worker.delays[PENDING] = 8.0
        await trio.sleep(2 + 120)
        await town.client.post("/agents/pole-1/message", json={"prompt": "more"})
        await trio.sleep(30)
        assert await state(town) == ("running", None)


async def test_a_resumed_agent_whose_conversation_is_complete_is_idle_from_the_beginning(town_on_fakes) -> None:
    async with town_on_fakes() as town:
        town.worker.registry = [town.entry("pole-1")]
        town.kilo.home("pole-1").session(town.entry("pole-1")["workdir"], "old")
        await town.hydrated()
        await trio.sleep(110)
        assert await state(town) == ("running", None)
        await trio.sleep(20)
        assert await state(town) == ("exited", "idle")


async def test_the_most_urgent_nudge_is_delivered_when_work_ends_and_the_next_one_after_it(town_on_fakes) -> None:
    async with town_on_fakes() as town:
        town.worker.nudges["pole-1"] = [nudge("n1"), nudge("n2", "queue")]
        await town.start("pole-1", systemPrompt="be brief")
        await trio.sleep(2)
        assert nudged(town) == ["do n1"]
        await trio.sleep(10)
        assert nudged(town) == ["do n1", "do n2"]
        sent = town.kilo.server("pole-1").kilo.prompts[1]
        assert (sent["model"]["modelID"], sent["system"]) == ("test/large", "be brief")
        assert town.worker.reports(DELIVERED) == [{"nudge_id": "n1"}, {"nudge_id": "n2"}]
        await trio.sleep(130)
        assert await state(town) == ("exited", "idle")


async def test_a_nudge_that_comes_while_an_agent_idles_is_delivered_within_15_seconds(town_on_fakes) -> None:
    async with town_on_fakes() as town:
        await town.start("pole-1")
        await trio.sleep(60)
        town.worker.nudges["pole-1"] = [nudge("n1")]
        await trio.sleep(15.5)
        assert nudged(town) == ["do n1"]


async def test_a_nudge_that_comes_just_before_the_end_is_still_delivered(town_on_fakes) -> None:
    async with town_on_fakes() as town:
        await town.start("pole-1")
        await trio.sleep(2 + 117)
        town.worker.nudges["pole-1"] = [nudge("n1")]
        await trio.sleep(60)
        assert nudged(town) == ["do n1"]


@pytest.mark.parametrize(("mode", "expected"), [("immediate", ["do n1"]), ("wait-idle", []), ("queue", [])])
async def test_only_an_immediate_nudge_is_delivered_into_an_open_turn(
    town_on_fakes, mode: str, expected: list[str]
) -> None:
    async with town_on_fakes(kilo=slow(1000)) as town:
        await town.start("pole-1")
        town.worker.nudges["pole-1"] = [nudge("n1", mode)]
        await trio.sleep(35)
        assert nudged(town) == expected
        await trio.sleep(1000)
        assert nudged(town) == ["do n1"]


async def test_no_nudge_is_delivered_twice_while_the_worker_cannot_be_told(town_on_fakes) -> None:
    async with town_on_fakes() as town:
        town.worker.nudges["pole-1"] = [nudge("n1")]
        town.worker.statuses[DELIVERED] = 503
        await town.start("pole-1")
        await trio.sleep(60)
        await town.client.post("/agents/pole-1/stop")
        await town.start("pole-1")
        await trio.sleep(60)
        assert nudged(town) == []
        prompts = [e["data"]["part"]["text"] for e in await town.events("pole-1") if _is_prompt(e)]
        assert prompts.count("do n1") == 1
        town.worker.statuses.clear()
        await trio.sleep(30)
        assert town.worker.nudges["pole-1"] == []


def _is_prompt(event: dict[str, Any]) -> bool:
    return event["event"] == "message.part.updated" and event["data"]["part"].get("text", "").startswith("do ")


async def test_a_nudge_that_the_server_did_not_take_is_tried_again(town_on_fakes) -> None:
    async with town_on_fakes() as town:
        await town.start("pole-1")
        kilo = town.kilo.server("pole-1").kilo
        session = (await town.status("pole-1"))["sessionId"]
        kilo.script.broken = frozenset({f"POST /session/{session}/prompt_async"})
        town.worker.nudges["pole-1"] = [nudge("n1")]
        await trio.sleep(10)
        assert town.worker.asked(DELIVERED) == []
        kilo.script.broken = frozenset()
        await trio.sleep(15)
        assert nudged(town) == ["do n1"]


@pytest.mark.parametrize("fault", ["down", "deaf", "garbage", "wrong"])
async def test_an_agent_exits_also_when_the_worker_does_not_say_whether_it_has_nudges(
    town_on_fakes, fault: str
) -> None:
    async with town_on_fakes() as town:
        await town.start("pole-1")
        if fault == "down":
            town.worker.down()
        town.worker.delays = {PENDING: float("inf")} if fault == "deaf" else {}
        town.worker.garbage = {PENDING} if fault == "garbage" else set()
        town.worker.nudges["pole-1"] = [{"nudge": "no id"}] if fault == "wrong" else []
        await trio.sleep(140)
        assert await state(town) == ("exited", "idle")


async def test_without_a_worker_an_agent_idles_and_exits_all_the_same(town_on_fakes) -> None:
    async with town_on_fakes(worker=None) as town:
        await town.start("pole-1")
        await trio.sleep(130)
        assert await state(town) == ("exited", "idle")


async def test_a_restart_for_a_new_author_is_neither_an_end_of_work_nor_work(town_on_fakes) -> None:
    async with town_on_fakes(kilo=partial(FakeLauncher, script=Script(open_seconds=4, turn_seconds=100))) as town:
        await town.start()
        await town.start("pole-1")
        await trio.sleep(10)
        town.worker.nudges["pole-1"] = [nudge("n1")]
        author = {"X-Town-Config": '{"git_author_name": "Ada"}'}
        await town.client.post("/sync-config", headers=author)
        await trio.sleep(30)
        assert town.worker.asked(WAITING) == []
        assert len(town.kilo.server("pole-1").kilo.prompts) == 1
        await trio.sleep(150)
        assert len(town.worker.reports(WAITING)) == 1
        servers = [spawn.spec.env["GASTOWN_AGENT_ID"] for spawn in town.kilo.spawns]
        assert servers.count("mayor-1") == 2


async def test_pending_nudges_are_the_workers_to_say(town_on_fakes) -> None:
    async with town_on_fakes(kilo=slow(1000)) as town:
        await town.start("pole-1")
        town.worker.nudges["pole-1"] = [nudge("n1")]
        answer = await town.client.get("/agents/pole-1/pending-nudges")
        assert (answer.status_code, answer.json()) == (200, {"success": True, "data": [nudge("n1")]})
        town.worker.statuses[PENDING] = 418
        answer = await town.client.get("/agents/pole-1/pending-nudges")
        assert (answer.status_code, answer.json()["error"]) == (418, "as told")
        assert (await town.client.get("/agents/nobody/pending-nudges")).status_code == 404


async def test_a_nudge_that_somebody_else_has_delivered_is_not_delivered_again(town_on_fakes) -> None:
    async with town_on_fakes() as town:
        await town.start("pole-1")
        town.worker.nudges["pole-1"] = [nudge("n1")]
        town.worker.statuses[DELIVERED] = 500
        answer = await town.client.post("/agents/pole-1/nudge-delivered", json={"nudge_id": "n1"})
        assert answer.status_code == 500
        await trio.sleep(60)
        assert nudged(town) == []


async def test_nudges_of_a_worker_that_is_away_are_a_502(town_on_fakes) -> None:
    async with town_on_fakes() as town:
        await town.start("pole-1")
        town.worker.down()
        answer = await town.client.get("/agents/pole-1/pending-nudges")
        assert (answer.status_code, answer.json()) == (502, {"error": "The worker API does not answer"})


async def test_without_a_worker_nudges_are_a_503(town_on_fakes) -> None:
    async with town_on_fakes(worker=None) as town:
        await town.start("pole-1")
        for answer in (
            await town.client.get("/agents/pole-1/pending-nudges"),
            await town.client.post("/agents/pole-1/nudge-delivered", json={"nudge_id": "n"}),
        ):
            assert (answer.status_code, answer.json()) == (503, {"error": "Missing gastown configuration"})


async def test_a_nudge_of_an_agent_that_is_not_here_yet_is_not_taken_as_delivered(town_on_fakes) -> None:
    async with town_on_fakes() as town:
        town.worker.nudges["pole-1"] = [{"nudge_id": "n1", "message": "go on"}]
        answer = await town.client.post("/agents/pole-1/nudge-delivered", json={"nudge_id": "n1"})
        assert answer.status_code == 404
        waiting = await town.opened.town.services.nudges.pending("rig-1", "pole-1")
        assert [nudge.nudge_id for nudge in waiting] == ["n1"]
