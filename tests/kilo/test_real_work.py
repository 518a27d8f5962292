"""From a wish to a commit on main, on real parts: what the model says is a script."""

from __future__ import annotations

import os
import signal
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import trio
from sqlalchemy import select

from gastown.hall.domain.bead import BeadState
from gastown.hall.domain.policy import RigPolicy
from gastown.hall.drivers.process import Container
from gastown.hall.reconcile import facts
from gastown.hall.reconcile.state import HandInPhase, WaitsFor
from gastown.hall.store.tables import TOWN, nudges
from gastown.testing.script import When, bash, call, say, when
from tests.git.server import GitServer, open_git_server
from tests.kilo.working_town import (
    AGAIN,
    closed,
    keep_up,
    landed,
    open_working_hall,
    sling,
    takes_up,
    until,
    working_town,
)

pytestmark = pytest.mark.kilo

FILES = {"README.md": "a repository\n", "list.txt": "first\n"}
TASK = r"Your task, bead (?P<bead>\S+): (?P<title>[^\n]+)[\s\S]*branch (?P<branch>\S+) of"


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[GitServer]:
    async with open_git_server(tmp_path / "git") as server:
        server.make("r", FILES)
        yield server


def commits(command: str) -> str:
    return f"{command} && git add -A && git commit -qm 'what was asked for' && git push -q origin HEAD"


def polecat(command: str, task: str = TASK, *, branch: str = "{{branch}}", times: int | None = None) -> When:
    """An author that does a command, commits, pushes, and hands in."""
    return (
        when(task, role="polecat", times=times)
        .then(say("I look at it."), bash(commits(command)))
        .then(call("gt_done", branch=branch, summary="done"))
        .then(say("It is handed in."))
    )


async def test_a_wish_becomes_a_commit_on_main_and_the_mayor_hears_of_it(
    tmp_path: Path, server: GitServer
) -> None:
    """The mayor slings; nothing else is told to the town by hand."""
    mayor = (
        when("greet the world", role="mayor")
        .then(say("I hand it out."), call("gt_sling", rig_id="r", title="Greet the world", body="in hello.txt"))
        .then(say("It is under way."))
    )
    async with working_town(tmp_path / "town", server, mayor, polecat("echo hello > hello.txt")) as town:
        await town.hall.start_mayor(town.control, "Please greet the world.")
        state = await town.until(lambda at: any(one.commit for one in at.work.values()))
        ((bead_id, work),) = state.work.items()
        assert work.state is BeadState.CLOSED
        assert server.read("r", "main", "hello.txt") == "hello\n"
        assert (server.tip("r", "main"), landed(server)) == (work.commit, [bead_id])
        mayor_id = (await town.hall.town()).mayor_agent_id
        to_mayor = select(nudges.c.message).where(nudges.c.town_id == TOWN, nudges.c.agent_id == mayor_id)
        told = await town.hall.store.transaction("town", lambda at: at.rows(to_mayor))
        assert [bead_id in one.message for one in told] == [True]
        assert await town.attempts(bead_id) == [("handed_in", None)]


async def test_three_at_once_and_two_of_them_on_one_file_all_land(tmp_path: Path, server: GitServer) -> None:
    """The second one conflicts; its author resolves that, on its branch, and hands in again."""
    resolve = (
        "git fetch -q origin && (git merge -q origin/main || true) && "
        "(git show origin/main:list.txt; echo {{bead}}) > list.txt && git add -A && git commit -qm merged && "
        "git push -q origin HEAD"
    )
    turns = (
        when(
            r"cannot be merged[\s\S]*Your task, bead (?P<bead>\S+):[\s\S]*Your branch: (?P<branch>\S+?)\.?\)",
            role="polecat",
        )
        .then(bash(resolve))
        .then(call("gt_done", branch="{{branch}}", summary="resolved"))
        .then(say("Resolved.")),
        polecat("echo own > own.txt", TASK.replace("[^\\n]+", "alone")),
        polecat("echo {{bead}} >> list.txt"),
    )
    async with working_town(tmp_path / "town", server, *turns) as town:
        made = [await town.sling(title) for title in ("alone", "left", "right")]
        await town.closed(*made)
        assert sorted(landed(server)) == sorted(made)
        lines = server.read("r", "main", "list.txt").split()
        assert sorted(lines) == sorted(["first", *made[1:]])
        outcomes = [await town.attempts(one) for one in made[1:]]
        assert sorted(len(one) for one in outcomes) == [1, 2]
        assert ("handed_in", "conflict") in [attempt for one in outcomes for attempt in one]


