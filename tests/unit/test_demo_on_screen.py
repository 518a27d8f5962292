"""Which towns play the demo, and what the screen tells of its tasks."""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from io import StringIO
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest
import trio

from gastown.contract.secret import Secret
from gastown.hall.cli.boot import Boot, UpOptions
from gastown.hall.cli.commands.typed import typed
from gastown.hall.cli.demo import begin_demo, introduce_demo, show_demo, with_demo
from gastown.hall.cli.screen import Screen
from gastown.hall.demo import ASKS_FOR, RIG, SCRIPT, WISH
from gastown.hall.domain.bead import BeadType
from gastown.hall.domain.town import STAND_IN_TOKEN, RigRecord
from gastown.hall.hall import Hall, HallOptions, open_hall
from gastown.hall.lock import DirectoryUnusable
from gastown.hall.reconcile import facts
from gastown.hall.reconcile.state import Work
from gastown.hall.store import beads, board, policies, town_state
from gastown.hall.store.rigs import remove_rig
from gastown.hall.store.transaction import Transaction

ELSEWHERE = RigRecord(rig_id="site", git_url="https://code.example/site.git", default_branch="main")


def up(
    place: Path, message: str | None = None, *, exit_after_first_answer: bool = False, **hall: Any
) -> UpOptions:
    options = HallOptions(data_dir=place, **hall)
    return UpOptions(
        hall=options, environment={}, message=message, exit_after_first_answer=exit_after_first_answer
    )


async def test_a_new_town_that_is_told_nothing_plays_the_demo_and_goes_on_with_it(tmp_path: Path) -> None:
    """The mayor is told the wish until she has heard it, and nothing else then."""
    first = await with_demo(up(tmp_path))
    assert [(rig.rig_id, rig.folder) for rig in first.hall.rigs] == [(RIG, str(tmp_path / RIG))]
    told = []
    for session in ("ses_1", None):
        options = await with_demo(up(tmp_path))
        assert options.hall.script == SCRIPT
        async with open_hall(options.hall) as hall:
            told.append((await begin_demo(hall, options)).message)
            await hall.remember_session(session)
            told.append((await begin_demo(hall, replace(options, message="And now?"))).message)
            told.append((await begin_demo(hall, options)).message)
    assert told == [WISH, "And now?", None, None, "And now?", WISH]


@pytest.mark.parametrize(
    "changes",
    [
        {"kilocode_token": Secret("real")},
        {"script": Path("own.json")},
        {"rigs": [ELSEWHERE]},
        {"message": "Hello"},
        {"exit_after_first_answer": True},
    ],
)
async def test_a_town_with_a_wish_of_its_own_plays_no_demo(tmp_path: Path, changes: dict[str, Any]) -> None:
    """One with a token above all: the demo never spends."""
    options = up(tmp_path, **changes)
    assert await with_demo(options) == options
    assert not (tmp_path / RIG).exists()


async def test_a_town_that_is_not_new_plays_no_demo(tmp_path: Path) -> None:
    (tmp_path / "hall.db").touch()
    assert await with_demo(up(tmp_path)) == up(tmp_path)


async def test_a_folder_that_cannot_be_written_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(DirectoryUnusable, match=r"cannot write to .*file/town: Not a directory"):
        await with_demo(up(tmp_path / "file" / "town"))


async def rules(hall: Hall) -> tuple[str, int | None]:
    policy = await hall.store.transaction("town", lambda board: policies.rig_policy(board, RIG))
    return policy.merge, policy.slots


async def test_work_of_the_demo_begins_only_where_its_script_plays_it(tmp_path: Path) -> None:
    """With a token the rig has no slot, until the town is without one again. The screen says which it is."""
    found = []
    for token in (None, Secret("real"), STAND_IN_TOKEN):
        options, shown = await with_demo(up(tmp_path, kilocode_token=token)), StringIO()
        async with open_hall(options.hall) as hall:
            options = await begin_demo(hall, options)
            await introduce_demo(Boot(options, Screen(shown), hall, Mock(), 0, hall.now()))
            found.append((shown.getvalue().split()[1:3], options.message, await rules(hall)))
    assert found == [
        (["a", "script"], WISH, ("auto", None)),
        (["not", "played"], None, ("auto", 0)),
        (["a", "script"], WISH, ("auto", None)),
    ]


async def test_a_model_goes_on_with_no_turn_that_the_script_has_begun(tmp_path: Path) -> None:
    """The agents of the last container are forgotten when the town gets a token, and not again with it."""
    kept = []
    for token in (None, Secret("real"), Secret("real")):
        options = await with_demo(up(tmp_path, kilocode_token=token))
        async with open_hall(options.hall) as hall:
            await begin_demo(hall, options)
            kept.append(await hall.store.registry("town"))
            await hall.store.replace_registry("town", [{"agentId": "a"}])
    assert kept == [[], [], [{"agentId": "a"}]]


async def test_a_town_whose_demo_was_taken_away_is_like_every_other(tmp_path: Path) -> None:
    options, shown = await with_demo(up(tmp_path)), StringIO()
    async with open_hall(options.hall) as hall:
        await hall.store.transaction("town", lambda board: remove_rig(board, RIG))
        options = await begin_demo(hall, options)
        boot = Boot(options, Screen(shown), hall, Mock(), 0, hall.now())
        await introduce_demo(boot)
        await show_demo(boot)
    assert (options.message, shown.getvalue()) == (None, "")


