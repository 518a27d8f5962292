"""Salvage of directories as agents, their tools and broken disks leave them: real git over HTTP."""

from __future__ import annotations

import os
import shutil
import subprocess

import pytest
import trio

from gastown.git.salvage import found
from gastown.git.salvage.receipt import Job, Receipt
from gastown.git.salvage.salvage import salvage
from tests.git.desk import AUTHOR, BRANCH, FILES, STATES, refusing


async def test_an_untouched_worktree_has_nothing_to_save_and_the_remote_is_not_asked(desk):
    desk.server.asked.clear()
    receipt = await desk.salvage()
    assert (receipt.pushed, receipt.commit, receipt.rescued, receipt.lost()) == (None, None, [], [])
    assert desk.server.asked == []


@pytest.mark.parametrize("state", STATES, ids=lambda state: state.__name__)
async def test_the_finished_commit_and_the_open_file_are_on_the_remote(desk, state):
    """Whatever the directory is like, one bad path or setting vetoes nothing else."""
    commit = desk.commit()
    desk.write("open.txt")
    state(desk)
    receipt = await desk.salvage()
    assert desk.found(receipt, "done.txt") == "done\n"
    assert desk.found(receipt, "open.txt") == "open\n"
    assert commit in desk.server.git("r", "rev-list", "--all").split()


async def test_every_branch_tag_stash_and_worktree_of_the_agent_is_on_the_remote(desk):
    desk.git("checkout", "-q", "-b", "side")
    side = desk.commit("side.txt")
    desk.git("tag", "-a", "-m", "A tag", "v1")
    desk.git("checkout", "-q", BRANCH)
    desk.write("first.txt")
    desk.git("stash", "-u")
    desk.write("second.txt")
    desk.git("stash", "-u")
    desk.git("worktree", "add", "-q", "--detach", "../beside")
    desk.git("worktree", "add", "-q", "-b", "inner", "inside")
    (desk.path.parent / "beside" / "beside.txt").write_text("beside\n")
    desk.write("inside/inside.txt")
    inner = desk.commit("x.txt", "x\n")
    receipt = await desk.salvage()
    by_what = {one.what: one for one in receipt.rescued}
    assert receipt.lost() == []
    assert by_what["branch side"].ref == "gastown-rescue/pole-1/20261130T180001Z/heads/side"
    assert by_what["branch side"].commit == side == desk.server.tip("r", by_what["branch side"].ref)
    assert "A tag" in desk.server.git("r", "cat-file", "tag", by_what["refs/tags/v1"].ref)
    stashed = [desk.server.git("r", "show", "--name-only", f"{by_what[f'stash@{{{n}}}'].ref}^3") for n in (0, 1)]
    assert ("second.txt" in stashed[0], "first.txt" in stashed[1]) == (True, True)
    assert desk.found(receipt, "beside.txt") == "beside\n"
    assert desk.found(receipt, "inside.txt") == "open\n"
    assert desk.server.tip("r", BRANCH) == inner


async def test_the_same_directory_is_saved_once(desk):
    """An agent that is stopped again and again with the same open file does not fill the remote with branches."""
    desk.write("open.txt")
    desk.git("init", "-q", "scaffold")
    desk.write("scaffold/x.txt")
    first = await desk.salvage(on_branch=False)
    before = desk.server.branches("r")
    second = await desk.salvage(on_branch=False)
    assert [one.ref for one in second.rescued] == [one.ref for one in first.rescued]
    assert desk.server.branches("r") == before
    assert desk.git("status", "--porcelain", "--", "open.txt") == "?? open.txt"


@pytest.mark.parametrize("how", ["forced by somebody", "rebased", "deleted"])
async def test_a_branch_that_the_remote_refuses_or_has_lost_is_saved_all_the_same(desk, how):
    commit = desk.commit()
    desk.git("push", "-q", str(desk.server.bare("r")), "HEAD")
    if how == "forced by somebody":
        desk.server.git("r", "update-ref", f"refs/heads/{BRANCH}", "main")
        desk.server.commit("r", BRANCH, {"theirs.txt": "theirs\n"})
    elif how == "rebased":
        desk.git("commit", "-q", "--amend", "-m", "Another")
        commit = desk.git("rev-parse", "HEAD")
    else:
        desk.server.git("r", "update-ref", "-d", f"refs/heads/{BRANCH}")
    theirs = desk.server.tip("r", BRANCH)
    receipt = await desk.salvage()
    assert receipt.lost() == []
    if how == "deleted":
        assert (receipt.pushed, desk.server.tip("r", BRANCH)) == (True, commit)
        return
    (one,) = receipt.rescued
    assert (receipt.pushed, one.ref, one.commit) == (False, "gastown-rescue/pole-1-20261130T180001Z", commit)
    assert receipt.branch == one.ref
    assert "rejected" in str(one.why)
    assert (desk.server.tip("r", one.ref), desk.server.tip("r", BRANCH)) == (commit, theirs)


