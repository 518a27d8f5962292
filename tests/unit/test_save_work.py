"""Saving the work of a worktree, on real git."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
import trio

from gastown.contract.git import Remote
from gastown.contract.town import GitAuth
from gastown.git import command
from gastown.git.access import HelperAccess
from gastown.git.credentials import GitCredentials
from gastown.git.errors import PushRaced
from gastown.git.rig import GitLimits, Rig, RigGit, RigReport, Tools
from gastown.git.save import commit_all, has_unpushed, push, unlock
from gastown.git.workspace import WorkspacePaths

AGENT = {
    "GIT_AUTHOR_NAME": "Toast (gastown)",
    "GIT_AUTHOR_EMAIL": "toast@gastown.local",
    "GIT_COMMITTER_NAME": "Toast (gastown)",
    "GIT_COMMITTER_EMAIL": "toast@gastown.local",
}
Git = Callable[..., str]


@pytest.fixture
def git() -> Git:
    def run(*arguments: str, cwd: Path) -> str:
        environment = {"PATH": os.environ["PATH"], "GIT_CONFIG_GLOBAL": "/dev/null", "HOME": "/nonexistent"}
        named = ("-c", "user.name=Somebody", "-c", "user.email=somebody@example.org")
        done = subprocess.run(
            ["git", *named, *arguments], cwd=cwd, env=environment, check=True, capture_output=True, text=True
        )
        return done.stdout.strip()

    return run


@pytest.fixture
def worktree(tmp_path: Path, git: Git) -> Path:
    """A worktree on `work/toast` of a clone, whose origin is a bare repository beside it."""
    seed = tmp_path / "seed"
    seed.mkdir()
    git("init", "-q", "-b", "main", cwd=seed)
    (seed / "README").write_text("Hello\n")
    git("add", "-A", cwd=seed)
    git("commit", "-q", "-m", "First", cwd=seed)
    git("clone", "-q", "--bare", str(seed), str(tmp_path / "remote.git"), cwd=tmp_path)
    git("clone", "-q", "--no-checkout", str(tmp_path / "remote.git"), str(tmp_path / "clone"), cwd=tmp_path)
    place = tmp_path / "worktrees" / "work__toast"
    git("worktree", "add", "-q", "-b", "work/toast", str(place), "origin/main", cwd=tmp_path / "clone")
    return place


@pytest.fixture
def rig(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> RigGit:
    monkeypatch.setitem(command._QUIET, "GIT_ALLOW_PROTOCOL", "file")
    tools = Tools(
        run=command.run_git,
        env={"PATH": os.environ["PATH"]},
        paths=WorkspacePaths(str(tmp_path)),
        credentials=GitCredentials(GitAuth, None),
        access=HelperAccess("/nonexistent", b"secret"),
        limits=GitLimits(clone=60, operation=60),
    )
    known = Rig("rig-1", Remote.parse("https://git.test/r.git"), "main")
    return RigGit(tools, known, RigReport("rig-1"))


async def save(rig: RigGit, worktree: Path) -> str | None:
    commit = await commit_all(rig, str(worktree), "WIP", AGENT)
    if await has_unpushed(rig, str(worktree)):
        await push(rig, str(worktree), "work/toast")
    return commit


def remote(worktree: Path) -> Path:
    return worktree.parent.parent / "remote.git"


async def test_everything_that_is_not_ignored_is_on_the_remote_with_the_agent_as_author(
    worktree, rig, git
) -> None:
    (worktree / "README").write_text("Changed\n")
    (worktree / "new" / "deep").mkdir(parents=True)
    (worktree / "new" / "deep" / "file with ümlaut").write_text("New\n")
    (worktree / ".gitignore").write_text("*.log\n")
    (worktree / "noise.log").write_text("noise\n")
    commit = await save(rig, worktree)
    assert git("rev-parse", "work/toast", cwd=remote(worktree)) == commit
    told = git("log", "-1", "--format=%an <%ae>|%cn|%s", "work/toast", cwd=remote(worktree))
    assert told == "Toast (gastown) <toast@gastown.local>|Toast (gastown)|WIP"
    files = git("ls-tree", "-r", "-z", "--name-only", "work/toast", cwd=remote(worktree)).split("\0")
    assert set(files) - {""} == {".gitignore", "README", "new/deep/file with ümlaut"}
    assert git("show", "work/toast:README", cwd=remote(worktree)) == "Changed"


async def test_a_clean_worktree_makes_no_commit_and_no_branch(worktree, rig, git) -> None:
    assert await save(rig, worktree) is None
    assert git("branch", "--list", cwd=remote(worktree)) == "* main"


async def test_commits_of_the_agent_are_pushed_too(worktree, rig, git) -> None:
    (worktree / "file").write_text("x")
    git("add", "-A", cwd=worktree)
    git("commit", "-q", "-m", "Mine", cwd=worktree)
    assert await save(rig, worktree) is None
    assert git("log", "-1", "--format=%s", "work/toast", cwd=remote(worktree)) == "Mine"
    assert not await has_unpushed(rig, str(worktree))


async def test_a_branch_that_others_pushed_to_meanwhile_is_not_overwritten(worktree, rig, git) -> None:
    seed = worktree.parent.parent / "seed"
    git("checkout", "-q", "-b", "work/toast", cwd=seed)
    git("commit", "-q", "--allow-empty", "-m", "Theirs", cwd=seed)
    git("push", "-q", str(remote(worktree)), "work/toast", cwd=seed)
    (worktree / "file").write_text("x")
    with pytest.raises(PushRaced):
        await save(rig, worktree)
    assert git("log", "-1", "--format=%s", "work/toast", cwd=remote(worktree)) == "Theirs"
    assert git("log", "-1", "--format=%s", cwd=worktree) == "WIP"


async def test_a_merge_that_is_half_done_is_saved_as_it_is(worktree, rig, git) -> None:
    for branch, text in (("theirs", "theirs\n"), ("work/toast", "ours\n")):
        if branch == "theirs":
            git("checkout", "-q", "-b", branch, cwd=worktree)
        else:
            git("checkout", "-q", branch, cwd=worktree)
        (worktree / "README").write_text(text)
        git("commit", "-q", "-a", "-m", branch, cwd=worktree)
    with pytest.raises(subprocess.CalledProcessError):
        git("merge", "-q", "theirs", cwd=worktree)
    await save(rig, worktree)
    assert "<<<<<<<" in git("show", "work/toast:README", cwd=remote(worktree))


async def test_hooks_of_the_repository_are_not_run(worktree, rig, git) -> None:
    for name in ("pre-commit", "commit-msg", "pre-push", "post-commit"):
        hook = worktree.parent.parent / "clone" / ".git" / "hooks" / name
        hook.write_text("#!/bin/sh\nexit 1\n")
        hook.chmod(0o755)
    (worktree / "file").write_text("x")
    assert await save(rig, worktree)


async def test_the_lock_of_a_killed_git_is_taken_away(worktree, rig, git) -> None:
    (worktree / "file").write_text("x")
    lock = Path(git("rev-parse", "--git-path", "index.lock", cwd=worktree))
    (worktree / lock).touch()
    await unlock(rig, str(worktree))
    assert await save(rig, worktree)
    assert not await trio.Path(worktree / lock).exists()


async def test_a_change_that_add_makes_vanish_is_no_failed_save(rig: RigGit, worktree: Path, git: Git) -> None:
    """A file whose coming was announced and that is gone again: git says that it differs until it looks closer."""
    (worktree / "new.txt").write_text("new\n")
    git("add", "--intent-to-add", "new.txt", cwd=worktree)
    (worktree / "new.txt").unlink()
    assert git("status", "--porcelain", cwd=worktree)
    assert await commit_all(rig, str(worktree), "WIP", AGENT) is None