@dataclass
class Played:
    """A town that plays the demo, with a container that is played by the test: the facts that it would bring."""

    hall: Hall
    boot: Boot
    lines: trio.MemoryReceiveChannel[str]

    async def line(self) -> str:
        with trio.fail_after(30):
            return (await self.lines.receive()).removeprefix("demo     ").removesuffix("\n")

    async def work(self, bead: str) -> Work:
        return (await self.hall.store.state("town")).work[bead]

    async def take(self, *given: facts.Fact) -> None:
        await self.hall.store.transaction("town", lambda at: town_state.take(at, *given))

    async def hand_in(self, bead: str) -> None:
        work = await self.work(bead)
        assert work.author is not None
        if work.attempt is not None:
            await self.take(facts.Started(attempt_id=work.attempt.id))
        await self.take(facts.HandedIn(bead_id=bead, agent_id=work.author, hand_in_id=f"review of {bead}"))

    async def merge_id(self, bead: str) -> str:
        hand_in = (await self.work(bead)).hand_in
        assert hand_in is not None
        assert hand_in.merge_id is not None
        return hand_in.merge_id

    async def merged(self, bead: str) -> None:
        await self.take(facts.Merged(merge_id=await self.merge_id(bead), commit="c" * 40))


class Lines(StringIO):
    """What is written, line by line, into a channel."""

    def __init__(self, there: trio.MemorySendChannel[str]) -> None:
        super().__init__()
        self.there = there

    def write(self, text: str) -> int:
        self.there.send_nowait(text)
        return len(text)


@asynccontextmanager
async def played(place: Path) -> AsyncIterator[Played]:
    options = await with_demo(up(place))
    there, here = trio.open_memory_channel[str](100)
    async with open_hall(options.hall) as hall, trio.open_nursery() as nursery:
        boot = Boot(await begin_demo(hall, options), Screen(Lines(there)), hall, Mock(), 0, hall.now())
        nursery.start_soon(show_demo, boot)
        yield Played(hall, boot, here)
        nursery.cancel_scope.cancel()


def three_tasks(at: Transaction) -> list[str]:
    """Those that the mayor makes of the wish."""
    one, two, last = (beads.make_bead(at, RIG, BeadType.ISSUE, title) for title in ("One", "Two", ASKS_FOR))
    beads.set_blockers(at, last.id, [one.id, two.id])
    board.add_work(at, [one, two, beads.bead(at, last.id)])
    return [one.id, two.id, last.id]


async def test_the_screen_tells_each_turn_of_a_task_once_and_the_last_one_asks(tmp_path: Path) -> None:
    """Until all are merged; then it says what may come next. The next time it has nothing to tell."""
    async with played(tmp_path) as town:
        one, two, last = await town.hall.store.transaction("town", three_tasks)
        await town.take(facts.ContainerReady())
        assert [await town.line(), await town.line()] == ["“One” is begun", "“Two” is begun"]
        await town.hand_in(one)
        await town.merged(one)
        assert await town.line() == "“One” is merged"
        await town.hand_in(two)
        await town.take(facts.MergeConflicted(merge_id=await town.merge_id(two), files=("greet.py",)))
        assert await town.line() == "“Two” conflicts with what was merged before it: its author resolves that"
        assert await rules(town.hall) == ("auto", None)
        await town.hand_in(two)
        await town.merged(two)
        assert await town.line() == "“Two” is merged"
        assert await town.line() == f"“{ASKS_FOR}” is begun"
        assert await rules(town.hall) == ("ask", None)
        await town.hand_in(last)
        command = f"gastown review approve {last[:11]} --dir {tmp_path}"
        assert await town.line() == f"“{ASKS_FOR}” waits for you, in another terminal: {command}"
        await town.take(facts.Approved(bead_id=last))
        await town.merged(last)
        assert await town.line() == f"“{ASKS_FOR}” is merged"
        look, after = (await town.line()).split("\n")
        assert look.endswith(f"git -C {tmp_path / RIG} log --graph --oneline")
        assert after.endswith("KILOCODE_TOKEN=… gastown up --town mine --rig PLACE")
        await show_demo(town.boot)
        with pytest.raises(trio.WouldBlock):
            town.lines.receive_nowait()


async def test_a_task_that_does_not_go_on_or_is_closed_is_told_as_that(tmp_path: Path) -> None:
    async with played(tmp_path) as town:
        one, two, _ = await town.hall.store.transaction("town", three_tasks)
        await town.take(facts.Held(bead_id=one, reason="stopped"), facts.Closed(bead_id=two))
        assert await town.line() == f"“One” does not go on by itself: gastown why {one[:11]} --dir {tmp_path}"
        assert await town.line() == "“Two” is closed without a merge"


def test_a_command_is_told_as_it_is_to_be_typed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By its name where that leads to this program; else by its path. The usual folder goes unsaid."""
    ours = tmp_path / "bin" / "gastown"
    ours.parent.mkdir()
    ours.write_text("#!/bin/sh\n")
    ours.chmod(0o755)
    monkeypatch.setattr(sys, "argv", [str(ours)])
    home = {"HOME": str(tmp_path)}
    usual = up(tmp_path / ".local/state/gastown/oak", town_id="oak")
    options = replace(usual, environment=home)
    monkeypatch.setenv("PATH", "/nowhere")
    assert typed("beads", options) == f"{ours} beads --town oak"
    monkeypatch.setenv("PATH", str(ours.parent))
    assert typed("beads", options) == "gastown beads --town oak"
    assert typed("beads", up(tmp_path)) == f"gastown beads --dir {tmp_path}"
