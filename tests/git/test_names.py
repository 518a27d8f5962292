"""Names of references, against a real git server: what they hide, and what they leave no room for."""

from __future__ import annotations

from pathlib import Path

import pytest
import structlog

from gastown.git.errors import BranchCollides, Busy, NamesCollide
from gastown.git.merging.push import push_commit
from tests.git.test_worktrees import FILES, worktree

ROOMLESS = [("work/1", "work"), ("work", "work/1"), ("a/b/c", "a"), ("a", "a/b/c")]


@pytest.mark.parametrize(("branch", "there"), ROOMLESS)
async def test_a_branch_that_has_no_room_on_the_remote_is_refused_when_it_is_started(place, branch, there):
    """It could never be pushed, which would be found out at its end."""
    main = place.server.make("r", FILES)
    place.server.commit("r", there, {"c.txt": "three\n"}, parent=main)
    async with place.life() as life:
        with pytest.raises(BranchCollides) as caught:
            await worktree(place, life, branch=branch)
        assert str(caught.value) == (
            f"The repository has a branch {there}, and git cannot keep {branch} beside it: "
            f"start on another branch, or rename {there} there"
        )
        assert life.repositories.report("r").to_wire().state == "ready"
        assert (await worktree(place, life, branch=f"fine/{branch}")).how == "created"
    assert not place.worktree("r", branch).exists()


async def test_a_worktree_whose_branch_has_lost_its_room_goes_on(place):
    """There may be work in it, which is on this disk only."""
    main = place.server.make("r", FILES)
    async with place.life() as life:
        await worktree(place, life)
        place.server.commit("r", "work", {"c.txt": "three\n"}, parent=main)
        assert (await worktree(place, life)).how == "reused"


@pytest.mark.parametrize("name", ["HEAD/x", "HEAD", "refs/heads/main", "origin/main"])
@pytest.mark.parametrize("moment", ["before the clone", "after the clone"])
async def test_a_branch_of_the_remote_that_has_an_odd_name_is_in_nobodys_way(place, name, moment):
    """Whoever may push could stop all others with it."""
    place.server.make("r", FILES, branch="trunk")
    tip = place.server.commit("r", "main", {"c.txt": "three\n"}, parent=place.server.tip("r", "trunk"))
    odd = ("update-ref", f"refs/heads/{name}", "refs/heads/trunk")
    async with place.life() as life:
        if moment == "before the clone":
            place.server.git("r", *odd)
        made = await worktree(place, life, branch="work/1")
        place.server.git("r", *odd)
        newer = place.server.commit("r", "main", {"c.txt": "four\n"})
        again = await worktree(place, life, branch="work/2")
        path = Path(again.path)
        await place.git(path, "fetch", "--quiet", "origin", life=life)
        await place.git(path, "push", "--quiet", "origin", "HEAD:refs/heads/work/2", life=life)
        started = await worktree(place, life, branch="work/3", start="main")
        fallen_back = await worktree(place, life, branch="work/4", default="missing")
    assert (made.commit, again.commit, started.commit) == (tip, newer, newer)
    assert fallen_back.commit == place.server.tip("r", "trunk")


async def test_a_reference_that_has_no_room_in_the_clone_keeps_no_other_from_being_fetched(place):
    """A tag that was deleted on the remote, and another one made below its name: git never prunes tags."""
    place.server.make("r", FILES)
    place.server.git("r", "tag", "v1", "main")
    async with place.life() as life:
        await worktree(place, life)
        place.server.git("r", "tag", "--delete", "v1")
        tip = place.server.commit("r", "main", {"a.txt": "newer\n"})
        place.server.git("r", "tag", "v1/x", "main")
        with structlog.testing.capture_logs() as lines:
            assert (await worktree(place, life, branch="work/2")).commit == tip
    assert [line["event"] for line in lines if "try" in line["event"] or "refs" in line["event"]] == [
        "git.refs_not_fetched"
    ]


async def test_a_tag_that_is_called_as_the_branch_hides_no_branch(place):
    place.server.make("r", FILES)
    async with place.life() as life:
        path = Path((await worktree(place, life)).path)
        await place.git(path, "push", "origin", "HEAD:refs/heads/work/1", life=life)
        await place.git(path, "tag", "work/1")
        tip = place.server.commit("r", "work/1", {"c.txt": "three\n"})
        assert (await worktree(place, life)).commit == tip


async def test_a_start_point_may_be_a_tag_and_is_no_other_short_name(place):
    main = place.server.make("r", FILES)
    place.server.git("r", "tag", "v1", "main")
    place.server.commit("r", "main", {"a.txt": "newer\n"})
    async with place.life() as life:
        assert (await worktree(place, life, start="v1")).commit == main


async def test_a_push_that_finds_no_room_for_its_branch_has_lost_no_race(place):
    """To push it again is of no use."""
    main = place.server.make("r", FILES)
    async with place.life() as life:
        made = await worktree(place, life)
        place.server.commit("r", "work", {"c.txt": "three\n"}, parent=main)
        git = life.repositories.git(place.rig("r"), made.path)
        with pytest.raises(NamesCollide):
            await push_commit(git, main, "work/1")


async def test_a_lock_that_is_in_the_way_of_a_fetch_is_no_matter_of_names(place):
    """What the remote has is then not known, and a start that went on would begin at an old commit."""
    place.server.make("r", FILES)
    async with place.life() as life:
        await worktree(place, life)
        place.server.commit("r", "main", {"a.txt": "newer\n"})
        (place.clone() / ".git" / "refs" / "remotes" / "origin" / "main.lock").touch()
        with pytest.raises(Busy):
            await worktree(place, life, branch="work/2")
