"""A branch that is started again: a worktree that has nothing of its own begins anew, any other goes on."""

from __future__ import annotations

from pathlib import Path

import pytest
import structlog

from tests.git.conftest import Life, Place
from tests.git.test_worktrees import FILES, head, worktree


async def merged_and_deleted(place: Place, life: Life) -> Path:
    """A worktree whose branch was pushed, merged into main and deleted; main has moved on since."""
    place.server.make("r", FILES)
    path = Path((await worktree(place, life)).path)
    await place.git(path, "commit", "--quiet", "--allow-empty", "-m", "mine")
    await place.git(path, "push", "--quiet", "origin", "HEAD:refs/heads/work/1", life=life)
    tip = place.server.tip("r", "work/1")
    place.server.git("r", "update-ref", "refs/heads/main", str(tip))
    place.server.git("r", "update-ref", "-d", "refs/heads/work/1")
    place.server.commit("r", "main", {"c.txt": "three\n"})
    return path


async def test_a_branch_that_was_merged_and_deleted_begins_again_where_a_new_one_starts(place):
    async with place.life() as life:
        path = await merged_and_deleted(place, life)
        again = await worktree(place, life)
    assert (again.how, again.commit) == ("begun again", place.server.tip("r", "main"))
    assert (path / "c.txt").read_text() == "three\n"
    assert await place.git(path, "status", "--porcelain") == ""
    assert "work/1" not in await place.git(path, "for-each-ref", "refs/remotes/origin")


async def test_it_begins_again_at_the_start_point_of_the_new_start(place):
    async with place.life() as life:
        path = await merged_and_deleted(place, life)
        tip = place.server.commit("r", "convoy/x", {"d.txt": "four\n"}, parent=place.server.tip("r", "main"))
        again = await worktree(place, life, start="convoy/x")
    assert (again.how, again.commit, (path / "d.txt").exists()) == ("begun again", tip, True)


@pytest.mark.parametrize(
    "work", ["a changed file", "a new file", "a commit", "another branch", "a squashed merge"]
)
async def test_a_worktree_with_work_that_the_remote_does_not_have_goes_on_and_says_what_it_ignores(place, work):
    async with place.life() as life:
        path = await merged_and_deleted(place, life)
        tip = place.server.commit("r", "convoy/x", {"d.txt": "four\n"}, parent=place.server.tip("r", "main"))
        if work == "a changed file":
            (path / "a.txt").write_text("mine\n")
        elif work == "a new file":
            (path / "mine.txt").write_text("mine\n")
        elif work == "another branch":
            await place.git(path, "switch", "--quiet", "-c", "elsewhere")
        else:
            await place.git(path, "commit", "--quiet", "--allow-empty", "-m", "only here")
        before = await head(place, str(path)), await place.git(path, "status", "--porcelain")
        with structlog.testing.capture_logs() as lines:
            again = await worktree(place, life, start="convoy/x")
    assert again.how == "reused"
    assert (await head(place, str(path)), await place.git(path, "status", "--porcelain")) == before
    [said] = [line for line in lines if line["event"] == "git.start_point_ignored"]
    assert (said["branch"], said["start_point"]) == ("work/1", "convoy/x")
    assert tip not in await place.git(path, "log", "--format=%H")


async def test_nothing_begins_again_while_the_remote_cannot_be_asked(place):
    async with place.life() as life:
        path = await merged_and_deleted(place, life)
        before = await head(place, str(path))
        place.server.broken = True
        assert (await worktree(place, life)).how == "reused"
        assert await head(place, str(path)) == before


async def test_what_git_ignores_and_what_is_stashed_stays_when_a_worktree_begins_again(place):
    async with place.life() as life:
        path = await merged_and_deleted(place, life)
        (path / ".git" / "info").mkdir(exist_ok=True)
        (path / ".git" / "info" / "exclude").write_text("*.env\n")
        (path / "secret.env").write_text("KEY=1\n")
        (path / "a.txt").write_text("stashed\n")
        await place.git(path, "stash", "push", "--quiet")
        assert (await worktree(place, life)).how == "begun again"
    assert (path / "secret.env").read_text() == "KEY=1\n"
    assert await place.git(path, "show", "stash@{0}:a.txt") == "stashed\n"
