"""`gastown rig add` and `rig remove`, against a town that is up and against the folder of one that is not."""

from __future__ import annotations

import json
import subprocess
from collections.abc import AsyncIterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import trio

from gastown.cli import build_parser
from gastown.contract.secret import Secret
from gastown.hall.cli.commands.arguments import spelled_out
from gastown.hall.cli.commands.run import run
from gastown.hall.domain.town import RigRecord
from gastown.hall.hall import Hall, HallOptions, open_hall
from gastown.hall.lock import only_one
from gastown.hall.reconcile import facts
from gastown.hall.store import board, town_state

ADDRESS = "https://ann:s3cret-word@code.test/you/site.git"


@pytest.fixture
def site(tmp_path: Path) -> Path:
    """A repository of a person, on a branch of its own."""
    place = tmp_path / "site"
    subprocess.run(["git", "init", "--quiet", "-b", "trunk", str(place)], check=True)
    return place


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "town"


@pytest.fixture
async def hall(folder: Path) -> AsyncIterator[Hall]:
    async with open_hall(HallOptions(data_dir=folder, town_id="oak")) as hall:
        yield hall


class Shell:
    """A person's shell beside the town of `folder`."""

    def __init__(self, folder: Path, capture: pytest.CaptureFixture[str]) -> None:
        self.folder, self.capture = folder, capture

    def gastown(self, *arguments: str) -> tuple[int, str, str]:
        """Run a command: its exit code, what it printed, and what it complained of."""
        options = build_parser().parse_args([*spelled_out(arguments), "--dir", str(self.folder)])
        self.capture.readouterr()
        code = run(options, {})
        out, err = self.capture.readouterr()
        return code, out, err

    async def ask(self, *arguments: str) -> tuple[int, str, str]:
        return await trio.to_thread.run_sync(partial(self.gastown, *arguments))

    async def said(self, *arguments: str) -> Any:
        code, out, err = await self.ask(*arguments, "--json")
        assert (code, err) == (0, "")
        return json.loads(out)


@pytest.fixture
def shell(folder: Path, capsys: pytest.CaptureFixture[str]) -> Shell:
    return Shell(folder, capsys)


async def test_a_folder_becomes_a_rig_of_a_town_that_is_up(hall: Hall, shell: Shell, site: Path) -> None:
    """With the settings of the same command; its container is told at once."""
    told: list[str] = []
    hall.desk.rig_added = told.append
    settings = ("--merge", "auto", "--review", "refinery", "--check", "make", "--slots", "2")
    added = await shell.said("rig", "add", str(site), *settings)
    assert added == {
        "id": "site",
        "place": str(site),
        "branch": "trunk",
        "merge": "auto",
        "review": "refinery",
        "checks": ["make"],
        "checkSeconds": 900,
        "slots": 2,
    }
    assert await shell.said("rig") == [added]
    assert told == ["site"]
    state = await hall.store.state("oak")
    assert state.rules.rigs["site"].merge == "auto"
    assert (await shell.said("sling", "site", "Mend"))["rig"] == "site"


async def test_an_address_becomes_a_rig_and_its_login_is_kept_from_sight(folder: Path, shell: Shell) -> None:
    options = HallOptions(data_dir=folder, town_id="oak")
    async with open_hall(options) as hall:
        added = await shell.said("rig", "add", ADDRESS, "--branch", "trunk")
        assert (added["id"], added["place"], added["branch"]) == (
            "site",
            "https://code.test/you/site.git",
            "trunk",
        )
        assert (await hall.town()).rigs == (RigRecord(rig_id="site", git_url=ADDRESS, default_branch="trunk"),)
        assert Secret("s3cret-word") in options.secrets


