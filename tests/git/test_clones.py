"""Clones against a real git server: whole or not there, one operation at a time, nothing left of a killed one."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest
import trio

from gastown.git.errors import GitError, GitTimedOut, NetworkFailed, RepositoryNotFound
from gastown.git.repos import _Cloning
from gastown.git.rig import GitLimits, Rig
from gastown.git.worktrees import check_out
from tests.git.conftest import Place
from tests.git.test_worktrees import FILES, worktree


def gits(place: Place) -> list[int]:
    """Processes of git that have to do with this test's folder, the server's own left out."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal():
            try:
                line = (entry / "cmdline").read_bytes().decode(errors="replace")
            except OSError:
                continue
            if str(place.folder) in line and "git" in line and "served" not in line:
                found.append(int(entry.name))
    return found


async def test_a_clone_has_the_trees_and_gets_files_when_a_worktree_needs_them(place):
    place.server.make("r", FILES)
    place.server.commit(
        "r", "old", {"only-there.txt": "never checked out\n"}, parent=place.server.tip("r", "main")
    )
    async with place.life() as life:
        await worktree(place, life)
    blob = place.server.git("r", "rev-parse", "old:only-there.txt").strip()
    clone = place.clone()
    missing = await place.git(clone, "rev-list", "--objects", "--all", "--missing=print")
    assert f"?{blob}" in missing
    assert (await place.git(clone, "config", "remote.origin.url")).strip() == place.server.url("r")


async def test_a_server_that_offers_no_filter_gives_the_whole_clone(place):
    place.server.make("r", FILES)
    place.server.git("r", "config", "uploadpack.allowFilter", "false")
    async with place.life() as life:
        await worktree(place, life)
    assert "?" not in await place.git(place.clone(), "rev-list", "--objects", "--all", "--missing=print")


async def test_an_empty_repository_gets_a_first_commit(place):
    place.server.make("r")
    async with place.life() as life:
        made = await worktree(place, life)
    assert made.commit == place.server.tip("r", "main")
    assert place.server.git("r", "ls-tree", "main") == ""


async def test_a_repository_that_stops_being_empty_meanwhile_is_taken_as_it_is(place):
    place.server.make("r")
    tips: list[str] = []

    def somebody_pushes(asked) -> None:
        if asked.query.endswith("receive-pack") and not tips:
            tips.append(place.server.commit("r", "main", FILES))

    place.server.before = somebody_pushes
    async with place.life() as life:
        made = await worktree(place, life)
    assert [made.commit] == tips == [place.server.tip("r", "main")]


async def test_a_start_that_gives_up_leaves_the_clone_to_the_next_one(place):
    place.server.make("r", FILES)
    place.server.hold = trio.Event()
    async with place.life() as life:
        phases: list[str] = []
        with trio.move_on_after(60) as start:
            async with trio.open_nursery() as nursery:

                async def give_up() -> None:
                    await place.server.held.wait()
                    start.cancel()

                nursery.start_soon(give_up)
                await worktree(place, life, enter=phases.append)
        assert (start.cancelled_caught, phases[-1]) == (True, "clone")
        assert life.repositories.report("r").to_wire().doing == "clone"
        place.server.hold.set()
        await worktree(place, life)
    assert (
        len([asked for asked in place.server.asked if asked.method == "GET"]) == 3
    )  # the clone, a fetch, its files


async def test_an_eviction_in_the_middle_of_a_clone_ends_git_and_leaves_nothing(place):
    place.server.make("r", FILES)
    place.server.hold = trio.Event()
    async with place.life() as life, trio.open_nursery() as nursery:
        nursery.start_soon(worktree, place, life)
        await place.server.held.wait()
        assert gits(place) != []
        nursery.cancel_scope.cancel()
    assert gits(place) == []
    assert place.names() == set()
    place.server.hold = None
    async with place.life() as life:
        assert (await worktree(place, life)).how == "created"


async def test_what_a_killed_container_left_of_a_clone_is_removed_by_the_next(place):
    """SIGKILL: no cleanup of ours runs, and git's own neither."""
    place.server.make("r", FILES)
    place.server.hold = trio.Event()
    async with place.life() as life, trio.open_nursery() as nursery:

        async def fails() -> None:
            with pytest.raises(GitError):
                await worktree(place, life)

        nursery.start_soon(fails)
        await place.server.held.wait()
        half = next(place.room().glob(".repo-*"))
        await trio.run_process(["cp", "-r", str(half), f"{half}-of-an-earlier-life"])
        for pid in gits(place):
            os.kill(pid, signal.SIGKILL)
    assert place.names() == {f"{half.name}-of-an-earlier-life"}
    place.server.hold = None
    async with place.life() as life:
        await worktree(place, life)
    assert place.names() == {"repo", "worktrees"}


