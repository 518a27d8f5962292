"""`/metrics`: what happens in a town moves the right numbers."""

from __future__ import annotations

import os
from functools import partial
from types import SimpleNamespace

import pytest
import trio

from gastown.metrics.table import METRICS
from gastown.testing.drainer import Drainer, converse
from gastown.testing.kilo import Script
from gastown.testing.launchers import CrashingKilo, FailingPromptKilo, FakeLauncher, NeverKilo, SlowKilo
from gastown.testing.scrape import Scrape, scrape
from gastown.testing.sockets import open_socket
from gastown.testing.worker import DeafWorker

pytestmark = pytest.mark.virtual_time

LONG = partial(FakeLauncher, script=Script(turn_seconds=1000))
STARTS = "agent_starts_total"
FAILURES = "agent_start_failures_total"


def outcomes(seen: Scrape) -> dict[tuple[str, str], float]:
    """The starts that are over, by origin and outcome."""
    found: dict[tuple[str, str], float] = {}
    for sample in seen.families[f"gastown_{STARTS}"].samples:
        if sample.value:
            found[sample.labels["origin"], sample.labels["outcome"]] = sample.value
    return found


def failures(seen: Scrape) -> dict[tuple[str, str], float]:
    found: dict[tuple[str, str], float] = {}
    for sample in seen.families[f"gastown_{FAILURES}"].samples:
        if sample.value:
            found[sample.labels["phase"], sample.labels["outcome"]] = sample.value
    return found


async def test_a_start_is_counted_with_its_phases_and_its_whole_time(town_on_fakes) -> None:
    async with town_on_fakes() as town:
        start = town.start_soon("pole-1")
        await start.result()
        seen = await scrape(town)
        assert outcomes(seen) == {("request", "running"): 1}
        assert seen(STARTS, role="polecat", outcome="running") == 1
        assert seen("agent_start_duration_seconds_count", origin="request") == 1
        assert seen("agent_start_duration_seconds_sum") == pytest.approx(start.seconds)
        assert seen("agent_start_phase_duration_seconds_sum") == pytest.approx(start.seconds)
        assert seen("agent_start_phase_duration_seconds_sum", phase="spawn") == 2
        for phase in (
            "workspace",
            "snapshot",
            "queue",
            "spawn",
            "instance",
            "session",
            "events",
            "initial_prompt",
        ):
            assert seen("agent_start_phase_duration_seconds_count", phase=phase) == 1
        assert failures(seen) == {}


async def test_the_wait_for_a_slot_is_the_queue_and_who_waits_is_seen(town_on_fakes) -> None:
    async with town_on_fakes(gastown_spawn_slots=1, kilo=SlowKilo) as town:
        first, second = town.start_soon("pole-1"), town.start_soon("pole-2")
        await trio.sleep(10)
        seen = await scrape(town)
        assert (seen("spawn_slots"), seen("spawn_slots_in_use")) == (1, 1)
        assert seen("spawn_slots_waiting", urgency="interactive") == seen("spawn_slots_waiting") == 1
        assert seen("agent_conditions", condition="starting") == seen("agents", state="starting") == 2
        await first.result()
        await second.result()
        seen = await scrape(town)
        assert 25 < seen("agent_start_phase_duration_seconds_sum", phase="queue") < 30
        assert seen.within("agent_start_phase_duration_seconds", 20, phase="queue") == 1
        assert (seen("spawn_slots_in_use"), seen("spawn_slots_waiting")) == (0, 0)


@pytest.mark.parametrize(
    ("kilo", "outcome", "phase", "spawn"),
    [
        (CrashingKilo, "failed", "spawn", "died"),
        (NeverKilo, "failed", "spawn", "timed_out"),
        (partial(SlowKilo, script=Script(never_opens_turn=True)), "deadline", "initial_prompt", "ready"),
        (partial(FailingPromptKilo, status=401), "failed", "initial_prompt", "ready"),
        (partial(FakeLauncher, script=Script(tools=("bash",))), "failed", "instance", "refused"),
    ],
)
async def test_a_start_that_fails_is_counted_by_the_phase_that_was_running(
    town_on_fakes, kilo, outcome: str, phase: str, spawn: str
) -> None:
    async with town_on_fakes(kilo=kilo) as town:
        assert (await town.start()).status_code in (500, 504)
        await trio.sleep(10)  # who asked is answered before nothing is left of the agent
        seen = await scrape(town)
        assert outcomes(seen) == {("request", outcome): 1}
        assert failures(seen) == {(phase, outcome): 1}
        assert seen("agent_start_duration_seconds_count") == 0
        assert seen("server_spawns_total", outcome=spawn) == seen("server_spawns_total") == 1


async def test_a_start_that_is_stopped_has_ended(town_on_fakes) -> None:
    async with town_on_fakes(kilo=SlowKilo) as town:
        start = town.start_soon("pole-1")
        await trio.sleep(5)
        await town.client.post("/agents/pole-1/stop")
        await start.result()
        seen = await scrape(town)
        assert outcomes(seen) == {("request", "ended"): 1}
        assert failures(seen) == {("spawn", "ended"): 1}
        assert seen("server_spawns_total", outcome="cancelled") == 1


