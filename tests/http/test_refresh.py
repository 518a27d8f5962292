"""A new container token: live at once, and the agents' servers restarted with it, side by side."""

from __future__ import annotations

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


def tokens(town: FakeTown) -> dict[str, str]:
    """The token of each live server."""
    return {s.spawn.agent_id: s.spec.env["GASTOWN_CONTAINER_TOKEN"] for s in town.kilo.live}


def results(answer: dict[str, Any]) -> dict[str, tuple[bool, bool]]:
    """Success and pending of each agent."""
    return {r["agentId"]: (r["success"], r.get("pending", False)) for r in answer["results"]}


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


async def test_the_answer_lists_every_agent_with_what_became_of_it(town_on_fakes) -> None:
    async with town_on_fakes() as town:
        await start_all(town, ["pole-1", "mayor-1"])
        answer = await refresh(town)
        durations = [result.pop("durationMs") for result in answer["results"]]
        assert answer == {
            "refreshed": True,
            "agentsRestarted": 2,
            "agentsFailed": 0,
            "results": [{"agentId": "mayor-1", "success": True}, {"agentId": "pole-1", "success": True}],
        }
        assert durations == [2500, 5000]


async def test_every_server_has_the_new_token_afterwards(town_on_fakes) -> None:
    async with town_on_fakes() as town:
        await start_all(town, ["pole-1", "pole-2"])
        await refresh(town)
        assert tokens(town) == {"pole-1": "new-token", "pole-2": "new-token"}


async def test_sessions_survive_a_refresh(town_on_fakes) -> None:
    async with town_on_fakes() as town:
        sessions = await start_all(town, ["mayor-1", "pole-1"])
        await refresh(town)
        assert [(await town.status(name))["sessionId"] for name in ("mayor-1", "pole-1")] == sessions


async def test_a_restarted_agent_is_listened_to_and_takes_messages(town_on_fakes) -> None:
    async with town_on_fakes() as town:
        await start_all(town, ["pole-1"])
        await refresh(town)
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
        await refresh(town)
        assert town.kilo.order[before] == "mayor-1"


async def test_the_same_token_again_restarts_nobody(town_on_fakes) -> None:
    async with town_on_fakes() as town:
        await start_all(town, ["pole-1"])
        await refresh(town)
        before = len(town.kilo.spawns)
        answer = await refresh(town)
        assert (answer["results"], len(town.kilo.spawns)) == (
            [{"agentId": "pole-1", "success": True, "durationMs": 0}],
            before,
        )


async def test_a_restart_that_hangs_is_ended_after_6_seconds_and_touches_nobody_else(town_on_fakes) -> None:
    async with town_on_fakes(gastown_spawn_slots=4) as town:
        await start_all(town, ["mayor-1", "pole-1", "pole-2"])
        town.kilo.fate = second_spawn("pole-1", NEVER)
        answer = await refresh(town)
        assert results(answer) == {"mayor-1": (True, False), "pole-1": (False, False), "pole-2": (True, False)}
        assert (answer["agentsRestarted"], answer["agentsFailed"]) == (2, 1)
        failed = answer["results"][1]
        assert failed["error"] == "the new server was not ready after 6 s (phase spawn); the old one goes on"
        assert 6_000 <= failed["durationMs"] < 9_000


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
        answer = await refresh(town)
        assert results(answer) == {"pole-1": (False, False), "pole-2": (True, False)}
        assert next(r["error"] for r in answer["results"] if r["agentId"] == "pole-1") == error


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
        assert results(await refresh(town)) == {"pole-1": (False, False)}
        await trio.sleep(5)
        assert (town.kilo.live, len(town.opened.town.services.pool.servers)) == ([old], 1)
        before = len(await town.events("pole-1"))
        await town.client.post("/agents/pole-1/message", json={"prompt": "still there?"})
        await trio.sleep(5)
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
        assert results(await refresh(town)) == {"pole-1": (False, False)}
        await trio.sleep(5)
        assert (town.kilo.live, len(town.opened.town.services.pool.servers)) == ([old], 1)
        await town.client.post("/agents/pole-1/message", json={"prompt": "still there?"})
        await trio.sleep(5)
        kinds = [event["event"] for event in await town.events("pole-1")]
        assert kinds.count("session.turn.close") == 2


