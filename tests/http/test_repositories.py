"""Repositories in virtual time: what a start waits for, what is told meanwhile, what never waits."""

from __future__ import annotations

import pytest
import trio

from gastown.agents.drain.town import run_drain
from gastown.agents.launch import repositories
from gastown.assembly import drain_parts
from gastown.git.errors import GitError
from gastown.testing.git import FakeGit
from gastown.testing.town import start_request

pytestmark = pytest.mark.virtual_time

RIGS = [{"rigId": f"rig-{n}", "gitUrl": f"https://git.test/{n}.git", "defaultBranch": "main"} for n in range(1, 6)]


def begin(town, agent_id="pole-1"):
    """A polecat's start whose worktree is not there yet."""
    return town.later(lambda: town.client.post("/agents/start", json=start_request(agent_id)))


STUCK = {"clone": "clone", "fetch": "fetch", "worktree": "checkout"}


@pytest.mark.parametrize("phase", STUCK)
async def test_a_start_that_is_stuck_in_git_is_ended_after_58_seconds_and_its_phase_is_named(
    town_on_fakes, phase
) -> None:
    git = FakeGit(**{STUCK[phase]: 1000})
    async with town_on_fakes(git=git, gastown_git_seconds=500.0) as town:
        if phase == "fetch":
            git.seconds = {}
            await begin(town, "pole-0").result()
            git.seconds = {"fetch": 1000}
        start = begin(town)
        answer = await start.result()
        assert (answer.status_code, answer.json()["phase"], start.seconds) == (504, phase, 58)


async def test_a_start_tells_how_far_its_clone_is(town_on_fakes) -> None:
    async with town_on_fakes(git=FakeGit(clone=10)) as town:
        start = begin(town)
        await trio.sleep(5)
        progress = {"step": "receiving objects", "percent": 45, "done": 450, "total": 1000}
        condition = (await town.status("pole-1"))["condition"]
        assert (condition["type"], condition["phase"], condition["progress"]) == ("starting", "clone", progress)
        assert (await town.health())["rigs"] == [
            {"rigId": "rig-1", "state": "working", "doing": "clone", "progress": progress}
        ]
        assert (await start.result()).status_code == 201
        assert (await town.status("pole-1"))["condition"].get("progress") is None


async def test_two_starts_of_one_rig_wait_for_one_clone_and_for_each_other_s_turn_in_it(town_on_fakes) -> None:
    git = FakeGit(**{"clone": 10, "for-each-ref": 5, "checkout": 20})
    async with town_on_fakes(git=git) as town:
        starts = [begin(town, name) for name in ("pole-1", "pole-2")]

        async def phases() -> set[str]:
            return {(await town.status(name))["condition"]["phase"] for name in ("pole-1", "pole-2")}

        await trio.sleep(17)
        assert await phases() == {"fetch", "git_queue"}
        await trio.sleep(10)
        assert await phases() == {"worktree"}  # each in its own
        assert [(await start.result()).status_code for start in starts] == [201, 201]
        assert [arguments[0] for arguments in git.asked].count("clone") == 1


async def test_rigs_do_not_wait_for_each_other(town_on_fakes) -> None:
    async with town_on_fakes(git=FakeGit(clone=10)) as town:
        bodies = [start_request(f"pole-{n}", rigId=f"rig-{n}") for n in (1, 2)]
        starts = [town.later(lambda b=body: town.client.post("/agents/start", json=b)) for body in bodies]
        assert [(await start.result()).status_code for start in starts] == [201, 201]
        assert max(start.seconds for start in starts) < 15


async def test_a_clone_outlives_the_start_that_gave_up_and_ends_by_its_own_deadline(town_on_fakes) -> None:
    git = FakeGit(clone=1000)
    async with town_on_fakes(git=git, gastown_clone_seconds=300.0) as town:
        for _ in range(3):
            assert (await begin(town).result()).status_code == 504
        assert [arguments[0] for arguments in git.asked].count("clone") == 1
        await trio.sleep(150)
        rig = (await town.health())["rigs"][0]
        assert (rig["state"], rig["error"]) == ("failed", "git clone did not end within 300 s")


