"""The demo of a new town: its repository, and that its script does what it is there to show."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import pytest

from gastown.contract.tools import tools
from gastown.hall.demo import ASKS_FOR, RIG, SCRIPT, WISH
from gastown.hall.demo.repository import make_repository
from gastown.hall.prompts import prompt_of
from gastown.hall.reconcile import words
from gastown.hall.stand_in.player import Played
from gastown.hall.stand_in.script import parse_script
from tests.unit.test_script_player import MAYOR_TOOLS, Talk

PLAYED = parse_script(SCRIPT.read_text("utf-8"), "demo.json")
ENVIRONMENT = {
    "PATH": os.environ["PATH"],
    "GIT_CONFIG_GLOBAL": "/dev/null",
    **{f"GIT_{role}_{key}": "x@y.z" for role in ("AUTHOR", "COMMITTER") for key in ("NAME", "EMAIL")},
}


def shell(place: Path, command: str) -> str:
    done = subprocess.run(
        ["bash", "-c", command], cwd=place, env=ENVIRONMENT, capture_output=True, text=True, check=False
    )
    return done.stdout + done.stderr


def work(place: Path, message: str) -> list[Played]:
    """Play a polecat in its worktree to the end of its turn: real commands, and a gt_done that says yes."""
    talk = Talk(PLAYED, system=prompt_of("polecat"))
    said = talk.user(message)
    assert said is not None
    answers = [said]
    while answers[-1].calls:
        results = [
            shell(place, str(one.arguments["command"])) if one.tool == "bash" else '{"review_bead_id": "r"}'
            for one in answers[-1].calls
        ]
        answers.append(talk.next(*results))
    return answers


def handed_in(answers: list[Played]) -> list[object]:
    return [one.arguments["branch"] for said in answers for one in said.calls if one.tool == "gt_done"]


def task(bead: str, title: str) -> str:
    return f"Your task, bead {bead}: {title}\n\nbody\n\nYou are on the branch gt/{bead} of demo; …"


@pytest.fixture
def place(tmp_path: Path) -> Path:
    make_repository(tmp_path / RIG)
    return tmp_path / RIG


def worktree(place: Path, name: str) -> Path:
    """A clone of the repository as an agent has it, on a branch of its own."""
    clone = place.with_name(name)
    shell(place, f"git clone -q {place} {clone} && cd {clone} && git switch -qc gt/{name}")
    return clone


def test_the_repository_is_made_once_and_is_clean(place: Path) -> None:
    commit = shell(place, "git rev-parse HEAD")
    make_repository(place)
    assert (
        shell(place, "git status --porcelain; git branch --show-current; git rev-parse HEAD") == f"main\n{commit}"
    )
    assert shell(place, "python3 greet.py") == "en: Hello\n"
    assert [path.name for path in place.parent.iterdir()] == [RIG]


def test_a_town_whose_first_file_is_the_demo_is_still_for_its_owner_only(tmp_path: Path) -> None:
    make_repository(tmp_path / "town" / RIG)
    assert (tmp_path / "town").stat().st_mode & 0o777 == 0o700


def test_the_mayor_makes_three_tasks_of_the_wish_of_which_the_last_waits_for_the_others() -> None:
    said = Talk(PLAYED, MAYOR_TOOLS).user(WISH)
    assert said is not None
    [call] = said.calls
    assert call.arguments["rig_id"] == RIG
    tasks = call.arguments["tasks"]
    assert [one.get("depends_on") for one in tasks] == [None, None, [0, 1]]
    assert tasks[2]["title"] == ASKS_FOR


@pytest.mark.parametrize("first", ["French", "German"])
def test_two_tasks_conflict_whoever_is_first_and_the_second_resolves_it(place: Path, first: str) -> None:
    """Also when the second began after the first was merged. The third writes down all languages."""
    second = {"French": "German", "German": "French"}[first]
    titles = {"b1": f"Teach greet.py {first}", "b2": f"Teach greet.py {second}", "b3": ASKS_FOR}
    one = worktree(place, "b1")
    assert handed_in(work(one, task("b1", titles["b1"]))) == ["gt/b1"]
    shell(place, "git merge -q gt/b1")
    two = worktree(place, "b2")
    assert handed_in(work(two, task("b2", titles["b2"]))) == ["gt/b2"]
    assert "CONFLICT" in shell(place, "git merge gt/b2; git merge --abort")
    conflict = words.conflict("gt/b2", "main", ["greet.py"])
    answers = work(two, f"{conflict}\n\n(Your task, bead b2: {titles['b2']}. Your branch: gt/b2.)")
    assert handed_in(answers) == ["gt/b2"]
    assert "CONFLICT" not in shell(place, "git merge -q gt/b2")
    assert sorted(shell(place, "python3 greet.py").split("\n")) == ["", "de: Hallo", "en: Hello", "fr: Bonjour"]
    three = worktree(place, "b3")
    assert handed_in(work(three, task("b3", titles["b3"]))) == ["gt/b3"]
    assert shell(place, "git merge -q gt/b3 && cat LANGUAGES.txt") == shell(place, "python3 greet.py")


def test_an_author_that_was_interrupted_goes_on_where_it_was(place: Path) -> None:
    """The same commands twice are one commit."""
    clone = worktree(place, "b1")
    work(clone, task("b1", "Teach greet.py French"))
    again = words.go_on(words.Cause.LOST) + "\n\n(Your task, bead b1: Teach greet.py French. Your branch: gt/b1.)"
    assert handed_in(work(clone, again)) == ["gt/b1"]
    assert shell(clone, "git rev-list --count origin/gt/b1") == "2\n"


def test_every_tool_that_the_demo_calls_exists_and_gets_what_it_must_have() -> None:
    table = {tool.name: {name for name, spec in tool.args.items() if not spec.get("optional")} for tool in tools()}
    calls = [call for turn in PLAYED.turns for said in turn.answers for call in said.calls]
    for call in calls:
        assert table.get(call.tool, {"command", "description"}) <= call.arguments.keys(), json.dumps(
            call.arguments
        )
