"""Conversations at the worker: saved while agents live and end, and never overwritten blindly."""

from __future__ import annotations

import errno
from functools import partial

import pytest
import trio

from gastown.testing.drainer import converse, home_database
from gastown.testing.kilo import Script
from gastown.testing.launchers import FakeLauncher
from gastown.testing.worker import DeafWorker

pytestmark = pytest.mark.virtual_time

GET, POST = "GET /db-snapshot", "POST /db-snapshot"
LONG = partial(FakeLauncher, script=Script(turn_seconds=10_000))


async def test_what_the_mayor_was_told_is_saved_after_each_message(town_on_fakes) -> None:
    async with town_on_fakes(kilo=LONG) as town:
        await town.start("mayor-1")
        converse(town, "mayor-1")
        await trio.sleep(5)
        before = len(town.worker.asked(POST))
        for _ in range(9):
            await town.client.post("/agents/mayor-1/message", json={"prompt": "and?"})
        await trio.sleep(5)
        # One for the first of them, and one for all that came while that was on its way.
        assert len(town.worker.asked(POST)) == before + 2
        assert (await town.status("mayor-1"))["snapshot"]["state"] == "saved"


async def test_the_mayors_turn_is_saved_when_it_has_ended(town_on_fakes) -> None:
    async with town_on_fakes(kilo=partial(FakeLauncher, script=Script(turn_seconds=100))) as town:
        await town.start("mayor-1")
        converse(town, "mayor-1")
        await trio.sleep(50)
        before = len(town.worker.asked(POST))
        await trio.sleep(100)
        assert len(town.worker.asked(POST)) == before + 1


async def test_a_stop_saves_the_conversation_and_waits_ten_seconds_at_most_for_it(town_on_fakes) -> None:
    async with town_on_fakes() as town:
        await town.start("pole-1")
        await town.start("pole-2")
        converse(town, "pole-1")
        converse(town, "pole-2")
        await town.client.post("/agents/pole-1/stop")
        assert ("rig-1", "pole-1") in town.worker.snapshots
        town.worker.delays[POST] = float("inf")
        stop = town.later(lambda: town.client.post("/agents/pole-2/stop"))
        assert ((await stop.result()).status_code, 10 < stop.seconds < 11) == (200, True)


async def test_a_start_asks_for_its_conversation_until_the_worker_is_back(town_on_fakes) -> None:
    async with town_on_fakes() as town:
        town.worker.statuses[GET] = 503
        start = town.start_soon("pole-1")
        await trio.sleep(12)
        del town.worker.statuses[GET]
        assert ((await start.result()).status_code, 12 < start.seconds < 24) == (201, True)
        assert (await town.status("pole-1"))["snapshot"] is None


async def test_a_start_that_cannot_ask_begins_in_time_and_says_that_it_is_unsettled(town_on_fakes) -> None:
    async with town_on_fakes() as town:
        town.worker.statuses[GET] = 503
        start = town.start_soon("pole-1")
        assert ((await start.result()).status_code, 20 < start.seconds < 25) == (201, True)
        converse(town, "pole-1")
        assert (await town.status("pole-1"))["snapshot"]["state"] == "unsettled"
        town.worker.snapshots["rig-1", "pole-1"] = b"what was there before"
        del town.worker.statuses[GET]
        await trio.sleep(60)
        assert (await town.status("pole-1"))["snapshot"]["state"] == "apart"
        assert town.worker.snapshots["rig-1", "pole-1"] == b"what was there before"


async def test_the_mayor_is_not_prewarmed_without_its_conversation(town_on_fakes) -> None:
    async with town_on_fakes() as town:
        town.mayor_known()
        town.worker.statuses[GET] = 503
        await town.hydrated()
        assert (await town.health())["hydration"]["prewarm"].startswith("failed: ConversationUnknown")
        assert town.kilo.spawns == []


async def test_a_start_on_a_full_disk_says_so(town_on_fakes, monkeypatch: pytest.MonkeyPatch) -> None:
    async with town_on_fakes() as town:

        def full(*_: object, **__: object) -> None:
            raise OSError(errno.ENOSPC, "No space left on device")

        town.worker.snapshots["rig-1", "pole-1"] = b"SQLite format 3"
        monkeypatch.setattr("gastown.worker.snapshots.database.unpack", full)
        answer = await town.start("pole-1")
        assert (answer.status_code, answer.json()["phase"]) == (500, "snapshot")
        assert answer.json()["error"].endswith("its database cannot be put in place: No space left on device")


@pytest.mark.parametrize("stopped_before", [True, False])
async def test_the_next_start_of_an_agent_goes_on_with_the_stored_conversation(
    town_on_fakes, stopped_before: bool
) -> None:
    async with town_on_fakes() as town:
        converse(town, "elsewhere")
        town.worker.snapshots["rig-1", "pole-1"] = home_database(town, "elsewhere").read_bytes()
        town.worker.statuses[GET] = 503
        await town.start("pole-1")
        converse(town, "pole-1")
        if stopped_before:
            await town.client.post("/agents/pole-1/stop")
        del town.worker.statuses[GET]
        assert (await town.start("pole-1")).status_code == 201
        assert len(town.kilo.spawns) == 2
        database = home_database(town, "pole-1")
        assert database.read_bytes() == town.worker.snapshots["rig-1", "pole-1"]
        assert database.with_name("kilo.db.apart-1").exists()
        assert (await town.status("pole-1"))["snapshot"] is None


async def test_a_start_that_waited_long_at_the_gate_keeps_the_time_for_its_server(town_on_fakes) -> None:
    worker = partial(DeafWorker, routes=["GET /container-registry"])
    async with town_on_fakes(worker=worker, gastown_gate_seconds=37) as town:
        town.worker.statuses[GET] = 503
        town.hydrate()
        await trio.testing.wait_all_tasks_blocked()
        start = town.start_soon("pole-1")
        assert ((await start.result()).status_code, 37 < start.seconds < 43) == (201, True)
