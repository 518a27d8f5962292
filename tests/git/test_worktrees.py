"""Worktrees against a real git server: where a branch starts, and what is kept when it is there already."""

from __future__ import annotations

import os
from functools import partial
from pathlib import Path

import pytest
import structlog
import trio

from gastown.git.errors import GitError, GitTimedOut, NetworkFailed
from gastown.git.rig import GitLimits
from gastown.git.workspace import OutsideRoot
from gastown.git.worktrees import Checkout, check_out
from tests.git.conftest import Life, Place

FILES = {"a.txt": "one\n", "dir/b.txt": "two\n"}


async def worktree(place: Place, life: Life, branch: str = "work/1", start: str | None = None, **more) -> Checkout:
    rig = place.rig(more.get("rig", "r"), more.get("default", "main"))
    life.credentials.register_rig(rig.rig_id, rig.remote)
    git = life.repositories.git(rig, str(place.worktree(rig.rig_id, branch)))
    return await check_out(life.repositories, git, branch, start, more.get("enter", lambda _: None))


async def head(place: Place, path: str) -> str:
    return (await place.git(Path(path), "rev-parse", "HEAD")).strip()


def contents(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


async def test_a_new_branch_starts_at_the_default_branch_with_all_its_files(place):
    tip = place.server.make("r", FILES)
    phases: list[str] = []
    async with place.life() as life:
        made = await worktree(place, life, enter=phases.append)
    path = Path(made.path)
    assert (made.how, made.commit) == ("created", tip)
    assert {name: (path / name).read_text() for name in FILES} == FILES
    assert (await place.git(path, "status", "--porcelain", "--branch")).strip() == "## work/1"
    assert phases == ["credentials", "clone", "fetch", "worktree"]


async def test_an_existing_remote_branch_is_gone_on_with(place):
    place.server.make("r", FILES)
    tip = place.server.commit("r", "work/1", {"c.txt": "three\n"}, parent=place.server.tip("r", "main"))
    async with place.life() as life:
        made = await worktree(place, life)
    assert made.commit == tip


@pytest.mark.parametrize("start", ["convoy/x", "origin/convoy/x", "the commit itself"])
async def test_a_start_point_comes_before_the_default_branch(place, start):
    place.server.make("r", FILES)
    tip = place.server.commit("r", "convoy/x", {"c.txt": "three\n"}, parent=place.server.tip("r", "main"))
    async with place.life() as life:
        made = await worktree(place, life, start=tip if start == "the commit itself" else start)
    assert made.commit == tip


async def test_a_start_point_that_does_not_exist_gives_way_to_the_default_branch(place):
    tip = place.server.make("r", FILES)
    async with place.life() as life:
        made = await worktree(place, life, start="convoy/not-yet")
    assert made.commit == tip


async def test_what_an_earlier_life_pushed_on_top_of_the_start_point_is_gone_on_with(place):
    """The same request comes again after an eviction; its start point must not hide the pushed work."""
    main = place.server.make("r", FILES)
    pushed = place.server.commit("r", "work/1", {"c.txt": "three\n"}, parent=main)
    async with place.life() as life:
        made = await worktree(place, life, start="main")
    assert made.commit == pushed


async def test_a_default_branch_of_another_name_is_found_by_the_remotes_head(place):
    tip = place.server.make("r", FILES, branch="trunk")
    async with place.life() as life:
        made = await worktree(place, life, default="main")
    assert made.commit == tip


async def test_a_worktree_of_the_default_branch_itself_can_be_had(place):
    tip = place.server.make("r", FILES)
    async with place.life() as life:
        made = await worktree(place, life, branch="main")
    assert (made.how, made.commit) == ("created", tip)


async def test_the_same_start_in_the_next_life_finds_its_worktree_with_uncommitted_work(place):
    place.server.make("r", FILES)
    async with place.life() as life:
        made = await worktree(place, life)
    (Path(made.path) / "a.txt").write_text("mine\n")
    async with place.life() as life:
        again = await worktree(place, life)
    assert (again.how, (Path(made.path) / "a.txt").read_text()) == ("reused", "mine\n")


async def test_a_clean_worktree_that_is_behind_is_forwarded(place):
    place.server.make("r", FILES)
    async with place.life() as life:
        made = await worktree(place, life)
        await place.git(Path(made.path), "push", "origin", "work/1", life=life)
        tip = place.server.commit("r", "work/1", {"c.txt": "three\n"})
        again = await worktree(place, life)
    assert (again.how, again.commit, (Path(made.path) / "c.txt").read_text()) == ("forwarded", tip, "three\n")


@pytest.mark.parametrize("work", ["changed file", "new file", "own commit", "other branch", "half a merge"])
async def test_a_worktree_with_work_of_its_own_is_left_alone(place, work):
    main = place.server.make("r", FILES)
    async with place.life() as life:
        made = await worktree(place, life)
        path = Path(made.path)
        await place.git(path, "push", "origin", "work/1", life=life)
        if work == "changed file":
            (path / "dir/b.txt").write_text("mine\n")
        elif work == "new file":
            (path / "mine.txt").write_text("mine\n")
        elif work == "own commit":
            await place.git(path, "commit", "--allow-empty", "-m", "mine")
        elif work == "other branch":
            await place.git(path, "switch", "-c", "elsewhere")
        else:
            await place.git(path, "commit", "--allow-empty", "-m", "mine")
            await place.git(path, "merge", "--no-ff", "--no-commit", "-s", "ours", main, check=False)
        before = await head(place, made.path), await place.git(path, "status", "--porcelain")
        place.server.commit("r", "work/1", {"a.txt": "theirs\n"})
        again = await worktree(place, life)
    assert again.how == "left alone"
    assert (await head(place, made.path), await place.git(path, "status", "--porcelain")) == before


async def test_a_branch_whose_worktree_was_deleted_gets_a_new_one_with_what_was_pushed(place):
    """A worktree is a repository of its own: commits that are only there go with it."""
    place.server.make("r", FILES)
    async with place.life() as life:
        made = await worktree(place, life)
        await place.git(Path(made.path), "commit", "--allow-empty", "-m", "pushed")
        await place.git(Path(made.path), "push", "origin", "work/1", life=life)
        before = await head(place, made.path)
        await trio.run_process(["rm", "-rf", made.path])
        again = await worktree(place, life)
    assert (again.how, again.commit) == ("created", before)


async def test_what_is_left_of_a_worktree_that_was_being_made_is_removed_and_it_is_made_anew(place):
    place.server.make("r", FILES)
    async with place.life() as life:
        await worktree(place, life)
    (place.room() / "worktrees" / ".draft-1234" / ".git").mkdir(parents=True)
    async with place.life() as life:
        assert (await worktree(place, life, branch="work/2")).how == "created"
    assert {entry.name for entry in (place.room() / "worktrees").iterdir()} == {"work__1", "work__2"}


async def test_a_worktree_knows_all_branches_and_tags_of_the_remote_when_it_is_made(place):
    main = place.server.make("r", FILES)
    place.server.commit("r", "other", {"c.txt": "three\n"}, parent=main)
    place.server.git("r", "tag", "v1", "main")
    async with place.life() as life:
        path = Path((await worktree(place, life)).path)
    known = await place.git(path, "for-each-ref", "--format=%(refname)")
    assert known.split() == [
        "refs/heads/work/1",
        "refs/remotes/origin/HEAD",
        "refs/remotes/origin/main",
        "refs/remotes/origin/other",
        "refs/tags/v1",
    ]
    assert (await place.git(path, "rev-parse", "origin/HEAD")).strip() == main


async def test_the_files_of_a_second_worktree_are_not_fetched_again(place):
    place.server.make("r", FILES)
    async with place.life() as life:
        await worktree(place, life)
        before = len([asked for asked in place.server.asked if asked.method == "POST"])
        await worktree(place, life, branch="work/2")
        after = [asked for asked in place.server.asked if asked.method == "POST"][before:]
    assert len(after) <= 1  # that of its fetch


async def test_a_repository_with_more_files_than_a_git_may_name_is_checked_out(place, monkeypatch):
    """The limit of what a git may print, made small; what is missing at first are all files."""
    monkeypatch.setattr("gastown.git.command.OUTPUT_LIMIT", 10_000)
    place.server.make("r", {f"{number}/file": f"{number}\n" for number in range(300)})
    async with place.life() as life:
        assert (Path((await worktree(place, life)).path) / "299" / "file").exists()
        monkeypatch.setattr("gastown.git.repos._MISSING_LIMIT", 0)  # of a second worktree none
        assert (await worktree(place, life, branch="work/2")).how == "created"


async def test_very_many_files_are_asked_for_in_several_requests(place, monkeypatch):
    monkeypatch.setattr("gastown.git.repos._FILES_AT_A_TIME", 100)
    place.server.make("r", {f"{number}/file": f"{number}\n" for number in range(250)})
    async with place.life() as life:
        assert (Path((await worktree(place, life)).path) / "249" / "file").exists()
    # Two of the clone, which asks what there is first, and one for each hundred files.
    assert len([asked for asked in place.server.asked if asked.method == "POST"]) == 2 + 3


async def test_what_an_agent_writes_into_its_repository_is_in_no_other(place):
    """Its configuration, its hooks and its objects: what git runs for another agent is not for it to say."""
    place.server.make("r", FILES)
    async with place.life() as life:
        mine = Path((await worktree(place, life)).path)
        before = contents(place.clone())
        await place.git(mine, "config", "core.fsmonitor", "touch /tmp/never; false")
        (mine / "a.txt").write_text("mine\n")
        await place.git(mine, "-c", "core.fsmonitor=false", "commit", "-q", "-a", "-m", "mine")
        after = contents(place.clone())
        theirs = Path((await worktree(place, life, branch="work/2")).path)
    assert after == before
    assert (await place.git(theirs, "config", "--default", "", "--get", "core.fsmonitor")).strip() == ""


async def test_a_checkout_that_was_cut_is_completed(place):
    place.server.make("r", FILES)
    async with place.life() as life:
        made = await worktree(place, life)
    path = Path(made.path)
    (path / ".git" / "index").unlink()
    (path / "a.txt").unlink()
    async with place.life() as life:
        await worktree(place, life)
    assert {name: (path / name).read_text() for name in FILES} == FILES
    assert await place.git(path, "status", "--porcelain") == ""


async def test_locks_of_a_git_that_was_killed_with_the_last_container_are_removed(place):
    place.server.make("r", FILES)
    async with place.life() as life:
        await worktree(place, life)
    clone = place.clone() / ".git"
    for lock in ("packed-refs.lock", "config.lock", "refs/remotes/origin/main.lock", "HEAD.lock"):
        (clone / lock).parent.mkdir(parents=True, exist_ok=True)
        (clone / lock).touch()
    tip = place.server.commit("r", "main", {"a.txt": "newer\n"})
    async with place.life() as life:
        made = await worktree(place, life, branch="work/2")
    assert made.commit == tip


async def test_files_that_are_no_worktree_are_set_aside_and_not_lost(place):
    place.server.make("r", FILES)
    place_of = place.worktree("r", "work/1")
    place_of.mkdir(parents=True)
    (place_of / "precious.txt").write_text("only here")
    async with place.life() as life:
        await worktree(place, life)
    aside = list(place_of.parent.glob(".aside-*"))
    assert [(kept / "precious.txt").read_text() for kept in aside] == ["only here"]
    assert (place_of / "a.txt").exists()


async def test_a_repository_of_its_own_in_the_worktrees_place_is_used_as_it_is(place):
    path = place.worktree("r", "work/1")
    path.mkdir(parents=True)
    await place.git(path, "init", "--quiet")
    async with place.life() as life:
        made = await worktree(place, life)
    assert (made.how, place.server.asked) == ("not ours", [])


async def test_two_branches_whose_directories_have_the_same_name_do_not_share_one(place):
    place.server.make("r", FILES)
    async with place.life() as life:
        await worktree(place, life, branch="a/b")
        with pytest.raises(GitError, match="would be that of branch a/b"):
            await worktree(place, life, branch="a__b")


async def test_a_worktree_that_is_there_is_enough_when_the_remote_is_away(place):
    place.server.make("r", FILES)
    async with place.life() as life:
        made = await worktree(place, life)
        place.server.broken = True
        again = await worktree(place, life)
        with pytest.raises(NetworkFailed):
            await worktree(place, life, branch="work/2")
    assert (again.how, again.path) == ("reused", made.path)


async def test_lfs_pointers_stay_pointers(place):
    pointer = "version https://git-lfs.github.com/spec/v1\noid sha256:" + "a" * 64 + "\nsize 12345\n"
    place.server.make("r", {".gitattributes": "*.bin filter=lfs diff=lfs merge=lfs -text\n", "big.bin": pointer})
    async with place.life() as life:
        made = await worktree(place, life)
    assert (Path(made.path) / "big.bin").read_text() == pointer
    assert await place.git(Path(made.path), "status", "--porcelain") == ""


async def test_two_starts_of_one_branch_follow_each_other(place):
    place.server.make("r", FILES)
    made: list[Checkout] = []
    async with place.life() as life:

        async def one() -> None:
            made.append(await worktree(place, life))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(one)
            nursery.start_soon(one)
    assert [checkout.how for checkout in made] == ["created", "reused"]
    assert [entry.name for entry in place.worktree("r", "work/1").parent.iterdir()] == ["work__1"]


async def test_a_worktree_whose_git_never_ends_keeps_nobody_else_waiting(place):
    """An agent that puts a pipe where git reads holds up its own next start, and no other agent's."""
    place.server.make("r", FILES)
    async with place.life() as life:
        git = Path((await worktree(place, life)).path) / ".git"
        (git / "HEAD").unlink()
        os.mkfifo(git / "HEAD")
        place.server.commit("r", "work/1", {"a.txt": "newer\n"}, parent=place.server.tip("r", "main"))
        hangs = trio.Event()

        def enter(phase: str) -> None:
            if phase == "worktree":
                hangs.set()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(partial(worktree, place, life, enter=enter))
            await hangs.wait()
            assert (await worktree(place, life, branch="work/2")).how == "created"
            nursery.cancel_scope.cancel()


async def test_a_worktree_whose_git_never_ends_is_left_by_its_own_deadline(place):
    place.server.make("r", FILES)
    place.limits = GitLimits(clone=60, operation=3)
    async with place.life() as life:
        git = Path((await worktree(place, life)).path) / ".git"
        (git / "HEAD").unlink()
        os.mkfifo(git / "HEAD")
        with pytest.raises(GitTimedOut, match="git worktree did not end within 3 s"):
            await worktree(place, life)
        assert life.repositories.report("r").to_wire().state == "ready"


async def test_fifty_branches_at_once_share_one_clone_and_few_fetches(place):
    place.server.make("r", FILES)
    made: list[Checkout] = []
    async with place.life() as life:

        async def one(number: int) -> None:
            made.append(await worktree(place, life, branch=f"work/{number}"))

        async with trio.open_nursery() as nursery:
            for number in range(50):
                nursery.start_soon(one, number)
    assert sorted(checkout.path for checkout in made) == sorted(
        str(place.worktree("r", f"work/{number}")) for number in range(50)
    )
    assert all((Path(checkout.path) / "dir/b.txt").exists() for checkout in made)
    fetches = [asked for asked in place.server.asked if asked.method == "GET"]
    assert len(fetches) <= 5


async def test_a_fetch_that_began_after_a_start_arrived_counts_for_it_and_an_older_one_does_not(place):
    place.server.make("r", FILES)
    async with place.life() as life:
        await worktree(place, life)
        tip = place.server.commit("r", "main", {"a.txt": "newer\n"})
        made = await worktree(place, life, branch="work/2")
    assert made.commit == tip


async def test_a_link_in_the_worktrees_place_does_not_lead_out_of_the_root(place):
    place.server.make("r", FILES)
    outside = place.folder / "outside"
    outside.mkdir()
    path = place.worktree("r", "work/1")
    path.parent.mkdir(parents=True)
    path.symlink_to(outside)
    async with place.life() as life:
        with pytest.raises(OutsideRoot):
            await worktree(place, life)
    assert list(outside.iterdir()) == []


async def test_a_link_in_the_rigs_place_does_not_lead_out_of_the_root(place):
    place.server.make("r", FILES)
    outside = place.folder / "outside"
    outside.mkdir()
    place.room().parent.mkdir(parents=True)
    place.room().symlink_to(outside)
    async with place.life() as life:
        with pytest.raises(OutsideRoot):
            await worktree(place, life)
    assert list(outside.iterdir()) == []


async def test_a_repository_without_any_default_branch_is_said_to_have_none_once(place):
    place.server.make("r")
    place.server.commit("r", "trunk", FILES)
    with structlog.testing.capture_logs() as lines:
        async with place.life() as life:
            with pytest.raises(GitError, match="no branch main"):
                await worktree(place, life)
    assert [line["event"] for line in lines].count("git.default_branch_missing") == 1
