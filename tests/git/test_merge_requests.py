"""Merges that are asked for over HTTP: what becomes of each is reported, can be asked for, and outlives a kill."""

from __future__ import annotations

import json
import os
import threading
from functools import partial
from pathlib import Path

import pytest
import trio

from gastown.git.command import run_git
from gastown.git.errors import GitTimedOut, NetworkFailed
from gastown.isolation.ownership import write_whole
from tests.git.test_worktrees import FILES


def merge_body(server, **changes):
    return {
        "townId": "oak", "rigId": "r", "branch": "work/1", "targetBranch": "main", "gitUrl": server.url("r"),
        "entryId": "entry-1", "beadId": "bead-1", "agentId": "ref-1", **changes,
    }  # fmt: skip


def not_merged(reason, message, **more):
    """The report of a merge that came to nothing."""
    return {"entry_id": "entry-1", "status": "conflict", "reason": reason, "message": message, **more}


def make_branch(server, theirs=None):
    base = server.make("r", FILES)
    server.commit("r", "work/1", theirs or {"new.txt": "new\n"}, parent=base)


async def test_a_merge_is_accepted_at_once_and_its_result_goes_to_the_review_queue(git_town, quick_clock):
    make_branch(git_town.server)
    async with git_town() as town:
        answer = await town.town.client.post("/git/merge", json=merge_body(git_town.server))
        assert (answer.status_code, answer.json()["status"]) == (202, "accepted")
        told = await town.until(lambda: town.town.worker.reports("POST /complete"))
        call = town.town.worker.asked("POST /complete")[0]
        assert call.path == "/api/towns/oak/rigs/r/review-queue/entry-1/complete"
        assert told == [
            {
                "entry_id": "entry-1",
                "status": "merged",
                "message": "Merged work/1 into main",
                "commit_sha": git_town.server.tip("r", "main"),
            }
        ]
        assert git_town.server.git("r", "log", "-1", "--format=%B", "main").strip().endswith("Bead: bead-1")


async def test_a_conflict_is_reported_with_its_files(git_town, quick_clock):
    make_branch(git_town.server, {"a.txt": "theirs\n"})
    git_town.server.commit("r", "main", {"a.txt": "ours\n"})
    async with git_town() as town:
        await town.town.client.post("/git/merge", json=merge_body(git_town.server))
        told = await town.until(lambda: town.town.worker.reports("POST /complete"))
        assert told == [not_merged("conflict", "Merge conflict in 1 file: a.txt", conflicting_files=["a.txt"])]


async def test_a_merge_that_fails_is_reported_as_not_merged_and_why(git_town, quick_clock):
    git_town.server.make("r", FILES)
    async with git_town() as town:
        await town.town.client.post("/git/merge", json=merge_body(git_town.server))
        told = await town.until(lambda: town.town.worker.reports("POST /complete"))
        assert told == [not_merged("failed", "Not merged: The repository has no branch work/1")]


async def test_the_result_of_a_merge_is_sent_until_the_worker_takes_it(git_town, quick_clock):
    make_branch(git_town.server)
    async with git_town() as town:
        town.town.worker.statuses["POST /complete"] = 503
        await town.town.client.post("/git/merge", json=merge_body(git_town.server))
        await town.until(lambda: len(town.town.worker.asked("POST /complete")) > 1)
        del town.town.worker.statuses["POST /complete"]
        await town.until(lambda: town.town.worker.reports("POST /complete"))


async def test_a_callback_of_the_workers_own_gets_the_containers_token_and_another_one_does_not(
    git_town, quick_clock
):
    make_branch(git_town.server)
    heard = []

    async def foreign(scope, receive, send):
        heard.append(dict(scope["headers"]))
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"0")]})
        await send({"type": "http.response.body", "body": b""})

    async with git_town() as town:
        town.town.network.serve(foreign, "elsewhere")
        own = "http://worker/api/towns/oak/rigs/r/review-queue/entry-1/complete"
        await town.town.client.post("/git/merge", json=merge_body(git_town.server, callbackUrl=own))
        await town.until(lambda: town.town.worker.reports("POST /complete"))
        assert town.town.worker.asked("POST /complete")[0].bearer != ""
        foreign_url = "http://elsewhere/done"
        body = merge_body(git_town.server, entryId="entry-2", callbackUrl=foreign_url)
        await town.town.client.post("/git/merge", json=body)
        await town.until(lambda: heard)
        assert b"authorization" not in heard[0]


async def test_a_container_without_a_worker_has_nobody_to_report_a_merge_to(git_town, quick_clock):
    async with git_town(worker=None) as town:
        answer = await town.town.client.post("/git/merge", json=merge_body(git_town.server))
        assert answer.status_code == 503


