"""Boot hydration: what it brings back, in which order, and when it lets requests through."""

from __future__ import annotations

import gc
from functools import partial
from itertools import pairwise
from typing import Any

import pytest
import trio

from gastown import __version__
from gastown.concurrency.waiting import AT_ONCE
from gastown.testing.launchers import CrashingKilo, Fate
from gastown.testing.town import FakeTown
from gastown.testing.worker import DeafWorker, SlowWorker

pytestmark = pytest.mark.virtual_time

REGISTRY, MAYOR, REFRESH = "GET /container-registry", "GET /mayor-id", "POST /refresh-container-token"
SNAPSHOT = "GET /db-snapshot"


async def gate_opens(town: FakeTown) -> float:
    """When the gate of a hydration that has begun opens, on Trio's clock."""
    await town.opened.town.gate.wait()
    return trio.current_time()


async def closed(town: FakeTown) -> None:
    """Begin hydration and return when the gate is closed."""
    town.hydrate()
    await trio.testing.wait_all_tasks_blocked()
    assert (await town.health())["hydration"]["gate"] == "closed"


async def test_health_answers_before_hydration_has_begun(town_on_fakes) -> None:
    async with town_on_fakes() as town:
        assert await town.health() == {
            "status": "ok",
            "agents": 0,
            "servers": 0,
            "version": __version__,
            "uptime": 0.0,
            "startedAt": "2030-05-01T12:00:00.000Z",
            "hydration": {
                "state": "idle",
                "gate": "open",
                "claimed": 0,
                "resumed": 0,
                "failed": 0,
                "skipped": 0,
                "timeline": [],
            },
        }


async def test_health_answers_while_hydration_goes_on(town_on_fakes) -> None:
    async with town_on_fakes(worker=DeafWorker) as town:
        await closed(town)
        health = await town.health()
        assert (health["status"], health["hydration"]["state"]) == ("ok", "running")


async def test_a_container_without_a_worker_has_nothing_to_hydrate_and_an_open_gate(town_on_fakes) -> None:
    async with town_on_fakes(worker=None) as town:
        assert town.opened.hydration is None
        answer = await town.start()
        assert (answer.status_code, town.worker.calls) == (201, [])


async def test_a_town_with_nothing_to_bring_back_opens_its_gate_at_once(town_on_fakes) -> None:
    async with town_on_fakes() as town:
        await town.hydrated()
        hydration = (await town.health())["hydration"]
        assert (hydration["state"], hydration["gate"], hydration["gateOpenedBy"]) == (
            "complete",
            "open",
            "hydration",
        )
        assert trio.current_time() == 0


async def test_every_entry_of_the_registry_is_resumed_with_its_own_session(town_on_fakes) -> None:
    async with town_on_fakes() as town:
        town.worker.registry = [town.entry("pole-1"), town.entry("pole-2")]
        session = town.kilo.home("pole-1").session(town.worker.registry[0]["workdir"], "old")
        await town.hydrated()
        health = await town.health()
        assert (health["agents"], health["hydration"]["claimed"], health["hydration"]["resumed"]) == (2, 2, 2)
        assert (await town.status("pole-1"))["sessionId"] == session.id
        assert (await town.status("pole-2"))["status"] == "running"


async def test_the_gate_opens_when_its_time_is_over_and_hydration_goes_on(town_on_fakes) -> None:
    async with town_on_fakes(worker=partial(SlowWorker, seconds=9, routes=[SNAPSHOT])) as town:
        town.mayor_known()
        town.kilo.fate = lambda spawn: Fate(25)
        await closed(town)
        assert await gate_opens(town) == 20
        hydration = (await town.health())["hydration"]
        assert (hydration["gateOpenedBy"], hydration["state"]) == ("deadline", "running")
        await trio.sleep(20)
        assert (await town.health())["hydration"]["prewarm"] == "ready"


async def test_a_request_waits_at_the_gate_and_no_longer_than_its_time(town_on_fakes) -> None:
    async with town_on_fakes(worker=partial(DeafWorker, routes=[REGISTRY]), gastown_gate_seconds=7) as town:
        await closed(town)
        start = town.start_soon("pole-9")
        await start.result()
        assert town.kilo.spawns[0].began == 7


@pytest.mark.parametrize("fault", ["status 500", "garbage", "no list", "down"])
async def test_a_registry_that_cannot_be_had_fails_hydration_and_nothing_else(town_on_fakes, fault: str) -> None:
    async with town_on_fakes() as town:
        if fault == "status 500":
            town.worker.statuses[REGISTRY] = 500
        elif fault == "garbage":
            town.worker.garbage.add(REGISTRY)
        elif fault == "no list":
            town.worker.registry = {"not": "a list"}
        else:
            town.worker.down()
        await town.hydrated()
        health = await town.health()
        assert (health["status"], health["hydration"]["state"], health["hydration"]["gate"]) == (
            "degraded",
            "failed",
            "open",
        )
        assert health["hydration"]["error"].startswith("WorkerError: worker API: GET /container-registry: ")
        assert (await town.start("pole-1")).status_code == 201


