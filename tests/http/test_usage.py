"""What an agent's model calls came to, in its events and its status."""

from __future__ import annotations

import pytest
import trio

pytestmark = pytest.mark.virtual_time


async def test_each_completed_message_is_an_event_and_the_status_has_their_sum(town_on_fakes) -> None:
    async with town_on_fakes() as town:
        await town.start()
        await trio.sleep(5)
        await town.client.post("/agents/mayor-1/message", json={"prompt": "And then?"})
        await trio.sleep(5)
        told = [event["data"] for event in await town.events() if event["event"] == "agent.usage"]
        assert [(data["input"], data["output"], data["cost"]) for data in told] == [(3, 3, 0.25)] * 2
        assert told[0]["messageId"] < told[1]["messageId"]
        assert (await town.status())["usage"] == {"input": 6, "output": 6, "cost": 0.5}


async def test_there_is_no_usage_before_a_message_has_completed(town_on_fakes) -> None:
    async with town_on_fakes() as town:
        await town.start(prompt="")
        assert (await town.status())["usage"] is None