async def state_of(town, entry="entry-1"):
    answer = await town.town.client.get(f"/git/merges/{entry}")
    return answer.json() | {"code": answer.status_code}


async def ended(town, entry="entry-1"):
    """How a merge has ended, once it has."""

    async def look():
        state = await state_of(town, entry)
        return state if "endedAt" in state else None

    return await town.until(look)


async def test_how_a_merge_ended_can_be_asked_for(git_town, quick_clock):
    make_branch(git_town.server)
    async with git_town() as town:
        assert (await state_of(town))["code"] == 404
        git_town.server.hold = trio.Event()
        await town.town.client.post("/git/merge", json=merge_body(git_town.server))
        pending = await state_of(town)
        assert (pending["status"], pending["message"]) == ("pending", "work/1 is being merged into main")
        git_town.server.hold.set()
        state = await ended(town)
        assert state.pop("beganAt") == pending["beganAt"]
        assert state.pop("endedAt") > pending["beganAt"]
        assert state == {
            "code": 200,
            "entryId": "entry-1",
            "rigId": "r",
            "branch": "work/1",
            "targetBranch": "main",
            "status": "merged",
            "message": "Merged work/1 into main",
            "commitSha": git_town.server.tip("r", "main"),
        }


async def test_a_conflict_and_a_failure_are_told_apart_when_they_are_asked_for(git_town, quick_clock):
    make_branch(git_town.server, {"a.txt": "theirs\n"})
    git_town.server.commit("r", "main", {"a.txt": "ours\n"})
    async with git_town() as town:
        await town.town.client.post("/git/merge", json=merge_body(git_town.server))
        missing = merge_body(git_town.server, entryId="entry-2", branch="work/2")
        await town.town.client.post("/git/merge", json=missing)
        conflict, failed = await ended(town), await ended(town, "entry-2")
        assert (conflict["status"], conflict["conflictingFiles"]) == ("conflict", ["a.txt"])
        assert (failed["status"], failed["message"]) == (
            "failed",
            "Not merged: The repository has no branch work/2",
        )
        assert (await town.rig())["state"] == "ready"


async def test_a_merge_that_is_asked_for_again_while_it_runs_is_one_merge_and_later_finds_itself_done(
    git_town, quick_clock
):
    make_branch(git_town.server)
    async with git_town() as town:
        git_town.server.hold = trio.Event()
        for _ in range(3):
            answer = await town.town.client.post("/git/merge", json=merge_body(git_town.server))
            assert answer.status_code == 202
        git_town.server.hold.set()
        first = await ended(town)
        await town.until(lambda: town.town.worker.reports("POST /complete"))
        await town.town.client.post("/git/merge", json=merge_body(git_town.server))
        again = await ended(town)
        await town.until(lambda: len(town.town.worker.reports("POST /complete")) == 2)
        assert (again["status"], again["commitSha"]) == ("merged", first["commitSha"])
    log = git_town.server.git("r", "log", "--merges", "--format=%H", "main").split()
    assert log == [first["commitSha"]]


def killed_at(*words):
    """A git at whose command with these `words` the container is killed."""
    reached = trio.Event()

    async def run(*arguments, **options):
        if set(words) <= set(arguments):
            reached.set()
            await trio.sleep_forever()
        return await run_git(*arguments, **options)

    return run, reached


def journal(town):
    folder = Path(town.root) / ".merges"
    return {file.name: json.loads(file.read_text()) for file in folder.glob("*.json")}


@pytest.mark.parametrize("verb", ["clone", "merge-tree", "push"])
async def test_a_merge_that_a_kill_cut_gets_its_result_from_the_next_container_on_the_disk(
    git_town, quick_clock, verb
):
    make_branch(git_town.server)
    run, reached = killed_at(verb)
    async with git_town() as town:
        object.__setattr__(town.town.opened.town.services.repositories.tools, "run", run)
        await town.town.client.post(
            "/git/merge", json=merge_body(git_town.server, callbackUrl="http://elsewhere/x")
        )
        await reached.wait()
    assert "elsewhere" not in json.dumps(journal(town))
    async with git_town() as town:
        state = await ended(town)
        assert (state["status"], state["commitSha"]) == ("merged", git_town.server.tip("r", "main"))
        told = await town.until(lambda: town.town.worker.reports("POST /complete"))
        assert [(one["status"], one["commit_sha"]) for one in told] == [("merged", state["commitSha"])]