async def test_a_mayors_start_takes_no_longer_for_its_rigs(town_on_fakes) -> None:
    async with town_on_fakes() as town:
        without = town.start_soon()
        await without.result()
    async with town_on_fakes(git=FakeGit(clone=1000)) as town:
        start = town.start_soon(rigs=RIGS)
        assert (await start.result()).status_code == 201
        assert start.seconds == pytest.approx(without.seconds)


async def test_browse_worktrees_are_made_two_at_a_time(town_on_fakes) -> None:
    git = FakeGit(clone=10)
    async with town_on_fakes(git=git) as town:
        await town.start(rigs=RIGS)
        clones = []
        for _ in range(3):
            await trio.sleep(9)
            clones.append([arguments[0] for arguments in git.asked].count("clone"))
        assert clones == [2, 4, 5]
        await trio.sleep(30)
        assert [rig["state"] for rig in (await town.health())["rigs"]] == ["ready"] * 5


async def test_a_browse_worktree_that_failed_is_tried_again_whatever_else_its_rig_has_done(
    town_on_fakes, monkeypatch
) -> None:
    git = FakeGit()
    git.failures = {"checkout": [GitError("no room")]}
    write = repositories.write_instructions

    async def write_and_see_another_succeed(agent, services) -> None:
        await write(agent, services)
        with services.repositories.report("rig-1").busy("fetch"):
            pass

    monkeypatch.setattr(repositories, "write_instructions", write_and_see_another_succeed)
    async with town_on_fakes(git=git) as town:
        await town.start(rigs=RIGS[:1])
        await trio.sleep(60)
        (rig,) = (await town.health())["rigs"]
        assert (rig["state"], rig["browse"][-12:]) == ("ready", "rig-1/browse")


async def test_the_address_of_a_start_that_is_wrong_is_a_bad_request(town_on_fakes) -> None:
    async with town_on_fakes() as town:
        for wrong in ({"gitUrl": "file:///etc"}, {"branch": "../x"}, {"startPoint": "--upload-pack=x"}):
            answer = await town.client.post("/agents/start", json=start_request("pole-1") | wrong)
            assert answer.status_code == 400
        for path, body in (("/repos/setup", {}), ("/git/merge", {"branch": "-x"})):
            assert (await town.client.post(path, json=body)).status_code == 400


async def test_an_agents_environment_names_the_helper_and_no_other(town_on_fakes) -> None:
    async with town_on_fakes() as town:
        await town.start()
        await town.start("pole-1")
        mayor, polecat = (spawn.spec.env for spawn in town.kilo.spawns)
        for env in (mayor, polecat):
            assert (env["GIT_TERMINAL_PROMPT"], env["GIT_CONFIG_COUNT"]) == ("0", "3")
            assert [env[f"GIT_CONFIG_KEY_{n}"] for n in range(3)] == [
                "credential.helper",
                "credential.helper",
                "credential.useHttpPath",
            ]
            assert env["GIT_CONFIG_VALUE_0"] == ""
        assert mayor["GASTOWN_GIT_KEY"].startswith("*/mayor-1/")
        assert polecat["GASTOWN_GIT_KEY"].startswith("rig-1/pole-1/")


async def test_a_merge_that_runs_when_the_container_drains_ends_and_is_reported(town_on_fakes) -> None:
    body = {
        "townId": "oak",
        "rigId": "rig-1",
        "branch": "work/1",
        "targetBranch": "main",
        "gitUrl": "https://git.test/r.git",
        "entryId": "entry-1",
        "beadId": "bead-1",
        "agentId": "refinery-1",
    }
    async with town_on_fakes(git=FakeGit(clone=8)) as town:
        assert (await town.client.post("/git/merge", json=body)).status_code == 202
        drain = town.opened.town.drain
        drain.ask("a test", 100)
        await run_drain(drain, drain_parts(town.opened))
        [reported] = town.worker.reports("POST /complete")
        assert (reported["entry_id"], drain.to_wire().flushed["reports"]) == ("entry-1", True)
