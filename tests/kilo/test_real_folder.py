"""What a person does, by the commands and on real parts: `gastown up` with a folder, a wish, an approval."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import trio

from gastown.testing.script import bash, call, say, script, when, write
from tests.kilo.test_real_up import up
from tests.kilo.town import eventually
from tests.kilo.working_town import takes_up

pytestmark = pytest.mark.kilo

TASK = r"Your task, bead (?P<bead>\S+): [\s\S]*branch (?P<branch>\S+) of"
WRITE = "echo {{bead}} > {{bead}}.txt"
COMMITS = f"{WRITE} && git add -A && git commit -qm 'one more' && git push -q origin HEAD"
POLECAT = (
    when(TASK, role="polecat")
    .then(say("I look at it."), bash(COMMITS))
    .then(call("gt_done", branch="{{branch}}", summary="done"))
    .then(say("It is handed in."))
)


def make_folder(place: Path) -> Path:
    """A repository with one commit, checked out."""
    place.mkdir()
    for arguments in (
        ("init", "-q", "-b", "main"),
        ("-c", "user.name=t", "-c", "user.email=t@example.test", "commit", "-q", "--allow-empty", "-m", "first"),
    ):
        subprocess.run(["git", *arguments], cwd=place, check=True)
    return place


def git(place: Path, *arguments: str) -> str:
    return subprocess.run(["git", *arguments], cwd=place, check=True, capture_output=True, text=True).stdout


async def gastown(data: Path, *words: str) -> Any:
    """What a command prints as JSON; None where it fails, as while no town is up."""
    done = await command(data, *words)
    return json.loads(done.stdout) if done.returncode == 0 and done.stdout else None


async def command(data: Path, *words: str) -> subprocess.CompletedProcess[bytes]:
    arguments = [sys.executable, "-m", "gastown", *words, "--dir", str(data), "--json"]
    return await trio.run_process(arguments, capture_stdout=True, capture_stderr=True, check=False)


async def approve(data: Path, bead: str) -> None:
    done = await command(data, "review", "approve", bead)
    assert done.returncode == 0, done.stderr.decode()


async def asked_about(data: Path, count: int = 1) -> list[str]:
    """Wait until a person is asked about so many beads."""

    async def look() -> list[str] | None:
        status = await gastown(data, "status")
        asked = [one["bead"] for one in status["needsYou"]] if status else []
        return asked if len(asked) >= count else None

    found: list[str] = await eventually(look, 180)
    return found


async def landed(data: Path, *beads: str) -> None:
    async def look() -> bool:
        known = {one["id"]: one for one in await gastown(data, "beads") or []}
        return all(known.get(bead, {}).get("status") == "closed" and known[bead]["commit"] for bead in beads)

    await eventually(look, 180)


def merges(folder: Path) -> list[str]:
    """The beads whose merges are on main, by its first parents."""
    said = git(folder, "log", "--first-parent", "--format=%b", "main")
    return sorted(line.removeprefix("Bead: ") for line in said.splitlines() if line.startswith("Bead: "))


async def test_a_wish_about_a_folder_is_approved_and_lands_in_its_files(tmp_path: Path) -> None:
    """The mayor is still at her first answer then. The folder comes to a town that is up, and leaves it."""
    folder, data = make_folder(tmp_path / "site"), tmp_path / "town"
    slow = when(role="mayor").then(say("Hello.", seconds=600))
    played = write(script("a test", slow, POLECAT), tmp_path / "script.json")
    async with up(data, "--script", str(played)):
        added = await eventually(lambda: gastown(data, "rig", "add", str(folder)), 120)
        assert (added["id"], added["branch"]) == ("site", "main")
        made = await gastown(data, "sling", "site", "Add a file")
        (asked,) = await asked_about(data)
        assert merges(folder) == []
        shown = await gastown(data, "review", "show", asked)
        assert shown["changes"]["files"] == [{"path": f"{asked}.txt", "added": 1, "removed": 0}]
        assert f"+{asked}" in shown["changes"]["patch"]
        await approve(data, asked)
        await landed(data, asked)
        assert asked in json.dumps(made)
        removed = await eventually(lambda: gastown(data, "rig", "remove", "site"), 60)
        assert (removed["left"], await gastown(data, "rig")) == ([], [])
    assert "the town is up" not in (tmp_path / "up.log").read_text()
    assert merges(folder) == [asked]
    assert (folder / f"{asked}.txt").read_text() == f"{asked}\n"
    assert git(folder, "status", "--porcelain") == ""


async def test_a_town_that_is_killed_whole_goes_on_where_it_was(tmp_path: Path) -> None:
    """SIGKILL of `up`, which takes the container with it, in the middle of three beads: each lands, and once."""
    folder, data = make_folder(tmp_path / "site"), tmp_path / "town"
    played = write(script("a test", POLECAT, takes_up(WRITE)), tmp_path / "script.json")
    async with up(data, "--rig", str(folder), "--script", str(played)) as process:
        await eventually(lambda: gastown(data, "sling", "site", "task 0"), 120)
        for number in (1, 2):
            assert await gastown(data, "sling", "site", f"task {number}")
        await asked_about(data)
        process.kill()
        await process.wait()
    async with up(data, "--script", str(played)):
        asked = await asked_about(data, 3)
        for bead in asked:
            await approve(data, bead)
        await landed(data, *asked)
    assert merges(folder) == sorted(asked)
    assert {file.name for file in folder.glob("*.txt")} == {f"{bead}.txt" for bead in asked}
