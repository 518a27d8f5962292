"""What the user's dashboard shows, kept for the mayor."""

from __future__ import annotations

import json

import pytest
from trio.testing import wait_all_tasks_blocked

pytestmark = pytest.mark.virtual_time


async def test_a_page_that_comes_while_another_one_is_written_waits_for_it(town_on_fakes) -> None:
    """The file is read and written again: two at once would lose one page."""
    async with town_on_fakes() as town:
        async with town.opened.town.dashboard:
            sent = town.later(lambda: town.client.post("/dashboard-context", json={"context": "page=beads"}))
            await wait_all_tasks_blocked()
            assert not town.opened.town.dashboard_file.exists()
        assert (await sent.result()).status_code == 200
        (kept,) = json.loads(town.opened.town.dashboard_file.read_text())
    assert kept["context"] == "page=beads"
