"""Repositories of users below us: each has one owner, and git in it is nobody else's, whatever it says."""

from __future__ import annotations

import os
import stat
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest
import trio

from gastown.boot.accounts import find_python
from gastown.contract.secret import Secret
from gastown.git.command import run_git
from gastown.git.credentials import GitCredentials
from gastown.git.helper_service import open_helper_service
from gastown.git.merging.checks import Checks, run_checks
from gastown.git.merging.merge import merge
from gastown.git.repos import Repositories, open_repositories
from gastown.git.rig import RigGit, Tools
from gastown.git.salvage.receipt import Job, Receipt
from gastown.git.salvage.salvage import salvage
from gastown.git.workspace import prepare_workspace
from gastown.git.worktrees import Checkout, browse, check_out
from gastown.isolation.ending import processes_of
from gastown.isolation.users import User, identity
from gastown.testing.users import ALICE, BOB, KEEPER, make_deep, needs_root, open_folder
from tests.git.conftest import Place
from tests.git.server import open_git_server

pytestmark = needs_root
FILES = {"a.txt": "one\n", "dir/b.txt": "two\n"}


class Owned:
    """A place whose clone is the keeper's, and one container on it."""

    def __init__(self, place: Place, repositories: Repositories) -> None:
        self.place = place
        self.repositories = repositories
        self.tools = repositories.tools
        self.rig = place.rig("r")

    async def worktree(self, user: User, branch: str = "work/1") -> Checkout:
        git = self.repositories.git(self.rig, str(self.place.worktree("r", branch)), user)
        return await check_out(self.repositories, git, branch, None, lambda _: None)

    async def git(self, user: User, *arguments: str, cwd: str, asker: str = "agent-1") -> str:
        """git as the agent runs it, and what it says."""
        env = {"PATH": os.environ["PATH"], "HOME": "/nonexistent"}
        env |= {f"GIT_{who}_{what}": "agent@test" for who in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")}
        env |= self.tools.access.agent_variables("r", asker, user.uid)
        done = await trio.run_process(
            ["git", *arguments], cwd=cwd, env=env, check=False, capture_stdout=True, capture_stderr=True,
            **identity(user),
        )  # fmt: skip
        return (done.stdout + done.stderr).decode()


@pytest.fixture
async def owned() -> AsyncIterator[Owned]:
    with open_folder() as folder:
        async with open_git_server(folder / "served") as server:
            place = Place(folder, server)
            server.make("r", FILES)
            server.tokens = {"token"}
            credentials = GitCredentials(lambda: place.town, place.source)
            credentials.register_rig("r", place.rig("r").remote, given={"GIT_TOKEN": Secret("token")})
            python = find_python(str(KEEPER.uid), os.environ["PATH"])
            async with open_helper_service(credentials, for_all=True, python=python) as access:
                env = {"PATH": os.environ["PATH"]}
                tools = Tools(run_git, env, place.paths, credentials, access, place.limits, KEEPER, BOB)
                async with open_repositories(tools) as repositories:
                    with trio.fail_after(60):
                        yield Owned(place, repositories)


def owners(folder: Path) -> set[int]:
    return {path.lstat().st_uid for path in (folder, *folder.rglob("*"))}


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def times(folder: Path) -> dict[Path, int]:
    return {path: path.lstat().st_mtime_ns for path in folder.rglob("*")}


async def test_the_clone_is_the_keeper_s_and_a_worktree_its_agent_s_with_all_that_is_in_it(owned):
    made = await owned.worktree(ALICE)
    assert owners(owned.place.clone()) == {KEEPER.uid}
    assert owners(Path(made.path)) == {ALICE.uid}
    assert mode(Path(made.path)) == 0o700
    for above in (owned.place.room(), Path(made.path).parent):
        assert (above.stat().st_uid, mode(above)) == (0, 0o755)


async def test_an_agent_works_in_its_worktree_and_pushes_with_the_live_token(owned):
    path = (await owned.worktree(ALICE)).path
    assert "nothing to commit" in await owned.git(ALICE, "status", cwd=path)
    await owned.git(ALICE, "commit", "--allow-empty", "-m", "mine", cwd=path)
    assert "new branch" in await owned.git(ALICE, "push", "-u", "origin", "HEAD", cwd=path)
    assert owned.place.server.git("r", "log", "-1", "--format=%s", "work/1").strip() == "mine"


async def test_an_agent_can_neither_write_the_clone_nor_read_another_s_worktree(owned):
    mine = (await owned.worktree(ALICE)).path
    theirs = (await owned.worktree(BOB, "work/2")).path
    clone = str(owned.place.clone())
    assert "could not lock config" in await owned.git(
        ALICE, "config", "-f", f"{clone}/.git/config", "a.b", "c", cwd=mine
    )
    assert "Permission denied" in await owned.git(ALICE, "-C", theirs, "status", cwd=mine)


async def saved(git: RigGit) -> Receipt:
    """The receipt of a drain of the worktree."""
    author = {f"GIT_{w}_{x}": "a@b" for w in ("AUTHOR", "COMMITTER") for x in ("NAME", "EMAIL")}
    receipt = Receipt("work/1")
    await salvage(git, Job("pole-1", "work/1", "now", "WIP", author, on_branch=True), receipt)
    return receipt


async def test_what_an_agent_makes_git_run_in_its_repository_runs_as_the_agent(owned):
    """A filter, a monitor and a hook: at the next start our own git works there. A salvage runs none of them."""
    path = Path((await owned.worktree(ALICE)).path)
    told = path / "told"
    spy = f"sh -c 'id -u >> {told}; cat'"
    for name in ("core.fsmonitor", "filter.spy.clean", "filter.spy.smudge", "core.pager"):
        await owned.git(ALICE, "config", name, spy, cwd=str(path))
    await owned.git(ALICE, "config", "filter.spy.required", "true", cwd=str(path))
    (path / ".gitattributes").write_text("*.txt filter=spy\n")
    (path / "a.txt").write_text("changed\n")
    await owned.worktree(ALICE)
    before = told.read_text() if told.exists() else ""
    git = owned.repositories.git(owned.rig, str(path), ALICE)
    assert (await saved(git)).pushed
    assert (told.read_text() if told.exists() else "") == before
    assert set(before.split()) <= {str(ALICE.uid)}


async def test_a_repository_that_leads_to_another_agent_s_is_worked_in_as_who_made_it(owned):
    mine = Path((await owned.worktree(ALICE)).path)
    theirs = Path((await owned.worktree(BOB, "work/2")).path)
    (mine / ".git").rename(mine / "git")
    (mine / ".git").symlink_to(theirs / ".git")
    before = times(theirs)
    receipt = await saved(owned.repositories.git(owned.rig, str(mine), ALICE))
    assert "the repository is gone" in " ".join(receipt.lost())
    assert times(theirs) == before


async def test_the_next_agent_on_a_branch_takes_the_worktree_over_with_its_work(owned):
    path = Path((await owned.worktree(ALICE)).path)
    (path / "a.txt").write_text("begun\n")
    os.chown(path / "a.txt", ALICE.uid, ALICE.gid)
    again = await owned.worktree(BOB)
    assert (again.how, (path / "a.txt").read_text()) == ("reused", "begun\n")
    assert owners(path) == {BOB.uid}
    assert "work/1" in await owned.git(BOB, "status", cwd=str(path))
    assert "Permission denied" in await owned.git(ALICE, "-C", str(path), "status", cwd="/")


@pytest.mark.parametrize("made_by", ["us", "the agent"])
async def test_what_an_agent_made_git_run_is_not_run_by_the_next_agent_on_its_branch(owned, made_by):
    path = Path((await owned.worktree(ALICE)).path)
    told, git = path / "told", path / ".git"
    spy = f"sh -c 'id -u >> {told}; cat'"
    (path / ".gitattributes").write_text("a.txt filter=spy\n")
    for name in ("core.fsmonitor", "filter.spy.clean", "core.sshCommand"):
        await owned.git(ALICE, "config", name, spy, cwd=str(path))
    (git / "config.worktree").write_text("[core]\n\tfsmonitor = bad\n")
    (git / "hooks").mkdir()
    (git / "hooks" / "post-commit").write_text(f"#!/bin/sh\nid -u >> {told}\n")
    (git / "hooks" / "post-commit").chmod(0o755)
    (git / "hooks").chmod(0o500)
    (git / "info").mkdir()
    (git / "info" / "attributes").write_text("* filter=spy\n")
    (git / "info" / "exclude").write_text("told\n")
    (git / "commondir").write_text(".\n")
    if made_by == "the agent":
        (git / "gastown-branch").unlink()
    for entry in git.rglob("*"):
        os.chown(entry, ALICE.uid, ALICE.gid)
    again = await owned.worktree(BOB)
    (path / "a.txt").write_text("changed\n")
    await owned.git(BOB, "add", "a.txt", cwd=str(path))
    await owned.git(BOB, "commit", "-m", "mine", cwd=str(path))
    assert again.how == ("reused" if made_by == "us" else "not ours")
    assert not told.exists() or str(BOB.uid) not in told.read_text().split()
    assert "new branch" in await owned.git(BOB, "push", "origin", "HEAD", cwd=str(path))
    assert (git / "info" / "exclude").read_text() == "told\n"
    assert owners(path) == {BOB.uid}


async def test_a_repository_elsewhere_that_an_agent_s_worktree_leads_to_is_not_the_next_agent_s(owned):
    path = Path((await owned.worktree(ALICE)).path)
    (path / ".git").rename(path / "evil")
    (path / ".git").symlink_to("evil")
    os.chown(path / ".git", ALICE.uid, ALICE.gid, follow_symlinks=False)
    assert (await owned.worktree(BOB)).how == "created"
    (aside,) = path.parent.glob(".aside-*")
    assert (aside / "evil" / "HEAD").is_file()


async def test_what_is_left_of_a_worktree_that_was_being_made_is_removed_whatever_its_agent_put_there(owned):
    draft = owned.place.room() / "worktrees" / ".draft-1234"
    draft.parent.mkdir(parents=True)
    os.close(make_deep(draft, BOB))
    await owned.worktree(ALICE)
    assert not draft.exists()


async def test_a_worktree_of_a_container_without_users_becomes_the_agent_s(owned):
    tools = owned.repositories.tools
    async with open_repositories(replace(tools, repo_owner=None, browse_user=None)) as before:
        path = owned.place.worktree("r", "work/1")
        await check_out(before, before.git(owned.rig, str(path)), "work/1", None, lambda _: None)
    assert owners(owned.place.room()) == {0}
    made = await owned.worktree(ALICE)
    assert made.how == "reused"
    assert (owners(path), owners(owned.place.clone())) == ({ALICE.uid}, {KEEPER.uid})


async def test_what_the_mayor_looks_at_is_the_mayor_s_and_can_fetch_what_is_missing(owned):
    main = owned.place.server.tip("r", "main")
    tip = owned.place.server.commit("r", "main", {"a.txt": "two\n"}, parent=main)
    path = (await browse(owned.repositories, owned.rig)).path
    assert owners(Path(path)) == {BOB.uid}
    said = await owned.git(BOB, "log", "-p", "--format=%H", cwd=path, asker="mayor-1")
    assert tip in said
    assert "-one" in said


async def test_a_merge_is_the_keeper_s_work_and_leaves_nothing(owned):
    base = owned.place.server.tip("r", "main")
    owned.place.server.commit("r", "work/1", {"new.txt": "new\n"}, parent=base)
    merged = await merge(owned.repositories, owned.rig, "work/1", "main", message="Merge")
    assert merged.commit == owned.place.server.tip("r", "main")
    assert owned.place.names() == {"repo"}
    assert owners(owned.place.clone()) == {KEEPER.uid}


async def test_checks_are_a_user_of_their_own_and_leave_nothing(owned):
    base = owned.place.server.tip("r", "main")
    owned.place.server.commit("r", "work/1", {"new.txt": "new\n"}, parent=base)
    theirs = (await owned.worktree(ALICE, "work/2")).path
    tools = replace(owned.tools, checks_user=lambda _: BOB)
    owned.repositories.tools = tools
    commands = (
        "id -u; git log -1 --format=%s; cat new.txt; stat -c %u . .git new.txt $HOME | sort -u",
        f"cat {theirs}/a.txt || echo {owned.place.clone()}/x",
        "cd / && env -i setsid sleep 1000 & sleep 0.5",
    )

    async def judge(source):
        return await run_checks(owned.repositories, owned.rig, source, Checks(commands, 60))

    merged = await merge(owned.repositories, owned.rig, "work/1", "main", message="Merge", judge=judge)
    assert merged.commit == owned.place.server.tip("r", "main")
    assert merged.checks[0].tail == f"{BOB.uid}\nMerge\nnew\n{BOB.uid}"
    assert "Permission denied" in merged.checks[1].tail
    assert await trio.to_thread.run_sync(processes_of, BOB.uid) == ()
    assert owned.place.names() == {"repo", "worktrees"}


async def test_a_workspace_that_agents_share_is_one_that_they_cannot_change(owned):
    paths = owned.place.paths
    shared, own = paths.triage("r"), paths.mayor("oak")
    await prepare_workspace(paths, shared, {"PATH": os.environ["PATH"]}, KEEPER, 0o750)
    await prepare_workspace(paths, own, {"PATH": os.environ["PATH"]}, ALICE)
    assert (owners(Path(shared)), owners(Path(own))) == ({KEEPER.uid}, {ALICE.uid})
    assert "dubious ownership" in await owned.git(ALICE, "status", cwd=shared)
    trusted = ("-c", f"safe.directory={shared}")
    assert "nothing to commit" in await owned.git(ALICE, *trusted, "status", cwd=shared)
    assert "ermission denied" in await owned.git(ALICE, *trusted, "config", "a.b", "c", cwd=shared)
    assert "nothing to commit" in await owned.git(ALICE, "status", cwd=own)


async def test_a_key_is_worth_nothing_to_another_user_than_its_own(owned):
    path = (await owned.worktree(ALICE)).path
    key = owned.tools.access.key("r", "agent-1", ALICE.uid)

    async def ask(user: User) -> str:
        env = {"GASTOWN_GIT_SOCKET": owned.tools.access.socket, "GASTOWN_GIT_KEY": key, "PATH": os.environ["PATH"]}
        question = f"protocol=http\nhost=127.0.0.1:{owned.place.server.port}\npath=r.git\n"
        command = dict(owned.tools.access.config)["credential.helper"].removeprefix("!")
        done = await trio.run_process(
            ["sh", "-c", f"{command} get"], stdin=question.encode(), env=env, capture_stdout=True, cwd="/",
            **identity(user),
        )  # fmt: skip
        return done.stdout.decode()

    assert "password=token" in await ask(ALICE)
    assert [await ask(BOB), await ask(replace(ALICE, uid=0, gid=0))] == ["", ""]
    assert path
