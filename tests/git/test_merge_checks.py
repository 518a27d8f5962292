"""Checks of a merge's result, with a real git and processes: what they get, what ends them, what is reported."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
import trio

from gastown.git.command import run_git
from gastown.isolation.proc import environment_of, folder_of, process_ids
from tests.git.test_merge_requests import ended, journal, make_branch, merge_body, state_of


def with_checks(server, *commands, **changes):
    return merge_body(server, checks=list(commands), **changes)


async def merged(town, body):
    """Ask for a merge; how it ended."""
    answer = await town.town.client.post("/git/merge", json=body)
    assert answer.status_code == 202, answer.text
    return await ended(town, body["entryId"])


def rooms(town):
    return sorted(path.name for path in (town.root / "r").glob(".*"))


def working_below(folder: Path):
    """The processes that work there, or have a home there."""
    home = f"HOME={folder}/".encode()
    found = (pid for pid in process_ids() if (folder_of(pid) or "").startswith(f"{folder}/"))
    return [*found, *(pid for pid in process_ids() if home in environment_of(pid))]


async def test_a_result_that_passes_is_pushed_and_its_checks_are_told(git_town, quick_clock):
    make_branch(git_town.server)
    async with git_town() as town:
        state = await merged(town, with_checks(git_town.server, "cat new.txt a.txt", "true"))
        assert (state["status"], state["commitSha"]) == ("merged", git_town.server.tip("r", "main"))
        first, second = state["checks"]
        assert (first["command"], first["exitCode"], first["tail"]) == ("cat new.txt a.txt", 0, "new\none")
        assert (second["command"], second["exitCode"], second["tail"]) == ("true", 0, "")
        (told,) = await town.until(lambda: town.town.worker.reports("POST /complete"))
        assert told == {
            "entry_id": "entry-1",
            "status": "merged",
            "message": "Merged work/1 into main",
            "commit_sha": state["commitSha"],
        }
        assert rooms(town) == []


async def test_what_is_checked_is_the_result_and_not_the_branch(git_town, quick_clock):
    make_branch(git_town.server, {"new.txt": "new\n"})
    git_town.server.commit("r", "main", {"other.txt": "other\n"})
    async with git_town() as town:
        state = await merged(town, with_checks(git_town.server, "test -e new.txt && test -e other.txt"))
        assert state["status"] == "merged"


async def test_a_result_that_does_not_pass_is_not_pushed_and_the_report_says_what_it_printed(
    git_town, quick_clock
):
    make_branch(git_town.server)
    before = git_town.server.tip("r", "main")
    async with git_town() as town:
        failing = "echo out; printf '\\033[31mred\\033[0m\\a\\n' >&2; exit 7"
        state = await merged(town, with_checks(git_town.server, "true", failing, "touch /tmp/never"))
        assert git_town.server.tip("r", "main") == before
        assert (state["status"], state["reason"]) == ("failed", "checks")
        assert [one["exitCode"] for one in state["checks"]] == [0, 7]
        assert state["checks"][1]["tail"] == "out\nred"
        (told,) = await town.until(lambda: town.town.worker.reports("POST /complete"))
        assert (told["status"], told["reason"]) == ("conflict", "checks")
        assert f"The check `{failing}` failed with exit code 7" in told["message"]
        assert told["message"].endswith("The last of what it printed:\nout\nred")
        assert (await town.rig())["state"] == "ready"
        assert rooms(town) == []


async def test_a_check_finds_no_credential(git_town, quick_clock):
    make_branch(git_town.server)
    git_town.server.tokens = {"the-secret"}
    async with git_town() as town:
        town.town.opened.town.services.repositories.tools.env["HTTPS_PROXY"] = "http://u:the-secret@proxy"
        body = with_checks(
            git_town.server,
            "env; cat .git/config; git config --list; ls -a $HOME",
            "git -c credential.interactive=false fetch origin",
            envVars={"GIT_TOKEN": "the-secret", "MY_OWN": "the-secret", "KILOCODE_TOKEN": "the-secret"},
        )
        state = await merged(town, body)
        said, fetch = state["checks"]
        names = {line.partition("=")[0] for line in said["tail"].splitlines() if "=" in line}
        assert "the-secret" not in json.dumps(state)
        assert {name for name in names if name.startswith(("GASTOWN_", "KILO"))} == {"GASTOWN_SPAWN_MARK"}
        assert not [
            name for name in names if "TOKEN" in name or name.startswith(("GIT_CONFIG_K", "MY_", "credential"))
        ]
        assert fetch["exitCode"] == 128
        assert "could not read Username" in fetch["tail"]


async def test_a_check_that_asks_is_answered_by_nobody(git_town, quick_clock):
    make_branch(git_town.server)
    async with git_town() as town:
        state = await merged(town, with_checks(git_town.server, "read answer; echo read $?; test ! -t 0"))
        assert (state["status"], state["checks"][0]["tail"]) == ("merged", "read 1")


async def test_a_check_that_hangs_is_ended_with_all_that_it_started_and_fails(git_town, quick_clock):
    make_branch(git_town.server)
    async with git_town() as town:
        hangs = "echo begun; trap '' TERM; sleep 1000 & setsid sleep 1000 & sleep 1000"
        state = await merged(town, with_checks(git_town.server, hangs, checkSeconds=2))
        assert (state["reason"], "exitCode" in state["checks"][0]) == ("checks", False)
        assert f"The check `{hangs}` did not end within 2 s." in state["message"]
        assert state["checks"][0]["tail"] == "begun"
        assert working_below(town.root / "r") == []
        assert rooms(town) == []


@pytest.mark.parametrize(
    "daemon", ["setsid sleep 1000 &", "env -i setsid sleep 1000 & sleep 0.2", "(setsid sh -c 'sleep 1000 &') &"]
)
async def test_a_check_that_leaves_a_daemon_leaves_none(git_town, quick_clock, daemon):
    make_branch(git_town.server)
    async with git_town() as town:
        state = await merged(town, with_checks(git_town.server, daemon))
        assert state["status"] == "merged"
        assert working_below(town.root / "r") == []
        assert rooms(town) == []


async def test_of_a_check_that_prints_without_end_the_end_is_kept(git_town, quick_clock):
    make_branch(git_town.server)
    async with git_town() as town:
        floods = "head -c 100000000 /dev/zero | tr '\\0' 'x'; echo; echo last; exit 1"
        state = await merged(town, with_checks(git_town.server, floods))
        assert len(state["checks"][0]["tail"]) <= 4000
        assert state["checks"][0]["tail"].endswith("xxx\nlast")


async def test_a_check_that_write_protects_what_it_makes_leaves_nothing(git_town, quick_clock):
    make_branch(git_town.server)
    async with git_town() as town:
        state = await merged(
            town, with_checks(git_town.server, "mkdir -p $HOME/a/b && chmod -R 500 $HOME . || true")
        )
        assert state["status"] == "merged"
        assert rooms(town) == []


async def test_while_checks_run_the_rig_is_free_for_others(git_town, quick_clock):
    make_branch(git_town.server)
    async with git_town() as town:
        go = town.root / "go"
        waits = f"while [ ! -e {go} ]; do sleep 0.05; done"
        await town.town.client.post("/git/merge", json=with_checks(git_town.server, waits))
        await town.until(lambda: rooms(town))
        started = await town.start(branch="work/2")
        assert started.status_code == 201
        assert (await state_of(town))["status"] == "pending"
        go.touch()
        assert (await ended(town))["status"] == "merged"


async def test_a_target_that_moves_during_the_checks_is_checked_again_with_what_came(git_town, quick_clock):
    make_branch(git_town.server)
    async with git_town() as town:
        told, waits, moved = (town.root / name for name in ("told", "waits", "moved"))
        once = f"touch {waits}; while [ ! -e {moved} ]; do sleep 0.05; done"
        command = f"ls >> {told}; test -e {waits} || {{ {once}; }}"
        await town.town.client.post("/git/merge", json=with_checks(git_town.server, command))
        await town.until(waits.exists)
        theirs = git_town.server.commit("r", "main", {"late.txt": "late\n"})
        moved.touch()
        state = await ended(town)
        assert (state["status"], len(state["checks"])) == ("merged", 1)
        assert told.read_text("utf-8").split().count("late.txt") == 1
        parents = git_town.server.git("r", "rev-list", "--parents", "-1", "main").split()
        assert parents[:2] == [state["commitSha"], theirs]


async def test_a_target_that_moves_each_time_is_given_up_after_three(git_town, quick_clock):
    make_branch(git_town.server)
    async with git_town() as town:
        runs = town.root / "runs"
        bare = git_town.server.bare("r")
        moves = f"git -C {bare} update-ref refs/heads/main $(git -C {bare} -c user.name=x -c user.email=x@x"
        moves += f" commit-tree -p main -m x 'main^{{tree}}') && echo >> {runs}"
        state = await merged(town, with_checks(git_town.server, moves))
        assert (state["status"], state["reason"]) == ("failed", "failed")
        assert state["message"] == "Not merged: Somebody else pushed to main first, 3 times"
        assert runs.read_text("utf-8") == "\n\n\n"


async def test_a_branch_with_another_commit_than_the_approved_one_is_not_merged_and_its_commit_is_told(
    git_town, quick_clock
):
    make_branch(git_town.server)
    approved = git_town.server.tip("r", "work/1")
    before = git_town.server.tip("r", "main")
    moved = git_town.server.commit("r", "work/1", {"sneaked.txt": "in\n"})
    async with git_town() as town:
        state = await merged(town, merge_body(git_town.server, head=approved))
        assert (state["status"], state["reason"], state["head"]) == ("failed", "moved", moved)
        (told,) = await town.until(lambda: town.town.worker.reports("POST /complete"))
        assert (told["status"], told["reason"], told["head"]) == ("conflict", "moved", moved)
        assert git_town.server.tip("r", "main") == before
        again = await merged(town, merge_body(git_town.server, head=moved, entryId="entry-2"))
        assert again["status"] == "merged"


async def test_an_approved_commit_that_is_on_the_target_is_merged_whatever_its_branch_is_now(
    git_town, quick_clock
):
    make_branch(git_town.server)
    approved = git_town.server.tip("r", "work/1")
    async with git_town() as town:
        first = await merged(town, merge_body(git_town.server, head=approved))
        git_town.server.git("r", "update-ref", "-d", "refs/heads/work/1")
        git_town.server.commit("r", "main", {"later.txt": "later\n"})
        again = await merged(town, merge_body(git_town.server, head=approved, entryId="entry-2"))
        assert (again["status"], again["commitSha"]) == ("merged", first["commitSha"])
        assert "nothingToMerge" not in again


async def test_a_branch_without_a_commit_of_its_own_is_merged_and_said_to_be_nothing(git_town, quick_clock):
    base = git_town.server.make("r", {"a.txt": "one\n"})
    git_town.server.git("r", "update-ref", "refs/heads/work/1", base)
    async with git_town() as town:
        state = await merged(town, with_checks(git_town.server, "false"))
        assert (state["status"], state["nothingToMerge"]) == ("merged", True)
        assert state["message"] == "main had all of work/1 already"
        (told,) = await town.until(lambda: town.town.worker.reports("POST /complete"))
        assert told["nothing_to_merge"] is True


@pytest.mark.parametrize(
    "changes",
    [{"checks": ["a\0b"]}, {"checks": [""]}, {"checks": ["true"] * 51}, {"checkSeconds": 0}, {"head": "abc1234"}],
)
async def test_checks_that_cannot_be_run_are_refused(git_town, quick_clock, changes):
    async with git_town() as town:
        answer = await town.town.client.post("/git/merge", json=merge_body(git_town.server, **changes))
        assert answer.status_code == 400
        assert answer.json()["issues"][0]["path"][0] in changes


async def test_a_container_that_ends_during_checks_leaves_nothing_and_the_next_one_merges(git_town, quick_clock):
    make_branch(git_town.server)
    async with git_town() as town:
        go = town.root / "go"
        waits = f"while [ ! -e {go} ]; do sleep 0.05; done"
        await town.town.client.post("/git/merge", json=with_checks(git_town.server, waits))
        await town.until(lambda: rooms(town))
    assert rooms(town) == []
    assert working_below(town.root / "r") == []
    go.touch()
    async with git_town() as town:
        state = await ended(town)
        assert (state["status"], len(state["checks"])) == ("merged", 1)


async def test_a_drain_does_not_wait_for_checks_and_the_next_container_runs_them_again(git_town, quick_clock):
    make_branch(git_town.server)
    async with git_town() as town:
        waits = f"while [ ! -e {town.root / 'go'} ]; do sleep 0.05; done"
        await town.town.client.post("/git/merge", json=with_checks(git_town.server, waits))
        await town.until(lambda: rooms(town))
        with trio.fail_after(60):
            town.town.opened.town.merges.cut_checks()
            await town.town.opened.town.merges.finished()
        assert (await state_of(town))["status"] == "pending"
        assert rooms(town) == []
        assert town.town.worker.reports("POST /complete") == []
    assert journal(town)["entry-1.json"]["commands"] == [waits]
    (town.root / "go").touch()
    async with git_town() as town:
        assert (await ended(town))["status"] == "merged"


async def test_what_a_killed_container_left_of_checks_is_ended_and_removed_by_the_next(git_town, quick_clock):
    make_branch(git_town.server)
    async with git_town() as town:
        await merged(town, merge_body(git_town.server))
        left = town.root / "r" / ".checks-0000"
        (left / "tree").mkdir(parents=True)
        (left / "home" / "kept").mkdir(parents=True)
        (left / "home" / "kept").chmod(0o500)
    env = {"PATH": os.environ["PATH"], "HOME": str(left / "home")}
    stray = await trio.lowlevel.open_process(["sleep", "1000"], cwd=left / "tree", env=env)
    async with git_town() as town:
        await merged(town, merge_body(git_town.server, entryId="entry-2"))
        with trio.fail_after(60):
            assert await stray.wait() == -9
        assert rooms(town) == []


async def test_a_worktree_for_checks_that_cannot_be_made_fails_the_merge_and_says_so(git_town, quick_clock):
    make_branch(git_town.server)

    async def run(*arguments, **options):
        if arguments[0] == "checkout" and ".checks-" in options["cwd"]:
            raise OSError(28, "No space left on device")
        return await run_git(*arguments, **options)

    async with git_town() as town:
        object.__setattr__(town.town.opened.town.services.repositories.tools, "run", run)
        state = await merged(town, with_checks(git_town.server, "true"))
        assert (state["status"], state["reason"]) == ("failed", "failed")
        assert state["message"] == "Not merged: checkout for the checks: No space left on device"
        assert rooms(town) == []
