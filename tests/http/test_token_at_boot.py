"""A container token that is about to end, or has ended, at boot."""

from __future__ import annotations

import json
from functools import partial

import pytest
import trio

from gastown.testing.town import EPOCH
from gastown.testing.worker import SlowWorker, token_until

pytestmark = pytest.mark.virtual_time

REGISTRY, MAYOR, REFRESH = "GET /container-registry", "GET /mayor-id", "POST /refresh-container-token"


@pytest.mark.parametrize(
    ("seconds_left", "refreshed"), [(29 * 60, True), (-60, True), (31 * 60, False), (8 * 3600, False)]
)
async def test_a_token_with_less_than_30_minutes_left_is_refreshed_first(
    town_on_fakes, seconds_left: float, *, refreshed: bool
) -> None:
    token = token_until(EPOCH.timestamp() + seconds_left)
    async with town_on_fakes(gastown_container_token=token) as town:
        await town.hydrated()
        bearers = {call.bearer for call in town.worker.calls if call.route != REFRESH}
        assert (len(town.worker.asked(REFRESH)), bearers) == (
            int(refreshed),
            {"fresh-1" if refreshed else token},
        )


async def test_a_token_that_cannot_be_refreshed_does_not_fail_hydration(town_on_fakes) -> None:
    async with town_on_fakes(gastown_container_token=token_until(EPOCH.timestamp())) as town:
        town.worker.statuses[REFRESH] = 500
        town.worker.registry = [town.entry("pole-1")]
        await town.hydrated()
        assert (await town.health())["hydration"]["resumed"] == 1


async def test_an_opaque_token_that_has_expired_is_refreshed_by_the_first_call(town_on_fakes) -> None:
    async with town_on_fakes(gastown_container_token="opaque") as town:
        town.mayor_known()
        town.worker.expired.add("opaque")
        town.worker.registry = [town.entry("pole-1")]
        await town.hydrated()
        health = await town.health()
        assert (health["hydration"]["resumed"], health["hydration"]["prewarm"]) == (1, "ready")
        assert len(town.worker.asked(REFRESH)) == 1


async def test_an_expired_token_is_refreshed_also_when_the_config_changed_meanwhile(town_on_fakes) -> None:
    async with town_on_fakes(
        worker=partial(SlowWorker, seconds=2, routes=[REGISTRY]), gastown_container_token="opaque"
    ) as town:
        town.worker.expired.add("opaque")
        town.worker.registry = [town.entry("pole-1")]
        town.worker.statuses[MAYOR] = 500
        town.hydrate()
        await trio.sleep(1)
        header = {"X-Town-Config": json.dumps({"kilocode_token": "k"})}
        await town.client.post("/sync-config", headers=header)
        await trio.sleep(30)
        assert (await town.health())["hydration"]["resumed"] == 1


async def test_a_container_without_a_token_asks_without_one(town_on_fakes) -> None:
    async with town_on_fakes(gastown_container_token=None) as town:
        town.worker.registry = [town.entry("pole-1")]
        await town.hydrated()
        assert (await town.health())["hydration"]["resumed"] == 1
        assert not any("authorization" in call.headers for call in town.worker.calls)
