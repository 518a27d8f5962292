"""Requests that wait at the gate go on in the order in which they came."""

from __future__ import annotations

from functools import partial

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from gastown.contract.secret import Secret
from gastown.testing.worker import DeafWorker

pytestmark = pytest.mark.virtual_time

CLOSED = partial(DeafWorker, routes=["GET /container-registry"])


@pytest.mark.parametrize("attempt", range(6))
async def test_of_two_tokens_that_waited_at_the_gate_the_later_one_counts(town_on_fakes, attempt: int) -> None:
    async with town_on_fakes(worker=CLOSED) as town:
        town.hydrate()
        await wait_all_tasks_blocked()
        later = []
        for token in ("one", "two", "three"):
            later.append(town.later(partial(town.client.post, "/refresh-token", json={"token": token})))
            await trio.sleep(1)
        for one in later:
            await one.result()
        assert town.opened.town.services.credentials.current.container_token == Secret("three")


@pytest.mark.parametrize("attempt", range(6))
async def test_of_different_starts_that_waited_at_the_gate_the_last_one_runs(town_on_fakes, attempt: int) -> None:
    async with town_on_fakes(worker=CLOSED) as town:
        town.hydrate()
        await wait_all_tasks_blocked()
        starts = []
        for number in range(3):
            starts.append(town.start_soon("pole-1", prompt=f"P{number}"))
            await trio.sleep(1)
        assert [(await start.result()).status_code for start in starts] == [409, 409, 201]
