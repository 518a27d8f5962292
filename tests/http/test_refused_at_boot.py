"""A worker that refuses the container's token at boot: hydration fails, and begins again with the next token."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from gastown import main
from gastown.testing.town import FakeTown
from gastown.testing.worker import ROUTES

pytestmark = pytest.mark.virtual_time

READ, MAYOR, REFRESH = "GET /container-registry", "GET /mayor-id", "POST /refresh-container-token"
REFUSED = (
    "WorkerError: worker API: GET /container-registry: answered 401, and the token could not be refreshed "
    "(worker API: POST /refresh-container-token: answered 401); "
    "hydration goes on with the next container token (POST /refresh-token)"
)

Refused = Callable[..., AbstractAsyncContextManager[FakeTown]]


@pytest.fixture
def refused_town(town_on_fakes: Any) -> Refused:
    """A town whose first token has expired for good, and which has found that out; `brings` is its registry."""

    @asynccontextmanager
    async def opened(*brings: str, token: str | None = "old", **settings: Any) -> AsyncIterator[FakeTown]:
        told = {"gastown_container_token": token} | settings
        async with town_on_fakes(**told) as town:
            town.worker.expired |= {"old", "bad", ""}
            town.worker.statuses[REFRESH] = 401
            town.worker.registry = [town.entry(name, prompt="of the last container") for name in brings]
            town.hydrate()
            await wait_all_tasks_blocked()
            yield town

    return opened


async def give(town: FakeTown, token: str = "good") -> None:
    answer = await town.client.post("/refresh-token", json={"token": token})
    assert answer.json()["refreshed"] is True


async def hydration(town: FakeTown) -> dict[str, Any]:
    return (await town.health())["hydration"]


async def told(town: FakeTown) -> tuple[str, str, str | None]:
    """What `/health` and `/metrics` say; they agree."""
    health = await town.health()
    state = health["hydration"]["state"]
    assert f'gastown_hydration_state{{state="{state}"}} 1' in (await town.client.get("/metrics")).text
    return health["status"], state, health["hydration"].get("error")


def prompts(town: FakeTown, agent_id: str) -> list[str]:
    """What the agent's server was asked since it began."""
    return [prompt["parts"][0]["text"] for prompt in town.kilo.server(agent_id).kilo.prompts]


def stored(town: FakeTown) -> list[str]:
    return sorted(entry["agentId"] for entry in town.worker.registry)


@pytest.mark.parametrize("token", ["old", None])
async def test_the_agents_come_back_with_the_next_token(refused_town: Refused, token: str | None) -> None:
    async with refused_town("pole-1", "mayor-1", token=token) as town:
        town.mayor_known()
        town.worker.delays[MAYOR] = 1
        assert await told(town) == ("degraded", "failed", REFUSED)
        assert (await town.client.get("/readyz")).status_code == 200
        await trio.sleep(3600)
        assert town.kilo.spawns == []
        await give(town)
        await trio.sleep(30)
        assert await told(town) == ("ok", "complete", None)
        seen = await hydration(town)
        assert (seen["claimed"], seen["resumed"], seen["prewarm"], seen["gate"]) == (2, 2, "ready", "open")
        assert town.kilo.order == ["mayor-1", "pole-1"]
        await town.opened.registry.flushed()
        assert stored(town) == ["mayor-1", "pole-1"]


async def test_health_says_running_while_the_next_token_is_tried(refused_town: Refused) -> None:
    async with refused_town("pole-1") as town:
        town.worker.delays[READ] = 5
        await give(town)
        await trio.sleep(1)
        assert await told(town) == ("ok", "running", None)
        assert (await hydration(town))["gate"] == "open"
        await trio.sleep(20)
        assert (await told(town))[1] == "complete"


async def test_nothing_is_asked_until_there_is_another_token(refused_town: Refused) -> None:
    async with refused_town("pole-1") as town:
        before = len(town.worker.calls)
        await town.client.post("/sync-config", headers={"X-Town-Config": '{"kilocode_token": "k"}'})
        await trio.sleep(4 * 3600)
        assert len(town.worker.calls) == before


async def test_another_bad_token_is_tried_once_and_the_next_one_waited_for(refused_town: Refused) -> None:
    async with refused_town("pole-1") as town:
        for attempt in (2, 3):
            await give(town, "bad")
            await trio.sleep(1000)
            assert await told(town) == ("degraded", "failed", REFUSED)
            assert len(town.worker.asked(READ)) == attempt
        await give(town)
        await trio.sleep(30)
        assert (await hydration(town))["resumed"] == 1


