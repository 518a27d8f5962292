"""What each agent leaves behind when the container drains, and the receipt for it."""

from __future__ import annotations

import shutil
from functools import partial
from pathlib import Path

import pytest
import trio

from gastown.concurrency.processes import Exit
from gastown.git.errors import GitFailed, PushRaced
from gastown.testing.drainer import Drainer, converse, home_database, kept
from gastown.testing.kilo import Script
from gastown.testing.launchers import FakeLauncher, Fate, SlowKilo
from gastown.testing.worktree import FakeWorktree

pytestmark = pytest.mark.virtual_time

CONTEXT = "POST /eviction-context"
LONG = partial(FakeLauncher, script=Script(turn_seconds=10_000))


async def test_unsaved_work_is_committed_as_the_agent_and_pushed_to_its_branch(town_on_fakes) -> None:
    async with town_on_fakes() as town:
        drainer = Drainer(town)
        worktree = drainer.worktrees["pole-1"]
        await town.start("pole-1")
        await drainer.post()
        receipt = (await drainer.left())["pole-1"]
        assert (receipt["commit"], receipt["pushed"], receipt["reported"], receipt["lost"]) == (
            "0123abcd",
            True,
            True,
            [],
        )
        (job,) = worktree.jobs
        assert job.author["GIT_AUTHOR_NAME"] == "pole-1 (gastown)"
        assert (worktree.pushed, job.message) == (["HEAD:refs/heads/work-pole-1"], "WIP: container eviction save")
        assert job.on_branch
        (context,) = town.worker.asked(CONTEXT)
        assert context.path.endswith("/rigs/rig-1/agents/pole-1/eviction-context")
        assert context.body.keys() == {"branch", "agent_name", "saved_at"}
        assert (context.body["branch"], context.body["agent_name"]) == ("work-pole-1", "pole-1")


async def test_where_all_is_pushed_nothing_is_committed_or_pushed(town_on_fakes) -> None:
    async with town_on_fakes() as town:
        drainer = Drainer(town)
        drainer.worktrees["pole-1"] = FakeWorktree(dirty=False)
        await town.start("pole-1")
        await drainer.post()
        receipt = (await drainer.left())["pole-1"]
        assert (receipt["commit"], receipt["pushed"], receipt["reported"]) == (None, None, True)
        verbs = {command[0] for command in drainer.worktrees["pole-1"].ran}
        assert verbs.isdisjoint({"commit", "push", "add"})


async def test_commits_that_were_never_pushed_are_pushed(town_on_fakes) -> None:
    async with town_on_fakes() as town:
        drainer = Drainer(town)
        drainer.worktrees["pole-1"] = FakeWorktree(dirty=False, unpushed=True)
        await town.start("pole-1")
        await drainer.post()
        receipt = (await drainer.left())["pole-1"]
        assert (receipt["commit"], receipt["pushed"]) == (None, True)


async def test_only_polecats_leave_an_eviction_context_and_only_repositories_are_saved(town_on_fakes) -> None:
    async with town_on_fakes() as town:
        drainer = Drainer(town)
        light = {"role": "triage", "gitUrl": "", "branch": "", "defaultBranch": ""}
        await town.start("mayor-1")
        await town.start("tri-1", **light)
        await town.start("ref-1", role="refinery")
        await drainer.post()
        receipts = await drainer.left()
        assert list(drainer.worktrees) == ["ref-1"]
        assert [receipts[name]["pushed"] for name in ("mayor-1", "tri-1", "ref-1")] == [None, None, True]
        assert town.worker.asked(CONTEXT) == []


