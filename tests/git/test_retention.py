"""What stays on the disk of agents that have ended: all, but for those that are final, which have a bound."""

from __future__ import annotations

from pathlib import Path

import pytest
import trio

from tests.git.test_worktrees import FILES


def home_of(town, agent_id="pole-1"):
    return Path(town.town.settings.gastown_agent_home_root) / f"agent-home-{agent_id}"


async def start_and_end(town, agent_id="pole-1"):
    """An agent that has been started, has a home, and has ended."""
    assert (await town.start(agent_id)).status_code == 201
    home_of(town, agent_id).mkdir(parents=True, exist_ok=True)
    (home_of(town, agent_id) / "kilo.db").write_text("x" * 100)
    await stop(town, agent_id)


async def stop(town, agent_id="pole-1", **body):
    return await town.town.client.post(f"/agents/{agent_id}/stop", json=body)


async def finish(town, agent_id="pole-1"):
    """Call an agent final; returns what the next sweep said of it."""
    before = len(town.town.logged())
    answer = await stop(town, agent_id, final=True)
    assert (answer.status_code, answer.json()["stopped"]) == (200, True)

    def said():
        lines = town.town.logged()[before:]
        mine = [line for line in lines if line.get("agent_id") == agent_id]
        return next((line for line in mine if line["event"] in ("retention.kept", "retention.removed")), None)

    return await town.until(said)


NOTHING_KEPT = {"gastown_keep_ended_agents": 0}


async def test_the_files_of_a_final_agent_go_when_its_work_is_on_the_remote(git_town, quick_clock):
    git_town.server.make("r", FILES)
    async with git_town(**NOTHING_KEPT) as town:
        await town.start()
        await town.git("pole-1", "commit", "--quiet", "--allow-empty", "-m", "mine")
        await town.git("pole-1", "push", "--quiet", "origin", "HEAD")
        await start_and_end(town)
        assert (await finish(town))["event"] == "retention.removed"
        assert not town.worktree().exists()
        assert not home_of(town).exists()
        assert list(town.worktree().parent.iterdir()) == []
        assert "work/pole-1" in git_town.server.branches("r")
        again = await town.start()
        assert (again.status_code, town.worktree().exists()) == (201, True)


async def test_an_agent_that_was_only_stopped_keeps_all_of_its_files(git_town, quick_clock):
    """Nobody but the orchestrator knows whether it goes on."""
    git_town.server.make("r", FILES)
    async with git_town(**NOTHING_KEPT) as town:
        await start_and_end(town, "pole-1")
        await start_and_end(town, "pole-2")
        for wrong in ({"final": "true"}, {"final": 1}, [], "final"):
            answer = await town.town.client.post("/agents/pole-1/stop", json=wrong)
            assert answer.status_code == 200
        await finish(town, "pole-2")
        assert town.worktree("pole-1").exists()
        assert home_of(town, "pole-1").exists()


def change(path):
    (path / "a.txt").write_text("mine\n")


def nested(path):
    (path / ".git" / "info").mkdir(exist_ok=True)
    (path / ".git" / "info" / "exclude").write_text("deps/\n")
    (path / "deps" / "lib" / ".git").mkdir(parents=True)


def submodule_without_files(path):
    (path / ".git" / "modules" / "sub").mkdir(parents=True)


LEFT = {
    "a changed file": (change, [], "1 files are not committed: a.txt"),
    "a new file": (lambda path: (path / "new.txt").touch(), [], "1 files are not committed: new.txt"),
    "a new file that status does not show": (
        lambda path: (path / "new.txt").touch(),
        [("config", "status.showUntrackedFiles", "no")],
        "1 files are not committed: new.txt",
    ),
    "a file that git overlooks": (
        change,
        [("update-index", "--assume-unchanged", "a.txt")],
        "git was told to overlook",
    ),
    "a commit": (None, [("commit", "--quiet", "--allow-empty", "-m", "mine")], "commits that the remote does not"),
    "a commit on another branch": (
        None,
        [("switch", "--quiet", "-c", "side"), ("commit", "--quiet", "--allow-empty", "-m", "x"),
         ("switch", "--quiet", "work/pole-1")],
        "commits that the remote does not",
    ),
    "a stash": (change, [("stash",)], "commits that the remote does not"),
    "an older stash than one that was pushed": (
        change,
        [("stash",), ("stash", "store", "HEAD"), ("push", "--quiet", "origin", "refs/stash:refs/heads/kept")],
        "commits that the remote does not",
    ),
    "a new file that its configuration hides": (
        lambda path: (path / "new.txt").write_text("new.txt\n"),
        [("config", "core.excludesFile", "new.txt")],
        "core.excludesFile is set in it",
    ),
    "a new file, and the configuration names another directory": (
        lambda path: (path / "new.txt").touch(),
        [("config", "core.worktree", "/")],
        "core.worktree is set in it",
    ),
    "a tag": (
        None,
        [("commit", "--quiet", "--allow-empty", "-m", "x"), ("tag", "-a", "-m", "x", "t"),
         ("reset", "--quiet", "--hard", "HEAD~1")],
        "commits that the remote does not",
    ),
    "a reference that claims to be the remote's": (
        None,
        [("commit", "--quiet", "--allow-empty", "-m", "x"),
         ("update-ref", "refs/remotes/origin/work/pole-1", "HEAD")],
        "commits that the remote does not",
    ),
    "another repository that git ignores": (nested, [], "there is another repository in it"),
    "a submodule without its files": (submodule_without_files, [], "there is another repository in it"),
    "a linked worktree": (None, [("worktree", "add", "--quiet", "../elsewhere")], "there is another repository"),
}  # fmt: skip


