"""A kilo server that names its session oddly, and an agent of which no heartbeat can be made: each fails alone."""

from __future__ import annotations

from typing import Any

import pytest
import trio

from gastown.testing.kilo import Script
from gastown.testing.launchers import FakeLauncher
from gastown.testing.network import MemoryNetwork
from gastown.testing.scrape import scrape
from gastown.testing.town import FakeTown

pytestmark = pytest.mark.virtual_time

BEAT = "POST /heartbeat"
ODD_IDS = [5, {"a": 1}, None, "", "../../global/dispose", "a" * 300, "\ud800"]


def odd(route: str, reply: Any) -> Any:
    """A launcher whose server for `odd-1` answers `route` with `reply`."""

    def launcher(network: MemoryNetwork) -> FakeLauncher:
        made = FakeLauncher(network, script=Script(turn_seconds=10_000))
        made.scripts["odd-1"] = Script(odd={route: reply})
        return made

    return launcher


def beats(town: FakeTown) -> list[tuple[str, float]]:
    """Whose heartbeats the worker has, and when they came."""
    return [(call.body["agentId"], call.at) for call in town.worker.asked(BEAT)]


@pytest.mark.parametrize(
    "reply", [*({"id": odd_id, "directory": "/x"} for odd_id in ODD_IDS), None, [], {}, {"id": "ses_1"}], ids=repr
)
async def test_a_session_that_cannot_be_used_fails_its_start_and_no_other_agent(town_on_fakes, reply: Any) -> None:
    """A new session whose answer is odd fails the agent's start; the neighbour's heartbeats go on."""
    async with town_on_fakes(kilo=odd("POST /session", reply)) as town:
        await town.start("pole-1")
        answer = await town.start("odd-1")
        assert (answer.status_code, answer.json()["phase"]) == (500, "session")
        assert "kilo answered POST /session with " in answer.json()["error"]
        await trio.sleep_until(95)
        assert beats(town) == [("pole-1", 30), ("pole-1", 60), ("pole-1", 90)]
        assert [(await town.status(name))["status"] for name in ("pole-1", "odd-1")] == ["running", "failed"]


@pytest.mark.parametrize("reply", [[{"id": 5, "directory": "/x"}], {"a": 1}, [7], [None]], ids=repr)
async def test_a_list_of_sessions_that_cannot_be_used_fails_the_agent_that_goes_on_with_one(
    town_on_fakes, reply: Any
) -> None:
    """An agent of the registry looks for its old session; an odd answer is its failure alone."""
    async with town_on_fakes(kilo=odd("GET /session", reply)) as town:
        town.worker.registry = [town.entry("odd-1"), town.entry("pole-1")]
        await town.hydrated()
        await trio.sleep_until(95)
        assert {agent for agent, _ in beats(town)} == {"pole-1"}
        assert (await town.status("odd-1"))["status"] == "failed"


async def test_an_agent_of_which_no_heartbeat_can_be_made_costs_its_own_only(town_on_fakes) -> None:
    """What cannot be told of one agent is logged and counted; the others are told of as before."""
    async with town_on_fakes(kilo=odd("GET /nothing", None)) as town:
        for name in ("pole-1", "odd-1", "pole-2"):
            await town.start(name)
        town.opened.town.roster.get("odd-1").activity.last_event_type = {"of": "no kilo"}
        await trio.sleep_until(65)
        assert sorted(beats(town)) == [("pole-1", 30), ("pole-1", 60), ("pole-2", 30), ("pole-2", 60)]
        assert [line["agent_id"] for line in town.logged("heartbeat.not_built")] == ["odd-1", "odd-1"]
        assert (await scrape(town))("heartbeats_not_built_total") == 2
