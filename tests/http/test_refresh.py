"""A new container token is live at once; what is frozen in a server restarts it at the end of its turn."""

from __future__ import annotations

import json
from collections.abc import Iterable
from functools import partial
from typing import Any

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from gastown.concurrency.processes import Exit
from gastown.contract.secret import Secret
from gastown.testing.kilo import Script
from gastown.testing.launchers import FakeLauncher, Fate, Spawn
from gastown.testing.town import FakeTown
from gastown.testing.worker import DeafWorker

pytestmark = pytest.mark.virtual_time

NEVER = Fate(float("inf"))


async def start_all(town: FakeTown, names: Iterable[str]) -> list[str]:
    """Start agents and wait until their first turns have ended; returns their sessions."""
    answers = [await town.start(name) for name in names]
    await trio.sleep(10)
    return [answer.json()["sessionId"] for answer in answers]


async def refresh(town: FakeTown, token: str = "new-token") -> dict[str, Any]:
    answer = await town.client.post("/refresh-token", json={"token": token})
    assert answer.status_code == 200
    return answer.json()


async def rename(town: FakeTown, author: str = "Ada") -> dict[str, dict[str, Any]]:
    """Let commits have another author, which is frozen in each server; what the answer says of each agent."""
    header = {"X-Town-Config": json.dumps({"git_author_name": author})}
    answer = await town.client.post("/sync-config", headers=header)
    return {result["agentId"]: result for result in answer.json()["results"]}


def authors(town: FakeTown) -> dict[str, str]:
    """The author of each live server."""
    return {s.spawn.agent_id: s.spec.env["GIT_AUTHOR_NAME"] for s in town.kilo.live}


def failures(town: FakeTown) -> list[tuple[str, str]]:
    return [(line["agent_id"], line["reason"]) for line in town.logged("agent.restart_failed")]


def second_spawn(agent_id: str, fate: Fate) -> Any:
    """A launcher's fate: `fate` for the second spawn of an agent, the usual one for every other."""

    def of(spawn: Spawn) -> Fate:
        return fate if (spawn.agent_id, spawn.number) == (agent_id, 2) else Fate()

    return of


async def test_the_token_becomes_live_only_after_the_gate(town_on_fakes) -> None:
    async with town_on_fakes(worker=partial(DeafWorker, routes=["GET /container-registry"])) as town:
        live = town.opened.town.services.credentials
        before = live.current
        town.hydrate()
        await wait_all_tasks_blocked()
        request = town.later(lambda: refresh(town))
        await trio.sleep(19)
        assert live.current is before
        await request.result()
        assert (live.current.container_token, trio.current_time()) == (Secret("new-token"), 20)


async def test_the_next_call_to_the_worker_carries_the_new_token(town_on_fakes) -> None:
    async with town_on_fakes() as town:
        await refresh(town)
        await town.start("pole-1")
        await wait_all_tasks_blocked()
        assert {call.bearer for call in town.worker.calls if call.at > 0} == {"new-token"}


@pytest.mark.parametrize("body", [{}, {"token": ""}, {"token": 5}, {"token": "with space"}, {"token": None}, []])
async def test_a_wrong_refresh_changes_nothing(town_on_fakes, body: Any) -> None:
    async with town_on_fakes() as town:
        before = town.opened.town.services.credentials.current
        answer = await town.client.post("/refresh-token", json=body)
        assert (answer.status_code, town.opened.town.services.credentials.current) == (400, before)


async def test_without_agents_there_is_nothing_to_restart(town_on_fakes) -> None:
    async with town_on_fakes() as town:
        assert await refresh(town) == {"refreshed": True, "agentsRestarted": 0, "agentsFailed": 0, "results": []}


async def test_the_answer_lists_every_agent_the_mayor_first(town_on_fakes) -> None:
    async with town_on_fakes() as town:
        await start_all(town, ["pole-1", "mayor-1"])
        live = {"success": True, "durationMs": 0, "mode": "live"}
        assert await refresh(town) == {
            "refreshed": True,
            "agentsRestarted": 0,
            "agentsFailed": 0,
            "results": [{"agentId": name, **live} for name in ("mayor-1", "pole-1")],
        }


async def test_a_refresh_writes_the_registry_again(town_on_fakes) -> None:
    async with town_on_fakes() as town:
        await town.hydrated()
        await start_all(town, ["pole-1"])
        await town.opened.registry.flushed()
        before = len(town.worker.registries)
        await refresh(town)
        await town.opened.registry.flushed()
        assert len(town.worker.registries) == before + 1