@pytest.mark.parametrize("how", ["back", "aside", "on", "deleted"])
async def test_another_branch_that_was_forced_away_since_the_last_fetch_is_saved(desk, how):
    """That the rig's clone has a branch of the agent says nothing of where the remote has it now."""
    desk.git("checkout", "-q", "-b", "side")
    side = desk.commit("side.txt")
    desk.git("push", "-q", str(desk.server.bare("r")), "side")
    desk.git("checkout", "-q", BRANCH)
    branches = "+refs/heads/*:refs/remotes/origin/*"
    desk.git("fetch", "-q", str(desk.server.bare("r")), branches, cwd=desk.place.clone())
    if how == "deleted":
        desk.server.git("r", "update-ref", "-d", "refs/heads/side")
    elif how != "on":
        desk.server.git("r", "update-ref", "refs/heads/side", "main")
    if how in ("aside", "on"):
        desk.server.commit("r", "side", {"theirs.txt": "theirs\n"})
    receipt = await desk.salvage()
    assert receipt.lost() == []
    assert [one.commit for one in receipt.rescued] == ([] if how == "on" else [side])


async def test_what_the_remote_says_to_a_branch_that_it_protects_is_passed_on(desk):
    refusing(
        desk,
        'while read o n r; do case $r in refs/heads/work/*) echo "GH006: protected" >&2; exit 1;; esac; done',
    )
    desk.commit()
    desk.write("open.txt")
    receipt = await desk.salvage()
    assert receipt.lost() == []
    assert {one.ref for one in receipt.rescued} == {"gastown-rescue/pole-1-20261130T180001Z"}
    assert "GH006: protected" in str(receipt.rescued[0].why)
    assert desk.found(receipt, "open.txt") == "open\n"


async def test_a_remote_that_refuses_everything_is_quoted_in_what_is_lost(desk):
    refusing(desk, 'echo "error: File big.bin is 120.00 MB; this exceeds the limit of 100.00 MB" >&2; exit 1')
    desk.commit("big.bin")
    receipt = await desk.salvage()
    assert (receipt.pushed, receipt.rescued) == (False, [])
    assert "File big.bin is 120.00 MB" in " ".join(receipt.lost())


@pytest.mark.parametrize("name", ["work", "work/1/deeper", "gastown-rescue", "gastown-rescue/pole-1"])
async def test_a_branch_of_the_remote_whose_name_is_in_the_way_costs_nothing(desk, name):
    if name.startswith("work"):
        desk.server.git("r", "update-ref", f"refs/heads/{name}", "main")
    else:
        refusing(desk, "while read o n r; do case $r in refs/heads/work/*) exit 1;; esac; done")
        desk.server.git("r", "update-ref", f"refs/heads/{name}", "main")
    desk.commit()
    desk.git("branch", "side")
    desk.write("open.txt")
    desk.git("stash", "-u")
    receipt = await desk.salvage()
    assert receipt.lost() == []
    assert desk.found(receipt, "done.txt") == "done\n"


async def test_what_differs_only_by_filters_is_no_change(desk):
    """Line ends that are stored as no attribute wants them, and files of Git LFS."""
    text = b"".join(b"line %d\r\n" % number for number in range(40))
    (desk.path / "A.cs").write_bytes(text)
    pointer = "version https://git-lfs.github.com/spec/v1\noid sha256:{}\nsize 5\n".format(
        "2cf24dba5fb0a30e26e83b2ac5b9e29e1b161e5c1fa7425e73043362938b9824"
    )
    desk.write("big.bin", pointer)
    desk.git("add", "A.cs", "big.bin")
    desk.git("commit", "-q", "-m", "As they are")
    desk.write(".gitattributes", "*.cs text eol=lf\n*.bin filter=lfs diff=lfs merge=lfs -text\n")
    desk.git("add", ".gitattributes")
    desk.git("commit", "-q", "-m", "Attributes")
    desk.git("push", "-q", str(desk.server.bare("r")), "HEAD")
    desk.write("big.bin", "hello")
    os.utime(desk.path / "A.cs", (1, 1))
    receipt = await desk.salvage()
    assert (receipt.commit, receipt.rescued, receipt.lost()) == (None, [], [])
    desk.write("new.txt")
    receipt = await desk.salvage()
    changed = desk.server.git("r", "diff", "--name-only", f"{BRANCH}~1", BRANCH).split()
    assert changed == ["new.txt"]