@pytest.mark.parametrize("left", LEFT)
async def test_what_is_nowhere_else_stays_and_the_log_says_what_it_is(git_town, quick_clock, left):
    git_town.server.make("r", FILES)
    by_hand, commands, reason = LEFT[left]

    async def saves_nothing(*_):
        pass

    async with git_town(**NOTHING_KEPT) as town:
        object.__setattr__(town.town.opened.town.services, "salvage", saves_nothing)
        await town.start()
        if by_hand is not None:
            by_hand(town.worktree())
        for command in commands:
            await town.git("pole-1", *command)
        if left == "a file that git overlooks":
            change(town.worktree())
        await start_and_end(town)
        said = await finish(town)
        assert (said["event"], said.get("reason", "")[: len(reason)]) == ("retention.kept", reason)
        assert town.worktree().exists()
        assert home_of(town).exists()


async def test_what_the_stop_has_saved_on_the_remote_is_elsewhere(git_town, quick_clock):
    git_town.server.make("r", FILES)
    async with git_town(**NOTHING_KEPT) as town:
        await town.start()
        await town.git("pole-1", "commit", "--quiet", "--allow-empty", "-m", "mine")
        mine = (await town.git("pole-1", "rev-parse", "HEAD")).strip()
        await start_and_end(town)
        assert (await finish(town))["event"] == "retention.removed"
    assert git_town.server.git("r", "for-each-ref", f"--contains={mine}", "--format=%(refname)") != ""


async def test_nothing_goes_while_the_remote_cannot_be_asked(git_town, quick_clock):
    git_town.server.make("r", FILES)
    async with git_town(**NOTHING_KEPT) as town:
        await start_and_end(town)
        git_town.server.broken = True
        assert "cannot be told" in (await finish(town))["reason"]
        assert town.worktree().exists()


async def test_a_worktree_that_another_agent_worked_in_stays_until_both_are_final(git_town, quick_clock):
    git_town.server.make("r", FILES)
    async with git_town(**NOTHING_KEPT) as town:
        await town.start("pole-2", branch="work/pole-1")
        await stop(town, "pole-2")
        await start_and_end(town)
        assert (await finish(town))["reason"] == "an agent works with it"
        assert town.worktree().exists()
        await finish(town, "pole-2")
        assert not town.worktree().exists()


async def test_an_agent_of_an_earlier_container_can_be_called_final(git_town, quick_clock):
    git_town.server.make("r", FILES)
    async with git_town(**NOTHING_KEPT) as town:
        await start_and_end(town)
    async with git_town(**NOTHING_KEPT) as town:
        assert (await stop(town)).status_code == 404
        assert (await finish(town))["event"] == "retention.removed"
        assert (await stop(town, final=True)).status_code == 404  # nothing of it is left


async def test_what_is_final_is_kept_within_the_limits_and_the_oldest_goes_first(git_town, quick_clock):
    git_town.server.make("r", FILES)
    async with git_town(gastown_keep_ended_agents=2) as town:
        for agent_id in ("pole-1", "pole-2", "pole-3"):
            await start_and_end(town, agent_id)
            await stop(town, agent_id, final=True)
            await trio.sleep(2)
        await town.until(lambda: town.town.logged("retention.removed"))
        assert [town.worktree(f"pole-{n}").exists() for n in (1, 2, 3)] == [False, True, True]


async def test_what_is_final_goes_after_its_time(git_town, quick_clock):
    git_town.server.make("r", FILES)
    async with git_town(gastown_keep_ended_hours=1.0) as town:
        await start_and_end(town)
        await stop(town, final=True)
        await trio.sleep(5)
        assert town.worktree().exists()
    async with git_town(gastown_keep_ended_hours=0.0) as town:
        await town.until(lambda: not town.worktree().exists())


async def test_a_start_that_comes_after_final_makes_the_agent_unfinished_again(git_town, quick_clock):
    git_town.server.make("r", FILES)
    async with git_town() as town:
        await start_and_end(town)
        await stop(town, final=True)
        await start_and_end(town)
    async with git_town(**NOTHING_KEPT) as town:
        await start_and_end(town, "pole-2")
        await finish(town, "pole-2")
        assert town.worktree().exists()


async def test_the_room_that_a_rig_takes_is_a_metric(git_town, quick_clock):
    git_town.server.make("r", FILES)
    async with git_town() as town:
        await start_and_end(town)

        async def figure():
            text = (await town.town.client.get("/metrics")).text
            lines = [line for line in text.splitlines() if line.startswith('gastown_rig_disk_bytes{rig_id="r"}')]
            return float(lines[0].rpartition(" ")[2]) if lines else 0

        assert await town.until(figure) > 10_000