async def test_every_server_has_the_new_author_afterwards_and_its_session(town_on_fakes) -> None:
    async with town_on_fakes() as town:
        sessions = await start_all(town, ["mayor-1", "pole-1"])
        answer = await rename(town)
        assert [result["mode"] for result in answer.values()] == ["restart", "restart"]
        await trio.sleep(10)
        assert authors(town) == {"mayor-1": "Ada", "pole-1": "Ada"}
        assert [(await town.status(name))["sessionId"] for name in ("mayor-1", "pole-1")] == sessions


async def test_a_restarted_agent_is_listened_to_and_takes_messages(town_on_fakes) -> None:
    async with town_on_fakes() as town:
        await start_all(town, ["pole-1"])
        await rename(town)
        await trio.sleep(10)
        before = len(await town.events("pole-1"))
        await town.client.post("/agents/pole-1/message", json={"prompt": "and then?"})
        await trio.sleep(5)
        kinds = [event["event"] for event in (await town.events("pole-1"))[before:]]
        assert kinds.count("session.turn.close") == 1
        assert len(town.kilo.server("pole-1").kilo.prompts) == 1


@pytest.mark.parametrize("attempt", range(8))
async def test_the_mayor_goes_first(town_on_fakes, attempt: int) -> None:
    async with town_on_fakes(gastown_spawn_slots=1) as town:
        await start_all(town, ["pole-1", "pole-2", "mayor-1", "pole-3"])
        before = len(town.kilo.spawns)
        await rename(town)
        await trio.sleep(20)
        assert town.kilo.order[before] == "mayor-1"
        assert set(authors(town).values()) == {"Ada"}


async def test_the_same_configuration_again_restarts_nothing(town_on_fakes) -> None:
    async with town_on_fakes() as town:
        await start_all(town, ["pole-1"])
        await rename(town)
        await trio.sleep(10)
        before = len(town.kilo.spawns)
        answer = await rename(town)
        await trio.sleep(10)
        assert (answer["pole-1"]["mode"], len(town.kilo.spawns)) == ("live", before)


async def test_a_restart_that_hangs_is_ended_after_6_seconds_touches_no_other_and_is_tried_again(
    town_on_fakes,
) -> None:
    async with town_on_fakes(gastown_spawn_slots=4) as town:
        await start_all(town, ["mayor-1", "pole-1", "pole-2"])
        town.kilo.fate = second_spawn("pole-1", NEVER)
        await rename(town)
        await trio.sleep(9)
        reason = "the new server was not ready after 6 s (phase spawn); the old one goes on"
        assert failures(town) == [("pole-1", reason)]
        assert authors(town) == {"mayor-1": "Ada", "pole-1": "pole-1 (gastown)", "pole-2": "Ada"}
        await trio.sleep(20)
        assert authors(town)["pole-1"] == "Ada"


@pytest.mark.parametrize(
    ("fate", "error"),
    [
        (Fate(1, Exit(1), ("Error: no",)), "kilo serve exited with code 1; last stderr: Error: no"),
        (Fate(1, stderr=("Killed",), dies_after=0.1), "kilo serve was killed by SIGKILL; last stderr: Killed"),
    ],
)
async def test_a_new_server_that_crashes_fails_its_agent_only(town_on_fakes, fate: Fate, error: str) -> None:
    async with town_on_fakes() as town:
        await start_all(town, ["pole-1", "pole-2"])
        town.kilo.fate = second_spawn("pole-1", fate)
        await rename(town)
        await trio.sleep(20)
        assert failures(town) == [("pole-1", error)]
        assert authors(town) == {"pole-1": "pole-1 (gastown)", "pole-2": "Ada"}


BAD = [
    NEVER,
    Fate(1, Exit(1)),
    Fate(1, dies_after=0.1),
    Fate(1, dies_after=0.2),
    Fate(5.95),
    Fate(7),
]