async def test_line_ends_that_the_agents_git_writes_are_no_change(desk):
    desk.git("config", "core.autocrlf", "true")
    (desk.path / "a.txt").write_bytes(b"one\r\n")
    assert (await desk.salvage()).commit is None


async def test_what_a_filter_encrypts_never_leaves_in_the_clear(desk):
    desk.write(".gitattributes", "secret.txt filter=git-crypt\n")
    desk.commit(".gitattributes", "secret.txt filter=git-crypt\n")
    desk.write("secret.txt", "password\n")
    receipt = await desk.salvage()
    assert "secret.txt" in " ".join(receipt.lost())
    assert "secret.txt" not in desk.server.git("r", "ls-tree", "-r", "--name-only", BRANCH)


async def test_ignored_files_are_named_and_never_pushed(desk):
    desk.commit(".gitignore", ".env\nout/\n")
    desk.write(".env", "TOKEN=1\n")
    desk.write("mine.txt")
    (desk.path / ".git" / "info").mkdir(exist_ok=True)
    (desk.path / ".git" / "info" / "exclude").write_text("mine.txt\n")
    for number in range(3):
        desk.write(f"out/{number}.o")
    receipt = await desk.salvage()
    assert {one.path for one in receipt.unsaved} == {".env", "out/", "mine.txt"}
    assert receipt.lost() == []
    assert set(desk.server.git("r", "ls-tree", "-r", "--name-only", BRANCH).split()) == {*FILES, ".gitignore"}


async def test_many_ignored_files_are_named_up_to_a_number(desk):
    desk.commit(".gitignore", "*.o\n")
    for number in range(120):
        desk.write(f"{number}.o")
    receipt = await desk.salvage()
    assert len(receipt.unsaved) == 51
    assert receipt.unsaved[-1].path == "(and 70 more paths)"


async def test_a_bundle_on_the_rescue_branch_has_all_of_a_repository_inside_of_the_directory(desk):
    desk.git("init", "-q", "-b", "own", "inner")
    inner = desk.path / "inner"
    (inner / "x.txt").write_text("x\n")
    desk.git("add", "x.txt", cwd=inner)
    desk.git("commit", "-q", "-m", "Inner", cwd=inner)
    commit = desk.git("rev-parse", "HEAD", cwd=inner)
    (inner / "open.txt").write_text("open\n")
    receipt = await desk.salvage()
    (one,) = receipt.rescued
    bundle = desk.place.folder / "inner.bundle"
    shown = await trio.run_process(
        ["git", "show", f"{one.ref}:inner.bundle"], cwd=desk.server.bare("r"), capture_stdout=True
    )
    bundle.write_bytes(shown.stdout)
    heads = dict(line.split(" ")[::-1] for line in desk.git("bundle", "list-heads", str(bundle)).splitlines())
    assert heads["refs/heads/own"] == commit
    desk.git("clone", "-q", "-b", "own", str(bundle), str(desk.place.folder / "out"))
    assert (desk.place.folder / "out" / "x.txt").read_text() == "x\n"
    assert "refs/gastown/open-files" in heads


async def test_a_submodule_that_is_as_recorded_is_not_bundled(desk):
    desk.server.make("sub", {"s.txt": "s\n"})
    desk.git("clone", "-q", str(desk.server.bare("sub")), "sub")
    desk.git("add", "sub")
    desk.git("commit", "-q", "-m", "A submodule")
    receipt = await desk.salvage()
    assert (receipt.rescued, receipt.lost()) == ([], [])


