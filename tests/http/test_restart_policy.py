"""A server that dies: the mayor comes back by itself, others end with one typed result."""

from __future__ import annotations

from functools import partial

import pytest
import trio

from gastown.testing.kilo import Script
from gastown.testing.launchers import DyingKilo, FakeLauncher, Fate

pytestmark = pytest.mark.virtual_time

LONG = partial(FakeLauncher, script=Script(turn_seconds=1000))


async def states(town, agent_id: str = "mayor-1") -> list[str]:
    return [e["data"]["status"] for e in await town.events(agent_id) if e["event"] == "agent.status"]


async def test_a_mayor_whose_server_is_killed_goes_on_with_its_session_and_its_turn(town_on_fakes) -> None:
    async with town_on_fakes(kilo=LONG) as town:
        await town.start()
        before = await town.status()
        town.kilo.kill(town.kilo.server("mayor-1"))
        await trio.sleep(0.1)
        between = await town.status()
        assert (between["status"], between["condition"]["type"]) == ("starting", "starting")
        assert "SIGKILL" in between["condition"]["reason"]
        await trio.sleep(10)
        after = await town.status()
        assert (after["status"], after["sessionId"]) == ("running", before["sessionId"])
        assert after["condition"]["type"] == "busy"
        assert "agent.turn_taken_up" in [e["event"] for e in await town.events()]
        assert await states(town) == ["running", "starting", "running"]


async def test_a_prompt_to_a_mayor_that_is_coming_back_is_refused_with_its_state(town_on_fakes) -> None:
    async with town_on_fakes(kilo=LONG) as town:
        await town.start()
        town.kilo.kill(town.kilo.server("mayor-1"))
        await trio.sleep(0.1)
        refused = await town.client.post("/agents/mayor-1/message", json={"prompt": "hello?"})
        assert (refused.status_code, refused.json()["status"]) == (409, "starting")


async def test_a_mayor_whose_server_dies_again_and_again_fails_after_five_tries(town_on_fakes) -> None:
    async with town_on_fakes(kilo=partial(DyingKilo, seconds=20, stderr=("out of luck",))) as town:
        await town.start()
        await trio.sleep(900)
        status = await town.status()
        assert (status["status"], len(town.kilo.spawns)) == ("failed", 1 + 5)
        assert "out of luck" in status["exitReason"]
        pauses = [line["seconds"] for line in town.logged("agent.returns")]
        assert pauses[-1] > 5 * pauses[0]


async def test_a_mayor_whose_server_dies_now_and_then_comes_back_each_time(town_on_fakes) -> None:
    async with town_on_fakes(kilo=partial(DyingKilo, seconds=300)) as town:
        await town.start()
        await trio.sleep(3 * 3600)
        assert ((await town.status())["status"], len(town.kilo.spawns) > 20) == ("running", True)


async def test_a_server_that_fails_to_come_up_costs_the_mayor_a_try_and_no_more(town_on_fakes) -> None:
    def fate(spawn) -> Fate:
        return Fate(60) if spawn.number in (2, 3) else Fate()

    async with town_on_fakes(kilo=partial(FakeLauncher, fate=fate)) as town:
        await town.start()
        town.kilo.kill(town.kilo.server("mayor-1"))
        await trio.sleep(120)
        assert ((await town.status())["status"], len(town.kilo.spawns)) == ("running", 4)


async def test_a_mayor_can_be_stopped_while_it_waits_to_come_back(town_on_fakes) -> None:
    async with town_on_fakes(kilo=LONG) as town:
        await town.start()
        town.kilo.kill(town.kilo.server("mayor-1"))
        await trio.sleep(0.1)
        began = trio.current_time()
        await town.client.post("/agents/mayor-1/stop")
        assert trio.current_time() - began < 0.5
        await trio.sleep(60)
        assert ((await town.status())["status"], len(town.kilo.spawns)) == ("exited", 1)


async def test_another_agent_ends_with_one_typed_result(town_on_fakes) -> None:
    async with town_on_fakes(kilo=LONG) as town:
        await town.start("pole-1")
        town.kilo.kill(town.kilo.server("pole-1"), stderr=("panic: no more",))
        await trio.sleep(60)
        status = await town.status("pole-1")
        assert (status["status"], len(town.kilo.spawns)) == ("failed", 1)
        assert "SIGKILL" in status["exitReason"]
        assert "panic: no more" in status["exitReason"]
        assert await states(town, "pole-1") == ["running", "stopping", "failed"]


async def test_a_mayor_that_comes_back_has_the_newest_configuration(town_on_fakes) -> None:
    async with town_on_fakes(kilo=LONG) as town:
        await town.start()
        town.kilo.kill(town.kilo.server("mayor-1"))
        await trio.sleep(0.1)
        await town.client.post("/sync-config", headers={"X-Town-Config": '{"git_author_name": "Ada"}'})
        await trio.sleep(20)
        assert town.kilo.server("mayor-1").spec.env["GIT_AUTHOR_NAME"] == "Ada"


async def test_a_mayor_whose_new_server_is_killed_after_a_swap_comes_back(town_on_fakes) -> None:
    """The events of the server that has taken over are followed to its death."""
    async with town_on_fakes() as town:
        await town.start()
        await trio.sleep(10)
        swap = {"model": "test/large", "smallModel": "test/another"}
        await town.client.patch("/agents/mayor-1/model", json=swap)
        await trio.sleep(20)
        assert len(town.kilo.spawns) == 2
        town.kilo.kill(town.kilo.server("mayor-1"))
        await trio.sleep(20)
        assert (await town.status())["status"] == "running"
        assert await states(town) == ["running", "starting", "running"]


async def test_a_restart_on_a_slow_machine_gets_more_time_at_each_try(town_on_fakes) -> None:
    """A server that takes 20 s to listen replaces the old one, though the first try has 6 s."""
    async with town_on_fakes() as town:
        await town.start()
        await trio.sleep(10)
        town.kilo.fate = lambda _: Fate(20)
        swap = {"model": "test/large", "smallModel": "test/another"}
        await town.client.patch("/agents/mayor-1/model", json=swap)
        await trio.sleep(200)
        assert len(town.logged("agent.restart_failed")) == 2
        assert len(town.logged("agent.restarted")) == 1