async def test_a_merge_that_was_pushed_and_not_reported_is_reported_by_the_next_container_and_not_merged_again(
    git_town, quick_clock
):
    make_branch(git_town.server)
    async with git_town() as town:
        town.town.worker.down()
        await town.town.client.post("/git/merge", json=merge_body(git_town.server))
        first = await ended(town)
    async with git_town() as town:
        told = await town.until(lambda: town.town.worker.reports("POST /complete"))
        assert told[0]["commit_sha"] == first["commitSha"] == git_town.server.tip("r", "main")
        await town.until(lambda: journal(town)["entry-1.json"].get("reported"))
    async with git_town() as town:
        await trio.sleep(5)
        assert town.town.worker.reports("POST /complete") == []
        assert (await state_of(town))["status"] == "merged"


ODD_IN_A_JOURNAL = (
    {"beganAt": "2030-01-01T00:00:00", "endedAt": "2030-01-01T00:00:00"},
    {"beganAt": "2030-01-01T00:00:00"},
    {"gitUrl": "ext::sh -c x"},
    {"rigId": "../../elsewhere"},
    {"targetBranch": "main:refs/heads/other"},
)


async def test_what_is_odd_in_the_journal_of_merges_costs_that_entry_only(git_town, quick_clock):
    make_branch(git_town.server)
    async with git_town() as town:
        await town.town.client.post("/git/merge", json=merge_body(git_town.server))
        await ended(town)
    folder = Path(town.root) / ".merges"
    good = json.loads((folder / "entry-1.json").read_text())
    (folder / "odd.json").write_text("[" * 100_000)
    (folder / "other.json").write_text(json.dumps(good))
    os.mkfifo(folder / "pipe.json")
    for number, odd in enumerate(ODD_IN_A_JOURNAL):
        entry = {**good, "entryId": f"odd-{number}", "status": "pending", "reported": False, **odd}
        (folder / f"odd-{number}.json").write_text(json.dumps(entry))
    async with git_town() as town:
        assert (await state_of(town))["status"] == "merged"
        answer = await town.town.client.get("/git/merges/other")
        assert answer.status_code == 404


async def test_a_merge_on_a_full_disk_goes_on_without_its_journal(git_town, quick_clock, monkeypatch):
    make_branch(git_town.server)

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("gastown.agents.records.write_whole", full)
    async with git_town() as town:
        await town.town.client.post("/git/merge", json=merge_body(git_town.server))
        assert (await ended(town))["status"] == "merged"


async def test_a_merge_of_another_town_is_refused(git_town, quick_clock):
    make_branch(git_town.server)
    async with git_town() as town:
        answer = await town.town.client.post("/git/merge", json=merge_body(git_town.server, townId="elm"))
        assert (answer.status_code, answer.json()["issues"][0]["path"]) == (400, ["townId"])
        assert (await state_of(town))["code"] == 404


async def test_a_merge_whose_caller_leaves_while_it_is_noted_down_is_merged(git_town, quick_clock, monkeypatch):
    make_branch(git_town.server)
    writing, slow = threading.Event(), threading.Event()

    def write(*arguments):
        writing.set()
        slow.wait(30)
        write_whole(*arguments)

    monkeypatch.setattr("gastown.agents.records.write_whole", write)
    async with git_town() as town, trio.open_nursery() as callers:
        first = merge_body(git_town.server, entryId="entry-0")
        callers.start_soon(partial(town.town.client.post, "/git/merge", json=first))
        await trio.to_thread.run_sync(writing.wait)
        with trio.move_on_after(1):
            await town.town.client.post("/git/merge", json=merge_body(git_town.server))
        slow.set()
        assert (await ended(town))["status"] == "merged"
        with trio.fail_after(60):
            await town.town.opened.town.merges.finished()


async def test_an_author_that_no_process_can_have_in_its_environment_fails_no_merge(git_town, quick_clock):
    make_branch(git_town.server)
    config = {"X-Town-Config": json.dumps({"git_author_name": "A\0da\ud800", "git_author_email": "a\n@b"})}
    async with git_town() as town:
        await town.town.client.post("/git/merge", json=merge_body(git_town.server), headers=config)
        assert (await ended(town))["status"] == "merged"
    assert git_town.server.git("r", "log", "-1", "--format=%an %ae", "main").strip() == "Ada a@b"


async def test_a_bug_in_a_merge_is_its_result(git_town, quick_clock, monkeypatch):
    make_branch(git_town.server)

    async def broken(*_, **__):
        raise KeyError("a bug")

    monkeypatch.setattr("gastown.agents.merges.merge", broken)
    async with git_town() as town:
        await town.town.client.post("/git/merge", json=merge_body(git_town.server))
        told = await town.until(lambda: town.town.worker.reports("POST /complete"))
    sentence = "Not known to be merged: the merge failed with KeyError, see the container's log"
    assert told == [not_merged("failed", sentence)]


