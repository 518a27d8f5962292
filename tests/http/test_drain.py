"""The drain: one budget over all its phases."""

from __future__ import annotations

from functools import partial

import pytest
import trio

from gastown.testing.drainer import Drainer, converse, kept
from gastown.testing.kilo import Script
from gastown.testing.launchers import FakeLauncher, SlowKilo
from gastown.testing.worker import DeafWorker, SlowWorker

pytestmark = pytest.mark.virtual_time

EVICTION = "POST /container-eviction"
ALL_FLUSHED = {"registry": True, "reports": True, "events": True}
LONG = partial(FakeLauncher, script=Script(turn_seconds=10_000))


async def test_before_a_drain_there_is_none(town_on_fakes) -> None:
    async with town_on_fakes() as town:
        assert await Drainer(town).state() == {
            "draining": False,
            "phase": "none",
            "why": None,
            "budgetSeconds": None,
            "secondsLeft": None,
            "notice": None,
            "agents": [],
            "flushed": {},
        }


async def test_a_drain_is_accepted_at_once_and_starts_are_refused_from_then_on(town_on_fakes) -> None:
    async with town_on_fakes(kilo=LONG) as town:
        drainer = Drainer(town)
        await town.start("pole-1")
        state = await drainer.post(budgetSeconds=50)
        assert (state["draining"], state["why"], state["secondsLeft"]) == (True, "POST /drain", 50)
        refused = town.start_soon("pole-2")
        assert ((await refused.result()).status_code, refused.seconds) == (503, 0)
        assert (await town.health())["draining"] is True


async def test_a_drain_needs_no_body(town_on_fakes) -> None:
    async with town_on_fakes(gastown_drain_seconds=77) as town:
        answer = await town.client.post("/drain")
        assert (answer.status_code, answer.json()["budgetSeconds"]) == (202, 77)


@pytest.mark.parametrize("how", ["post", "signal"])
async def test_starts_that_wait_at_the_gate_are_refused_at_once(town_on_fakes, how: str) -> None:
    async with town_on_fakes(worker=partial(DeafWorker, routes=["GET /container-registry"])) as town:
        drainer = Drainer(town)
        town.hydrate()
        await trio.testing.wait_all_tasks_blocked()
        start = town.start_soon("pole-1")
        await trio.sleep(3)
        if how == "post":
            await drainer.post()
        else:
            drainer.drain.shutdown.tell("SIGTERM")
        assert ((await start.result()).status_code, start.seconds, town.kilo.spawns) == (503, 3, [])


async def test_a_start_that_is_under_way_is_refused_and_stays_in_the_registry(town_on_fakes) -> None:
    async with town_on_fakes(kilo=SlowKilo) as town:
        drainer = Drainer(town)
        start = town.start_soon("pole-1")
        await trio.sleep(5)
        await drainer.post()
        receipts = await drainer.left()
        assert (await start.result()).status_code == 503
        assert (receipts["pole-1"]["turn"], kept(town)) == ("starting", ["pole-1"])


async def test_idle_agents_leave_now_and_working_ones_when_their_turn_has_ended(town_on_fakes) -> None:
    async with town_on_fakes() as town:
        drainer = Drainer(town)
        town.kilo.scripts["pole-2"] = Script(turn_seconds=40)
        await town.start("pole-1")
        await trio.sleep(5)
        await town.start("pole-2")
        await drainer.post()
        await trio.sleep(5)
        state = await drainer.state()
        assert (state["phase"], [agent["step"] for agent in state["agents"]]) == ("working", ["done", "working"])
        receipts = await drainer.left()
        assert [receipts[name]["turn"] for name in ("pole-1", "pole-2")] == ["idle", "finished"]
        assert 35 < drainer.took < 45
        assert ((await drainer.state())["phase"], kept(town)) == ("done", ["pole-1", "pole-2"])
        last = town.kilo.home("pole-2").sessions.popitem()[1].messages[-1]
        assert ("completed" in last["time"], "error" in last) == (True, False)


async def test_a_server_that_nobody_came_for_ends_beside_those_of_the_agents(town_on_fakes) -> None:
    """A prewarmed mayor's would else begin to leave when all others have left."""
    async with town_on_fakes() as town:
        drainer = Drainer(town)
        town.kilo.stop_seconds = 2
        town.mayor_known()
        await town.hydrated()
        await town.start("pole-1")
        await trio.sleep(30)
        await drainer.post()
        await drainer.left()
        mayor, polecat = town.kilo.spawns
        assert (mayor.agent_id, mayor.ended, town.kilo.live) == ("mayor-1", polecat.ended, [])


async def test_a_turn_that_does_not_end_gets_most_of_the_budget_and_is_then_ended(town_on_fakes) -> None:
    async with town_on_fakes(kilo=LONG) as town:
        drainer = Drainer(town)
        await town.start("mayor-1")
        converse(town, "mayor-1")
        server = town.kilo.server("mayor-1")
        await drainer.post(budgetSeconds=100)
        await trio.sleep(59)
        assert (await drainer.receipts())["mayor-1"]["step"] == "working"
        receipt = (await drainer.left())["mayor-1"]
        assert (receipt["turn"], receipt["saved"], receipt["lost"]) == ("interrupted", True, [])
        assert 60 < drainer.took < 62
        assert [asked.path for asked in server.kilo.asked if asked.path.endswith("/abort")]
        assert town.kilo.live == []


