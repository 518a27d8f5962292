"""What was used before an attempt is none of its own."""

from __future__ import annotations

import pytest
import trio

pytestmark = pytest.mark.virtual_time


async def test_a_broken_stream_does_not_bring_back_what_an_earlier_attempt_has_used(town_on_fakes) -> None:
    """The mayor's session is older than its attempt."""
    async with town_on_fakes() as town:
        await town.start()
        await trio.sleep(5)
        await town.client.post("/agents/mayor-1/stop")
        await town.start(prompt="")
        last = (await town.events())[-1]["id"]
        town.kilo.server("mayor-1").kilo.end_streams()
        await trio.sleep(5)
        after = [event["event"] for event in await town.events() if event["id"] > last]
        assert "agent.usage" not in after
        assert (await town.status())["usage"] is None