async def test_a_push_that_others_were_faster_than_is_lost_and_says_so(town_on_fakes) -> None:
    async with town_on_fakes() as town:
        drainer = Drainer(town)
        drainer.worktrees["pole-1"].failures["push"] = PushRaced("push", 1, "! [rejected] (fetch first)")
        await town.start("pole-1")
        await drainer.post()
        receipt = (await drainer.left())["pole-1"]
        assert (receipt["commit"], receipt["pushed"], receipt["reported"]) == ("0123abcd", False, None)
        why = "git push failed with code 1: ! [rejected] (fetch first)"
        assert receipt["unsaved"] == [{"path": "files that are in no commit", "why": why}]
        assert receipt["lost"] == [f"the work: files that are in no commit: {why}"]
        assert town.worker.asked(CONTEXT) == []


async def test_an_agent_whose_every_step_fails_blocks_nobody(town_on_fakes) -> None:
    async with town_on_fakes(kilo=LONG) as town:
        drainer = Drainer(town)
        worktree = drainer.worktrees["pole-1"]
        worktree.failures["status"] = GitFailed("status", 128, "fatal: not a git repository")
        await town.start("pole-1")
        converse(town, "pole-1")
        home_database(town, "pole-1").write_bytes(b"no database" * 1000)
        session = (await town.status("pole-1"))["sessionId"]
        script = Script(turn_seconds=10_000, hangs=frozenset({f"POST /session/{session}/abort"}))
        town.kilo.server("pole-1").kilo.script = script
        town.kilo.scripts["pole-2"] = Script()
        await town.start("pole-2")
        await trio.sleep(5)
        await drainer.post(budgetSeconds=60)
        await trio.sleep(5)
        assert (await drainer.receipts())["pole-2"]["step"] == "done"
        receipts = await drainer.left()
        assert [reason.partition(":")[0] for reason in receipts["pole-1"]["lost"]] == [
            "the conversation",
            "the work",
        ]
        assert receipts["pole-2"]["lost"] == []
        assert drainer.took < 60


async def test_an_agent_that_ignores_everything_costs_the_budget_and_no_more(town_on_fakes) -> None:
    async with town_on_fakes(kilo=LONG) as town:
        drainer = Drainer(town)
        town.kilo.stop_seconds = 59.0
        drainer.worktrees["pole-1"].seconds["commit"] = float("inf")
        await town.start("pole-1")
        await drainer.post(budgetSeconds=60)
        receipt = (await drainer.left())["pole-1"]
        assert drainer.took <= 60
        assert receipt["lost"] == ["its server did not end within 8 s", "the work: the time was up"]
        assert (receipt["pushed"], kept(town)) == (None, ["pole-1"])


async def test_a_worker_that_is_away_costs_no_agent_its_work(town_on_fakes) -> None:
    async with town_on_fakes(kilo=LONG) as town:
        drainer = Drainer(town)
        await town.start("pole-1")
        converse(town, "pole-1")
        town.worker.down()
        await drainer.post(budgetSeconds=200)
        receipt = (await drainer.left())["pole-1"]
        assert (receipt["pushed"], receipt["saved"], receipt["reported"]) == (True, False, False)
        assert [reason.partition(":")[0] for reason in receipt["lost"]] == [
            "the eviction context",
            "the conversation",
        ]
        state = await drainer.state()
        assert state["notice"].startswith("not delivered")
        assert (state["flushed"]["registry"], drainer.took < 200) == (False, True)


async def test_a_drain_after_a_failed_refresh_is_through_soon_and_its_receipts_are_complete(town_on_fakes) -> None:
    async with town_on_fakes() as town:
        drainer = Drainer(town)
        for number in range(4):
            await town.start(f"pole-{number}")
            converse(town, f"pole-{number}")
        town.kilo.fate = lambda _: Fate(1, Exit(1))
        town.worker.statuses = dict.fromkeys(["POST /refresh-container-token", "POST /db-snapshot", CONTEXT], 401)
        await town.client.post("/refresh-token", json={"token": "another"})
        await drainer.post()
        receipts = await drainer.left()
        assert len(receipts) == 4
        for receipt in receipts.values():
            assert (receipt["step"], receipt["saved"], receipt["pushed"]) == ("done", False, True)
            assert [reason.partition(":")[0] for reason in sorted(receipt["lost"])] == [
                "the conversation",
                "the eviction context",
            ]
        assert drainer.took < 60


