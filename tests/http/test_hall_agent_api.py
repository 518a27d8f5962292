"""The hall's routes for what agents do: events, heartbeats, nudges."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeVar

import httpx2
import pytest
import trio

from gastown.hall.domain.town import RigRecord
from gastown.hall.hall import Hall, HallOptions, open_hall
from gastown.hall.store import rig_agents
from gastown.hall.store.transaction import Transaction
from gastown.testing.hall import agent_events, heartbeats

NOW = datetime(2030, 5, 1, 12, tzinfo=UTC)
EVENTS, BATCH = "/rigs/r1/agent-events", "/rigs/r1/agent-events/batch"
BEAT = "/rigs/r1/agents/pole-1/heartbeat"
PENDING, DELIVERED = "/rigs/r1/agents/pole-1/pending-nudges", "/rigs/r1/agents/pole-1/nudge-delivered"
T = TypeVar("T")


class Town:
    """A hall, a container's way to it, and a look into its memory."""

    def __init__(self, hall: Hall, client: httpx2.AsyncClient, token: str) -> None:
        self.hall = hall
        self._client = client
        self._headers = {"Authorization": f"Bearer {token}"}

    async def ask(self, method: str, path: str, **content: Any) -> httpx2.Response:
        with trio.fail_after(30):
            return await self._client.request(method, f"/api/towns/oak{path}", headers=self._headers, **content)

    async def look(self, work: Callable[[Transaction], T]) -> T:
        return await self.hall.store.transaction("oak", work)

    async def kept(self, agent_id: str = "pole-1") -> list[tuple[str, dict[str, Any]]]:
        return await self.look(lambda board: agent_events(board, agent_id))


@pytest.fixture
async def town(tmp_path: Path) -> AsyncIterator[Town]:
    options = HallOptions(data_dir=tmp_path / "oak", town_id="oak", now=lambda: NOW)
    async with open_hall(options) as hall, httpx2.AsyncClient(base_url=hall.url, trust_env=False) as client:
        await hall.store.save_rig(
            "oak", RigRecord(rig_id="r1", git_url="https://x.test/r.git", default_branch="main")
        )
        yield Town(hall, client, (await hall.container_token()).reveal())


def event(kind: str = "message.updated", agent: str = "pole-1", **data: Any) -> dict[str, Any]:
    return {"agent_id": agent, "event_type": kind, "data": data, "newer": 1}


async def test_events_are_kept_in_the_order_in_which_they_came_single_or_in_arrays(town: Town) -> None:
    await town.ask("POST", EVENTS, json=event("a.b", n=1))
    await town.ask("POST", BATCH, json=[event("a.c", n=2), event("x", "mayor-1"), event("a.d", n=3)])
    assert await town.kept() == [("a.b", {"n": 1}), ("a.c", {"n": 2}), ("a.d", {"n": 3})]
    assert await town.kept("mayor-1") == [("x", {})]


async def test_both_answers_say_that_arrays_are_taken(town: Town) -> None:
    for path, body in ((EVENTS, event()), (BATCH, [event()])):
        answer = await town.ask("POST", path, json=body)
        assert (answer.status_code, answer.json()) == (200, {"success": True})
        assert answer.headers["x-gastown-accepts"] == "agent-events-batch"


async def test_of_each_agent_the_newest_2000_are_kept(town: Town) -> None:
    await town.ask("POST", EVENTS, json=event("kept", "mayor-1"))
    for start in range(0, 2500, 500):
        await town.ask("POST", BATCH, json=[event(n=number) for number in range(start, start + 500)])
    kept = await town.kept()
    assert [data["n"] for _, data in kept] == list(range(500, 2500))
    assert await town.kept("mayor-1") == [("kept", {})]


async def test_of_a_huge_event_only_the_size_is_kept(town: Town) -> None:
    await town.ask("POST", EVENTS, json=event(text="x" * 1_000_000))
    assert await town.kept() == [("message.updated", {"omittedCharacters": 1_000_012})]


@pytest.mark.parametrize(
    "wrong",
    [
        {},
        {"agent_id": "../x", "event_type": "a", "data": {}},
        {"agent_id": "a", "event_type": "", "data": {}},
        {"agent_id": "a", "event_type": "a b", "data": {}},
        {"agent_id": "a", "event_type": "a", "data": []},
        {"agent_id": "a", "event_type": "a"},
        [],
        "x",
    ],
)
async def test_what_is_no_event_is_400_and_nothing_of_its_array_is_kept(town: Town, wrong: Any) -> None:
    assert (await town.ask("POST", EVENTS, json=wrong)).status_code == 400
    assert (await town.ask("POST", BATCH, json=[event(), wrong])).status_code == 400
    assert await town.kept() == []


async def test_an_array_that_is_too_long_is_413(town: Town) -> None:
    assert (await town.ask("POST", BATCH, json=[event()] * 10_001)).status_code == 413


async def test_the_last_heartbeat_of_each_agent_is_kept(town: Town) -> None:
    for status in ("starting", "running"):
        answer = await town.ask("POST", BEAT, json={"agentId": "pole-1", "status": status})
        assert (answer.status_code, answer.json()) == (200, {"success": True, "data": {}})
    await town.ask("POST", BEAT.replace("pole-1", "mayor-1"), json={"status": "running"})
    assert await town.look(heartbeats) == {
        "pole-1": {"agentId": "pole-1", "status": "running"},
        "mayor-1": {"status": "running"},
    }


async def test_a_nudge_waits_until_it_is_said_to_be_delivered(town: Town) -> None:
    mayor = (await town.hall.town()).mayor_agent_id
    assert (await town.ask("GET", PENDING)).json() == {"success": True, "data": []}

    def leave(board: Transaction) -> list[str]:
        rig_agents.make_agent(board, "r1", "polecat", "pole-1")
        return [rig_agents.nudge(board, "r1", mayor, "pole-1", mode, mode) for mode in ("queue", "immediate")]

    later, now = await town.look(leave)
    waiting = (await town.ask("GET", PENDING)).json()["data"]
    assert [(nudge["nudge_id"], nudge["message"], nudge["mode"]) for nudge in waiting] == [
        (now, "immediate", "immediate"),
        (later, "queue", "queue"),
    ]
    for _ in range(2):
        answer = await town.ask("POST", DELIVERED, json={"nudge_id": now})
        assert (answer.status_code, answer.json()) == (200, {"success": True})
    assert [nudge["nudge_id"] for nudge in (await town.ask("GET", PENDING)).json()["data"]] == [later]


@pytest.mark.parametrize("body", [{}, {"nudge_id": 1}, {"nudge_id": ""}, {"nudge_id": "x" * 201}])
async def test_a_delivery_that_names_no_nudge_is_400(town: Town, body: dict[str, Any]) -> None:
    assert (await town.ask("POST", DELIVERED, json=body)).status_code == 400
