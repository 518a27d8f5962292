"""Starting an agent: the answer, the order of the checks, the gate and the deadline."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from gastown.concurrency.slots import Priority
from gastown.testing.kilo import Script
from gastown.testing.launchers import FakeLauncher, Fate, NeverKilo
from gastown.testing.town import FakeTown
from gastown.testing.worker import DeafWorker

pytestmark = pytest.mark.virtual_time

REGISTRY = "GET /container-registry"
CONFIG = {"X-Town-Config": json.dumps({"kilocode_token": "newer", "env_vars": {"COLOUR": "green"}})}
deaf_registry = partial(DeafWorker, routes=[REGISTRY])


async def close_gate(town: FakeTown) -> trio.CancelScope:
    """Begin a hydration that goes on until the deadline of the gate, or until it is cancelled."""
    scope = town.hydrate()
    await wait_all_tasks_blocked()
    assert not town.opened.town.gate.is_open
    return scope


def generation(town: FakeTown) -> int:
    return town.opened.town.services.credentials.current.generation


async def test_a_started_agent_is_answered_with_exactly_the_contracts_keys(town_on_fakes) -> None:
    async with town_on_fakes() as town:
        answer = await town.start("pole-1")
        body = answer.json()
        assert answer.status_code == 201
        assert body == {
            "agentId": "pole-1",
            "rigId": "rig-1",
            "townId": "oak",
            "role": "polecat",
            "name": "pole-1",
            "status": "running",
            "serverPort": 34000,
            "sessionId": "ses_pole-1_1",
            "workdir": f"{town.settings.gastown_workspace_root}/rig-1/worktrees/work-pole-1",
            "startedAt": "2030-05-01T12:00:00.000Z",
            "lastActivityAt": "2030-05-01T12:00:02.800Z",
            "lastEventType": "message.part.delta",
            "lastEventAt": "2030-05-01T12:00:02.800Z",
            "activeTools": [],
            "messageCount": 2,
            "exitReason": None,
            "model": "test/large",
            "organizationId": None,
        }


async def test_a_start_does_not_wait_for_the_turn_to_end(town_on_fakes) -> None:
    async with town_on_fakes(kilo=partial(FakeLauncher, script=Script(turn_seconds=3600))) as town:
        assert (await town.start()).status_code == 201
        assert await town.condition() == "busy"


async def test_a_model_that_still_thinks_after_a_second_is_a_success(town_on_fakes) -> None:
    async with town_on_fakes(kilo=partial(FakeLauncher, script=Script(word_seconds=50, turn_seconds=60))) as town:
        assert ((await town.start()).status_code, round(trio.current_time(), 1)) == (201, 3.3)


async def test_the_start_of_a_prewarmed_mayor_spawns_nothing(town_on_fakes) -> None:
    async with town_on_fakes() as town:
        town.mayor_known()
        await town.hydrated()
        began = trio.current_time()
        answer = await town.start()
        assert (answer.status_code, town.kilo.order) == (201, ["mayor-1"])
        assert round(trio.current_time() - began, 1) == 0.6


async def test_the_prompt_is_sent_with_its_model_and_a_mayors_system_prompt_is_a_file(town_on_fakes) -> None:
    async with town_on_fakes() as town:
        workdir = (await town.start(prompt="Hello", systemPrompt="Be kind")).json()["workdir"]
        (prompt,) = town.kilo.server("mayor-1").kilo.prompts
        assert (prompt["parts"], prompt["model"], "system" in prompt) == (
            [{"type": "text", "text": "Hello"}],
            {"providerID": "kilo", "modelID": "test/large"},
            False,
        )
        assert await trio.Path(workdir, "AGENTS.md").read_text() == "Be kind"


async def test_a_polecats_system_prompt_goes_with_the_prompt(town_on_fakes) -> None:
    async with town_on_fakes() as town:
        await town.start("pole-1", systemPrompt="Be quick")
        assert town.kilo.server("pole-1").kilo.prompts[0]["system"] == "Be quick"


async def test_a_mayor_goes_on_with_the_newest_session_of_its_directory(town_on_fakes) -> None:
    async with town_on_fakes() as town:
        home = town.kilo.home("mayor-1")
        workdir = f"{town.settings.gastown_workspace_root}/mayor-oak/mayor-workspace"
        _, newest, _ = (home.session(where, "s") for where in (workdir, workdir, "/elsewhere"))
        assert (await town.start()).json()["sessionId"] == newest.id


async def test_a_polecat_gets_a_session_of_its_own(town_on_fakes) -> None:
    async with town_on_fakes() as town:
        workdir = f"{town.settings.gastown_workspace_root}/rig-1/worktrees/work-pole-1"
        old = town.kilo.home("pole-1").session(workdir, "old")
        assert (await town.start("pole-1")).json()["sessionId"] != old.id


async def test_a_body_that_is_wrong_is_told_before_anything_else(town_on_fakes) -> None:
    async with town_on_fakes(worker=deaf_registry) as town:
        await close_gate(town)
        town.opened.town.drain.ask("a test")
        answer = await town.client.post("/agents/start", json={"agentId": "x"})
        assert (answer.status_code, trio.current_time()) == (400, 0)


async def test_a_draining_container_says_so_without_waiting_at_the_gate(town_on_fakes) -> None:
    async with town_on_fakes(worker=deaf_registry) as town:
        await close_gate(town)
        town.opened.town.drain.ask("a test")
        answer = await town.start()
        assert (answer.status_code, answer.json(), trio.current_time()) == (
            503,
            {"error": "Container is draining, cannot start new agents"},
            0,
        )


async def test_a_good_start_waits_at_the_gate(town_on_fakes) -> None:
    async with town_on_fakes(worker=deaf_registry) as town:
        await close_gate(town)
        assert (await town.start("pole-1")).status_code == 201
        assert town.kilo.spawns[0].began == 20


async def test_a_start_at_the_gate_is_refused_when_the_drain_has_begun_meanwhile(town_on_fakes) -> None:
    async with town_on_fakes(worker=deaf_registry) as town:
        hydrating = await close_gate(town)
        start = town.start_soon()
        await trio.sleep(5)
        town.opened.town.drain.ask("a test")
        hydrating.cancel()
        answer = await start.result()
        assert (answer.status_code, start.seconds, town.kilo.spawns) == (503, 5, [])


async def test_a_start_changes_nothing_live_before_the_gate(town_on_fakes) -> None:
    async with town_on_fakes(worker=deaf_registry) as town:
        await close_gate(town)
        before = generation(town)
        start = town.start_soon("pole-1", headers=CONFIG)
        await trio.sleep(10)
        assert (generation(town), (await town.health())["agents"]) == (before, 0)
        await start.result()
        assert generation(town) == before + 1
        assert town.opened.town.services.credentials.current.town.env_vars["COLOUR"].reveal() == "green"


async def test_a_refused_start_leaves_the_config_as_it_was(town_on_fakes) -> None:
    async with town_on_fakes() as town:
        town.opened.town.drain.ask("a test")
        before = generation(town)
        await town.start(headers=CONFIG)
        await town.client.post("/agents/start", json={}, headers=CONFIG)
        assert generation(town) == before


@pytest.mark.parametrize(
    ("agent_id", "body", "status"),
    [("nobody", {"model": "m"}, 404), ("pole-1", {"model": ""}, 400), ("nobody", {}, 400)],
)
async def test_a_wrong_change_of_model_is_told_before_the_gate(
    town_on_fakes, agent_id: str, body: dict[str, Any], status: int
) -> None:
    async with town_on_fakes(worker=deaf_registry) as town:
        await town.start("pole-1")
        await close_gate(town)
        began = trio.current_time()
        answer = await town.client.patch(f"/agents/{agent_id}/model", json=body)
        assert (answer.status_code, trio.current_time()) == (status, began)


async def test_a_change_of_model_changes_nothing_live_before_the_gate(town_on_fakes) -> None:
    async with town_on_fakes(worker=deaf_registry) as town:
        await town.start("pole-1")
        await close_gate(town)
        before, agent = generation(town), town.opened.town.roster.get("pole-1")
        patch = town.later(
            lambda: town.client.patch("/agents/pole-1/model", json={"model": "test/small"}, headers=CONFIG)
        )
        await trio.sleep(10)
        assert (generation(town), agent.request.model) == (before, "test/large")
        assert (await patch.result()).status_code == 200
        assert (generation(town), agent.request.model) == (before + 1, "test/small")


async def stuck_at_the_gate(town: FakeTown) -> None:
    await close_gate(town)


async def stuck_in_the_queue(town: FakeTown) -> None:
    await town.opened.town.services.pool.slots.take(Priority.INTERACTIVE)


async def stuck_in_the_spawn(town: FakeTown) -> None:
    town.kilo.fate = NeverKilo(town.network).fate


def hanging(*routes: str) -> Callable[[FakeTown], Any]:
    async def stuck(town: FakeTown) -> None:
        town.kilo.script = Script(hangs=frozenset(routes))

    return stuck


async def stuck_in_the_prompt(town: FakeTown) -> None:
    town.kilo.script = Script(never_opens_turn=True)


async def test_a_prompt_that_kilo_stored_and_forgot_is_sent_again_and_stored_once(town_on_fakes) -> None:
    async with town_on_fakes() as town:
        town.kilo.script = Script(loses=1)
        begun = trio.current_time()
        assert (await town.start("pole-1")).status_code == 201
        assert 5 < trio.current_time() - begun < 10
        kilo = town.kilo.server("pole-1").kilo
        _, again = kilo.prompts
        [session] = kilo.home.sessions.values()
        [asked] = [message for message in session.messages if message["role"] == "user"]
        assert again["messageID"] == asked["id"]


STUCK = {
    "gate": stuck_at_the_gate,
    "queue": stuck_in_the_queue,
    "spawn": stuck_in_the_spawn,
    "instance": hanging("GET /experimental/tool/ids"),
    "session": hanging("POST /session"),
    "events": hanging("GET /global/event"),
    "initial_prompt": stuck_in_the_prompt,
}


@pytest.mark.parametrize("phase", STUCK)
async def test_a_start_that_is_stuck_is_ended_after_58_seconds_and_its_phase_is_named(
    town_on_fakes, phase: str
) -> None:
    more = {"gastown_gate_seconds": 100.0, "gastown_spawn_seconds": 100.0, "gastown_spawn_slots": 1}
    async with town_on_fakes(worker=deaf_registry, **more) as town:
        await STUCK[phase](town)
        start = town.start_soon("pole-1")
        answer = await start.result()
        assert (answer.status_code, start.seconds) == (504, 58)
        assert answer.json() == {
            "error": f"Agent pole-1 was not ready after 58 s; it was in phase {phase} and has been ended",
            "phase": phase,
        }
        await trio.sleep(5)
        health = await town.health()
        in_use = town.opened.town.services.pool.slots.in_use - (phase == "queue")
        assert (town.kilo.live, health["agents"], health["servers"], in_use) == ([], 0, 0, 0)


async def test_a_start_that_waits_for_a_prewarm_that_hangs_says_that_it_waits(town_on_fakes) -> None:
    async with town_on_fakes(gastown_spawn_seconds=100.0) as town:
        town.mayor_known()
        town.kilo.fate = NeverKilo(town.network).fate
        town.hydrate()
        await trio.sleep(1)
        start = town.start_soon()
        answer = await start.result()
        assert (answer.status_code, answer.json()["phase"], start.seconds) == (504, "queue", 58)


async def test_after_a_start_that_was_too_late_the_next_one_works(town_on_fakes) -> None:
    async with town_on_fakes(gastown_spawn_seconds=100.0) as town:
        town.kilo.fate = lambda spawn: Fate(float("inf") if spawn.number == 1 else 2)
        assert (await town.start()).status_code == 504
        assert (await town.start()).status_code == 201


async def test_a_spawn_has_30_seconds_also_where_the_start_has_more(town_on_fakes) -> None:
    async with town_on_fakes(kilo=NeverKilo) as town:
        start = town.start_soon()
        answer = await start.result()
        assert (answer.status_code, answer.json()["phase"], answer.json()["error_type"]) == (
            500,
            "spawn",
            "SpawnTimedOut",
        )
        assert 30 <= start.seconds < 31


async def test_a_client_that_leaves_does_not_stop_the_start(town_on_fakes) -> None:
    async with town_on_fakes() as town:
        start = town.start_soon("pole-1")
        await trio.sleep(1)
        start.leave()
        await trio.sleep(10)
        assert (await town.status("pole-1"))["status"] == "running"


async def test_a_client_that_leaves_at_the_gate_has_started_nothing(town_on_fakes) -> None:
    async with town_on_fakes(worker=deaf_registry) as town:
        await close_gate(town)
        start = town.start_soon("pole-1")
        await trio.sleep(1)
        start.leave()
        await trio.sleep(40)
        assert ((await town.client.get("/agents/pole-1/status")).status_code, town.kilo.spawns) == (404, [])


async def test_starts_of_many_agents_come_up_side_by_side_as_slots_allow(town_on_fakes) -> None:
    async with town_on_fakes(gastown_spawn_slots=3) as town:
        starts = [town.start_soon(f"pole-{n}") for n in range(7)]
        assert [(await start.result()).status_code for start in starts] == [201] * 7
        assert (town.kilo.peak, len(town.kilo.live)) == (3, 7)


async def test_a_mayors_start_goes_before_the_resumes_that_wait(town_on_fakes) -> None:
    async with town_on_fakes(gastown_spawn_slots=1) as town:
        town.worker.registry = [town.entry(f"pole-{n}") for n in range(4)]
        town.hydrate()
        await trio.sleep(0.5)
        assert (await town.start()).status_code == 201
        assert town.kilo.order.index("mayor-1") == 1


@pytest.mark.parametrize(
    ("labels", "elapsed"), [(["db_hydrated", "sdk_ready", "session_created"], [0, 2200, 2200])]
)
async def test_the_phases_of_a_start_are_told_to_the_worker(
    town_on_fakes, labels: list[str], elapsed: list[int]
) -> None:
    async with town_on_fakes() as town:
        await town.start("pole-1")
        await wait_all_tasks_blocked()
        told = [event for event in town.worker.events if event["event"] == "agent.startup_phase"]
        assert ([event["label"] for event in told], [event["elapsedMs"] for event in told]) == (labels, elapsed)
        assert {(event["agentId"], event["role"], event["townId"]) for event in told} == {
            ("pole-1", "polecat", "oak")
        }
