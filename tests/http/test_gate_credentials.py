"""A credential is as new as the request that brought it, not as the moment in which the gate let that through."""

from __future__ import annotations

import json
from functools import partial
from typing import Any

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from gastown.testing.worker import DeafWorker

pytestmark = pytest.mark.virtual_time

CLOSED = partial(DeafWorker, routes=["GET /container-registry"])
TOKEN = "KILOCODE_TOKEN"


def header(**config: Any) -> dict[str, str]:
    return {"X-Town-Config": json.dumps(config)}


async def token_of(town: Any) -> str:
    """What counts for the agent, as the next container would be told."""
    (entry,) = town.opened.town.roster.registry()
    assert entry.env[TOKEN] == entry.request.env_vars[TOKEN]
    return str(entry.env[TOKEN].reveal())


async def test_a_configuration_that_came_after_a_waiting_start_is_newer_than_the_starts(town_on_fakes) -> None:
    async with town_on_fakes(worker=CLOSED) as town:
        town.hydrate()
        await wait_all_tasks_blocked()
        start = town.start_soon("pole-1", headers=header(kilocode_token="one"), envVars={TOKEN: "one"})
        await trio.sleep(1)
        await town.client.post("/sync-config", headers=header(kilocode_token="two"))
        assert (await start.result()).status_code == 201
        assert await token_of(town) == "two"


async def test_a_token_of_the_town_is_newer_than_that_of_a_start_that_waited_meanwhile(town_on_fakes) -> None:
    async with town_on_fakes(worker=CLOSED) as town:
        town.hydrate()
        await wait_all_tasks_blocked()
        start = town.start_soon("pole-1", envVars={TOKEN: "one"})
        await trio.sleep(1)
        await town.client.post("/sync-config", headers=header(kilocode_token="two"))
        assert (await start.result()).status_code == 201
        assert await token_of(town) == "two"


async def test_the_token_of_a_start_is_newer_than_one_that_came_before_it(town_on_fakes) -> None:
    async with town_on_fakes(worker=CLOSED) as town:
        town.hydrate()
        await wait_all_tasks_blocked()
        await town.client.post("/sync-config", headers=header(kilocode_token="two"))
        assert (await town.start("pole-1", envVars={TOKEN: "one"})).status_code == 201
        assert await token_of(town) == "one"


async def test_a_configuration_that_says_no_organisation_differs_from_one_that_says_nothing(town_on_fakes) -> None:
    async with town_on_fakes() as town:
        await town.client.post("/sync-config", headers=header(kilocode_token="one"))
        await town.client.post("/sync-config", headers=header(kilocode_token="one", organization_id=None))
        assert "organization_id" in town.opened.town.services.credentials.current.town.model_fields_set
