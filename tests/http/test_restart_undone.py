"""A restart that is given up at its very end leaves nothing of itself with the agent."""

from __future__ import annotations

import json

import pytest
import trio

from gastown.testing.kilo import Script

pytestmark = pytest.mark.virtual_time


async def test_a_restart_that_runs_out_of_time_at_the_switch_costs_the_agent_nothing(town_on_fakes) -> None:
    """A prompt that the old server does not take in holds the switch until the restart's time is up."""
    async with town_on_fakes() as town:
        await town.start("pole-1")
        await trio.sleep(10)
        old = town.kilo.server("pole-1")
        session = (await town.status("pole-1"))["sessionId"]
        old.kilo.script = Script(hangs=frozenset({f"POST /session/{session}/prompt_async"}))
        header = {"X-Town-Config": json.dumps({"git_author_name": "Ada"})}
        await town.client.post("/sync-config", headers=header)
        town.later(lambda: town.client.post("/agents/pole-1/message", json={"prompt": "more"}))
        await trio.sleep(7)
        assert len(town.logged("agent.restart_failed")) == 1
        assert (await town.status("pole-1"))["status"] == "running"


async def test_a_new_server_that_dies_before_the_switch_costs_the_agent_nothing(town_on_fakes) -> None:
    """The agent listens to it already, and goes on with the old one."""
    async with town_on_fakes() as town:
        await town.start("pole-1")
        await trio.sleep(10)
        old = town.kilo.server("pole-1")
        session = (await town.status("pole-1"))["sessionId"]
        old.kilo.script = Script(hangs=frozenset({f"POST /session/{session}/prompt_async"}))
        header = {"X-Town-Config": json.dumps({"git_author_name": "Ada"})}
        await town.client.post("/sync-config", headers=header)
        town.later(lambda: town.client.post("/agents/pole-1/message", json={"prompt": "more"}))
        await trio.sleep(3)
        assert len(town.kilo.live) == 2
        town.kilo.kill(town.kilo.server("pole-1"))
        await trio.sleep(10)
        status = await town.status("pole-1")
        assert (status["status"], status["serverPort"]) == ("running", old.port)