async def test_nobody_hears_that_an_evicted_agent_has_completed(town_on_fakes) -> None:
    async with town_on_fakes(kilo=LONG) as town:
        drainer = Drainer(town)
        await town.start("pole-1")
        await town.start("pole-2")
        await drainer.post(budgetSeconds=20)
        drainer.drain.shutdown.tell("SIGTERM")
        await trio.sleep(1)
        drainer.drain.shutdown.budget.cancel()
        await drainer.over.wait()
        await trio.sleep(60)
        assert (town.worker.asked("POST /completed"), town.kilo.live) == ([], [])


async def test_the_second_signal_leaves_five_seconds(town_on_fakes) -> None:
    async with town_on_fakes(kilo=LONG) as town:
        drainer = Drainer(town)
        await town.start("pole-1")
        drainer.drain.shutdown.tell("SIGTERM")
        await trio.sleep(10)
        drainer.drain.shutdown.tell("SIGTERM")
        receipt = (await drainer.left())["pole-1"]
        assert (receipt["turn"], receipt["pushed"], receipt["lost"]) == ("interrupted", True, [])
        assert 10 < drainer.took < 12


async def test_after_the_second_signal_not_even_a_push_that_hangs_takes_longer(town_on_fakes) -> None:
    async with town_on_fakes(kilo=LONG) as town:
        drainer = Drainer(town)
        drainer.worktrees["pole-1"].seconds["push"] = float("inf")
        await town.start("pole-1")
        drainer.drain.shutdown.tell("SIGTERM")
        await trio.sleep(10)
        drainer.drain.shutdown.tell("SIGTERM")
        receipt = (await drainer.left())["pole-1"]
        assert (receipt["commit"], receipt["pushed"], receipt["lost"]) == (
            "0123abcd",
            False,
            ["the work: the time was up"],
        )
        assert (drainer.took <= 15, kept(town)) == (True, ["pole-1"])
        assert (await drainer.state())["flushed"] == ALL_FLUSHED


async def test_a_signal_that_comes_while_agents_are_saved_leaves_time_for_the_registry(town_on_fakes) -> None:
    async with town_on_fakes(kilo=LONG) as town:
        drainer = Drainer(town)
        drainer.worktrees["pole-1"].seconds["push"] = float("inf")
        await town.start("pole-1")
        drainer.drain.shutdown.tell("SIGTERM")
        await trio.sleep(215)
        assert (await drainer.receipts())["pole-1"]["step"] == "saving"
        drainer.drain.shutdown.tell("SIGTERM")
        await drainer.left()
        assert (drainer.took <= 220, (await drainer.state())["flushed"]) == (True, ALL_FLUSHED)


async def test_the_third_signal_leaves_now_and_the_receipts_say_what_is_lost(town_on_fakes) -> None:
    async with town_on_fakes(kilo=LONG) as town:
        drainer = Drainer(town)
        await town.start("pole-1")
        for _ in range(3):
            drainer.drain.shutdown.tell("SIGTERM")
        receipt = (await drainer.left())["pole-1"]
        assert (drainer.took, receipt["lost"]) == (0, ["all that was not saved before: the time was up"])


async def test_a_signal_during_a_drain_that_was_asked_for_is_the_first_one(town_on_fakes) -> None:
    async with town_on_fakes(kilo=LONG) as town:
        drainer = Drainer(town)
        await town.start("pole-1")
        await drainer.post(budgetSeconds=100)
        drainer.drain.shutdown.tell("SIGTERM")
        await trio.sleep(50)
        assert (await drainer.receipts())["pole-1"]["step"] == "working"


async def test_a_budget_only_ever_shrinks(town_on_fakes) -> None:
    async with town_on_fakes(kilo=LONG) as town:
        drainer = Drainer(town)
        await town.start("pole-1")
        await drainer.post(budgetSeconds=1000)
        assert (await drainer.post(budgetSeconds=50))["secondsLeft"] == 50
        assert (await drainer.post(budgetSeconds=500))["secondsLeft"] == 50
        await drainer.left()
        assert 30 < drainer.took < 32


async def test_the_eviction_notice_goes_first_and_nobody_waits_for_it(town_on_fakes) -> None:
    async with town_on_fakes(worker=partial(SlowWorker, seconds=8, routes=[EVICTION])) as town:
        drainer = Drainer(town)
        await town.start("pole-1")
        await trio.sleep(5)
        before = len(town.worker.calls)
        await drainer.post()
        await trio.sleep(2)
        assert town.worker.calls[before].route == EVICTION
        assert (await drainer.receipts())["pole-1"]["step"] == "done"
        await drainer.left()
        assert (round(drainer.took), (await drainer.state())["notice"]) == (8, "arrived")


async def test_a_worker_that_never_takes_the_notice_is_given_ten_seconds(town_on_fakes) -> None:
    async with town_on_fakes(worker=partial(DeafWorker, routes=[EVICTION])) as town:
        drainer = Drainer(town)
        await drainer.post()
        await drainer.left()
        assert (drainer.took, (await drainer.state())["notice"]) == (10, "not delivered: no answer in 10 s")
