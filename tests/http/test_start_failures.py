"""Starts that go wrong: each failure has a type, a phase and a sentence."""

from __future__ import annotations

import sqlite3
from functools import partial
from pathlib import Path

import pytest
import trio

from gastown.concurrency.processes import Exit
from gastown.testing.kilo import Script
from gastown.testing.launchers import (
    BROKEN_DATABASE,
    CrashingKilo,
    DyingKilo,
    FailingPromptKilo,
    FakeLauncher,
    Fate,
)
from gastown.testing.town import FakeTown

pytestmark = pytest.mark.virtual_time


def home(town: FakeTown, agent_id: str) -> Path:
    return Path(town.settings.gastown_agent_home_root) / f"agent-home-{agent_id}" / ".local/share/kilo"


def database(folder: Path) -> bytes:
    """A sound SQLite file."""
    folder.mkdir(parents=True, exist_ok=True)
    connection = sqlite3.connect(folder / "made.db")
    connection.execute("CREATE TABLE session (id TEXT)")
    connection.commit()
    connection.close()
    return (folder / "made.db").read_bytes()


@pytest.mark.parametrize(
    ("status", "action"),
    [
        (401, "Check the gateway token of the town"),
        (402, "Add credits to the account or organisation that pays for the gateway"),
        (403, "Check that the token may use this model and organisation"),
        (404, "Choose another model"),
    ],
)
async def test_a_gateway_that_refuses_the_first_prompt_fails_the_start_with_its_status(
    town_on_fakes, status: int, action: str
) -> None:
    named = " (model test/large)" if status == 404 else ""
    async with town_on_fakes(kilo=partial(FailingPromptKilo, status=status)) as town:
        answer = await town.start("pole-1")
        assert (answer.status_code, answer.json()) == (
            500,
            {
                "error": f"The first prompt failed: gateway said {status}{named}",
                "phase": "initial_prompt",
                "status": status,
                "error_type": "APIError",
                "action": action,
            },
        )
        await trio.sleep(2)
        assert (town.kilo.live, (await town.status("pole-1"))["status"]) == ([], "failed")


async def test_a_model_that_kilo_does_not_know_fails_the_start(town_on_fakes) -> None:
    async with town_on_fakes(kilo=partial(FakeLauncher, script=Script(knows_configured=False))) as town:
        answer = await town.start("pole-1")
        assert (answer.status_code, answer.json()["phase"], answer.json()["error_type"]) == (
            500,
            "initial_prompt",
            "UnknownError",
        )


@pytest.mark.parametrize("status", [429, 503])
async def test_a_session_that_is_retried_is_a_running_agent_with_a_condition(town_on_fakes, status: int) -> None:
    async with town_on_fakes(kilo=partial(FailingPromptKilo, status=status)) as town:
        assert (await town.start("pole-1")).status_code == 201
        condition = (await town.status("pole-1"))["condition"]
        assert (condition["type"], condition["attempt"]) == ("retrying", 1)


async def test_an_offline_session_is_a_running_agent_with_a_condition(town_on_fakes) -> None:
    async with town_on_fakes(kilo=partial(FakeLauncher, script=Script(offline=True))) as town:
        assert (await town.start("pole-1")).status_code == 201
        condition = (await town.status("pole-1"))["condition"]
        assert (condition["type"], condition["reason"]) == ("offline", "Unable to connect")


async def test_a_server_that_ends_at_start_is_reported_with_its_exit_and_its_last_words(town_on_fakes) -> None:
    crashing = partial(CrashingKilo, returncode=3, stderr=("Error: no such option",))
    async with town_on_fakes(kilo=crashing) as town:
        answer = await town.start("pole-1")
        assert (answer.status_code, answer.json()) == (
            500,
            {
                "error": "Agent pole-1: kilo serve exited with code 3; last stderr: Error: no such option",
                "phase": "spawn",
                "error_type": "ServerDied",
            },
        )


async def test_a_server_that_dies_during_the_start_is_reported_as_dead(town_on_fakes) -> None:
    dying = partial(DyingKilo, seconds=0.25, stderr=("Killed",))
    async with town_on_fakes(kilo=dying) as town:
        answer = await town.start("pole-1")
        assert (answer.status_code, answer.json()["error_type"]) == (500, "ServerDied")
        assert answer.json()["error"].endswith("kilo serve was killed by SIGKILL; last stderr: Killed")


async def test_the_death_of_a_running_agents_server_ends_the_agent_with_its_reason(town_on_fakes) -> None:
    async with town_on_fakes() as town:
        await town.start("pole-1")
        town.kilo.kill(town.kilo.server("pole-1"), stderr=("Killed",))
        await trio.sleep(1)
        status = await town.status("pole-1")
        assert status["status"] == "failed"
        assert status["exitReason"] == "Agent pole-1: kilo serve was killed by SIGKILL; last stderr: Killed"


async def test_a_route_of_kilo_that_fails_is_named(town_on_fakes) -> None:
    async with town_on_fakes(
        kilo=partial(FakeLauncher, script=Script(broken=frozenset({"POST /session"})))
    ) as town:
        answer = await town.start("pole-1")
        assert (answer.status_code, answer.json()["phase"], answer.json()["error_type"]) == (
            500,
            "session",
            "KiloRefused",
        )


