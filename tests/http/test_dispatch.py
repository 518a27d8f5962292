"""A town in virtual time: the real hall and its dispatcher, the real control server, and kilos that are played."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, cast

import pytest
import trio

from gastown.contract.agents import StartAgentRequest
from gastown.contract.git import Changes, ReviewResult
from gastown.contract.secret import Secret
from gastown.hall.api.context import HallContext
from gastown.hall.api.worker_api import _end_of_merge as end_of_merge
from gastown.hall.app import create_app
from gastown.hall.control_client import ControlCallFailed, ControlClient
from gastown.hall.dispatch import requests
from gastown.hall.dispatch.dispatcher import Dispatcher
from gastown.hall.dispatch.requests import Task
from gastown.hall.domain.policy import Policy, RigPolicy
from gastown.hall.domain.town import RigRecord
from gastown.hall.hall import Hall
from gastown.hall.reconcile import facts
from gastown.hall.reconcile.actions import Merge
from gastown.hall.reconcile.state import WaitsFor, Work
from gastown.hall.reconcile.step import outstanding
from gastown.hall.store import beads, board, policies, town_state
from gastown.hall.store.database import open_store
from gastown.hall.store.transaction import Transaction
from gastown.testing.clock import WallClock
from gastown.testing.kilo import Script
from gastown.testing.launchers import FakeLauncher, NeverKilo
from gastown.testing.town import TOWN, FakeTown, open_fake_town
from tests.http.test_hall_held_database import held

pytestmark = [pytest.mark.virtual_time, pytest.mark.usefixtures("inline")]


@dataclass
class DrivenTown:
    """A town whose hall drives its container."""

    hall: Hall
    town: FakeTown
    control: ControlClient

    async def change(self, work: Any) -> Any:
        return await self.hall.store.transaction(TOWN, work)

    async def sling(self, title: str = "Mend", *, after: tuple[str, ...] = ()) -> str:
        def work(transaction: Transaction) -> str:
            made = beads.make_bead(transaction, "r", "issue", title, body="as it was")
            beads.set_blockers(transaction, made.id, after)
            board.add_work(transaction, [beads.bead(transaction, made.id)])
            return made.id

        made: str = await self.change(work)
        return made

    async def work(self, bead_id: str) -> Work:
        return (await self.hall.store.state(TOWN)).work[bead_id]

    async def done(self, bead_id: str) -> None:
        """The author calls gt_done."""
        author = (await self.work(bead_id)).author
        assert author is not None
        await self.change(lambda at: board.finish_work(at, "r", author, branch="b", pr_url=None, summary=None))

    async def until(self, holds: Any, seconds: float = 120) -> None:
        """Wait until the state of the town is so."""
        with trio.fail_after(seconds):
            while not holds(await self.hall.store.state(TOWN)):
                await self.hall.store.stepped.wait()

    async def running(self, bead_id: str) -> str:
        """Wait for the author to be at work; its id."""
        await self.until(lambda state: state.work[bead_id].attempt and state.work[bead_id].attempt.session_id)
        return str((await self.work(bead_id)).author)

    async def merges(self) -> list[Merge]:
        state = await self.hall.store.state(TOWN)
        return [one for one in outstanding(state) if isinstance(one, Merge)]


@asynccontextmanager
async def open_hall_of(folder: Path, *, rig: RigPolicy | None = None, slots: int = 3) -> AsyncIterator[Hall]:
    """A hall with one rig, whose clock is virtual."""
    clock = WallClock()
    async with open_store(folder / "hall.db", clock) as store:
        await store.create_town(TOWN, name=TOWN, jwt_secret=Secret("s" * 40), mayor_agent_id="mayor-1")
        await store.change_town(TOWN, {"kilocode_token": Secret("kilo-token")})
        await store.save_rig(TOWN, RigRecord(rig_id="r", git_url="https://git.test/r.git", default_branch="main"))

        def settle(transaction: Transaction) -> None:
            policies.change_policy(transaction, Policy(slots=slots))
            policies.change_rig_policy(transaction, "r", rig or RigPolicy(merge="auto"))
            town_state.take_rules(transaction)

        await store.transaction(TOWN, settle)
        yield Hall(url="http://worker", town_id=TOWN, stand_in=False, store=store, now=clock)


@asynccontextmanager
async def open_container(folder: Path, hall: Hall, **options: Any) -> AsyncIterator[DrivenTown]:
    """The next container of a hall, until the block ends: then it is gone without a word."""
    app = cast("Any", create_app(HallContext(store=hall.store, now=hall.now)))
    token = (await hall.container_token()).reveal()
    async with open_fake_town(folder, orchestrator=app, gastown_container_token=token, **options) as town:
        town.hydrate()
        control = ControlClient(town.network.client("http://town"))
        driven = DrivenTown(hall, town, control)
        town.nursery.start_soon(Dispatcher(hall, control).run)
        await driven.until(lambda state: state.container.ready)
        yield driven


@asynccontextmanager
async def driven_town(
    folder: Path, *, rig: RigPolicy | None = None, slots: int = 3, **options: Any
) -> AsyncIterator[DrivenTown]:
    async with open_hall_of(folder, rig=rig, slots=slots) as hall, open_container(folder, hall, **options) as town:
        yield town


async def test_work_that_is_slung_is_begun_handed_in_and_merged(tmp_path: Path) -> None:
    async with driven_town(tmp_path) as town:
        began = trio.current_time()
        bead_id = await town.sling("Mend the roof")
        agent = await town.running(bead_id)
        assert trio.current_time() - began < 30
        assert (await town.control.status(agent)) is not None
        await town.done(bead_id)
        (merge,) = await town.merges()
        await town.change(lambda at: town_state.take(at, facts.Merged(merge_id=merge.merge_id, commit="c" * 40)))
        await town.until(lambda state: not state.stops)
        status = await town.control.status(agent)
        assert (status is None or status.status, (await town.work(bead_id)).commit) == ("exited", "c" * 40)


async def test_an_agent_whose_turn_ends_without_gt_done_is_told_to_go_on_and_then_a_person_is_asked(
    tmp_path: Path,
) -> None:
    async with driven_town(tmp_path) as town:
        bead_id = await town.sling()
        await town.until(lambda state: state.work[bead_id].question, 600)
        work = await town.work(bead_id)
        assert work.waiting is not None
        assert work.waiting.what is WaitsFor.PERSON
        assert "3 times" in work.waiting.reason
        rows = await town.change(lambda at: town_state.attempts_of(at, bead_id))
        assert [(row["outcome"], row["cause"]) for row in rows] == [
            ("unfinished", None),
            ("unfinished", "unfinished"),
            ("unfinished", "unfinished"),
        ]
        servers = [one.spawn.agent_id for one in town.town.kilo.live]
        assert servers.count(str(work.author)) == 1  # what still runs gets a message


async def test_a_container_that_cannot_start_agents_opens_the_breaker_and_no_model_is_asked(
    tmp_path: Path,
) -> None:
    async with driven_town(tmp_path, kilo=NeverKilo, slots=8) as town:
        for number in range(5):
            await town.sling(f"task {number}")
        await town.until(lambda state: state.breaker.is_open, 1200)
        state = await town.hall.store.state(TOWN)
        assert {one.waiting.what for one in state.work.values() if one.waiting} <= {
            WaitsFor.CONTAINER,
            WaitsFor.BACKOFF,
        }


SLOW = partial(FakeLauncher, script=Script(turn_seconds=3600))


async def lose(hall: Hall) -> None:
    lost = facts.ContainerLost(reason="killed")
    await hall.store.transaction(TOWN, lambda at: town_state.take(at, lost))


async def test_the_next_container_goes_on_with_the_attempts_of_the_last_one(tmp_path: Path) -> None:
    """The registry brings the agent back: it is neither started again nor counted."""
    async with open_hall_of(tmp_path) as hall:
        async with open_container(tmp_path, hall, kilo=SLOW) as town:
            bead_id = await town.sling()
            await town.running(bead_id)
            before = (await town.work(bead_id)).attempt
        await lose(hall)
        async with open_container(tmp_path, hall, kilo=SLOW) as town:
            assert (await town.work(bead_id)).attempt == before
            assert [one.agent_id for one in (await town.control.agents()).agents] == [before and before.agent_id]


async def test_what_the_next_container_does_not_know_begins_again(tmp_path: Path) -> None:
    async with open_hall_of(tmp_path) as hall:
        async with open_container(tmp_path, hall, kilo=SLOW) as town:
            bead_id = await town.sling()
            await town.running(bead_id)
        await hall.store.replace_registry(TOWN, [])
        await lose(hall)
        async with open_container(tmp_path, hall, kilo=SLOW) as town:
            await town.running(bead_id)
            rows = await town.change(lambda at: town_state.attempts_of(at, bead_id))
            assert [(row["outcome"], row["cause"]) for row in rows] == [("lost", None), (None, "lost")]


async def test_a_container_that_cannot_be_reached_for_a_while_is_met_again(tmp_path: Path) -> None:
    async with driven_town(tmp_path, kilo=SLOW) as town:
        town.town.network.unplug("town")
        bead_id = await town.sling()
        await town.until(lambda state: not state.container.ready)
        waiting = (await town.work(bead_id)).waiting
        assert waiting is not None
        assert waiting.what is WaitsFor.CONTAINER
        town.town.network.plug("town")
        await town.running(bead_id)
        assert (await town.work(bead_id)).tries == {}


async def test_a_ready_bead_is_dispatched_at_once(tmp_path: Path) -> None:
    """0.2 s at most from ready to the request: nothing waits for a tick."""
    async with driven_town(tmp_path, slots=1) as town:
        first, second = await town.sling(), await town.sling()
        await town.running(first)
        await town.done(first)
        began = trio.current_time()
        author = (await town.work(second)).author
        while await town.control.status(str(author)) is None:
            await trio.sleep(0.01)
        assert trio.current_time() - began <= 0.2


async def test_an_idle_town_writes_no_fact_and_asks_no_agent(tmp_path: Path) -> None:
    async with driven_town(tmp_path) as town:
        before = town.hall.store.stepped.count
        await trio.sleep(900)
        assert town.hall.store.stepped.count == before
        assert [one.spawn.agent_id for one in town.town.kilo.live] == ["mayor-1"]  # prewarmed, and never asked


@pytest.mark.parametrize(
    ("result", "fact"),
    [
        ({"status": "conflict", "reason": "failed"}, facts.MergeFailed(merge_id="m", reason="why")),
        ({"status": "conflict", "reason": "checks"}, facts.MergeFailed(merge_id="m", reason="why", checks=True)),
        (
            {"status": "conflict", "reason": "moved", "head": "d" * 40},
            facts.MergeMoved(merge_id="m", head="d" * 40),
        ),
        ({"status": "conflict", "conflicting_files": ["a"]}, facts.MergeConflicted(merge_id="m", files=("a",))),
        (
            {"status": "merged", "commit_sha": "e" * 40, "nothing_to_merge": True},
            facts.Merged(merge_id="m", commit="e" * 40, nothing=True),
        ),
    ],
)
def test_each_way_in_which_a_container_says_that_a_merge_ended_is_a_fact(result: Any, fact: facts.Fact) -> None:
    assert end_of_merge(ReviewResult(entry_id="m", message="why", **result)) == fact


async def test_a_merge_is_asked_for_with_the_rigs_checks_and_the_commit_that_was_approved(tmp_path: Path) -> None:
    rig = RigPolicy(merge="ask", checks=("make test",), check_seconds=7)
    asked: list[Any] = []
    async with driven_town(tmp_path, rig=rig) as town:
        town.control.merge = lambda request, config: kept(asked, request)  # type: ignore[method-assign]
        bead_id = await town.sling()
        await town.running(bead_id)
        await town.done(bead_id)
        await town.change(lambda at: town_state.take(at, facts.Approved(bead_id=bead_id, head="c" * 40)))
        await town.until(lambda _: asked)
        assert (asked[0].head, asked[0].checks, asked[0].check_seconds) == ("c" * 40, ("make test",), 7)


async def kept(asked: list[Any], request: Any) -> None:
    asked.append(request)


async def test_the_commit_of_what_is_handed_in_is_seen_and_an_approval_is_of_it(tmp_path: Path) -> None:
    asked: list[Any] = []

    async def changes(rig_id: str, branch: str, target: str) -> Any:
        asked.append((rig_id, branch, target))
        if len(asked) < 3:
            raise ControlCallFailed(502, {"error": "no route to host"}, call="GET changes")
        return Changes(
            rig_id=rig_id, branch=branch, target=target, head="c" * 40, base="b" * 40,
            files=(), files_cut=False, patch="", patch_cut=False,
        )  # fmt: skip

    async with driven_town(tmp_path, rig=RigPolicy(merge="ask")) as town:
        town.control.changes = changes  # type: ignore[method-assign]
        bead_id = await town.sling()
        await town.running(bead_id)
        await town.done(bead_id)
        await town.until(lambda state: state.work[bead_id].hand_in.head)
        branch = (await town.work(bead_id)).branch
        assert asked == [("r", branch, "main")] * 3
        await town.change(lambda at: town_state.take(at, facts.Approved(bead_id=bead_id)))
        (merge,) = await town.merges()
        assert merge.head == "c" * 40


async def test_a_bug_in_one_action_ends_no_other_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with driven_town(tmp_path, kilo=SLOW) as town:
        told = requests.start_request

        def broken(task: Task) -> StartAgentRequest:
            if task.bead.title == "unlucky":
                raise RuntimeError("a bug")
            return told(task)

        monkeypatch.setattr("gastown.hall.dispatch.dispatcher.start_request", broken)
        await town.sling("unlucky")
        await town.running(await town.sling("lucky"))


async def test_a_file_that_another_process_holds_stops_the_town_and_does_not_end_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The pause after an agent's end is over while the file is held: the next attempt begins afterwards."""
    monkeypatch.setattr("gastown.hall.store.lane.BUSY_SECONDS", 0.02)
    async with driven_town(tmp_path, kilo=SLOW) as town:
        bead_id = await town.sling()
        agent = await town.running(bead_id)
        await town.hall.store.tell(TOWN, facts.AgentEnded(agent_id=agent))
        assert (await town.work(bead_id)).attempt is None
        with held(tmp_path / "hall.db"):
            await trio.sleep(10)
        await town.running(bead_id)