async def test_a_rig_is_added_and_removed_where_the_town_is_not_up(
    folder: Path, shell: Shell, site: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`.` is the folder that the person is in."""
    async with open_hall(HallOptions(data_dir=folder, town_id="oak")):
        pass
    monkeypatch.chdir(site)
    added = await shell.said("rig", "add", ".", "--id", "mine")
    async with open_hall(HallOptions(data_dir=folder, town_id="oak")) as hall:
        rigs = (await hall.town()).rigs
    assert [(rig.rig_id, rig.folder, rig.default_branch) for rig in rigs] == [("mine", str(site), "trunk")]
    assert await shell.said("rig") == [added]
    assert await shell.said("rig", "remove", "mine") == {"id": "mine", "place": str(site), "left": []}
    assert await shell.said("rig") == []
    assert not await trio.Path(folder / "hall.json").exists()


async def test_without_a_town_there_is_nothing_to_add_to(folder: Path, shell: Shell, site: Path) -> None:
    code, out, err = await shell.ask("rig", "add", str(site))
    assert (code, out, err.count("\n")) == (3, "", 1)
    assert not await trio.Path(folder).exists()


async def test_a_town_that_is_starting_is_not_changed_beside_it(folder: Path, shell: Shell, site: Path) -> None:
    async with open_hall(HallOptions(data_dir=folder, town_id="oak")):
        pass
    with only_one(folder):
        code, out, err = await shell.ask("rig", "add", str(site))
    assert (code, out, err.count("\n")) == (1, "", 1)
    assert "is in use by process" in err


async def test_what_cannot_be_a_rig_is_refused(hall: Hall, shell: Shell, site: Path, tmp_path: Path) -> None:
    """In one line that shows no login; a second rig of an id is refused, too."""
    for place, code in (
        (str(tmp_path), 2),
        (str(tmp_path / "none"), 2),
        (f"{site}#none", 2),
        ("ftp://ann:s3cret-word@code.test/site", 2),
    ):
        refused, out, err = await shell.ask("rig", "add", place)
        assert (refused, out, err.count("\n")) == (code, "", 1)
        assert "s3cret" not in err
    await shell.said("rig", "add", str(site))
    code, _, err = await shell.ask("rig", "add", str(site))
    told = "gastown rig set changes its settings, and --id gives another id"
    assert (code, err) == (1, f"gastown rig add: There is a rig site already; {told}\n")
    assert len((await hall.town()).rigs) == 1


async def test_a_rig_with_unfinished_work_is_not_removed(hall: Hall, shell: Shell, site: Path) -> None:
    """It says which; what was made and not merged is named once the work is finished."""
    await shell.said("rig", "add", str(site))
    bead = (await shell.said("sling", "site", "Mend"))["id"]
    code, _, err = await shell.ask("rig", "remove", "site")
    assert (code, f"Rig site has work that is not finished: {bead};" in err) == (1, True)

    take = partial(hall.store.transaction, "oak")
    await take(lambda it: town_state.take(it, facts.ContainerReady()))
    attempt = next(iter((await hall.store.state("oak")).work[bead].attempts))
    await take(lambda it: town_state.take(it, facts.Started(attempt_id=attempt.id, session_id="ses")))
    await shell.said("close", bead)
    code, _, err = await shell.ask("rig", "remove", "site")
    assert (code, "is still to be ended" in err) == (1, True)

    await take(lambda it: town_state.take(it, facts.AgentStopped(agent_id=attempt.agent_id)))
    removed = await shell.said("rig", "remove", "site")
    left = {"bead": bead, "branch": f"gt/ash/{bead}", "agent": attempt.agent_id}
    assert removed == {"id": "site", "place": str(site), "left": [left]}
    assert (await shell.said("bead", bead))["bead"]["status"] == "closed"
    assert (await shell.ask("sling", "site", "More"))[0] == 3
    assert (await shell.ask("rig", "remove", "site"))[0] == 3


async def test_work_of_a_removed_rig_waits_for_a_person_until_the_rig_is_back(
    hall: Hall, shell: Shell, site: Path
) -> None:
    await shell.said("rig", "add", str(site), "--merge", "auto")
    bead = (await shell.said("sling", "site", "Mend"))["id"]
    closed = await shell.said("close", bead, "--failed")
    stopped = facts.AgentStopped(agent_id=closed["agent"])
    await hall.store.transaction("oak", lambda it: town_state.take(it, stopped))
    await shell.said("rig", "remove", "site")
    await shell.said("retry", bead)
    await hall.store.transaction("oak", lambda it: town_state.take(it, facts.ContainerReady()))
    code, out, _ = await shell.ask("why", bead)
    assert (code, "gastown rig add PLACE --id site" in out) == (4, True)
    assert (await shell.said("rig", "add", str(site)))["merge"] == "ask"
    assert (await shell.said("bead", bead))["bead"]["waiting"] is None


async def test_both_ways_to_sling_are_one(hall: Hall, shell: Shell, site: Path) -> None:
    """The command and the mayor's tool make the same bead."""
    await shell.said("rig", "add", str(site))
    first = await shell.said("sling", "site", "Mend", "--priority", "high")
    made = await hall.store.transaction("oak", lambda it: board.sling(it, "site", "Oil", blockers=[first["id"]]))
    assert (await shell.said("bead", made.id))["dependsOn"] == [first["id"]]
