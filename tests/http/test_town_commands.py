"""The commands that ask a running town: what they print, for people and as JSON, and their exit codes."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import AsyncIterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import trio

from gastown.cli import build_parser
from gastown.hall.cli.commands.arguments import spelled_out
from gastown.hall.cli.commands.run import run
from gastown.hall.domain.town import RigRecord
from gastown.hall.hall import Hall, HallOptions, open_hall
from gastown.hall.reconcile import facts
from gastown.hall.reconcile.actions import Merge
from gastown.hall.reconcile.step import outstanding
from gastown.hall.store import board as work
from gastown.hall.store import town_state
from tests.http.scripted_container import PUBLIC, ScriptedContainer, controlled

HEAD = "a" * 40
RIG = RigRecord(rig_id="r1", git_url="https://x.test/r", default_branch="main")


@dataclass
class Desk:
    """A hall, and a person's shell beside it."""

    hall: Hall
    folder: Path
    capture: pytest.CaptureFixture[str]

    async def gastown(self, *arguments: str) -> tuple[int, str, str]:
        """Run a command: its exit code, what it printed, and what it complained of."""
        options = build_parser().parse_args([*spelled_out(arguments), "--dir", str(self.folder)])
        self.capture.readouterr()
        code = await trio.to_thread.run_sync(run, options, {})
        out, err = self.capture.readouterr()
        return code, out, err

    async def said(self, *arguments: str) -> Any:
        code, out, err = await self.gastown(*arguments, "--json")
        assert (code, err) == (0, "")
        return json.loads(out)

    async def text(self, *arguments: str) -> str:
        code, out, err = await self.gastown(*arguments)
        assert (code, err) == (0, "")
        return out

    async def sling(self, title: str = "Mend") -> str:
        bead: str = (await self.said("sling", "r1", title))["id"]
        return bead

    async def take(self, *given: facts.Fact) -> None:
        await self.hall.store.transaction("oak", lambda board: town_state.take(board, *given))

    async def hand_in(self, bead: str) -> None:
        author = (await self.said("bead", bead))["bead"]["agent"]
        done = partial(work.finish_work, branch="b", pr_url=None, summary="Done.")
        await self.hall.store.transaction("oak", lambda board: done(board, "r1", author))