async def test_files_of_a_directory_whose_repository_is_gone_are_saved_and_the_loss_is_said(desk):
    desk.commit()
    desk.write("open.txt")
    shutil.rmtree(desk.path / ".git")
    receipt = await desk.salvage()
    assert desk.found(receipt, "open.txt") == "open\n"
    assert desk.found(receipt, "done.txt") == "done\n"
    assert "the repository is gone" in " ".join(receipt.lost())


async def test_a_directory_that_is_gone_is_a_loss_that_is_said(desk):
    shutil.rmtree(desk.path)
    receipt = await desk.salvage()
    assert receipt.lost() != []


@pytest.mark.parametrize("what", ["HEAD", "the branch", "an object"])
async def test_a_damaged_repository_is_a_loss_that_is_said_and_its_files_are_saved(desk, what):
    desk.commit("first.txt")
    commit = desk.commit()
    desk.write("open.txt")
    git_dir = desk.path / ".git"
    if what == "HEAD":
        (git_dir / "HEAD").write_text("")
    elif what == "the branch":
        (git_dir / "refs" / "heads" / BRANCH).write_text("nonsense")
    else:
        (git_dir / "objects" / commit[:2] / commit[2:]).unlink()
    receipt = await desk.salvage()
    assert receipt.lost() != []
    assert desk.found(receipt, "open.txt") == "open\n"
    assert desk.found(receipt, "done.txt") == "done\n"


async def test_references_that_are_too_many_to_read_are_a_loss_that_is_said(desk):
    desk.git("branch", "side")
    desk.git("pack-refs", "--all")
    packed = desk.path / ".git" / "packed-refs"
    with packed.open("a") as file:
        file.write("# nothing but words\n" * 250_000)
    assert any("packed-refs" in sentence for sentence in (await desk.salvage()).lost())


async def test_stashes_beyond_the_bound_are_a_loss_that_is_said(desk, monkeypatch):
    monkeypatch.setattr(found, "_STASHES", 1)
    for text in ("three\n", "four\n"):
        desk.write("a.txt", text)
        desk.git("stash")
    receipt = await desk.salvage()
    assert any("2 stashes" in sentence for sentence in receipt.lost())
    assert [one.what for one in receipt.rescued if "stash" in one.what] != []


async def test_a_rebase_in_progress_is_saved_with_both_sides(desk):
    desk.commit("a.txt", "mine\n")
    mine = desk.git("rev-parse", "HEAD")
    desk.git("branch", "other", "HEAD~1")
    desk.git("checkout", "-q", "other")
    desk.commit("a.txt", "theirs\n")
    desk.git("checkout", "-q", BRANCH)
    with pytest.raises(subprocess.CalledProcessError):
        desk.git("rebase", "-q", "other")
    receipt = await desk.salvage()
    assert receipt.lost() == []
    assert desk.server.tip("r", BRANCH) == mine
    (files,) = (one for one in receipt.rescued if one.what == "files that are in no commit")
    assert "<<<<<<<" in desk.read(files.ref, "a.txt")


async def test_a_merge_in_progress_is_a_commit_with_both_parents_on_the_branch(desk):
    desk.commit("a.txt", "mine\n")
    desk.git("branch", "other", "HEAD~1")
    desk.git("checkout", "-q", "other")
    desk.commit("a.txt", "theirs\n")
    desk.git("checkout", "-q", BRANCH)
    with pytest.raises(subprocess.CalledProcessError):
        desk.git("merge", "-q", "other")
    receipt = await desk.salvage()
    assert receipt.lost() == []
    assert "<<<<<<<" in desk.read(BRANCH, "a.txt")
    assert len(desk.server.git("r", "log", "-1", "--format=%P", BRANCH).split()) == 2
    assert desk.git("status", "--porcelain") == ""


async def test_what_is_staged_of_a_file_that_has_changed_again_is_saved(desk):
    """Two contents of one file: that of the index, and that of the file itself."""
    desk.commit("a.txt", "at first\n")
    desk.write("a.txt", "staged\n")
    desk.git("add", "a.txt")
    desk.write("a.txt", "changed again\n")
    receipt = await desk.salvage()
    kept = {desk.read(ref, "a.txt") for ref in (BRANCH, *(one.ref for one in receipt.rescued))}
    assert {"staged\n", "changed again\n"} <= kept


