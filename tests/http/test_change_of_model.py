"""Another model for a running agent: from its next turn on, in the same session."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest
import trio

from gastown.testing.kilo import Script
from gastown.testing.launchers import FakeLauncher, Fate
from gastown.testing.town import FakeTown

pytestmark = pytest.mark.virtual_time

KNOWN = Script(models=("test/other", "test/third"))
LONG = Script(models=KNOWN.models, turn_seconds=60)


async def change(town: FakeTown, **body: Any) -> int:
    """Change the model of `pole-1`; returns the status of the answer."""
    return (await town.client.patch("/agents/pole-1/model", json=body)).status_code


async def say(town: FakeTown, text: str = "go on") -> None:
    assert (await town.client.post("/agents/pole-1/message", json={"prompt": text})).status_code == 200


def models(town: FakeTown) -> list[str]:
    """The models of the prompts that the newest server got."""
    return [prompt["model"]["modelID"] for prompt in town.kilo.server("pole-1").kilo.prompts]


async def test_a_known_model_is_used_from_the_next_prompt_on_without_a_restart(town_on_fakes) -> None:
    async with town_on_fakes(kilo=partial(FakeLauncher, script=KNOWN)) as town:
        session = (await town.start("pole-1")).json()["sessionId"]
        assert await change(town, model="test/other") == 200
        await say(town)
        await trio.sleep(10)
        assert (models(town), len(town.kilo.spawns)) == (["test/large", "test/other"], 1)
        assert (await town.status("pole-1"))["sessionId"] == session


async def test_a_change_does_not_touch_the_turn_that_is_open(town_on_fakes) -> None:
    async with town_on_fakes(kilo=partial(FakeLauncher, script=LONG)) as town:
        await town.start("pole-1")
        await change(town, model="test/other")
        assert await town.condition("pole-1") == "busy"
        await trio.sleep(100)
        closes = [e["data"]["reason"] for e in await town.events("pole-1") if e["event"] == "session.turn.close"]
        assert closes == ["completed"]


@pytest.mark.parametrize(
    "body",
    [
        {"model": "test/large", "smallModel": "test/third"},
        {"model": "test/nobody-knows"},
    ],
    ids=["small model", "unknown model"],
)
async def test_what_is_frozen_in_the_server_restarts_it_when_it_is_idle(
    town_on_fakes, body: dict[str, Any]
) -> None:
    async with town_on_fakes(kilo=partial(FakeLauncher, script=KNOWN)) as town:
        session = (await town.start("pole-1")).json()["sessionId"]
        await trio.sleep(10)
        assert await change(town, **body) == 200
        await trio.sleep(10)
        status = await town.status("pole-1")
        assert (len(town.kilo.spawns), len(town.kilo.live)) == (2, 1)
        assert (status["status"], status["sessionId"]) == ("running", session)


async def test_a_new_small_model_waits_for_the_end_of_the_turn(town_on_fakes) -> None:
    async with town_on_fakes(kilo=partial(FakeLauncher, script=LONG)) as town:
        await town.start("pole-1")
        await change(town, model="test/large", smallModel="test/third")
        await trio.sleep(40)
        assert len(town.kilo.spawns) == 1
        await trio.sleep(40)
        closes = [e["data"]["reason"] for e in await town.events("pole-1") if e["event"] == "session.turn.close"]
        assert (len(town.kilo.spawns), closes) == (2, ["completed"])


async def test_the_answer_does_not_wait_for_the_restart(town_on_fakes) -> None:
    async with town_on_fakes(kilo=partial(FakeLauncher, script=LONG)) as town:
        await town.start("pole-1")
        began = trio.current_time()
        await change(town, model="test/large", smallModel="test/third")
        assert trio.current_time() == began


async def test_the_same_small_model_again_restarts_nothing(town_on_fakes) -> None:
    async with town_on_fakes(kilo=partial(FakeLauncher, script=KNOWN)) as town:
        await town.start("pole-1")
        await trio.sleep(10)
        await change(town, model="test/other", smallModel="test/small", organizationId=None)
        await trio.sleep(10)
        assert len(town.kilo.spawns) == 1


async def test_several_changes_in_a_row_end_with_the_last_one(town_on_fakes) -> None:
    async with town_on_fakes(kilo=partial(FakeLauncher, script=KNOWN)) as town:
        await town.start("pole-1")
        await trio.sleep(10)
        for small in ("test/a", "test/b", "test/c"):
            await change(town, model="test/large", smallModel=small)
            await trio.sleep(0.5)
        await trio.sleep(30)
        (server,) = town.kilo.live
        assert '"small_model":"kilo/test/c"' in server.spec.env["KILO_CONFIG_CONTENT"]


async def test_a_restart_that_fails_leaves_the_old_server_serving(town_on_fakes) -> None:
    async with town_on_fakes(kilo=partial(FakeLauncher, script=KNOWN)) as town:
        await town.start("pole-1")
        await trio.sleep(10)
        town.kilo.fate = lambda _: Fate(1, dies_after=0.1)
        await change(town, model="test/large", smallModel="test/third")
        await trio.sleep(20)
        await say(town)
        await trio.sleep(10)
        assert (len(town.kilo.live), len(models(town))) == (1, 2)
        assert (await town.status("pole-1"))["status"] == "running"


async def test_stopping_the_agent_during_its_restart_leaves_nothing(town_on_fakes) -> None:
    for after in (0.0, 1.0, 2.0, 2.1, 2.3, 2.6):
        async with town_on_fakes(kilo=partial(FakeLauncher, script=KNOWN)) as town:
            await town.start("pole-1")
            await trio.sleep(10)
            await change(town, model="test/large", smallModel="test/third")
            await trio.sleep(after)
            await town.client.post("/agents/pole-1/stop", json={})
            assert (town.kilo.live, town.opened.town.services.pool.servers) == ([], ())


async def test_the_registry_knows_the_new_model(town_on_fakes) -> None:
    async with town_on_fakes(kilo=partial(FakeLauncher, script=KNOWN)) as town:
        await town.start("pole-1")
        await change(town, model="test/other")
        await town.opened.registry.flushed()
        assert town.worker.registries[-1][0]["request"]["model"] == "test/other"


async def test_a_stopped_agent_takes_the_model_for_nothing_more_than_its_record(town_on_fakes) -> None:
    async with town_on_fakes() as town:
        await town.start("pole-1")
        await town.client.post("/agents/pole-1/stop", json={})
        assert (await change(town, model="test/other"), len(town.kilo.spawns)) == (200, 1)


async def test_a_prompt_that_is_sent_during_the_switch_reaches_the_new_server(town_on_fakes) -> None:
    async with town_on_fakes(kilo=partial(FakeLauncher, script=KNOWN)) as town:
        await town.start("pole-1")
        await trio.sleep(10)
        await change(town, model="test/large", smallModel="test/third")
        await trio.sleep(2.3)
        assert [server.spawn.number for server in town.kilo.live] == [1, 2]
        await say(town)
        await trio.sleep(10)
        assert (models(town), len(town.kilo.live)) == (["test/large"], 1)
        assert await town.condition("pole-1") == "idle"


async def test_a_change_that_the_server_could_not_be_asked_about_has_not_happened(town_on_fakes) -> None:
    """The next prompts are for the old model, and so are the next container's."""
    async with town_on_fakes() as town:
        await town.hydrated()
        await town.start("pole-1")
        await trio.sleep(10)
        town.kilo.server("pole-1").kilo.script = Script(broken=frozenset({"GET /config/providers"}))
        assert await change(town, model="test/other") == 502
        await town.opened.registry.flushed()
        assert town.worker.registries[-1][0]["request"]["model"] == "test/large"
        await say(town)
        await trio.sleep(10)
        assert models(town)[-1] == "test/large"


@pytest.mark.parametrize("attempt", range(4))
async def test_of_system_prompts_at_the_same_time_the_file_has_the_one_that_counts(
    town_on_fakes, attempt: int
) -> None:
    async with town_on_fakes() as town:
        await town.start("triage-1", role="triage")
        put = partial(town.client.put, "/agents/triage-1/system-prompt")
        changes = [town.later(partial(put, json={"systemPrompt": f"P{number}"})) for number in range(6)]
        for one in changes:
            await one.result()
        agent = town.opened.town.roster.get("triage-1")
        assert agent.request.system_prompt is not None
        text = await (trio.Path(agent.workdir) / "AGENTS.md").read_text()
        assert agent.request.system_prompt in text