async def test_a_registry_that_is_forbidden_fails_hydration_and_ends_it(town_on_fakes) -> None:
    """A 403 does not wait for another token, as a 401 does."""
    async with town_on_fakes() as town:
        town.worker.statuses[REGISTRY] = 403
        town.hydrate()
        for _ in range(3000):  # no clock bounds a hydration that tries again at once
            await trio.lowlevel.checkpoint()
        assert len(town.worker.asked(REGISTRY)) == 1
        hydration = (await town.health())["hydration"]
        assert (hydration["state"], "container token" in hydration["error"]) == ("failed", False)


async def test_a_crash_inside_hydration_opens_the_gate_and_the_server_goes_on(
    town_on_fakes, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with town_on_fakes() as town:

        def crash(*_: Any) -> None:
            raise RuntimeError("a bug of ours")

        monkeypatch.setattr(town.opened.town.roster, "claim", crash)
        town.worker.registry = [town.entry("pole-1")]
        start = town.start_soon("pole-2")
        await town.hydrated()
        health = await town.health()
        assert (health["status"], health["hydration"]["error"]) == ("degraded", "RuntimeError: a bug of ours")
        assert (await start.result()).status_code == 201


async def test_cancelling_hydration_opens_the_gate(town_on_fakes) -> None:
    async with town_on_fakes(worker=DeafWorker) as town:
        scope = town.hydrate()
        await trio.sleep(1)
        scope.cancel()
        await trio.testing.wait_all_tasks_blocked()
        assert (await town.health())["hydration"]["gate"] == "open"


async def test_the_registry_is_read_again_while_the_worker_is_away(town_on_fakes) -> None:
    async with town_on_fakes() as town:
        town.worker.registry = [town.entry("pole-1")]
        town.worker.down()
        town.hydrate()
        await trio.sleep(8)
        town.worker.up()
        await trio.sleep(10)
        hydration = (await town.health())["hydration"]
        assert (hydration["state"], hydration["resumed"]) == ("complete", 1)


async def test_a_slow_registry_is_waited_for_ten_seconds_and_asked_again(town_on_fakes) -> None:
    async with town_on_fakes(worker=partial(DeafWorker, routes=[REGISTRY])) as town:
        town.hydrate()
        await trio.sleep(9.9)
        assert len(town.worker.asked(REGISTRY)) == 1
        await trio.sleep(1)
        assert len(town.worker.asked(REGISTRY)) == 2


CANARY = "canary-of-a-token"
MALFORMED: list[tuple[str, Any]] = [
    ("a string", CANARY),
    ("null", None),
    ("without a request", {"agentId": "x", "workdir": "/w", "env": {"KILOCODE_TOKEN": CANARY}}),
    (
        "a request without a model",
        {"agentId": "x", "request": {"agentId": "x", "envVars": {"T": CANARY}}, "workdir": "/w"},
    ),
    ("variables that are a list", {"agentId": "x", "request": {}, "workdir": "/w", "env": [CANARY]}),
]


@pytest.mark.parametrize(("kind", "entry"), MALFORMED, ids=[kind for kind, _ in MALFORMED])
async def test_a_malformed_entry_is_skipped_and_its_warning_holds_nothing_of_it(
    town_on_fakes, kind: str, entry: Any
) -> None:
    async with town_on_fakes() as town:
        town.worker.registry = [town.entry("pole-1"), entry, town.entry("pole-2")]
        await town.hydrated()
        hydration = (await town.health())["hydration"]
        assert (hydration["resumed"], hydration["skipped"], hydration["state"]) == (2, 1, "complete")
        assert len(town.logged("registry.entry_skipped")) == 1
        assert CANARY not in town.log.getvalue()


async def test_an_entry_whose_ids_differ_is_skipped(town_on_fakes) -> None:
    async with town_on_fakes() as town:
        town.worker.registry = [town.entry("pole-1") | {"agentId": "pole-2"}]
        await town.hydrated()
        assert (await town.health())["hydration"]["skipped"] == 1


@pytest.mark.parametrize("workdir", ["/etc", "/workspace/../etc", "relative", "{root}/../../etc", "{root}"])
async def test_an_entry_outside_of_the_workspace_root_is_skipped(town_on_fakes, workdir: str) -> None:
    async with town_on_fakes() as town:
        place = workdir.format(root=town.settings.gastown_workspace_root)
        town.worker.registry = [town.entry("pole-1", workdir=place)]
        await town.hydrated()
        assert ((await town.health())["hydration"]["skipped"], town.kilo.spawns) == (1, [])


async def test_an_agent_that_is_in_the_registry_twice_is_resumed_once(town_on_fakes) -> None:
    async with town_on_fakes() as town:
        town.worker.registry = [town.entry("pole-1"), town.entry("pole-1")]
        await town.hydrated()
        assert (town.kilo.order, (await town.health())["hydration"]["skipped"]) == (["pole-1"], 1)


async def test_every_entry_is_claimed_before_the_gate_opens(town_on_fakes) -> None:
    async with town_on_fakes(worker=partial(SlowWorker, seconds=3, routes=[REGISTRY])) as town:
        town.worker.registry = [town.entry(f"pole-{n}") for n in range(5)]
        await closed(town)
        await gate_opens(town)
        states = {(await town.status(f"pole-{n}"))["status"] for n in range(5)}
        assert states == {"starting"}


async def test_resumes_go_on_behind_the_gate(town_on_fakes) -> None:
    async with town_on_fakes(gastown_spawn_slots=1) as town:
        town.worker.registry = [town.entry(f"pole-{n}") for n in range(4)]
        town.hydrate()
        await trio.sleep(1)
        hydration = (await town.health())["hydration"]
        assert (hydration["gate"], hydration["claimed"], hydration["resumed"]) == ("open", 4, 0)
        await trio.sleep(30)
        assert (await town.health())["hydration"]["resumed"] == 4


@pytest.mark.parametrize("attempt", range(5))
async def test_a_mayor_of_the_registry_is_resumed_before_the_others(town_on_fakes, attempt: int) -> None:
    async with town_on_fakes(gastown_spawn_slots=4) as town:
        town.worker.registry = [town.entry(f"pole-{n}") for n in range(3)] + [town.entry("mayor-1")]
        await town.hydrated()
        first, *others = town.kilo.spawns
        assert first.agent_id == "mayor-1"
        assert all(spawn.began >= first.listened for spawn in others)


async def test_a_resumed_mayor_adopts_the_server_that_was_prewarmed(town_on_fakes) -> None:
    async with town_on_fakes() as town:
        town.mayor_known()
        town.worker.registry = [town.entry("mayor-1", env={"KILOCODE_TOKEN": "kilo-token"})]
        await town.hydrated()
        assert (town.kilo.order, (await town.status())["status"]) == (["mayor-1"], "running")


async def test_a_fresh_start_replaces_an_agent_that_is_still_claimed(town_on_fakes) -> None:
    async with town_on_fakes(gastown_spawn_slots=1) as town:
        town.worker.registry = [town.entry("pole-1", prompt="old"), town.entry("pole-2")]
        town.hydrate()
        await trio.sleep(0.5)
        answer = await town.start("pole-1", prompt="fresh")
        assert answer.status_code == 201
        prompts = [prompt["parts"][0]["text"] for prompt in town.kilo.server("pole-1").kilo.prompts]
        assert prompts == ["fresh"]
        assert (await town.health())["agents"] == 2


async def test_a_fresh_start_that_came_first_is_not_replaced_by_the_registry(town_on_fakes) -> None:
    async with town_on_fakes(
        worker=partial(SlowWorker, seconds=5, routes=[REGISTRY]), gastown_gate_seconds=2
    ) as town:
        town.worker.registry = [town.entry("pole-1", prompt="old")]
        town.hydrate()
        answer = await town.start("pole-1", prompt="fresh")
        await trio.sleep(20)
        assert (await town.status("pole-1"))["sessionId"] == answer.json()["sessionId"]
        assert (await town.health())["hydration"]["skipped"] == 1


async def test_a_second_hydration_brings_no_agent_back_twice(town_on_fakes) -> None:
    async with town_on_fakes() as town:
        town.worker.registry = [town.entry("pole-1")]
        await town.hydrated()
        await town.hydrated()
        assert town.kilo.order == ["pole-1"]


ENDS: dict[str, tuple[dict[str, Any], list[str]]] = {
    "killed": ({}, ["resume"]),
    "told to leave": ({"completed": 1, "error": {"name": "MessageAbortedError"}}, ["resume"]),
    "finished": ({"completed": 1}, []),
    "refused by the gateway": ({"completed": 1, "error": {"name": "APIError"}}, []),
}


@pytest.mark.parametrize("end", ENDS)
async def test_an_interrupted_turn_is_resumed_and_a_finished_one_left_alone(town_on_fakes, end: str) -> None:
    ended, expected = ENDS[end]
    async with town_on_fakes() as town:
        town.worker.registry = [town.entry("pole-1")]
        home = town.kilo.home("pole-1")
        session = home.session(town.entry("pole-1")["workdir"], "old")
        message = home.message(session, "assistant", {"providerID": "kilo", "modelID": "test/large"})
        if "completed" in ended:
            message["time"]["completed"] = ended["completed"]
        message["error"] = ended.get("error")
        await town.hydrated()
        posts = [a.path for a in town.kilo.server("pole-1").kilo.asked if a.method == "POST"]
        assert [path.rpartition("/")[2] for path in posts] == expected


async def test_a_resume_that_fails_is_counted_and_does_not_touch_the_others(town_on_fakes) -> None:
    async with town_on_fakes() as town:
        crash = CrashingKilo(town.network).fate
        town.kilo.fate = lambda spawn: crash(spawn) if spawn.agent_id == "pole-1" else Fate()
        town.worker.registry = [town.entry("pole-1"), town.entry("pole-2")]
        await town.hydrated()
        hydration = (await town.health())["hydration"]
        assert (hydration["state"], hydration["resumed"], hydration["failed"]) == ("complete", 1, 1)
        assert (await town.status("pole-1"))["status"] == "failed"


async def test_the_registry_is_written_again_with_what_was_brought_back(town_on_fakes) -> None:
    async with town_on_fakes() as town:
        town.worker.registry = [town.entry("pole-1"), "malformed"]
        await town.hydrated()
        await town.opened.registry.flushed()
        assert [entry["agentId"] for entry in town.worker.registries[-1]] == ["pole-1"]


async def test_the_timeline_shows_the_bars_of_the_boot(town_on_fakes) -> None:
    async with town_on_fakes() as town:
        town.mayor_known()
        await town.hydrated()
        timeline = (await town.health())["hydration"]["timeline"]
        bars = {(bar["name"], bar["startMs"], bar["durationMs"]) for bar in timeline}
        assert ("prewarm", 0, 2200) in bars
        assert {bar["name"] for bar in timeline} == {
            "registry",
            "mayor context",
            "workspace",
            "snapshot",
            "prewarm",
        }


async def test_a_fresh_start_that_came_first_and_has_ended_is_not_undone_by_the_registry(town_on_fakes) -> None:
    async with town_on_fakes(
        worker=partial(SlowWorker, seconds=9, routes=[REGISTRY]), gastown_gate_seconds=2
    ) as town:
        town.worker.registry = [town.entry("pole-1", prompt="old")]
        town.hydrate()
        await town.start("pole-1", prompt="fresh")
        await town.client.post("/agents/pole-1/stop")
        await trio.sleep(60)
        assert ((await town.status("pole-1"))["status"], town.kilo.order) == ("exited", ["pole-1"])
        assert town.worker.registry == []


async def test_a_large_registry_is_claimed_in_small_steps_and_written_once(town_on_fakes) -> None:
    """B8: between two claims others have their turn, so that /health answers. Nothing is written in the middle."""
    async with town_on_fakes() as town:
        town.worker.registry = [town.entry(f"pole-{number}") for number in range(200)]
        roster, claimed = town.opened.town.roster, [0]

        async def count() -> None:
            while True:
                claimed.append(len(roster.known()))
                await trio.lowlevel.checkpoint()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(count)
            town.hydrate()
            await gate_opens(town)
            while claimed[-1] < 200:
                await trio.lowlevel.checkpoint()
            nursery.cancel_scope.cancel()
        assert max(after - before for before, after in pairwise(claimed)) <= 2 * AT_ONCE
        await town.opened.registry.flushed()
        assert {len(entries) for entries in town.worker.registries} == {200}
        assert len(town.worker.asked(REGISTRY)) == 1


async def test_a_large_registry_brings_no_collection_of_all_objects(town_on_fakes) -> None:
    """B8: one stops everything for half a second where ten thousand agents come. None sees those that resume."""
    full: list[int] = []

    def note(phase: str, info: dict[str, int]) -> None:
        if phase == "stop" and info["generation"] == 2:
            full.append(info["collected"])

    usual = gc.get_threshold()
    async with town_on_fakes() as town:
        town.worker.registry = [town.entry(f"pole-{number}") for number in range(200)]
        gc.freeze()  # so that what comes is much, beside what there is
        gc.collect()
        gc.unfreeze()
        gc.callbacks.append(note)
        try:
            gc.set_threshold(100, 5, 5)
            scope = town.hydrate()
            while town.opened.town.report.gate_opened_by is None:
                await trio.lowlevel.checkpoint()
            assert (full, gc.get_freeze_count()) == ([], 0)
            await trio.testing.wait_all_tasks_blocked()
            assert gc.get_freeze_count() > 0
            scope.cancel()
            await trio.testing.wait_all_tasks_blocked()
            assert gc.get_freeze_count() == 0
            assert gc.get_threshold() == (100, 5, 5)
        finally:
            gc.callbacks.remove(note)
            gc.set_threshold(*usual)