async def test_half_a_clone_in_the_clones_place_is_replaced(place):
    place.server.make("r", FILES)
    broken = place.clone()
    broken.mkdir(parents=True)
    await place.git(broken, "init", "--quiet")
    async with place.life() as life:
        made = await worktree(place, life)
    assert made.how == "created"


async def test_a_clone_that_was_asked_for_while_another_one_ended_is_not_made_again(place):
    """Who has looked before it was there asks after it is; cloning anew would take the worktrees' ground away."""
    place.server.make("r", FILES)
    async with place.life() as life:
        await worktree(place, life)
        asked, known = len(place.server.asked), life.repositories._of("r")
        cloning = known.cloning = _Cloning()
        await life.repositories._clone(place.rig("r"), known, cloning)
        assert (cloning.failure, cloning.done.is_set(), known.cloning) == (None, True, None)
        assert len(place.server.asked) == asked


async def test_a_clone_that_takes_too_long_ends_by_its_own_deadline(place):
    place.server.make("r", FILES)
    place.server.hold = trio.Event()
    place.limits = GitLimits(clone=0.5, operation=60)
    async with place.life() as life:
        with pytest.raises(GitTimedOut, match=r"git clone did not end within 0.5 s"):
            await worktree(place, life)
        report = life.repositories.report("r").to_wire()
        assert (report.state, report.error) == ("failed", "git clone did not end within 0.5 s")
        assert (gits(place), place.names()) == ([], set())


async def test_a_fetch_that_hangs_ends_by_its_own_deadline_and_the_rig_is_free_again(place):
    place.server.make("r", FILES)
    place.limits = GitLimits(clone=60, operation=3.0)
    async with place.life() as life:
        await worktree(place, life)
        place.server.commit("r", "main", {"a.txt": "newer\n"})
        place.server.hold = trio.Event()
        with pytest.raises(GitTimedOut):
            await worktree(place, life, branch="work/2")
        place.server.hold = None
        assert (await worktree(place, life, branch="work/2")).how == "created"


async def test_two_rigs_are_cloned_side_by_side(place):
    for name in ("r1", "r2"):
        place.server.make(name, FILES)
    place.server.hold = trio.Event()
    async with place.life() as life, trio.open_nursery() as nursery:
        for name in ("r1", "r2"):

            async def one(rig: str = name) -> None:
                await worktree(place, life, rig=rig)

            nursery.start_soon(one)
        with trio.fail_after(30):
            while len({asked.path for asked in place.server.asked if asked.method == "POST"}) < 2:
                await trio.sleep(0.01)
        place.server.hold.set()
    assert {"repo", "worktrees"} == place.names("r1") == place.names("r2")


async def test_operations_in_one_clone_never_overlap(place):
    place.server.make("r", FILES)
    running = most = 0

    async with place.life() as life:
        real = life.tools.run

        async def counted(*arguments, **options):
            nonlocal running, most
            if options["cwd"] != str(place.clone()):
                return await real(*arguments, **options)
            running += 1
            most = max(most, running)
            try:
                return await real(*arguments, **options)
            finally:
                running -= 1

        object.__setattr__(life.tools, "run", counted)
        async with trio.open_nursery() as nursery:
            for number in range(6):

                async def one(branch: str = f"work/{number}") -> None:
                    await worktree(place, life, branch=branch)

                nursery.start_soon(one)
    assert most == 1


async def test_a_connection_that_breaks_is_tried_again_and_then_a_network_failure(place):
    place.server.make("r", FILES)
    place.server.broken = True
    async with place.life() as life:
        with pytest.raises(NetworkFailed):
            await worktree(place, life)
        assert place.names() == set()
        place.server.broken = False
        await worktree(place, life)
    assert {"repo", "worktrees"} == place.names()


async def test_an_answer_that_breaks_off_once_costs_a_second_try(place):
    place.server.make("r", FILES)
    place.server.cut_after = 20

    def heal(asked) -> None:
        if asked.method == "GET" and len([a for a in place.server.asked if a.method == "GET"]) > 1:
            place.server.cut_after = None

    place.server.before = heal
    async with place.life() as life:
        assert (await worktree(place, life)).how == "created"


async def test_a_repository_that_does_not_exist_is_said_to_be_missing(place):
    async with place.life() as life:
        with pytest.raises(RepositoryNotFound, match="not found"):
            await worktree(place, life)


async def test_a_rig_that_has_moved_is_fetched_from_its_new_address(place):
    place.server.make("r", FILES)
    async with place.life() as life:
        await worktree(place, life)
        place.server.bare("r").rename(place.server.bare("moved"))
        moved = place.rig("moved")
        life.credentials.register_rig("r", moved.remote)
        place.server.commit("moved", "main", {"a.txt": "newer\n"})
        rig = Rig("r", moved.remote, "main")
        git = life.repositories.git(rig, str(place.worktree("r", "work/2")))
        made = await check_out(life.repositories, git, "work/2", None, lambda _: None)
    assert made.commit == place.server.tip("moved", "main")