async def test_a_rejected_review_comes_back_to_its_author_and_lands(tmp_path: Path, server: GitServer) -> None:
    """The reviewer is another agent, and finds it better the second time."""
    turns = (
        when("Review the branch", role="refinery", times=1)
        .then(call("gt_request_changes", feedback="say it twice", files=["hello.txt"]))
        .then(say("Sent back.")),
        when(r"Review the branch (?P<branch>\S+) of", role="refinery")
        .then(call("gt_done", branch="{{branch}}", summary="good"))
        .then(say("Good.")),
        when(r"say it twice" + AGAIN, role="polecat")
        .then(bash(commits("echo hello >> hello.txt")))
        .then(call("gt_done", branch="{{branch}}", summary="twice"))
        .then(say("Twice.")),
        polecat("echo hello > hello.txt"),
    )
    rig = RigPolicy(merge="auto", review="refinery")
    async with working_town(tmp_path / "town", server, *turns, rig=rig) as town:
        bead_id = await town.sling("Greet")
        await town.closed(bead_id)
        assert server.read("r", "main", "hello.txt") == "hello\nhello\n"
        assert await town.attempts(bead_id) == [
            ("handed_in", None),
            ("reviewed", None),
            ("handed_in", "review"),
            ("reviewed", None),
        ]
        assert landed(server) == [bead_id]


async def test_what_does_not_pass_the_checks_comes_back_and_lands_once_it_does(
    tmp_path: Path, server: GitServer
) -> None:
    """The checks run on the result of the merge, and nothing is pushed before they pass."""
    turns = (
        when(r"does not pass the checks" + AGAIN, role="polecat")
        .then(bash(commits("echo tested > test.txt")))
        .then(call("gt_done", branch="{{branch}}", summary="tested"))
        .then(say("Tested.")),
        polecat("echo hello > hello.txt"),
    )
    rig = RigPolicy(merge="auto", checks=("test -f hello.txt && test -f test.txt",))
    async with working_town(tmp_path / "town", server, *turns, rig=rig) as town:
        bead_id = await town.sling("Greet")
        await town.closed(bead_id)
        assert (landed(server), server.read("r", "main", "test.txt")) == ([bead_id], "tested\n")
        assert await town.attempts(bead_id) == [("handed_in", None), ("handed_in", "checks")]


async def test_a_merge_that_asks_waits_for_the_person_alone(tmp_path: Path, server: GitServer) -> None:
    async with working_town(
        tmp_path / "town", server, polecat("echo hello > hello.txt"), rig=RigPolicy(merge="ask")
    ) as town:
        bead_id = await town.sling("Greet")
        state = await town.until(
            lambda at: at.work[bead_id].hand_in and at.work[bead_id].hand_in.phase is HandInPhase.ASKING
        )
        waiting = state.work[bead_id].waiting
        assert waiting is not None
        assert (waiting.what, landed(server)) == (WaitsFor.PERSON, [])
        await town.take(facts.Approved(bead_id=bead_id))
        await town.closed(bead_id)
        assert landed(server) == [bead_id]


async def test_a_model_that_names_another_branch_and_hands_in_twice_lands_once(
    tmp_path: Path, server: GitServer
) -> None:
    """What is merged is the branch that the hall assigned."""
    turn = (
        when(TASK, role="polecat")
        .then(bash(commits("echo hello > hello.txt")))
        .then(call("gt_done", branch="main", summary="done"))
        .then(call("gt_done", branch="another", summary="done again"))
        .then(say("Twice."))
    )
    async with working_town(tmp_path / "town", server, turn) as town:
        bead_id = await town.sling("Greet")
        await town.closed(bead_id)
        assert (landed(server), server.read("r", "main", "hello.txt")) == ([bead_id], "hello\n")


async def test_a_model_that_never_hands_in_is_reminded_and_then_a_person_is_asked(
    tmp_path: Path, server: GitServer
) -> None:
    async with working_town(tmp_path / "town", server, when(role="polecat").then(say("I am done."))) as town:
        bead_id = await town.sling("Greet")
        state = await town.until(lambda at: at.work[bead_id].question)
        assert "3 times" in str(state.work[bead_id].question)
        assert await town.attempts(bead_id) == [
            ("unfinished", None),
            ("unfinished", "unfinished"),
            ("unfinished", "unfinished"),
        ]


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
async def test_a_container_that_ends_in_the_middle_costs_no_work_and_repeats_none(
    tmp_path: Path, server: GitServer, number: signal.Signals
) -> None:
    """Five beads, and an end of the container once the first has landed: all five are on main, each once."""
    data, current = tmp_path / "town", list[Container]()
    write = "echo {{bead}} > {{bead}}.txt"
    turns = (polecat(write), takes_up(write))
    async with open_working_hall(data, server, *turns, slots=2) as hall, trio.open_nursery() as nursery:
        nursery.start_soon(keep_up, hall, data, current)
        made = [await sling(hall, f"task {place}") for place in range(5)]
        await until(hall, lambda at: any(one.commit for one in at.work.values()))
        os.kill(current[0].pid, number)
        await closed(hall, *made)
        assert sorted(landed(server)) == sorted(made)
        nursery.cancel_scope.cancel(reason="the test is over")