@pytest.fixture
async def desk(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> AsyncIterator[Desk]:
    async with open_hall(HallOptions(data_dir=tmp_path, town_id="oak")) as hall:
        await hall.store.save_rig("oak", RIG)
        yield Desk(hall, tmp_path, capsys)


async def test_json_is_what_the_user_api_answers(desk: Desk) -> None:
    """The whole form, which scripts rely on, is asserted beside the API."""
    bead = await desk.sling()
    (listed,) = await desk.said("beads")
    assert listed == (await desk.said("bead", bead))["bead"]
    assert listed["id"] == bead
    assert (await desk.said("status"))["town"] == "oak"
    assert (await desk.said("why", bead))["waiting"] == listed["waiting"]


async def test_beads_are_a_table_for_people(desk: Desk) -> None:
    bead = await desk.sling("Mend the \u202edoor")
    assert await desk.text("beads") == (
        "BEAD         RIG  STATUS  AGENT  WAITS FOR  TITLE\n"
        f"{bead[:11]}  r1   open    Ash    container  Mend the door\n"
    )
    assert await desk.text("beads", "--status", "closed") == "there are no beads\n"


async def test_the_status_is_told_to_people(desk: Desk) -> None:
    bead = await desk.sling()
    await desk.text("stop", bead)
    told = re.sub(r"(mayor|polecat)-[0-9a-f]+", r"\1-1", await desk.text("status"))
    told = re.sub(r"\d+ s\b", "0 s", re.sub(r"of \d+", "of 3", told))
    assert told == (
        "town       oak\n"
        "container  starting: the container is starting\n"
        "slots      0 of 3\n"
        "spent      $0.00 today, no budget\n"
        "\n"
        "NAME   ROLE     RIG  STATE  CONDITION  BEAD         SINCE  ID\n"
        "mayor  mayor    -    idle   -          -            -      mayor-1\n"
        f"Ash    polecat  r1   idle   -          {bead[:11]}  -      polecat-1\n"
        "\n"
        "waits for you:\n"
        "BEAD         SINCE  QUESTION\n"
        f"{bead[:11]}  0 s    a person stopped it: retry it to let it go on, or close it\n"
    )


async def test_a_bead_is_told_to_people_with_its_history(desk: Desk) -> None:
    bead = await desk.sling("Mend the door")
    await desk.take(facts.ContainerReady())
    await desk.hand_in(bead)
    told = await desk.text("bead", bead[:12])
    assert told.startswith(f"{bead}  Mend the door\nstatus    in_review: it waits for a person: ")
    assert f"→ gastown review approve {bead}" in told
    agent = (await desk.said("bead", bead))["bead"]["agent"]
    lines = ["WHAT", "“Mend the door” is on the board", f"{agent} handed it in"]
    assert [line[26:] for line in told.splitlines()[-3:]] == lines


async def test_work_is_reviewed_approved_and_rejected(desk: Desk) -> None:
    bead = await desk.sling()
    assert await desk.text("review") == "nothing is handed in\n"
    await desk.hand_in(bead)
    listed, shown = (await desk.said("review", "list"))[0], await desk.said("review", "show", bead)
    assert shown == listed | {"changes": None, "unseen": "the town has no container now"}
    assert f"git fetch origin gt/ash/{bead}" in await desk.text("review", "show", bead)
    code, _, err = await desk.gastown("review", "approve", bead)
    assert (code, "is not known yet" in err) == (1, True)
    code, out, err = await desk.gastown("why", bead)
    assert (code, err) == (4, "")
    assert f"→ gastown review approve {bead}" in out
    back = await desk.said("review", "reject", bead, "--message", "Say why.")
    assert back["status"] == "in_progress"
    await desk.hand_in(bead)
    assert (await desk.said("review", "approve", bead, "--head", HEAD))["waiting"]["for"] == "container"


async def test_a_bead_is_stopped_retried_changed_and_closed(desk: Desk) -> None:
    first, bead = await desk.sling("First"), await desk.sling()
    await desk.take(facts.ContainerReady())
    agent = (await desk.said("bead", bead))["bead"]["agent"]
    assert await desk.text("stop", agent) == (
        f"{bead} is open, and waits for person: a person stopped it: retry it to let it go on, or close it\n"
    )
    await desk.said("retry", bead)
    assert (await desk.said("bead", "set", bead, "title", "Later"))["title"] == "Later"
    await desk.said("bead", "set", bead, "priority", "low")
    await desk.said("bead", "set", bead, "depends-on", first)
    found = await desk.said("bead", "show", bead)
    assert (found["priority"], found["dependsOn"]) == ("low", [first])
    await desk.said("bead", "set", bead, "depends-on")
    assert (await desk.said("bead", bead))["dependsOn"] == []
    assert (await desk.said("close", bead, "--failed"))["status"] == "failed"


NO_BUDGET = "budget.day = (none)\nbudget.bead = (none)\ntime-zone = (default)\n"


async def test_what_was_merged_is_taken_back_by_a_new_bead(desk: Desk) -> None:
    """It names the commit; before a merge there is nothing to take back."""
    bead = await desk.sling("Mend the door")
    code, _, err = await desk.gastown("revert", bead)
    assert (code, f"gastown why {bead}" in err) == (1, True)
    await desk.take(facts.ContainerReady())
    await desk.hand_in(bead)
    await desk.said("review", "approve", bead, "--head", HEAD)
    (merge,) = [one for one in outstanding(await desk.hall.store.state("oak")) if isinstance(one, Merge)]
    await desk.take(facts.Merged(merge_id=merge.merge_id, commit="c" * 40))
    made = await desk.said("revert", bead)
    assert (made["title"], made["rig"], made["commit"]) == ("Revert “Mend the door”", "r1", None)
    body = (await desk.said("bead", made["id"]))["body"]
    assert f"git revert --no-edit -m 1 {'c' * 40}\n" in body
    assert bead in body


async def test_a_town_is_paused_resumed_and_configured(desk: Desk) -> None:
    assert await desk.text("pause") == f"model = (default)\nslots = (default)\npaused = True\n{NO_BUDGET}"
    usual = {"model": None, "models": {}, "slots": None, "paused": False}
    assert (await desk.said("resume")).items() >= usual.items()
    assert await desk.said("config", "set", "slots", "2") == await desk.said("config")
    assert "slots = (default)\n" in await desk.text("config", "set", "slots", "default")


async def test_a_budget_is_set_in_usd(desk: Desk) -> None:
    assert (await desk.said("config", "set", "budget.day", "$2.50"))["budgetDay"] == 2.5
    assert (await desk.said("config", "set", "budget.bead", "1"))["budgetBead"] == 1
    assert "spent      $0.00 today, of $2.50\n" in await desk.text("status")
    assert (await desk.said("config", "set", "budget.day", "default"))["budgetDay"] is None
    assert (await desk.said("config", "set", "time-zone", "Europe/Berlin"))["timeZone"] == "Europe/Berlin"


async def test_models_are_set_for_the_town_and_for_roles(desk: Desk) -> None:
    """For what begins from now on; what is set for a role goes before, and `default` takes it back."""
    await desk.said("config", "set", "model", "a/one")
    assert await desk.text("config", "set", "model.polecat", "b/two") == (
        f"model = a/one\nmodel.polecat = b/two\nslots = (default)\npaused = False\n{NO_BUDGET}"
    )
    town = await desk.hall.town()
    assert [town.model_for(role) for role in ("mayor", "polecat")] == ["a/one", "b/two"]
    await desk.said("config", "set", "model.polecat", "default")
    assert (await desk.said("config", "set", "model", "default"))["models"] == {}
    assert (await desk.gastown("config", "set", "model", ""))[0] == 2


async def test_agents_that_are_up_take_the_model_that_was_set(desk: Desk) -> None:
    """Each whose setting it is; one that does not take it is told of."""
    mayor = PUBLIC | {"attemptId": "x", "agentId": "m1", "model": "old"}
    agents = [
        mayor,
        mayor | {"agentId": "p1", "role": "polecat", "rigId": "r1", "model": "old"},
        mayor | {"agentId": "p2", "role": "polecat", "rigId": "r1", "status": "exited"},
        mayor | {"agentId": "p3", "role": "polecat", "rigId": "r1", "model": "b/two"},
    ]
    container = ScriptedContainer({"/agents": [(200, {"agents": agents})]})
    container.answers["/agents/p1/model"] = [(200, {"updated": True}), (409, {"error": "It ends"})]
    container.answers["/agents/m1/model"] = [(200, {"updated": True})]
    async with controlled(container) as desk.hall.desk.container:
        await desk.said("config", "set", "model.polecat", "b/two")
        assert [asked[:2] for asked in container.asked if asked[0].startswith("PATCH")] == [
            ("PATCH /agents/p1/model", {"model": "b/two"}),
        ]
        await desk.said("config", "set", "model", "a/one")
        assert container.asked[-1][:2] == ("PATCH /agents/m1/model", {"model": "a/one"})
        code, _, err = await desk.gastown("config", "set", "model.polecat", "c/three")
        assert (code, "It ends" in err, err.count("\n")) == (1, True, 1)
    assert (await desk.said("config"))["models"] == {"polecat": "c/three"}


UNKNOWN = [
    ("bead", "bead-z"),
    ("why", "bead-z"),
    ("bead", "set", "bead-z", "title", "t"),
    ("review", "show", "bead-z"),
    ("review", "approve", "bead-z"),
    ("review", "reject", "bead-z", "--message", "m"),
    ("retry", "bead-z"),
    ("revert", "bead-z"),
    ("close", "bead-z"),
    ("stop", "bead-z"),
    ("beads", "--rig", "r9"),
    ("sling", "r9", "Mend"),
    ("sling", "r1", "Mend", "--depends-on", "bead-z"),
]


@pytest.mark.parametrize("arguments", UNKNOWN, ids=" ".join)
async def test_what_is_unknown_is_3_and_one_line(desk: Desk, arguments: tuple[str, ...]) -> None:
    code, out, err = await desk.gastown(*arguments)
    assert (code, out, err.count("\n")) == (3, "", 1)
    assert err.startswith("gastown ")
    code, out, err = await desk.gastown(*arguments, "--json")
    assert (code, out, json.loads(err).keys() <= {"error", "action"}) == (3, "", True)


WRONG = [
    ("config", "set", "slots", "many"),
    ("config", "set", "slots", "0"),
    ("config", "set", "budget.day", "much"),
    ("config", "set", "budget.bead", "-1"),
    ("config", "set", "time-zone", "Mars/North"),
    ("bead", "set", "$bead", "title"),
    ("bead", "set", "$bead", "priority", "soon"),
    ("bead", "set", "$bead", "depends-on", "$bead"),
]


@pytest.mark.parametrize("arguments", WRONG, ids=" ".join)
async def test_what_is_wrong_is_2_and_one_line(desk: Desk, arguments: tuple[str, ...]) -> None:
    bead = await desk.sling()
    code, out, err = await desk.gastown(*(one.replace("$bead", bead) for one in arguments))
    assert (code, out, err.count("\n")) == (2, "", 1)


@pytest.mark.parametrize("arguments", [("review", "approve", "$bead"), ("mayor", "Hi!")], ids=" ".join)
async def test_what_does_not_fit_now_is_1_and_one_line(desk: Desk, arguments: tuple[str, ...]) -> None:
    bead = await desk.sling()
    code, out, err = await desk.gastown(*(one.replace("$bead", bead) for one in arguments))
    assert (code, out, err.count("\n")) == (1, "", 1)


async def test_down_waits_until_the_town_is_down(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    ended = trio.Event()

    async def down() -> None:
        codes.append(await Desk(hall, tmp_path, capsys).gastown("down"))

    codes: list[tuple[int, str, str]] = []
    options = HallOptions(data_dir=tmp_path, town_id="oak")
    async with trio.open_nursery() as nursery, open_hall(options) as hall:
        hall.desk.end = ended.set
        nursery.start_soon(down)
        await ended.wait()
        assert codes == []
    assert codes == [(0, "the town is down\n", "gastown down: the town drains\n")]


def command(*arguments: str, home: Path) -> subprocess.CompletedProcess[str]:
    environment = {"PATH": os.environ["PATH"], "HOME": str(home)}
    whole = [sys.executable, "-m", "gastown", *arguments]
    return subprocess.run(whole, env=environment, capture_output=True, text=True, timeout=60, check=False)


async def test_a_town_that_is_not_there_is_3_and_one_that_is_not_up_is_1(tmp_path: Path) -> None:
    def asked(*arguments: str) -> tuple[int, str]:
        done = command(*arguments, home=tmp_path)
        return done.returncode, done.stderr

    place = tmp_path / ".local" / "state" / "gastown" / "oak"
    makes_one = "gastown up --town oak makes one, and --dir names another place"
    assert asked("status", "--town", "oak") == (3, f"gastown status: there is no town in {place}; {makes_one}\n")
    async with open_hall(HallOptions(data_dir=place, town_id="oak")):
        left = {name: (place / name).read_text() for name in ("hall.json", "user.token")}
        code, told = await trio.to_thread.run_sync(asked, "status", "--town", "oak")
        assert (code, told) == (0, "")
    not_up = (1, f"gastown status: the town in {place} is not up; start it: gastown up --town oak\n")
    assert asked("status", "--town", "oak") == not_up
    for name, text in left.items():  # as a hall that was killed leaves them
        (place / name).write_text(text)
    assert asked("status", "--town", "oak") == not_up


def test_a_question_to_a_town_imports_no_framework(tmp_path: Path) -> None:
    """It is to be over before anybody notices that it was begun."""
    seen = """
import sys
from gastown.cli import main
code = main(["status"])
print(code, sorted(name for name in ("quart", "hypercorn", "httpx2", "trio", "structlog") if name in sys.modules))
"""
    environment = {"PATH": os.environ["PATH"], "HOME": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-c", seen], env=environment, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.stdout == "3 []\n"


async def test_a_rig_is_shown_and_set(desk: Desk) -> None:
    assert [one["merge"] for one in await desk.said("rig")] == ["ask"]
    changed = await desk.said("rig", "set", "r1", "--merge", "auto", "--check", "make", "--check", "make test")
    assert (changed["merge"], changed["checks"]) == ("auto", ["make", "make test"])
    shown = await desk.text("rig", "list")
    assert shown.splitlines()[0].split() == ["RIG", "BRANCH", "MERGE", "REVIEW", "CHECKS", "SLOTS", "PLACE"]
    assert (await desk.said("rig", "set", "r1", "--no-checks"))["checks"] == []
    assert (await desk.gastown("rig", "set", "r9", "--merge", "auto"))[0] == 3
    assert (await desk.gastown("rig", "set", "r1", "--slots", "many"))[0] == 2
