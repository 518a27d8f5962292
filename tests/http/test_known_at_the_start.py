"""What cannot work is refused, or said, at the start and not inside."""

from __future__ import annotations

import errno
import json
import os
from pathlib import Path
from typing import Any

import pytest
import trio

from gastown.agents.launch.desired import MOST_BYTES, MOST_BYTES_TOGETHER
from gastown.agents.lifecycle.states import Leaving
from gastown.git import workspace

pytestmark = pytest.mark.virtual_time


async def told(town: Any, event: str, agent_id: str = "pole-1") -> list[dict[str, Any]]:
    return [e["data"] for e in await town.events(agent_id) if e["event"] == event]


def names_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


async def configure(town: Any, **config: Any) -> None:
    answer = await town.client.post("/sync-config", headers={"X-Town-Config": json.dumps(config)})
    assert answer.status_code == 200


def variable(size: int, name: str = "BIG") -> dict[str, str]:
    """A variable that has `size` bytes as NAME=value."""
    return {name: "x" * (size - len(name) - 1)}


@pytest.mark.parametrize(
    ("variables", "path"),
    [
        (variable(MOST_BYTES + 1), ["envVars", "BIG"]),
        ({"BIG": "ü" * (MOST_BYTES // 2)}, ["envVars", "BIG"]),
        ({f"V{n}": "x" * 120_000 for n in range(9)}, ["envVars"]),
    ],
    ids=["one", "in bytes, not characters", "together"],
)
async def test_variables_that_no_command_could_start_with_are_refused(
    town_on_fakes, variables: dict[str, str], path: list[str]
) -> None:
    async with town_on_fakes() as town:
        answer = await town.start("pole-1", envVars=variables)
        assert (answer.status_code, answer.json()["issues"][0]["path"]) == (400, path)
        assert town.kilo.spawns == []


async def test_the_largest_variable_that_a_command_can_have_is_taken(town_on_fakes) -> None:
    async with town_on_fakes() as town:
        assert (await town.start("pole-1", envVars=variable(MOST_BYTES))).status_code == 201
        assert await told(town, "agent.variables_dropped") == []


async def test_variables_that_an_agent_does_not_get_are_said_each_with_its_reason(town_on_fakes) -> None:
    """At the start, and again when the town's configuration changes what is dropped."""
    async with town_on_fakes() as town:
        given = {"LD_PRELOAD": "x.so", "1ST": "x", "KILO_X": "x", "FINE": "x", "GIT_TOKEN": "t"}
        assert (await town.start("pole-1", envVars=given)).status_code == 201
        [first] = await told(town, "agent.variables_dropped")
        assert {"LD_PRELOAD", "1ST", "KILO_X"} == first["names"].keys()
        await configure(town, env_vars={"PATH": "/evil", "Z": "x"})
        _, second = await told(town, "agent.variables_dropped")
        assert second["names"] == first["names"] | {"PATH": "the name is reserved"}


async def test_variables_of_the_town_above_the_bound_together_are_dropped_and_said(town_on_fakes) -> None:
    async with town_on_fakes() as town:
        given = {f"V{n}": "x" * 130_000 for n in range(MOST_BYTES_TOGETHER // 130_010)}
        assert (await town.start("pole-1", envVars=given)).status_code == 201
        await configure(town, env_vars={"FITS": "x" * 2_000, "NOT": "x" * 20_000, "SMALL": "x"})
        [dropped] = await told(town, "agent.variables_dropped")
        assert list(dropped["names"]) == ["NOT"]


@pytest.mark.parametrize("agent_id", ["mayor-1", "triage-1"])
async def test_a_system_prompt_that_a_full_disk_keeps_from_its_file_is_no_bug(
    town_on_fakes, monkeypatch, agent_id: str
) -> None:
    async with town_on_fakes() as town:
        await town.start(agent_id, role="mayor" if agent_id == "mayor-1" else "triage")

        def full(*_: object) -> None:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

        monkeypatch.setattr(workspace, "write_whole", full)
        answer = await town.client.put(f"/agents/{agent_id}/system-prompt", json={"systemPrompt": "Be brief"})
        assert answer.status_code == 507
        assert "No space left on device" in answer.json()["error"]
        monkeypatch.undo()
        answer = await town.client.put(f"/agents/{agent_id}/system-prompt", json={"systemPrompt": "Be brief"})
        assert answer.status_code == 200
        file = Path(town.opened.town.roster.get(agent_id).workdir) / "AGENTS.md"
        assert await trio.Path(file).read_text("utf-8") == "Be brief"


async def test_a_start_on_a_full_disk_says_so(town_on_fakes, monkeypatch) -> None:
    async with town_on_fakes() as town:

        def full(*_: object) -> None:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

        monkeypatch.setattr(workspace, "write_whole", full)
        answer = await town.start("mayor-1", systemPrompt="Be kind")
        assert (answer.status_code, answer.json()["phase"]) == (500, "workspace")
        assert "No space left on device" in answer.json()["error"]


@pytest.mark.parametrize("link", [False, True], ids=["a file", "a link"])
async def test_a_repositorys_own_agents_md_is_never_ours(town_on_fakes, link: bool) -> None:
    """The prompt of an agent in a repository goes with each prompt, and no file of ours into the repository."""
    async with town_on_fakes() as town:
        await town.start("pole-1")
        work = Path(town.opened.town.roster.get("pole-1").workdir)
        await trio.Path(work / "CLAUDE.md").write_text("Ours", "utf-8")
        if link:
            await trio.Path(work / "AGENTS.md").symlink_to("CLAUDE.md")
        before = names_in(work)
        answer = await town.client.put("/agents/pole-1/system-prompt", json={"systemPrompt": "Be brief"})
        assert answer.status_code == 200
        await town.client.post("/agents/pole-1/message", json={"prompt": "go on"})
        assert town.kilo.server("pole-1").kilo.prompts[-1]["system"] == "Be brief"
        assert names_in(work) == before


async def test_an_agent_of_another_town_is_refused(town_on_fakes) -> None:
    async with town_on_fakes() as town:
        answer = await town.start("pole-1", townId="another")
        assert (answer.status_code, answer.json()["issues"][0]["path"]) == (400, ["townId"])
        assert (await town.client.get("/agents")).json() == {"agents": []}


@pytest.mark.parametrize(("role", "nearest"), [("polcat", "polecat"), ("refinary", "refinery"), ("xyzzy", None)])
async def test_an_unknown_role_is_a_rig_agents_and_said_with_the_nearest_one(
    town_on_fakes, role: str, nearest: str | None
) -> None:
    async with town_on_fakes() as town:
        answer = await town.start("pole-1", role=role)
        assert (answer.status_code, answer.json()["role"]) == (201, role)
        assert await told(town, "agent.role_unknown") == [{"role": role, "nearest": nearest}]


async def test_the_agents_of_a_container_are_listed_the_mayor_first(town_on_fakes) -> None:
    async with town_on_fakes() as town:
        await town.start("pole-1")
        await town.start("pole-2")
        await town.start("mayor-1")
        await town.client.post("/agents/pole-2/stop", json={})
        listed = (await town.client.get("/agents")).json()["agents"]
        assert [(one["agentId"], one["role"], one["status"]) for one in listed] == [
            ("mayor-1", "mayor", "running"),
            ("pole-1", "polecat", "running"),
            ("pole-2", "polecat", "exited"),
        ]
        status = await town.status("pole-1")
        assert {name: listed[1][name] for name in status} == status


@pytest.mark.parametrize("ticks", range(6))
async def test_a_stop_in_the_instant_in_which_the_server_dies_is_no_failure(town_on_fakes, ticks: int) -> None:
    async with town_on_fakes() as town:
        await town.start("pole-1")
        agent = town.opened.town.roster.get("pole-1")
        town.kilo.kill(town.kilo.server("pole-1"))
        for _ in range(ticks):
            await trio.lowlevel.checkpoint()
        if agent.ended.is_set():
            return  # the death came first, and was all there was
        agent.lifecycle.leave(Leaving.STOPPED)
        await agent.ended.wait()
        status = await town.status("pole-1")
        assert (status["status"], status["exitReason"]) == ("exited", "stopped")