async def test_a_start_that_another_one_replaces_has_ended_and_the_other_waits_for_it(town_on_fakes) -> None:
    async with town_on_fakes(kilo=SlowKilo) as town:
        first = town.start_soon("pole-1")
        await trio.sleep(5)
        assert (await town.start("pole-1", prompt="Something else")).status_code == 201
        await first.result()
        seen = await scrape(town)
        assert outcomes(seen) == {("request", "ended"): 1, ("request", "running"): 1}
        assert seen("agent_start_phase_duration_seconds_count", phase="replace") == 1


async def test_a_start_during_a_drain_is_refused_at_the_gate(town_on_fakes) -> None:
    async with town_on_fakes(kilo=LONG) as town:
        drainer = Drainer(town)
        await town.start("pole-1")
        await drainer.post()
        assert (await town.start("pole-2")).status_code == 503
        seen = await scrape(town)
        assert outcomes(seen) == {("request", "running"): 1, ("request", "refused"): 1}
        assert failures(seen) == {("gate", "refused"): 1}


async def test_a_start_that_waits_too_long_for_the_gate_misses_its_deadline_there(town_on_fakes) -> None:
    registry = partial(DeafWorker, routes=["GET /container-registry"])
    async with town_on_fakes(worker=registry, gastown_gate_seconds=500, gastown_start_seconds=5) as town:
        town.hydrate()
        await trio.testing.wait_all_tasks_blocked()
        start = town.start_soon("pole-1")
        await trio.sleep(1)
        seen = await scrape(town)
        assert (seen("gate_open"), seen("gate_waiting_requests")) == (0, 1)
        assert seen("hydration_state", state="running") == seen("hydration_state") == 1
        assert (await start.result()).status_code == 504
        seen = await scrape(town)
        assert failures(seen) == {("gate", "deadline"): 1}
        assert seen("gate_wait_seconds_sum") == pytest.approx(start.seconds)
        assert (seen("gate_waiting_requests"), seen.within("gate_wait_seconds", 3)) == (0, 0)


async def test_a_start_whose_client_leaves_at_the_gate_has_ended_there(town_on_fakes) -> None:
    registry = partial(DeafWorker, routes=["GET /container-registry"])
    async with town_on_fakes(worker=registry, gastown_gate_seconds=500) as town:
        town.hydrate()
        await trio.testing.wait_all_tasks_blocked()
        with trio.move_on_after(5):
            await town.start("pole-1")
        await trio.testing.wait_all_tasks_blocked()
        seen = await scrape(town)
        assert outcomes(seen) == {("request", "ended"): 1}
        assert failures(seen) == {("gate", "ended"): 1}


async def test_an_agent_of_the_registry_is_timed_from_its_release(town_on_fakes) -> None:
    async with town_on_fakes(gastown_gate_seconds=20) as town:
        town.worker.registry = [town.entry("pole-1"), town.entry("pole-2")]
        town.worker.delays["GET /mayor-id"] = 5
        await town.hydrated()
        seen = await scrape(town)
        assert outcomes(seen) == {("registry", "running"): 2}
        assert seen("agent_start_phase_duration_seconds_sum", phase="claimed") == 10
        assert seen.within("agent_start_duration_seconds", 6, origin="registry") == 2
        assert seen("hydration_state", state="complete") == 1


async def test_an_agent_whose_server_dies_comes_back_and_is_counted_as_that(town_on_fakes) -> None:
    async with town_on_fakes(kilo=LONG) as town:
        await town.start()
        town.kilo.kill(town.kilo.server("mayor-1"))
        await trio.sleep(10)
        seen = await scrape(town)
        assert outcomes(seen) == {("request", "running"): 1, ("comeback", "running"): 1}
        assert seen("server_deaths_total") == 1
        assert seen("agent_start_phase_duration_seconds_count", phase="spawn") == 2
        assert 2 < seen("agent_start_duration_seconds_sum", origin="comeback") < 10


async def test_agents_are_counted_by_role_state_and_condition(town_on_fakes) -> None:
    async with town_on_fakes() as town:
        town.kilo.scripts["mayor-1"] = Script(turn_seconds=1000)
        await town.start()
        await town.start("pole-1")
        await town.start("pole-2", role="witness")
        await town.client.post("/agents/pole-1/stop")
        await trio.sleep(5)
        seen = await scrape(town)
        assert seen("agents", role="mayor", state="running") == 1
        assert seen("agents", role="polecat", state="exited") == 1
        assert seen("agents", role="other", state="running") == 1
        assert (seen("agents"), seen("servers")) == (3, 2)
        assert seen("agent_conditions", condition="busy") == seen("agent_conditions", condition="idle") == 1
        assert seen("agent_conditions") == 2


