"""Ending an agent in any state, and a newer start of the same agent."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest
import structlog
import trio

from gastown.testing.kilo import Script
from gastown.testing.launchers import FakeLauncher, NeverKilo
from gastown.testing.town import FakeTown

pytestmark = pytest.mark.virtual_time


async def stop(town: FakeTown, agent_id: str = "pole-1") -> Any:
    return await town.client.post(f"/agents/{agent_id}/stop", json={"reason": "whatever"})


def nothing_left(town: FakeTown) -> tuple[Any, ...]:
    pool = town.opened.town.services.pool
    return (town.kilo.live, pool.servers, pool.slots.in_use, pool.slots.waiting)


NOTHING = ([], (), 0, 0)


async def test_a_running_agent_is_stopped_and_nothing_of_it_is_left(town_on_fakes) -> None:
    async with town_on_fakes() as town:
        await town.start("pole-1")
        answer = await stop(town)
        assert (answer.status_code, answer.json()) == (200, {"stopped": True, "leftovers": []})
        status = await town.status("pole-1")
        assert (status["status"], status["exitReason"], nothing_left(town)) == ("exited", "stopped", NOTHING)


@pytest.mark.parametrize("after", [0.0, 0.001, 0.5, 1.9, 2.0, 2.1, 2.2, 2.25, 2.3, 2.5, 2.8, 2.81])
async def test_an_agent_that_is_starting_can_be_stopped_at_any_moment(town_on_fakes, after: float) -> None:
    async with town_on_fakes() as town:
        start = town.start_soon("pole-1")
        await trio.sleep(after)
        await trio.testing.wait_all_tasks_blocked()
        answer = await stop(town)
        assert (answer.status_code, nothing_left(town)) == (200, NOTHING)
        started = await start.result()
        if after < 2.8:
            assert (started.status_code, started.json()["error"]) == (
                500,
                "Agent pole-1 was ended during its start: stopped",
            )
        assert (await town.status("pole-1"))["status"] == "exited"


async def test_an_agent_whose_server_never_comes_up_can_be_stopped(town_on_fakes) -> None:
    async with town_on_fakes(kilo=NeverKilo) as town:
        town.start_soon("pole-1")
        await trio.sleep(5)
        await stop(town)
        assert (town.kilo.spawns[0].ended_by_cancel, nothing_left(town)) == (True, NOTHING)


async def test_an_agent_in_the_queue_gives_up_its_place(town_on_fakes) -> None:
    async with town_on_fakes(gastown_spawn_slots=1) as town:
        town.start_soon("pole-2")
        await trio.sleep(0.5)
        town.start_soon("pole-1")
        await trio.sleep(0.5)
        await stop(town)
        await trio.sleep(5)
        assert town.kilo.order == ["pole-2"]


async def test_stopping_twice_is_stopping_once(town_on_fakes) -> None:
    async with town_on_fakes() as town:
        await town.start("pole-1")
        answers = [(await stop(town)).json() for _ in range(3)]
        assert answers == [{"stopped": True, "leftovers": []}] * 3


async def test_two_who_stop_at_the_same_time_both_wait_for_the_end(town_on_fakes) -> None:
    async with town_on_fakes() as town:
        await town.start("pole-1")
        stops = [town.later(lambda: stop(town)) for _ in range(2)]
        assert [((await s.result()).status_code, round(s.seconds, 1)) for s in stops] == [(200, 0.3)] * 2


async def test_a_failed_agent_can_be_stopped(town_on_fakes) -> None:
    async with town_on_fakes(kilo=partial(FakeLauncher, script=Script(status=401))) as town:
        await town.start("pole-1")
        assert (await stop(town)).status_code == 200
        assert (await town.status("pole-1"))["status"] == "failed"


async def test_an_agent_that_waits_for_its_turn_after_the_boot_can_be_stopped(town_on_fakes) -> None:
    async with town_on_fakes(gastown_spawn_slots=1) as town:
        town.worker.registry = [town.entry("pole-1"), town.entry("pole-2"), town.entry("pole-3")]
        town.hydrate()
        await trio.sleep(0.5)
        for agent in ("pole-1", "pole-2", "pole-3"):
            assert (await stop(town, agent)).status_code == 200
        assert nothing_left(town) == NOTHING
        await trio.sleep(1)
        assert (await town.health())["hydration"]["state"] == "complete"


async def test_an_unknown_agent_cannot_be_stopped(town_on_fakes) -> None:
    async with town_on_fakes() as town:
        answer = await stop(town, "nobody")
        assert (answer.status_code, answer.json()) == (404, {"error": "Agent nobody not found"})


async def test_stopping_one_agent_does_not_touch_another(town_on_fakes) -> None:
    async with town_on_fakes() as town:
        await town.start("pole-1")
        await town.start("pole-2")
        await stop(town)
        assert (await town.status("pole-2"))["status"] == "running"


async def test_a_stopped_agent_is_not_in_the_registry_any_more(town_on_fakes) -> None:
    async with town_on_fakes() as town:
        await town.start("pole-1")
        await stop(town)
        await town.opened.registry.flushed()
        written = [[entry["agentId"] for entry in registry] for registry in town.worker.registries]
        assert (["pole-1"] in written, written[-1]) == (True, [])


async def test_a_mayors_prewarmed_server_goes_with_the_mayor(town_on_fakes) -> None:
    async with town_on_fakes() as town:
        town.mayor_known()
        await town.hydrated()
        start = town.start_soon()
        await trio.testing.wait_all_tasks_blocked()
        await stop(town, "mayor-1")
        await start.result()
        assert nothing_left(town) == NOTHING


async def test_a_stopped_agent_can_be_started_again(town_on_fakes) -> None:
    async with town_on_fakes() as town:
        for _ in range(2):
            assert (await town.start("pole-1")).status_code == 201
            await stop(town)
        assert town.kilo.order == ["pole-1", "pole-1"]


async def test_a_newer_start_replaces_a_running_agent(town_on_fakes) -> None:
    async with town_on_fakes() as town:
        await town.start("pole-1", prompt="first", name="One")
        answer = await town.start("pole-1", prompt="second", name="Two")
        assert (answer.status_code, answer.json()["name"]) == (201, "Two")
        health = await town.health()
        assert (health["agents"], health["servers"]) == (1, 1)


async def test_a_newer_start_of_equal_spec_takes_over_the_server(town_on_fakes) -> None:
    async with town_on_fakes() as town:
        await town.start(prompt="first")
        answer = await town.start(prompt="second")
        assert (answer.status_code, town.kilo.order) == (201, ["mayor-1"])


async def test_the_open_turn_of_a_replaced_agent_is_ended(town_on_fakes) -> None:
    async with town_on_fakes(kilo=partial(FakeLauncher, script=Script(turn_seconds=1000))) as town:
        await town.start(prompt="first")
        await town.start(prompt="second")
        kilo = town.kilo.server("mayor-1").kilo
        assert [asked.path.rpartition("/")[2] for asked in kilo.asked].count("abort") == 1


@pytest.mark.parametrize("after", [0.0, 0.5, 2.0, 2.1, 2.25, 2.5])
async def test_a_newer_start_replaces_one_that_is_still_starting(town_on_fakes, after: float) -> None:
    async with town_on_fakes() as town:
        first = town.start_soon("pole-1", prompt="first")
        await trio.sleep(after)
        await trio.testing.wait_all_tasks_blocked()
        second = await town.start("pole-1", prompt="second", name="Two")
        replaced = await first.result()
        assert (replaced.status_code, replaced.json()["error"]) == (
            409,
            "Agent pole-1: a newer start replaced this one",
        )
        assert (second.status_code, second.json()["name"]) == (201, "Two")
        assert [server.spawn.agent_id for server in town.kilo.live] == ["pole-1"]


async def test_of_three_starts_in_a_row_the_last_one_stays(town_on_fakes) -> None:
    async with town_on_fakes() as town:
        starts = []
        for number in range(3):
            starts.append(town.start_soon("pole-1", name=f"N{number}"))
            await trio.sleep(0.2)
        assert [(await start.result()).status_code for start in starts] == [409, 409, 201]
        assert (town.opened.town.roster.get("pole-1").request.name, len(town.kilo.live)) == ("N2", 1)
        assert town.kilo.peak == 1


async def test_of_many_starts_at_the_same_time_exactly_one_stays(town_on_fakes) -> None:
    async with town_on_fakes() as town:
        starts = [town.start_soon("pole-1", name=f"N{number}") for number in range(6)]
        assert sorted([(await start.result()).status_code for start in starts]) == [201, 409, 409, 409, 409, 409]
        health = await town.health()
        assert (health["agents"], health["servers"], len(town.kilo.live)) == (1, 1, 1)


async def test_stopping_ends_also_a_start_that_waits_for_the_one_it_replaces(town_on_fakes) -> None:
    async with town_on_fakes() as town:
        town.start_soon("pole-1", prompt="first")
        await trio.sleep(1)
        second = town.start_soon("pole-1", prompt="second", name="Two")
        await trio.testing.wait_all_tasks_blocked()
        await stop(town)
        assert (await second.result()).status_code == 500
        assert nothing_left(town) == NOTHING


async def test_a_message_to_an_agent_that_is_not_running_is_refused(town_on_fakes) -> None:
    async with town_on_fakes() as town:
        await town.start("pole-1")
        await stop(town)
        answer = await town.client.post("/agents/pole-1/message", json={"prompt": "still there?"})
        assert (answer.status_code, answer.json()) == (
            409,
            {"error": "Agent pole-1 is exited, not running", "status": "exited"},
        )


async def test_a_message_is_a_prompt_with_the_agents_model_and_system_text(town_on_fakes) -> None:
    async with town_on_fakes() as town:
        await town.start("pole-1", systemPrompt="Be quick")
        await town.client.post("/agents/pole-1/message", json={"prompt": "and then?"})
        prompt = town.kilo.server("pole-1").kilo.prompts[-1]
        assert (prompt["parts"][0]["text"], prompt["model"]["modelID"], prompt["system"]) == (
            "and then?",
            "test/large",
            "Be quick",
        )


@pytest.mark.parametrize("part", ["pool.discard", "users.release", "snapshots.save"])
async def test_an_agent_ends_and_the_town_goes_on_whatever_fails_of_its_cleanup(
    town_on_fakes, monkeypatch, part: str
) -> None:
    async def fail(*_arguments: Any) -> None:
        raise BlockingIOError(11, "no more processes")

    service, method = part.split(".")
    async with town_on_fakes() as town:
        await town.start("pole-1")
        with monkeypatch.context() as patch:
            patch.setattr(type(getattr(town.opened.town.services, service)), method, fail)
            with structlog.testing.capture_logs() as logs:
                answer = await stop(town)
        assert (answer.status_code, (await town.status("pole-1"))["status"]) == (200, "exited")
        assert [line["agent_id"] for line in logs if line["event"] == "agent.cleanup_failed"] == ["pole-1"]
        assert (await town.start("pole-1")).status_code == 201
