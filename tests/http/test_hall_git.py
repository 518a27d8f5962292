"""A folder as a rig: real git over real HTTP, from the hall to a folder of this machine."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.http.hall_git import Desk, git, make_folder, open_desk


@pytest.fixture
async def desk(tmp_path: Path) -> AsyncIterator[Desk]:
    async with open_desk(make_folder(tmp_path / "site"), tmp_path) as opened:
        yield opened


async def test_a_folder_is_cloned_and_a_branch_pushed(desk: Desk) -> None:
    """The container knows http and a login, and nothing else."""
    await desk.cloned()
    assert (desk.clone / "file").read_text() == "one\n"
    commit = await desk.commit()
    said = await desk.push("work")
    assert said.code == 0, said.text
    assert git(desk.folder, "rev-parse", "work") == commit


async def test_a_clone_without_files_asks_for_them_later(desk: Desk) -> None:
    """The container's clones are partial: the folder must give single files by name."""
    partial = ("--quiet", "--filter=blob:none", "--no-checkout")
    url = await desk.url()
    assert (await desk.git("clone", *partial, url, str(desk.clone), cwd=desk.folder)).code == 0
    assert "?" in (await desk.git("rev-list", "--objects", "--missing=print", "HEAD")).text
    assert (await desk.git("checkout", "main")).code == 0
    assert (desk.clone / "file").read_text() == "one\n"


async def test_nothing_without_a_login_and_nothing_with_another_ones(desk: Desk) -> None:
    """git asks for a login, and is told that what it has is not one."""
    url = await desk.url()
    scheme, _, rest = url.partition("://")
    bare = f"{scheme}://{rest.partition('@')[2]}"
    said = await desk.git("ls-remote", bare, cwd=desk.folder)
    assert said.code != 0
    assert "could not read Username" in said.text
    container = (await desk.hall.container_token()).reveal()
    said = await desk.git("ls-remote", bare.replace("://", f"://x:{container}@"), cwd=desk.folder)
    assert "Authentication failed" in said.text


async def test_a_token_ends_and_the_next_one_works(desk: Desk) -> None:
    """A login is good for hours and not for ever; the hall gives out another one."""
    await desk.cloned()
    old = await desk.url()
    desk.clock.later(hours=9)
    said = await desk.git("ls-remote", old)
    assert "Authentication failed" in said.text
    assert (await desk.git("ls-remote", await desk.url())).code == 0


async def test_a_push_straight_to_the_target_is_refused_with_the_way_to_go(desk: Desk) -> None:
    """Nobody but the town merges, and who tries is told how."""
    await desk.cloned()
    before = git(desk.folder, "rev-parse", "main")
    await desk.commit()
    said = await desk.push("work:main", "work")
    assert said.code != 0
    assert "[remote rejected] work -> main (only the town merges into main: push your own branch" in said.text
    assert git(desk.folder, "for-each-ref", "--format=%(refname)%(objectname)") == f"refs/heads/main{before}"


async def test_a_merge_of_the_town_moves_the_branch_and_its_files(desk: Desk) -> None:
    """A branch that is checked out in the folder is updated with its files."""
    await desk.cloned()
    commit = await desk.commit()
    await desk.merging()
    said = await desk.push("work:main")
    assert said.code == 0, said.text
    assert git(desk.folder, "rev-parse", "main") == commit
    assert (desk.folder / "new").read_text() == "two\n"
    assert git(desk.folder, "status", "--porcelain") == ""


async def test_a_merge_moves_a_branch_that_is_not_checked_out_and_leaves_the_files(desk: Desk) -> None:
    """Somebody may work on another branch in the folder meanwhile, with changes."""
    await desk.cloned()
    git(desk.folder, "checkout", "--quiet", "-b", "mine")
    (desk.folder / "file").write_text("mine\n")
    commit = await desk.commit()
    await desk.merging()
    assert (await desk.push("work:main")).code == 0
    assert git(desk.folder, "rev-parse", "main") == commit
    assert (desk.folder / "file").read_text() == "mine\n"
    assert not (desk.folder / "new").exists()


@pytest.mark.parametrize("staged", [False, True])
async def test_changes_in_the_folder_stop_a_merge_and_stay(desk: Desk, *, staged: bool) -> None:
    """A checkout with changes is left as it is, and so is its branch."""
    await desk.cloned()
    before = git(desk.folder, "rev-parse", "main")
    (desk.folder / "file").write_text("mine\n")
    if staged:
        git(desk.folder, "add", ".")
    await desk.commit()
    await desk.merging()
    said = await desk.push("work:main")
    assert f"(Working directory has {'' if staged else 'un'}staged changes)" in said.text
    assert git(desk.folder, "rev-parse", "main") == before
    assert (desk.folder / "file").read_text() == "mine\n"
    assert not (desk.folder / "new").exists()