async def test_a_failed_restart_does_not_end_the_turn_of_the_old_server(town_on_fakes) -> None:
    async with town_on_fakes(kilo=partial(FakeLauncher, script=Script(turn_seconds=100))) as town:
        await start_all(town, ["pole-1"])
        town.kilo.fate = second_spawn("pole-1", Fate(1, dies_after=0.1))
        await refresh(town)
        assert await town.condition("pole-1") == "busy"
        await trio.sleep(100)
        closes = [e["data"]["reason"] for e in await town.events("pole-1") if e["event"] == "session.turn.close"]
        assert closes == ["completed"]


async def test_after_a_failed_restart_the_next_refresh_works(town_on_fakes) -> None:
    async with town_on_fakes() as town:
        await start_all(town, ["pole-1"])
        town.kilo.fate = second_spawn("pole-1", NEVER)
        await refresh(town)
        assert results(await refresh(town, "newer-token")) == {"pole-1": (True, False)}
        assert tokens(town) == {"pole-1": "newer-token"}


async def test_who_is_not_ready_after_9_seconds_is_pending_and_goes_on(town_on_fakes) -> None:
    async with town_on_fakes(gastown_spawn_slots=1) as town:
        names = [f"pole-{n}" for n in range(6)]
        await start_all(town, names)
        began = trio.current_time()
        answer = await refresh(town)
        assert round(trio.current_time() - began, 3) == 9
        assert sorted(results(answer).values()) == [(False, True)] * 3 + [(True, False)] * 3
        assert (answer["agentsRestarted"], answer["agentsFailed"]) == (3, 0)
        await trio.sleep(20)
        assert tokens(town) == dict.fromkeys(names, "new-token")


async def test_a_refresh_goes_on_when_its_caller_leaves(town_on_fakes) -> None:
    async with town_on_fakes() as town:
        await start_all(town, ["pole-1"])
        request = town.later(lambda: refresh(town))
        await trio.sleep(1)
        request.leave()
        await trio.sleep(10)
        assert tokens(town) == {"pole-1": "new-token"}


async def test_an_open_turn_is_resumed_by_the_new_server(town_on_fakes) -> None:
    async with town_on_fakes(kilo=partial(FakeLauncher, script=Script(turn_seconds=1000))) as town:
        await start_all(town, ["pole-1"])
        assert results(await refresh(town)) == {"pole-1": (True, False)}
        await trio.sleep(5)
        asked = [a.path.rpartition("/")[2] for a in town.kilo.server("pole-1").kilo.asked if a.method == "POST"]
        assert (asked, await town.condition("pole-1")) == (["resume"], "busy")


async def test_an_agent_that_is_still_starting_gets_the_new_token_too(town_on_fakes) -> None:
    async with town_on_fakes() as town:
        town.start_soon("pole-1")
        await trio.sleep(1)
        assert results(await refresh(town)) == {"pole-1": (True, False)}
        assert tokens(town) == {"pole-1": "new-token"}


@pytest.mark.parametrize("after", [0.0, 1.0, 2.0, 2.1, 2.2, 2.2001, 2.3, 2.5])
async def test_an_agent_that_ends_meanwhile_is_no_failure(town_on_fakes, after: float) -> None:
    async with town_on_fakes(gastown_spawn_slots=4) as town:
        await start_all(town, ["pole-1", "pole-2"])
        request = town.later(lambda: refresh(town))
        await trio.sleep(after)
        await town.client.post("/agents/pole-1/stop", json={})
        assert (await request.result())["agentsFailed"] == 0
        assert tokens(town) == {"pole-2": "new-token"}


async def test_two_refreshes_at_the_same_time_end_with_the_newest_token(town_on_fakes) -> None:
    async with town_on_fakes() as town:
        await start_all(town, ["pole-1", "pole-2"])
        first = town.later(lambda: refresh(town, "one"))
        await trio.sleep(0.5)
        second = town.later(lambda: refresh(town, "two"))
        await first.result()
        await second.result()
        await trio.sleep(10)
        assert tokens(town) == {"pole-1": "two", "pole-2": "two"}


async def test_a_fresh_start_finds_a_slot_while_agents_restart(town_on_fakes) -> None:
    async with town_on_fakes(gastown_spawn_slots=2) as town:
        await start_all(town, [f"pole-{n}" for n in range(4)])
        town.later(lambda: refresh(town))
        await trio.sleep(0.1)
        start = town.start_soon()
        assert ((await start.result()).status_code, round(start.seconds, 1)) == (201, 2.8)
