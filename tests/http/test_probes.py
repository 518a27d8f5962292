"""`/livez` and `/readyz`."""

from __future__ import annotations

from functools import partial

import pytest
import trio

from gastown.testing.drainer import Drainer
from gastown.testing.town import FakeTown
from gastown.testing.worker import DeafWorker

pytestmark = pytest.mark.virtual_time

STUCK_REGISTRY = partial(DeafWorker, routes=["GET /container-registry"])


async def ready(town: FakeTown) -> tuple[int, bool, list[str]]:
    answer = await town.client.get("/readyz")
    body = answer.json()
    return answer.status_code, body["ready"], body["reasons"]


async def test_a_town_with_an_open_gate_and_no_drain_is_ready(town_on_fakes) -> None:
    async with town_on_fakes() as town:
        await town.hydrated()
        assert await ready(town) == (200, True, [])


async def test_a_town_is_ready_again_as_soon_as_its_gate_opens(town_on_fakes) -> None:
    async with town_on_fakes(worker=STUCK_REGISTRY, gastown_gate_seconds=20) as town:
        town.hydrate()
        await trio.testing.wait_all_tasks_blocked()
        assert await ready(town) == (503, False, ["gate closed"])
        await trio.sleep(21)
        assert await ready(town) == (200, True, [])


async def test_a_town_that_drains_is_not_ready_and_says_so(town_on_fakes) -> None:
    async with town_on_fakes() as town:
        drainer = Drainer(town)
        await drainer.post()
        assert await ready(town) == (503, False, ["draining"])


async def test_both_reasons_are_told(town_on_fakes) -> None:
    async with town_on_fakes(worker=STUCK_REGISTRY) as town:
        drainer = Drainer(town)
        town.hydrate()
        await trio.testing.wait_all_tasks_blocked()
        await drainer.post()
        assert await ready(town) == (503, False, ["gate closed", "draining"])


@pytest.mark.parametrize("state", ["fresh", "with a closed gate", "draining"])
async def test_a_town_is_alive_in_whatever_state_it_is(town_on_fakes, state: str) -> None:
    async with town_on_fakes(worker=STUCK_REGISTRY) as town:
        drainer = Drainer(town)
        if state == "with a closed gate":
            town.hydrate()
            await trio.testing.wait_all_tasks_blocked()
        elif state == "draining":
            await drainer.post()
        answer = await town.client.get("/livez")
        assert (answer.status_code, answer.json()) == (200, {"status": "ok"})


@pytest.mark.parametrize("path", ["/livez", "/readyz", "/metrics"])
async def test_a_probe_changes_nothing(town_on_fakes, path: str) -> None:
    async with town_on_fakes() as town:
        before = len(town.logged())
        await town.client.get(path)
        assert len(town.logged()) == before
        assert (await town.client.post(path)).status_code == 405