async def test_an_agent_that_ends_by_itself_meanwhile_is_not_brought_back(town_on_fakes) -> None:
    async with town_on_fakes(kilo=LONG) as town:
        drainer = Drainer(town)
        await town.start("pole-1")
        await drainer.post(budgetSeconds=100)
        await trio.sleep(5)
        await town.client.post("/agents/pole-1/stop")
        receipt = (await drainer.left())["pole-1"]
        assert (receipt["turn"], receipt["lost"], kept(town)) == ("gone", [], [])


async def test_without_a_worker_the_work_is_saved_all_the_same(town_on_fakes) -> None:
    async with town_on_fakes(worker=None) as town:
        drainer = Drainer(town)
        await town.start("pole-1")
        converse(town, "pole-1")
        await drainer.post()
        receipt = (await drainer.left())["pole-1"]
        assert (receipt["pushed"], receipt["saved"], receipt["reported"], receipt["lost"]) == (
            True,
            None,
            None,
            [],
        )


async def test_an_agent_whose_worktree_is_not_made_yet_has_no_work_to_lose(town_on_fakes) -> None:
    async with town_on_fakes(kilo=SlowKilo) as town:
        drainer = Drainer(town)
        town.start_soon("pole-1")
        await trio.sleep(5)
        shutil.rmtree(Path(town.opened.town.roster.get("pole-1").workdir) / ".git")
        await drainer.post()
        receipt = (await drainer.left())["pole-1"]
        assert (receipt["turn"], receipt["pushed"], receipt["lost"]) == ("starting", None, [])
        assert drainer.worktrees["pole-1"].jobs == []


async def test_agents_that_share_a_worktree_save_it_one_after_the_other(town_on_fakes) -> None:
    async with town_on_fakes() as town:
        drainer = Drainer(town)
        shared = drainer.worktrees["pole-1"] = drainer.worktrees["ref-1"] = FakeWorktree()
        await town.start("pole-1", branch="work")
        await town.start("ref-1", branch="work", role="refinery")
        await trio.sleep(5)
        await drainer.post()
        receipts = await drainer.left()
        assert [receipt["lost"] for receipt in receipts.values()] == [[], []]
        assert [job.on_branch for job in shared.jobs] == [True, True]


async def test_a_shared_worktree_is_left_as_it_is_while_another_agent_works_in_it(town_on_fakes) -> None:
    """What the first of two agents has not committed may be the other's: it goes to a rescue branch."""
    async with town_on_fakes() as town:
        drainer = Drainer(town)
        shared = drainer.worktrees["pole-1"] = drainer.worktrees["ref-1"] = FakeWorktree()
        await town.start("pole-1", branch="work")
        await trio.sleep(5)
        town.kilo.script = Script(turn_seconds=10_000)
        await town.start("ref-1", branch="work", role="refinery")
        await drainer.post()
        await trio.sleep(10)
        receipts = await drainer.receipts()
        assert [receipts[agent]["step"] for agent in ("pole-1", "ref-1")] == ["done", "working"]
        await drainer.left()
        assert [job.on_branch for job in shared.jobs] == [False, True]


async def test_the_files_of_an_agent_without_a_repository_are_named(town_on_fakes) -> None:
    async with town_on_fakes() as town:
        drainer = Drainer(town)
        await town.start("mayor-1", systemPrompt="Be kind.")
        workdir = Path(town.opened.town.roster.get("mayor-1").workdir)
        (workdir / "notes.md").write_text("notes\n")
        await drainer.post()
        receipt = (await drainer.left())["mayor-1"]
        assert [one["path"] for one in receipt["unsaved"]] == ["notes.md"]
        assert "notes.md" in receipt["lost"][0]