@pytest.mark.parametrize(
    "error", [NetworkFailed("push", 128, "fatal: the remote end hung up"), GitTimedOut("merge", 60)]
)
async def test_a_merge_whose_push_got_no_answer_is_not_said_to_be_unmerged(git_town, quick_clock, error):
    make_branch(git_town.server)

    async def run(*arguments, **options):
        said = await run_git(*arguments, **options)
        if arguments[0] == "push":
            raise error
        return said

    async with git_town() as town:
        object.__setattr__(town.town.opened.town.services.repositories.tools, "run", run)
        await town.town.client.post("/git/merge", json=merge_body(git_town.server))
        state = await ended(town)
    assert (state["status"], state["message"]) == ("failed", f"Not known to be merged: {error}")
    assert "new.txt" in git_town.server.git("r", "ls-tree", "--name-only", "main")


async def test_a_merge_that_a_kill_cut_is_not_said_to_be_unmerged_when_its_branch_has_gone(git_town, quick_clock):
    make_branch(git_town.server)
    run, reached = killed_at("push")
    async with git_town() as town:
        object.__setattr__(town.town.opened.town.services.repositories.tools, "run", run)
        await town.town.client.post("/git/merge", json=merge_body(git_town.server))
        await reached.wait()
    git_town.server.git("r", "branch", "-D", "work/1")
    async with git_town() as town:
        state = await ended(town)
    assert state["message"] == "Not known to be merged: The repository has no branch work/1"


async def test_an_entry_with_another_branch_is_the_newer_one_also_after_a_kill(git_town, quick_clock):
    make_branch(git_town.server)
    theirs = {git_town.server.tip("r", "work/1"): (trio.Event(), trio.Event())}
    other = git_town.server.commit("r", "work/2", {"b.txt": "b\n"}, parent=git_town.server.tip("r", "main"))
    theirs[other] = (trio.Event(), trio.Event())

    async def run(*arguments, **options):
        for reached, going in [theirs[one] for one in theirs if {"merge-tree", one} <= set(arguments)]:
            reached.set()
            await going.wait()
        return await run_git(*arguments, **options)

    (first, go), (second, _) = theirs.values()
    async with git_town() as town:
        object.__setattr__(town.town.opened.town.services.repositories.tools, "run", run)
        await town.town.client.post("/git/merge", json=merge_body(git_town.server))
        await first.wait()
        await town.town.client.post("/git/merge", json=merge_body(git_town.server, branch="work/2"))
        go.set()
        await second.wait()
        await town.until(lambda: town.town.worker.reports("POST /complete"))
        state = await state_of(town)
        assert (state["branch"], state["status"]) == ("work/2", "pending")
    async with git_town() as town:
        state = await ended(town)
        assert (state["branch"], state["status"]) == ("work/2", "merged")


async def test_the_results_of_more_merges_than_reports_may_wait_arrive_all(git_town, quick_clock, monkeypatch):
    make_branch(git_town.server)
    monkeypatch.setattr("gastown.worker.reports._MOST_WAITING", 1)
    async with git_town() as town:
        town.town.worker.statuses["POST /complete"] = 503
        for number in range(3):
            await town.town.client.post("/git/merge", json=merge_body(git_town.server, entryId=f"entry-{number}"))
        for number in range(3):
            await ended(town, f"entry-{number}")
        del town.town.worker.statuses["POST /complete"]
        await town.until(lambda: len(town.town.worker.reports("POST /complete")) == 3)
        with trio.fail_after(60):
            await town.town.opened.town.merges.finished()


async def test_a_checkout_with_changes_is_reported_as_a_persons_affair(git_town, quick_clock, tmp_path):
    """A folder of somebody: its branch is not moved, and the report says what to do there."""
    server = git_town.server
    make_branch(server)
    before = server.tip("r", "main")
    for name, value in (("core.bare", "false"), ("core.worktree", str(tmp_path / "tree"))):
        server.git("r", "config", name, value)
    server.git("r", "config", "receive.denyCurrentBranch", "updateInstead")
    (tmp_path / "tree").mkdir()
    server.git("r", "--work-tree", str(tmp_path / "tree"), "reset", "--hard", "--quiet")
    (tmp_path / "tree" / "a.txt").write_text("mine\n")
    async with git_town() as town:
        await town.town.client.post("/git/merge", json=merge_body(server))
        what = "The repository's own checkout of main has changes that are not committed"
        why = f"{what}: commit or stash what is there"
        assert await town.until(lambda: town.town.worker.reports("POST /complete")) == [
            not_merged("person", f"Not merged: {why}")
        ]
        assert server.tip("r", "main") == before
