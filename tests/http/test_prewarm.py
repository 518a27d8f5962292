"""Starting the mayor's server before anybody asks for the mayor."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest
import trio

from gastown.testing.launchers import CrashingKilo, NeverKilo, SlowKilo

pytestmark = pytest.mark.virtual_time

REGISTRY, MAYOR, REFRESH = "GET /container-registry", "GET /mayor-id", "POST /refresh-container-token"


async def test_the_mayor_is_prewarmed_alone_and_before_every_resume(town_on_fakes) -> None:
    async with town_on_fakes(gastown_spawn_slots=4) as town:
        town.mayor_known()
        town.worker.registry = [town.entry(f"pole-{n}") for n in range(3)]
        await town.hydrated()
        first, *others = town.kilo.spawns
        assert first.agent_id == "mayor-1"
        assert all(spawn.began >= first.listened for spawn in others)


async def test_the_prewarm_is_reported_with_its_duration(town_on_fakes) -> None:
    async with town_on_fakes() as town:
        town.mayor_known()
        await town.hydrated()
        await trio.testing.wait_all_tasks_blocked()
        assert town.worker.events == [
            {
                "event": "mayor.prewarm_complete",
                "townId": "oak",
                "agentId": "mayor-1",
                "role": "mayor",
                "durationMs": 2200,
            }
        ]
        health = await town.health()
        assert (health["mayorReadyAt"], health["servers"]) == ("2030-05-01T12:00:02.200Z", 1)


@pytest.mark.parametrize(
    ("changes", "missing"),
    [
        ({"model": ...}, "model"),
        ({"kilocodeToken": ...}, "token"),
        ({"agentId": None}, "agent"),
        ({"model": "", "kilocodeToken": ...}, "model and no token"),
    ],
)
async def test_a_mayor_without_model_token_or_agent_is_not_prewarmed(
    town_on_fakes, changes: dict[str, Any], missing: str
) -> None:
    async with town_on_fakes() as town:
        town.mayor_known(**changes)
        await town.hydrated()
        hydration = (await town.health())["hydration"]
        assert (hydration["prewarm"], town.kilo.spawns) == (f"skipped: the mayor context has no {missing}", [])
        assert hydration["state"] == "complete"


@pytest.mark.parametrize(("told", "expected"), [(None, None), (..., "of-the-environment"), ("org-1", "org-1")])
async def test_a_null_organisation_is_final_and_an_absent_one_leaves_it_to_the_environment(
    town_on_fakes, told: Any, expected: str | None
) -> None:
    async with town_on_fakes(gastown_organization_id="of-the-environment") as town:
        town.mayor_known(organizationId=told)
        await town.hydrated()
        bearer = town.kilo.spawns[0].spec.env["KILOCODE_TOKEN"]
        assert town.opened.town.services.broker.grants.find(bearer).access.gateway().organization == expected


@pytest.mark.parametrize("fault", ["status", "garbage", "unusable"])
async def test_a_mayor_context_that_cannot_be_had_costs_the_prewarm_only(town_on_fakes, fault: str) -> None:
    async with town_on_fakes() as town:
        if fault == "status":
            town.worker.statuses[MAYOR] = 500
        elif fault == "garbage":
            town.worker.garbage.add(MAYOR)
        else:
            town.worker.mayor = {"success": True, "agentId": "../evil"}
        town.worker.registry = [town.entry("pole-1")]
        await town.hydrated()
        health = await town.health()
        assert (health["status"], health["hydration"]["resumed"]) == ("ok", 1)
        assert health["hydration"]["prewarm"].startswith("failed: WorkerError: ")


async def test_a_prewarm_that_fails_costs_nothing_else(town_on_fakes) -> None:
    async with town_on_fakes(kilo=partial(CrashingKilo, times=1)) as town:
        town.mayor_known()
        await town.hydrated()
        health = await town.health()
        assert (health["status"], health["hydration"]["gate"], health["servers"]) == ("ok", "open", 0)
        assert health["hydration"]["prewarm"].startswith("failed: ServerDied: kilo serve exited with code 1")
        assert (await town.start()).status_code == 201


async def test_a_prewarm_that_never_listens_is_ended_after_its_30_seconds(town_on_fakes) -> None:
    async with town_on_fakes(kilo=NeverKilo) as town:
        town.mayor_known()
        await town.hydrated()
        assert "SpawnTimedOut" in (await town.health())["hydration"]["prewarm"]
        assert (town.kilo.spawns[0].ended_by_cancel, round(trio.current_time(), 1)) == (True, 30.3)


async def test_a_prewarmed_mayor_without_its_tools_is_not_ready(town_on_fakes) -> None:
    async with town_on_fakes(gastown_mayor_tools=("gt_sling", "gt_missing")) as town:
        town.mayor_known()
        await town.hydrated()
        health = await town.health()
        assert (
            health["hydration"]["prewarm"] == "failed: NotReady: kilo serve came up without the tools gt_missing"
        )
        assert ("mayorReadyAt" in health, health["servers"]) == (False, 0)
        assert health["refused"] == [{"agentId": "mayor-1", "missing": ["gt_missing"]}]
        assert town.logged("server.refused")[0]["missing"] == ["gt_missing"]
        refused = await town.start()
        assert (refused.status_code, "gt_missing" in refused.json()["error"]) == (500, True)
        told = [event for event in town.worker.events if event["event"] == "agent.tools_missing"]
        assert [(event["agentId"], event["missing"]) for event in told] == [("mayor-1", ["gt_missing"])] * 2
        town.kilo.script.tools += ("gt_missing",)
        assert (await town.start()).status_code == 201
        assert "refused" not in await town.health()


async def test_a_start_that_comes_while_the_prewarm_goes_on_takes_its_server_over(town_on_fakes) -> None:
    async with town_on_fakes(kilo=SlowKilo) as town:
        town.mayor_known()
        town.hydrate()
        await trio.sleep(1)
        start = town.start_soon()
        assert ((await start.result()).status_code, town.kilo.order) == (201, ["mayor-1"])
        assert round(trio.current_time(), 1) == 25.8


async def test_a_mayor_that_is_started_through_an_open_gate_before_its_prewarm_holds_nobody_up(
    town_on_fakes,
) -> None:
    async with town_on_fakes(gastown_gate_seconds=2) as town:
        town.mayor_known()
        town.worker.delays[MAYOR] = 9
        town.worker.registry = [town.entry("pole-1")]
        town.hydrate()
        assert (await town.start()).status_code == 201
        await trio.sleep(60)
        hydration = (await town.health())["hydration"]
        assert (hydration["state"], hydration["resumed"]) == ("complete", 1)
        assert hydration["prewarm"] == "skipped: the mayor has been started already"
        assert town.kilo.order == ["mayor-1", "pole-1"]