async def test_a_file_of_the_person_is_not_overwritten(desk: Desk) -> None:
    """A new file of the merge that is already in the folder, in no commit, stops the merge."""
    await desk.cloned()
    (desk.folder / "new").write_text("mine\n")
    before = git(desk.folder, "rev-parse", "main")
    await desk.commit()
    await desk.merging()
    said = await desk.push("work:main")
    assert "(Could not update working tree to new HEAD)" in said.text
    assert (desk.folder / "new").read_text() == "mine\n"
    assert git(desk.folder, "rev-parse", "main") == before


async def test_the_target_is_never_forced_and_never_deleted(desk: Desk) -> None:
    """Not even while a merge is under way."""
    await desk.cloned()
    await desk.merging()
    (desk.folder / "file").write_text("more\n")
    git(desk.folder, "commit", "--quiet", "-am", "more")
    before = git(desk.folder, "rev-parse", "main")
    await desk.commit()
    said = await desk.push("--force", "work:main")
    assert "(non-fast-forward)" in said.text
    said = await desk.push("--delete", "main")
    assert "is not deleted" in said.text
    assert git(desk.folder, "rev-parse", "main") == before


async def test_an_agents_own_branch_is_forced_and_deleted(desk: Desk) -> None:
    """What is not the target is the agents'."""
    await desk.cloned()
    await desk.commit()
    assert (await desk.push("work")).code == 0
    commit = await desk.commit(content="three\n")
    await desk.git("commit", "--quiet", "--amend", "-m", "other")
    commit = (await desk.git("rev-parse", "HEAD")).text.strip()
    assert (await desk.push("--force", "work")).code == 0
    assert git(desk.folder, "rev-parse", "work") == commit
    assert (await desk.push("--delete", "work")).code == 0


HOOKS = (
    "applypatch-msg",
    "post-checkout",
    "post-index-change",
    "post-receive",
    "post-update",
    "pre-receive",
    "push-to-checkout",
    "proc-receive",
    "reference-transaction",
    "update",
)


def what_ran(room: Path) -> list[Path]:
    return list(room.glob("ran-*"))


async def test_neither_hooks_nor_a_monitor_of_the_folder_run(desk: Desk, tmp_path: Path) -> None:
    """What the folder's owner has configured for the own work is not set off by agents."""
    await desk.cloned()
    commit = await desk.commit()
    for name in HOOKS:
        script = desk.folder / ".git" / "hooks" / name
        script.parent.mkdir(exist_ok=True)
        script.write_text(f"#!/bin/sh\ntouch {tmp_path}/ran-{name}\nexit 1\n")
        script.chmod(0o755)
    for name in ("core.fsmonitor", "core.alternateRefsCommand", "uploadpack.packObjectsHook"):
        script = tmp_path / name
        script.write_text(f"#!/bin/sh\ntouch {tmp_path}/ran-{name}\nexit 1\n")
        script.chmod(0o755)
        git(desk.folder, "config", name, str(script))
    await desk.merging()
    said = await desk.push("work:main")
    assert said.code == 0, said.text
    assert (await desk.git("fetch", await desk.url(), "main")).code == 0
    assert (await desk.git("clone", await desk.url(), str(tmp_path / "again"), cwd=tmp_path)).code == 0
    assert what_ran(tmp_path) == []
    assert (desk.folder / "new").exists()
    assert (desk.folder / ".git" / "refs" / "heads" / "main").read_text().strip() == commit


async def test_a_bare_repository_and_a_linked_worktree_are_folders_too(tmp_path: Path) -> None:
    """A bare one has no files to update; of a worktree those of its own branch are."""
    bare = make_folder(tmp_path / "bare.git", bare=True)
    async with open_desk(bare, tmp_path / "a") as desk:
        await desk.cloned()
        commit = await desk.commit()
        await desk.merging()
        assert (await desk.push("work:main")).code == 0
        assert git(bare, "rev-parse", "main") == commit
    folder = make_folder(tmp_path / "site")
    git(folder, "worktree", "add", "--quiet", "-b", "side", str(tmp_path / "side"))
    async with open_desk(tmp_path / "side", tmp_path / "b") as desk:
        await desk.cloned()
        commit = await desk.commit()
        await desk.merging()
        assert (await desk.push("work:side")).code == 0
        assert git(folder, "rev-parse", "side") == commit
        assert (tmp_path / "side" / "new").exists()
        assert not (folder / "new").exists()


async def test_an_empty_repository_gets_its_first_commit(tmp_path: Path) -> None:
    """The container gives a repository without any commit its first one, so that there is something to work on."""
    folder = tmp_path / "site"
    folder.mkdir()
    git(folder, "init", "--quiet", "--initial-branch=trunk")
    async with open_desk(folder, tmp_path) as desk:
        await desk.cloned()
        commit = await desk.commit()
        assert (await desk.push("work:trunk")).code == 0
        assert git(folder, "rev-parse", "HEAD") == commit