async def test_what_is_staged_and_in_no_file_any_more_is_saved(desk):
    desk.write("staged.txt", "staged\n")
    desk.git("add", "staged.txt")
    (desk.path / "staged.txt").unlink()
    receipt = await desk.salvage()
    assert desk.found(receipt, "staged.txt") == "staged\n"


async def test_files_that_a_sparse_checkout_left_out_are_not_deleted(desk):
    desk.git("sparse-checkout", "set", "--no-cone", "/a.txt", "/open.txt")
    assert not (desk.path / "dir").exists()
    desk.write("open.txt")
    await desk.salvage()
    assert set(desk.server.git("r", "ls-tree", "-r", "--name-only", BRANCH).split()) == {*FILES, "open.txt"}


async def test_a_branch_without_a_commit_is_saved_beside_the_agents_own(desk):
    desk.git("checkout", "-q", "--orphan", "fresh")
    desk.write("open.txt")
    receipt = await desk.salvage()
    assert desk.found(receipt, "open.txt") == "open\n"


async def test_a_remote_that_is_away_is_a_loss_of_what_it_has_not_and_the_work_is_committed(desk):
    commit = desk.commit()
    desk.write("open.txt")
    desk.server.broken = True
    receipt = await desk.salvage()
    assert (receipt.pushed, len(receipt.lost())) == (False, 2)
    assert desk.git("rev-parse", "HEAD") == receipt.commit
    assert desk.git("rev-parse", "HEAD~1") == commit


async def test_a_salvage_that_is_cut_says_what_it_had_not_saved(desk):
    desk.commit()
    desk.write("open.txt")
    receipt = Receipt(BRANCH)
    job = Job("pole-1", BRANCH, "now", "WIP", AUTHOR, on_branch=True)
    git = desk.life.repositories.git(desk.place.rig("r"), str(desk.path))
    with trio.CancelScope() as scope:
        desk.server.before = lambda asked: scope.cancel() if asked.path.endswith("receive-pack") else None
        await salvage(git, job, receipt)
    assert scope.cancelled_caught
    assert {one.path for one in receipt.unsaved} >= {f"branch {BRANCH}", "files that are in no commit"}


async def test_an_open_file_over_the_limit_of_the_remote_costs_no_other_file(desk):
    refusing(
        desk,
        "while read o n r; do git ls-tree -r $n | grep -q big.bin && "
        '{ echo "error: File big.bin is 120.00 MB" >&2; exit 1; }; done; exit 0',
    )
    desk.commit()
    desk.write("big.bin")
    desk.write("open.txt")
    receipt = await desk.salvage()
    assert (desk.found(receipt, "open.txt"), desk.found(receipt, "done.txt")) == ("open\n", "done\n")
    assert [one.path for one in receipt.unsaved] == ["big.bin"]
    assert "120.00 MB" in receipt.lost()[0]


async def test_a_disk_without_room_beside_the_clone_is_worked_around(desk, monkeypatch):
    """What a salvage writes goes to another disk then."""
    monkeypatch.setattr("gastown.git.salvage.store._free", lambda folder: 0 if "rigs" in folder else 1 << 40)
    room = desk.place.room()
    desk.write("open.txt")
    receipt = await desk.salvage(on_branch=False)
    assert desk.found(receipt, "open.txt") == "open\n"
    assert not list(room.glob(".salvage*"))


async def test_files_that_a_checkout_has_not_written_yet_are_not_deleted(desk):
    """A drain in the middle of a start: git writes the index last."""
    desk.git("rm", "-q", "-r", "--cached", ".")
    (desk.path / ".git" / "index").unlink()
    (desk.path / "dir" / "b.txt").unlink()
    receipt = await desk.salvage()
    assert (receipt.commit, receipt.rescued, receipt.lost()) == (None, [], [])
    desk.write("open.txt")
    await desk.salvage()
    assert set(desk.server.git("r", "ls-tree", "-r", "--name-only", BRANCH).split()) == {*FILES, "open.txt"}


async def test_commits_that_only_the_log_of_head_knows_are_named(desk):
    """Left behind on a detached HEAD, or amended: they are on no branch, and the receipt says so."""
    desk.git("checkout", "-q", "--detach")
    behind = desk.commit("behind.txt")
    desk.git("checkout", "-q", BRANCH)
    desk.commit()
    receipt = await desk.salvage()
    assert [one.path for one in receipt.unsaved] == [f"commit {behind[:12]} (With behind.txt)"]
    assert receipt.lost() == []
