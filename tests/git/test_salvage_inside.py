"""Salvage of repositories, worktrees and odd names inside of an agent's directory: real git over HTTP."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from gastown.git.salvage.receipt import Receipt
from tests.git.desk import BRANCH, Desk


def inner(desk: Desk, path: str, name: str = "inner.txt") -> Path:
    """A repository with one commit, somewhere in the directory."""
    place = desk.path / path
    place.mkdir(parents=True, exist_ok=True)
    desk.git("init", "-q", "-b", "own", cwd=place)
    return committed(desk, place, name)


def committed(desk: Desk, place: Path, name: str) -> Path:
    (place / name).write_text("work\n")
    desk.git("add", name, cwd=place)
    desk.git("commit", "-q", "-m", f"With {name}", cwd=place)
    return place


def staged(desk: Desk, place: Path) -> None:
    (place / "staged.txt").write_text("work\n")
    desk.git("add", "staged.txt", cwd=place)
    (place / "staged.txt").unlink()


def saved(desk: Desk, receipt: Receipt) -> set[str]:
    """The names of all files that the receipt's branches have, and of those in their bundles."""
    names: set[str] = set()
    bare, scratch = desk.server.bare("r"), desk.place.folder / "scratch.git"
    subprocess.run(["git", "init", "-q", "--bare", str(scratch)], check=True)
    for ref in [one.ref for one in receipt.rescued] + ([BRANCH] if receipt.pushed else []):
        listed = subprocess.check_output(["git", "ls-tree", "-rz", "--name-only", ref], cwd=bare, text=True)
        found = [name for name in listed.split("\0") if name]
        names |= {os.path.basename(name) for name in found}  # noqa: PTH119
        for number, name in enumerate(name for name in found if name.endswith(".bundle")):
            bundle = desk.place.folder / f"{number}.bundle"
            bundle.write_bytes(subprocess.check_output(["git", "cat-file", "blob", f"{ref}:{name}"], cwd=bare))
            fetch = ["git", "fetch", "-q", str(bundle), f"+refs/*:refs/{number}/*"]
            subprocess.run(fetch, cwd=scratch, check=True)
    for commit in subprocess.check_output(["git", "rev-list", "--all"], cwd=scratch, text=True).split():
        shown = ["git", "ls-tree", "-r", "--name-only", commit]
        names |= set(subprocess.check_output(shown, cwd=scratch, text=True).split())
    return names


def below_an_empty_git_folder(desk: Desk) -> None:
    (desk.path / "a" / ".git").mkdir(parents=True)
    inner(desk, "a/b")


def in_a_worktree_beside(desk: Desk) -> None:
    desk.git("worktree", "add", "-q", "--detach", "../beside")
    inner(desk, "../beside/deep")


def in_a_worktree_inside(desk: Desk) -> None:
    desk.git("worktree", "add", "-q", "--detach", "inside")
    inner(desk, "inside/deep")


def worktree_of_a_repository_inside(desk: Desk) -> None:
    far = desk.place.folder / "far"
    desk.git("worktree", "add", "-q", "--detach", str(far), cwd=inner(desk, "n", "first.txt"))
    committed(desk, far, "inner.txt")


def open_file_in_a_worktree_of_a_repository_inside(desk: Desk) -> None:
    far = desk.place.folder / "far"
    desk.git("worktree", "add", "-q", "--detach", str(far), cwd=inner(desk, "n", "first.txt"))
    (far / "inner.txt").write_text("work\n")


def submodule_without_its_worktree(desk: Desk) -> None:
    desk.server.make("sub", {"s.txt": "s\n"})
    local = ("-c", "protocol.file.allow=always")
    desk.git(*local, "submodule", "add", "-q", str(desk.server.bare("sub")), "sub")
    desk.git("commit", "-q", "-m", "A submodule")
    committed(desk, desk.path / "sub", "inner.txt")
    desk.git("submodule", "deinit", "-q", "-f", "sub")


def name_with_a_newline(desk: Desk) -> None:
    inner(desk, "new\nline")


def only_staged_in_a_repository_inside(desk: Desk) -> None:
    staged(desk, inner(desk, "n"))


def only_staged_in_a_worktree(desk: Desk) -> None:
    desk.git("worktree", "add", "-q", "--detach", "../beside")
    staged(desk, desk.path.parent / "beside")


def bundle_with_the_name_of_a_folder(desk: Desk) -> None:
    inner(desk, "n")
    inner(desk, "n.bundle/k", "staged.txt")


@pytest.mark.parametrize(
    ("state", "wanted"),
    [
        (below_an_empty_git_folder, {"inner.txt"}),
        (in_a_worktree_beside, {"inner.txt"}),
        (in_a_worktree_inside, {"inner.txt"}),
        (worktree_of_a_repository_inside, {"first.txt", "inner.txt"}),
        (open_file_in_a_worktree_of_a_repository_inside, {"first.txt", "inner.txt"}),
        (submodule_without_its_worktree, {"inner.txt"}),
        (name_with_a_newline, {"inner.txt"}),
        (only_staged_in_a_repository_inside, {"inner.txt", "staged.txt"}),
        (only_staged_in_a_worktree, {"staged.txt"}),
        (bundle_with_the_name_of_a_folder, {"inner.txt", "staged.txt"}),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
async def test_what_is_in_a_repository_or_a_worktree_inside_is_on_the_remote(desk, state, wanted):
    """However deep it is, and wherever its files are: nothing is passed over without a word."""
    desk.write("open.txt")
    state(desk)
    receipt = await desk.salvage()
    assert receipt.lost() == []
    assert saved(desk, receipt) >= {*wanted, "open.txt"}


@pytest.mark.parametrize("name", ["git~1/x.txt", "d/.GIT/x.txt", "d/.Git", "d/.git\\x", "d/.git::$X", "a/.git"])
async def test_a_name_that_git_passes_over_in_silence_is_a_loss_that_is_said(desk, name):
    desk.write("open.txt")
    desk.write(name, "work\n")
    receipt = await desk.salvage()
    assert desk.found(receipt, "open.txt") == "open\n"
    (one,) = receipt.unsaved
    assert name.startswith(one.path)
    assert receipt.lost() != []


async def test_what_cannot_be_saved_of_other_worktrees_and_repositories_is_named(desk):
    place = inner(desk, "n", ".gitignore")
    (place / ".gitignore").write_text("*.env\n")
    (place / "a.env").write_text("TOKEN=1\n")
    desk.git("worktree", "add", "-q", "--detach", "../beside")
    os.mkfifo(desk.path.parent / "beside" / "pipe")
    receipt = await desk.salvage()
    assert {Path(one.path).name for one in receipt.unsaved} == {"a.env", "pipe"}


@pytest.mark.parametrize("ref", ["refs/heads/refs/heads/work/1", "refs/tags/refs/heads/work/1"])
async def test_a_branch_that_git_cannot_push_to_is_saved_on_a_rescue_branch(desk, ref):
    """The remote has a second reference of its name, and git then pushes to neither."""
    for name in (ref, f"refs/heads/{BRANCH}"):
        desk.server.git("r", "update-ref", name, "main")
    commit = desk.commit()
    receipt = await desk.salvage()
    assert receipt.lost() == []
    assert [one.commit for one in receipt.rescued] == [commit]
