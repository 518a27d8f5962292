"""Which user each agent is, and what is refused at the start."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs

from gastown.boot import accounts
from gastown.boot.accounts import BadAgentUser, find_python, find_users
from gastown.contract.agents import StartAgentRequest
from gastown.contract.errors import StartFailed
from gastown.isolation.agent_users import AgentUsers, prepare_home
from gastown.testing.town import start_request
from gastown.testing.users import ALICE, needs_root, open_folder, users

Find = Callable[..., AgentUsers]


def request(agent_id: str, **changes: Any) -> StartAgentRequest:
    return StartAgentRequest.model_validate(start_request(agent_id, **changes))


@pytest.fixture
def find(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Find:
    """`find_users` as root sees it, with the lines of /etc/subuid that the test gives."""
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    monkeypatch.setattr(os, "setgroups", lambda groups: None)
    monkeypatch.setattr(accounts, "check_path", lambda path: None)
    monkeypatch.setattr(accounts, "_missing_rights", list)

    def call(named: str | None, uids: tuple[int, int] | None = None, subuid: str | None = None) -> AgentUsers:
        file = tmp_path / "subuid"
        if subuid is not None:
            file.write_text(subuid)
        return find_users(named, uids, (), (), subuid=file)

    return call


def test_without_a_user_agents_are_what_we_are_and_root_is_warned_of_what_that_means(find):
    with capture_logs() as log:
        found = find(None)
    assert (found.main, found.repo_owner, found.mayor, found.of(request("pole-1"))) == (None,) * 4
    assert [(line["event"], line["log_level"]) for line in log] == [("agents.run_as_root", "warning")]
    assert "memory and environment" in log[0]["consequence"]


def test_an_ordinary_user_without_the_variable_hears_nothing(monkeypatch):
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    with capture_logs() as log:
        find_users(None, None, (), ())
    assert log == []


def test_only_root_can_make_agents_somebody_else(monkeypatch):
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    with pytest.raises(BadAgentUser, match="only root"):
        find_users("nobody", None, (), ())


@pytest.mark.parametrize(
    ("named", "problem"),
    [
        ("no-such-user", "does not exist"),
        ("root", "is root"),
        ("0", "is root"),
        ("4294967295", "no user can have"),
    ],
)
def test_a_user_that_agents_cannot_be_is_refused_with_what_to_do(find, named, problem):
    with pytest.raises(BadAgentUser, match=problem):
        find(named)


def test_a_number_needs_no_line_in_the_password_file(find):
    main = find("64200").main
    assert (main.uid, main.gid, main.name) == (64200, 64200, "64200")


@pytest.mark.parametrize(
    ("subuid", "expected"),
    [
        ("", range(0)),
        ("other:1000:5\n", range(0)),
        ("64200:300000:65536\n", range(300_000, 365_536)),
        ("other:1:5\n64200:300000:2\n64200:500000:9\n", range(300_000, 300_002)),
        ("64200:x:5\n64200:300000:0\nbroken\n", range(0)),
    ],
)
def test_the_users_of_single_agents_are_the_first_range_of_subuid(find, subuid, expected):
    assert find("64200", subuid=subuid).uids == expected


def test_a_range_that_is_told_goes_before_that_of_subuid(find):
    assert find("64200", (7000, 7009), "64200:300000:5\n").uids == range(7000, 7010)


def test_a_range_with_the_named_user_in_it_is_refused(find):
    with pytest.raises(BadAgentUser, match="range"):
        find("64200", (64000, 65000))


def test_one_user_for_all_is_warned_of_with_what_remains_possible(find):
    with capture_logs() as log:
        found = find("64200")
    assert found.mayor == found.of(request("pole-1")) == found.repo_owner == found.main
    assert [line["event"] for line in log] == ["agents.share_a_user", "agents.users"]
    assert "homes and the bearers of the others" in log[0]["consequence"]


@needs_root
def test_a_root_without_the_rights_that_it_takes_is_told_which_it_lacks():
    script = "from gastown.boot.accounts import find_users; find_users('64200', None, (), ())"
    command = ["setpriv", "--bounding-set", "-kill,-chown", sys.executable, "-c", script]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.stderr.strip().endswith("root lacks the capabilities CAP_CHOWN, CAP_KILL here: add them")


@needs_root
def test_a_file_that_agents_cannot_reach_is_an_error_at_the_start():
    with open_folder() as folder:
        kilo = folder / "kilo"
        kilo.write_text("#!/bin/sh\n")
        kilo.chmod(0o755)
        groups = os.getgroups()
        try:
            assert find_users("64200", None, (str(folder / "rigs"),), (str(kilo),)).main is not None
        finally:
            os.setgroups(groups)
        kilo.chmod(0o750)
        with pytest.raises(BadAgentUser, match="kilo cannot be read or run by other users"):
            find_users("64200", None, (), (str(kilo),))
        kilo.chmod(0o755)
        folder.chmod(0o700)
        with pytest.raises(BadAgentUser, match="closed to them"):
            find_users("64200", None, (), (str(kilo),))


def test_a_python_that_agents_can_run_is_ours_or_the_first_on_the_path(monkeypatch, tmp_path):
    assert find_python(None, "") == accounts.sys.executable
    closed = tmp_path / "closed" / "python3"
    closed.parent.mkdir(mode=0o700)
    closed.write_text("")
    closed.chmod(0o755)
    monkeypatch.setattr(accounts.sys, "executable", str(closed))
    assert find_python("64200", f"{closed.parent}:/usr/bin") == "/usr/bin/python3"
    monkeypatch.setattr(os, "defpath", "")
    with pytest.raises(BadAgentUser, match="no Python"):
        find_python("64200", str(closed.parent))


def test_each_agent_is_a_user_of_its_own_and_stays_so():
    there = users()
    mayor, one, two = (there.of(request(name)) for name in ("mayor-1", "pole-1", "pole-2"))
    assert len({mayor.uid, one.uid, two.uid, there.main.uid}) == 4
    assert all(user.alone and user.gid == there.main.gid for user in (mayor, one, two))
    assert [there.of(request(name)) for name in ("pole-2", "mayor-1", "pole-1")] == [two, mayor, one]
    assert there.mayor == mayor
    assert there.repo_owner.uid == there.main.uid


def test_the_mayor_is_one_user_whatever_its_id():
    there = users()
    assert there.of(request("mayor-1")) == there.of(request("mayor-2"))


def test_an_agent_that_finds_no_user_left_is_told_so():
    there = users(1)
    there.of(request("pole-1"))
    with pytest.raises(StartFailed, match="no user left for agent pole-2"):
        there.of(request("pole-2"))


async def test_who_comes_into_a_worktree_where_another_one_is_at_work_shares_its_user(monkeypatch):
    there, ended = users(), []

    async def end(user: Any) -> tuple[int, ...]:
        ended.append(user)
        return (4711,)

    monkeypatch.setattr("gastown.isolation.agent_users.end_processes_of", end)
    first = there.acquire(request("pole-1"), "/w/1")
    second = there.acquire(request("pole-2"), "/w/1")
    elsewhere = there.acquire(request("pole-3"), "/w/2")
    assert first == second != elsewhere
    assert await there.release("pole-1") == ()
    assert await there.release("pole-2") == (4711,)
    assert await there.release("never-there") == ()
    assert ended == [first]
    assert there.acquire(request("pole-2"), "/w/1") not in (first, elsewhere)


async def test_nothing_is_ended_of_an_agent_whose_conversation_is_still_saved(monkeypatch):
    """The process that copies it has the agent's uid, which another one in its worktree has too."""
    there, ended = users(), []

    async def end(user: Any) -> tuple[int, ...]:
        ended.append(user)
        return ()

    monkeypatch.setattr("gastown.isolation.agent_users.end_processes_of", end)
    saving, shutdown = (there.acquire(request(name), "/w/1") for name in ("pole-1", "pole-2"))
    assert saving == shutdown
    await there.end_processes("pole-1")
    await there.release("pole-2")
    assert ended == []
    await there.end_processes("pole-1")
    await there.release("pole-1")
    assert ended == [saving, saving]


async def test_agents_that_only_reason_share_a_directory_that_none_of_them_can_change(monkeypatch):
    there = users()
    one, two = (request(name, role="triage") for name in ("triage-1", "triage-2"))
    assert there.acquire(one, "/w/triage") != there.acquire(two, "/w/triage")
    assert there.owner(one, None) == there.owner(two, None) == there.repo_owner


@needs_root
async def test_a_home_is_closed_to_all_but_its_agent():
    with open_folder() as folder:
        home = folder / "agent-home-a"
        await prepare_home(str(home), ALICE)
        for path in (home, home / "tmp"):
            assert (path.stat().st_uid, path.stat().st_mode & 0o777) == (ALICE.uid, 0o700)
        home.chmod(0o777)
        await prepare_home(str(home), ALICE)
        assert home.stat().st_mode & 0o777 == 0o700


@needs_root
async def test_a_home_that_cannot_be_made_is_a_failure_of_the_start():
    with open_folder() as folder:
        (folder / "agent-home-a").symlink_to("/etc")
        with pytest.raises(StartFailed, match="home cannot be made"):
            await prepare_home(str(folder / "agent-home-a"), ALICE)