@pytest.mark.parametrize("fate", BAD, ids=str)
async def test_after_a_failed_restart_the_old_server_serves_and_is_listened_to(town_on_fakes, fate: Fate) -> None:
    async with town_on_fakes() as town:
        (session,) = await start_all(town, ["pole-1"])
        old = town.kilo.server("pole-1")
        town.kilo.fate = second_spawn("pole-1", fate)
        await rename(town)
        await trio.sleep(9)
        assert len(failures(town)) == 1
        assert (town.kilo.live, len(town.opened.town.services.pool.servers)) == ([old], 1)
        before = len(await town.events("pole-1"))
        await town.client.post("/agents/pole-1/message", json={"prompt": "still there?"})
        await trio.sleep(1)
        assert len(await town.events("pole-1")) > before
        status = await town.status("pole-1")
        assert (status["status"], status["sessionId"], status["serverPort"]) == ("running", session, old.port)


@pytest.mark.parametrize(
    "script",
    [
        Script(hangs=frozenset({"GET /global/event"})),
        Script(hangs=frozenset({"GET /session/status"})),
        Script(broken=frozenset({"GET /session/status"})),
    ],
    ids=["no events", "no answer", "a refusal"],
)
async def test_a_new_server_that_cannot_be_used_is_ended_and_the_old_one_goes_on(
    town_on_fakes, script: Script
) -> None:
    async with town_on_fakes() as town:
        await start_all(town, ["pole-1"])
        old = town.kilo.server("pole-1")
        town.kilo.scripts["pole-1"] = script
        await rename(town)
        await trio.sleep(9)
        assert len(failures(town)) == 1
        assert (town.kilo.live, len(town.opened.town.services.pool.servers)) == ([old], 1)
        await town.client.post("/agents/pole-1/message", json={"prompt": "still there?"})
        await trio.sleep(5)
        kinds = [event["event"] for event in await town.events("pole-1")]
        assert kinds.count("session.turn.close") == 2


async def test_after_a_failed_restart_the_next_change_works(town_on_fakes) -> None:
    async with town_on_fakes() as town:
        await start_all(town, ["pole-1"])
        town.kilo.fate = second_spawn("pole-1", Fate(1, Exit(1)))
        await rename(town)
        await trio.sleep(10)
        await rename(town, "Bea")
        await trio.sleep(10)
        assert authors(town) == {"pole-1": "Bea"}


async def test_a_restart_goes_on_when_its_caller_leaves(town_on_fakes) -> None:
    async with town_on_fakes() as town:
        await start_all(town, ["pole-1"])
        request = town.later(lambda: rename(town))
        await trio.sleep(1)
        request.leave()
        await trio.sleep(10)
        assert authors(town) == {"pole-1": "Ada"}


async def test_a_busy_server_is_restarted_at_the_end_of_its_turn(town_on_fakes) -> None:
    async with town_on_fakes(kilo=partial(FakeLauncher, script=Script(turn_seconds=100))) as town:
        await start_all(town, ["pole-1"])
        await rename(town)
        assert await town.condition("pole-1") == "busy"
        await trio.sleep(110)
        closes = [e["data"]["reason"] for e in await town.events("pole-1") if e["event"] == "session.turn.close"]
        assert (closes, authors(town)) == (["completed"], {"pole-1": "Ada"})


@pytest.mark.parametrize("after", [0.0, 1.0, 2.0, 2.1, 2.2, 2.2001, 2.3, 2.5])
async def test_an_agent_that_ends_meanwhile_leaves_no_successor(town_on_fakes, after: float) -> None:
    """Also one that is stopped while its new server waits for the switch."""
    async with town_on_fakes(gastown_spawn_slots=4) as town:
        await start_all(town, ["pole-1", "pole-2"])
        await rename(town)
        await trio.sleep(after)
        await town.client.post("/agents/pole-1/stop", json={})
        await trio.sleep(10)
        assert authors(town) == {"pole-2": "Ada"}


async def test_two_changes_at_the_same_time_end_with_the_newest_one(town_on_fakes) -> None:
    async with town_on_fakes() as town:
        await start_all(town, ["pole-1", "pole-2"])
        await rename(town, "one")
        await trio.sleep(0.5)
        await rename(town, "two")
        await trio.sleep(20)
        assert authors(town) == {"pole-1": "two", "pole-2": "two"}


async def test_a_fresh_start_finds_a_slot_while_agents_restart(town_on_fakes) -> None:
    async with town_on_fakes(gastown_spawn_slots=2) as town:
        await start_all(town, [f"pole-{n}" for n in range(4)])
        await rename(town)
        await trio.sleep(0.1)
        start = town.start_soon()
        assert ((await start.result()).status_code, round(start.seconds, 1)) == (201, 2.8)