async def test_memory_is_summed_by_role_and_the_biggest_is_told(
    town_on_fakes, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with town_on_fakes() as town:
        await town.start()
        await town.start("pole-1")
        for server in town.kilo.live:
            monkeypatch.setattr(server, "pid", os.getpid())
        seen = await scrape(town)
        assert seen("server_resident_memory_bytes", role="mayor") > 10e6
        assert seen("server_resident_memory_bytes", role="polecat") > 10e6
        assert seen("server_resident_memory_bytes") == 2 * seen("server_resident_memory_max_bytes")


async def test_a_follower_is_counted_and_so_is_what_it_loses(town_on_fakes) -> None:
    async with town_on_fakes() as town:
        assert (await scrape(town))("stream_subscribers") == 0
        log = town.opened.town.services.events
        for number in range(2100):
            log.append("pole-1", "said", {"number": number})
        async with open_socket(town.client, "ws://town/agents/pole-1/stream?after=50") as stream:
            await stream.next()
            seen = await scrape(town)
            assert (seen("stream_subscribers"), seen("stream_gaps_total")) == (1, 1)
            assert seen("events_recorded_total") == 2100
        await trio.testing.wait_all_tasks_blocked()
        assert (await scrape(town))("stream_subscribers") == 0


async def test_a_drain_shows_its_phase_and_how_long_each_took(town_on_fakes) -> None:
    async with town_on_fakes(kilo=LONG, gastown_drain_seconds=100) as town:
        drainer = Drainer(town)
        seen = await scrape(town)
        assert (seen("drain_phase", phase="none"), seen("drain_budget_remaining_seconds")) == (1, 100)
        await town.start("mayor-1")
        converse(town, "mayor-1")
        town.worker.delays["POST /db-snapshot"] = 7
        await drainer.post()
        await trio.sleep(30)
        seen = await scrape(town)
        assert seen("drain_phase", phase="working") == seen("drain_phase") == 1
        assert seen("drain_phase_duration_seconds", phase="working") == pytest.approx(30)
        assert seen("drain_phase_duration_seconds") == pytest.approx(30)
        assert seen("drain_budget_remaining_seconds") == pytest.approx(70)
        await drainer.left()
        seen = await scrape(town)
        assert seen("drain_phase", phase="done") == 1
        assert seen("drain_phase_duration_seconds", phase="working") == pytest.approx(60)
        assert 7 <= seen("drain_phase_duration_seconds", phase="saving") < 9
        assert seen("drain_phase_duration_seconds") == pytest.approx(drainer.took)


async def test_every_label_combination_of_a_counter_is_there_before_it_happens(town_on_fakes) -> None:
    """Else the first failure of a kind would be no increase."""
    async with town_on_fakes() as town:
        seen = await scrape(town)
        for metric in METRICS.values():
            if metric.type == "counter":
                assert len(seen.families[metric.name].samples) == metric.most_series


async def test_a_hundred_agents_of_as_many_roles_make_no_more_series_than_the_table_says(town_on_fakes) -> None:
    async with town_on_fakes(gastown_spawn_slots=100) as town:
        starts = [town.start_soon(f"pole-{number}", role=f"role-{number}") for number in range(100)]
        for start in starts:
            assert (await start.result()).status_code == 201
        seen = await scrape(town)
        assert seen("agents", state="running", role="other") == 100
        assert len(seen.samples) <= sum(metric.most_series for metric in METRICS.values())
        for name, family in seen.families.items():
            assert len(family.samples) <= METRICS[name].most_series
        assert "pole-" not in seen.text
        assert "role-" not in seen.text


async def test_two_towns_of_one_process_count_apart(town_on_fakes) -> None:
    async with town_on_fakes() as town:
        await town.start("pole-1")
        assert outcomes(await scrape(town)) == {("request", "running"): 1}
    async with town_on_fakes() as town:
        assert outcomes(await scrape(town)) == {}


async def test_a_town_without_a_worker_and_a_broker_has_metrics_too(town_on_fakes) -> None:
    async with town_on_fakes(worker=None) as town:
        assert (await town.start("pole-1")).status_code == 201
        seen = await scrape(town)
        assert outcomes(seen) == {("request", "running"): 1}
        assert (seen("worker_calls_total"), seen("broker_requests_total")) == (0, 0)


async def test_the_version_of_kilo_is_that_of_the_package_in_which_it_lies(town_on_fakes, tmp_path) -> None:
    async with town_on_fakes() as town:
        here = town.opened.town
        assert 'kilo_version="unknown"' in (await scrape(town)).text
        binary = tmp_path / "package" / "bin" / "kilo"
        binary.parent.mkdir(parents=True)
        (tmp_path / "package" / "package.json").write_text('{"version": "7.7.7"}')
        object.__setattr__(here.services, "defaults", SimpleNamespace(kilo_bin=str(binary)))
        assert 'kilo_version="7.7.7"' in (await scrape(town)).text