async def test_a_failure_of_one_agent_does_not_touch_another(town_on_fakes) -> None:
    async with town_on_fakes() as town:
        town.kilo.scripts["pole-1"] = Script(status=401)
        first, second = town.start_soon("pole-1"), town.start_soon("pole-2")
        assert ((await first.result()).status_code, (await second.result()).status_code) == (500, 201)


async def test_a_failed_agent_can_be_started_again(town_on_fakes) -> None:
    async with town_on_fakes(kilo=partial(CrashingKilo, times=1)) as town:
        assert (await town.start()).status_code == 500
        assert (await town.start()).status_code == 201


async def test_a_database_that_kilo_cannot_open_is_set_aside_and_the_start_tried_once_more(town_on_fakes) -> None:
    async with town_on_fakes(kilo=partial(CrashingKilo, stderr=BROKEN_DATABASE, times=1)) as town:
        town.worker.snapshots["rig-1", "pole-1"] = database(home(town, "elsewhere"))
        answer = await town.start("pole-1")
        assert (answer.status_code, town.kilo.order) == (201, ["pole-1", "pole-1"])
        assert town.worker.snapshots == {}
        assert (home(town, "pole-1") / "kilo.db.broken-1").exists()
        assert not (home(town, "pole-1") / "kilo.db").exists()


async def test_a_kilo_that_finds_no_room_for_its_database_costs_no_conversation(town_on_fakes) -> None:
    full = ("SQLiteError: disk I/O error", '       code: "SQLITE_IOERR_SHMSIZE"')
    async with town_on_fakes(kilo=partial(CrashingKilo, stderr=full)) as town:
        content = database(home(town, "elsewhere"))
        town.worker.snapshots["rig-1", "pole-1"] = content
        assert (await town.start("pole-1")).status_code == 500
        assert town.worker.snapshots == {("rig-1", "pole-1"): content}
        assert (home(town, "pole-1") / "kilo.db").read_bytes() == content


async def test_a_second_time_the_broken_database_fails_the_start(town_on_fakes) -> None:
    async with town_on_fakes(kilo=partial(CrashingKilo, stderr=BROKEN_DATABASE)) as town:
        answer = await town.start("pole-1")
        assert (answer.status_code, answer.json()["error_type"], len(town.kilo.spawns)) == (500, "ServerDied", 2)


async def test_a_crash_for_another_reason_is_not_tried_again(town_on_fakes) -> None:
    async with town_on_fakes(kilo=CrashingKilo) as town:
        await town.start("pole-1")
        assert len(town.kilo.spawns) == 1


async def test_a_stored_database_is_restored_before_the_spawn(town_on_fakes) -> None:
    async with town_on_fakes() as town:
        content = database(home(town, "elsewhere"))
        town.worker.snapshots["rig-1", "pole-1"] = content
        await town.start("pole-1")
        assert (home(town, "pole-1") / "kilo.db").read_bytes() == content


@pytest.mark.parametrize("content", [b"", b"no database at all", b"SQLite format 3\x00 and then garbage"])
async def test_a_stored_database_that_is_broken_is_deleted_and_the_agent_starts_afresh(
    town_on_fakes, content: bytes
) -> None:
    async with town_on_fakes() as town:
        town.worker.snapshots["rig-1", "pole-1"] = content
        assert (await town.start("pole-1")).status_code == 201
        assert (town.worker.snapshots, (home(town, "pole-1") / "kilo.db").exists()) == ({}, False)


@pytest.mark.parametrize("fault", ["down", "deaf", "500"])
async def test_an_agent_starts_afresh_when_nobody_can_be_asked_for_its_database(town_on_fakes, fault: str) -> None:
    async with town_on_fakes() as town:
        if fault == "down":
            town.worker.down()
        elif fault == "deaf":
            town.worker.delays["GET /db-snapshot"] = float("inf")
        else:
            town.worker.statuses["GET /db-snapshot"] = 500
        assert (await town.start("pole-1")).status_code == 201


async def test_a_crash_that_comes_with_a_signal_names_it(town_on_fakes) -> None:
    async with town_on_fakes() as town:
        town.kilo.fate = lambda _: Fate(1, Exit(-11), ())
        answer = await town.start("pole-1")
        assert answer.json()["error"] == "Agent pole-1: kilo serve was killed by SIGSEGV; nothing on stderr"


async def test_a_start_that_is_ready_when_its_time_is_up_has_failed_and_the_worker_hears_it(town_on_fakes) -> None:
    async with town_on_fakes() as town:
        town.kilo.script.word_seconds = 1_000
        start = town.start_soon("pole-1")
        await trio.sleep(3)
        agent = town.opened.town.roster.get("pole-1")
        assert agent.turns.opened.is_set()
        agent.turns.first_output.set()
        agent.scope.deadline = trio.current_time()
        assert (await start.result()).status_code != 201
        await agent.ended.wait()
        assert (agent.state, agent.exit_reason is None) == ("failed", False)