async def test_a_token_that_comes_while_the_one_before_is_being_refused_is_tried(refused_town: Refused) -> None:
    async with refused_town("pole-1") as town:
        town.worker.statuses[MAYOR] = 500
        town.worker.delays[REFRESH] = 5
        await give(town, "bad")
        await trio.sleep(1)
        await give(town)
        await trio.sleep(30)
        assert (await hydration(town))["resumed"] == 1


async def test_tokens_that_a_refresh_gives_out_and_that_are_refused_are_not_tried_for_ever(
    refused_town: Refused,
) -> None:
    async with refused_town("pole-1") as town:
        town.worker.statuses = {READ: 401}
        await give(town)
        await trio.sleep(1000)
        assert (await told(town))[1] == "failed"
        assert len(town.worker.asked(READ)) == 3
        assert len(town.worker.fresh_tokens) == 1


async def test_the_same_token_given_again_is_tried_again(refused_town: Refused) -> None:
    async with refused_town("pole-1") as town:
        town.worker.expired.clear()  # the worker was wrong
        await give(town, "old")
        await trio.sleep(30)
        assert (await hydration(town))["resumed"] == 1


async def test_a_worker_that_was_away_is_not_waited_for_with_a_token(town_on_fakes: Any) -> None:
    async with town_on_fakes() as town:
        town.worker.statuses = dict.fromkeys(ROUTES, 500)
        await town.hydrated()
        assert (await told(town))[1] == "failed"


async def test_an_agent_that_was_started_meanwhile_goes_on_and_both_are_in_the_registry(
    refused_town: Refused,
) -> None:
    async with refused_town("pole-1", "pole-2") as town:
        answer = await town.start("pole-1", prompt="fresh")
        await give(town)
        await trio.sleep(60)
        seen = await hydration(town)
        assert (seen["claimed"], seen["resumed"], seen["skipped"]) == (1, 1, 1)
        assert (await town.status("pole-1"))["sessionId"] == answer.json()["sessionId"]
        assert (town.kilo.order, prompts(town, "pole-1")) == (["pole-1", "pole-2"], ["fresh"])
        await town.opened.registry.flushed()
        assert stored(town) == ["pole-1", "pole-2"]
        assert {len(registry) for registry in town.worker.registries} == {2}


async def test_a_start_that_comes_while_the_next_token_is_tried_wins(refused_town: Refused) -> None:
    async with refused_town("pole-1", "pole-2") as town:
        town.worker.delays[READ] = 4
        await give(town)
        await trio.sleep(2)
        assert (await town.start("pole-1", prompt="fresh")).status_code == 201
        await trio.sleep(60)
        assert (prompts(town, "pole-1"), (await hydration(town))["skipped"]) == (["fresh"], 1)
        assert stored(town) == ["pole-1", "pole-2"]


async def test_an_agent_that_was_started_and_stopped_meanwhile_stays_stopped(refused_town: Refused) -> None:
    async with refused_town("pole-1", "pole-2") as town:
        await town.start("pole-1", prompt="fresh")
        await town.client.post("/agents/pole-1/stop")
        town.worker.expired.clear()
        await town.opened.registry.flushed()  # before hydration has read it
        assert stored(town) == ["pole-1", "pole-2"]
        await give(town)
        await trio.sleep(60)
        assert ((await town.status("pole-1"))["status"], town.kilo.order) == ("exited", ["pole-1", "pole-2"])
        assert stored(town) == ["pole-2"]


async def test_a_mayor_that_was_started_meanwhile_keeps_its_place_and_holds_nobody_up(
    refused_town: Refused,
) -> None:
    async with refused_town("mayor-1", "pole-1") as town:
        town.mayor_known(rigId="another-rig")
        await town.start(prompt="fresh")
        [bearer] = town.opened.town.services.broker.grants.bearers()
        await give(town)
        await trio.sleep(60)
        seen = await hydration(town)
        assert (seen["state"], seen["resumed"]) == ("complete", 1)
        assert seen["prewarm"] == "skipped: the mayor has been started already"
        assert (town.kilo.order, prompts(town, "mayor-1")) == (["mayor-1", "pole-1"], ["fresh"])
        assert bearer in town.opened.town.services.broker.grants.bearers()


async def test_a_container_that_leaves_does_not_wait_for_a_token(refused_town: Refused) -> None:
    async with refused_town("pole-1") as town:
        hydrating = trio.CancelScope()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(main._hydrate, town.opened.hydration, hydrating)
            await wait_all_tasks_blocked()
            hydrating.cancel()
        assert trio.current_time() == 0
        assert (await told(town))[1:] == ("failed", REFUSED)
