"""The registry after a token refresh."""

from __future__ import annotations

import pytest
import trio

pytestmark = pytest.mark.virtual_time


async def test_a_refresh_writes_the_registry_again(town_on_fakes) -> None:
    """An entry has the token that its agent would be brought back with."""
    async with town_on_fakes(gastown_broker=True) as town:
        await town.start("pole-1")
        await trio.sleep(30)
        written = len(town.worker.registries)
        assert (await town.client.post("/refresh-token", json={"token": "new-token"})).status_code == 200
        await trio.sleep(30)
        assert len(town.worker.registries) == written + 1
