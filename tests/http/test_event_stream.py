"""Listening to an agent's server: what is heard, also when the connection does not hold."""

from __future__ import annotations

from typing import Any

import pytest
import trio

from gastown.testing.town import FakeTown

pytestmark = pytest.mark.virtual_time


async def kinds(town: FakeTown, after: int = 0) -> list[str]:
    answer = await town.client.get("/agents/pole-1/events", params={"after": after})
    return [event["event"] for event in answer.json()["events"]]


async def say(town: FakeTown) -> Any:
    return await town.client.post("/agents/pole-1/message", json={"prompt": "go on"})


async def test_the_events_of_a_turn_are_kept_in_their_order_and_none_twice(town_on_fakes) -> None:
    async with town_on_fakes() as town:
        await town.start("pole-1")
        await trio.sleep(10)
        assert await kinds(town) == [
            "session.updated",
            "message.updated",
            "message.part.updated",
            "session.turn.open",
            "session.status",
            "message.updated",
            "message.part.updated",
            "message.part.updated",
            "message.part.delta",
            "agent.status",
            "message.part.delta",
            "message.part.updated",
            "message.part.updated",
            "message.updated",
            "agent.usage",
            "session.status",
            "session.status",
            "session.idle",
            "session.turn.close",
            "session.updated",
            "session.diff",
        ]


async def test_heartbeats_keep_a_silent_connection(town_on_fakes) -> None:
    async with town_on_fakes(agent_idle_timeout_ms=7_200_000) as town:
        await town.start("pole-1")
        await trio.sleep(3600)
        asked = [a.path for a in town.kilo.server("pole-1").kilo.asked]
        assert asked.count("/global/event") == 1


@pytest.mark.parametrize("seconds", [0.0, 3.0, 60.0])
async def test_a_connection_that_breaks_is_made_again(town_on_fakes, seconds: float) -> None:
    async with town_on_fakes() as town:
        await town.start("pole-1")
        await trio.sleep(10)
        port = town.kilo.server("pole-1").port
        town.network.unplug("127.0.0.1", port)
        await trio.sleep(seconds)
        town.network.plug("127.0.0.1", port)
        await trio.sleep(6)
        last = (await town.events("pole-1"))[-1]["id"]
        await say(town)
        await trio.sleep(10)
        assert "session.turn.close" in await kinds(town, after=last)
        assert (await town.status("pole-1"))["status"] == "running"


async def test_a_server_that_falls_silent_is_connected_to_again_after_30_seconds(town_on_fakes) -> None:
    async with town_on_fakes() as town:
        await town.start("pole-1")
        await trio.sleep(10)
        kilo = town.kilo.server("pole-1").kilo
        kilo.silent = True
        await trio.sleep(29)
        connects = [[a.path for a in kilo.asked].count("/global/event")]
        await trio.sleep(3)
        connects.append([a.path for a in kilo.asked].count("/global/event"))
        assert connects == [1, 2]
