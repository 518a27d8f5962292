"""Who has which uid, over restarts on the same disk, and without the memory of it."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from gastown.boot.accounts import BadAgentUser, remember_users
from gastown.contract.errors import StartFailed
from gastown.isolation.ownership import give_directory
from gastown.isolation.uids import Uids, read_uids
from gastown.testing.users import ALICE, UIDS, needs_root, open_folder, users
from tests.unit.test_users import request

FILE = ".gastown-uids.json"


@pytest.fixture
def folder() -> Iterator[Path]:
    with open_folder() as folder:
        (folder / "homes").mkdir()
        (folder / "rigs").mkdir()
        yield folder


def life(folder: Path, *names: str, count: int = len(UIDS)) -> dict[str, int]:
    """What a container does on this disk: the uids of agents that come in this order."""
    there = users(count)
    remember_users(there, folder / "rigs" / FILE, (str(folder / "rigs"), str(folder / "homes")))
    found = {name: there.of(request(name)) for name in ("mayor-1", *names)}
    return {name: user.uid for name, user in found.items() if user is not None}


def test_after_a_restart_each_agent_has_the_uid_that_its_files_have(folder: Path) -> None:
    first = life(folder, "alice", "bob")
    again = life(folder, "bob", "carol", "alice")
    assert again == {**first, "carol": UIDS[3]}


def test_what_is_remembered_is_root_s_to_read_and_to_write(folder: Path) -> None:
    life(folder, "alice")
    found = (folder / "rigs" / FILE).lstat()
    assert (found.st_uid, found.st_mode & 0o777) == (os.geteuid(), 0o600)
    assert json.loads((folder / "rigs" / FILE).read_text()) == {"mayor": UIDS[0], "agent alice": UIDS[1]}


def test_a_uid_is_remembered_before_anybody_has_it(folder: Path) -> None:
    given = Uids(folder / "missing" / FILE)
    with pytest.raises(FileNotFoundError):
        given.of("agent alice", UIDS)
    assert given.known == {}
    given.file = folder / FILE
    assert given.of("agent alice", UIDS) == UIDS[0]


def test_a_start_whose_user_cannot_be_remembered_fails_and_may_be_tried_again(folder: Path) -> None:
    there = users()
    remember_users(there, folder / FILE, ())
    there.given.file = folder / "missing" / FILE
    with pytest.raises(StartFailed, match="cannot be remembered") as failure:
        there.of(request("alice"))
    assert failure.value.retryable


def test_a_container_that_can_remember_nobody_does_not_begin(folder: Path) -> None:
    with pytest.raises(BadAgentUser, match="user of mayor cannot be remembered"):
        remember_users(users(), folder / "missing" / FILE, ())


def test_where_all_agents_are_one_user_there_is_nothing_to_remember(folder: Path) -> None:
    remember_users(users(0), folder / FILE, ())
    assert not (folder / FILE).exists()


def test_another_range_gives_other_uids_and_never_one_that_somebody_had(folder: Path) -> None:
    (folder / FILE).write_text(json.dumps({"mayor": 7, "agent alice": UIDS[0]}))
    given = read_uids(folder / FILE, ())
    assert [given.of(name, UIDS) for name in ("mayor", "agent bob", "agent alice")] == [*UIDS[1:3], UIDS[0]]


@needs_root
@pytest.mark.parametrize("memory", [None, "{", "[1]", '{"agent alice": "1"}', "an agent's"])
def test_without_the_memory_no_uid_is_given_that_something_on_the_disk_belongs_to(
    folder: Path, memory: str | None
) -> None:
    """A volume that is lost alone, a file that is damaged, a container of before there was one."""
    there = users()
    mayor, alice = (there.of(request(name)) for name in ("mayor-1", "alice"))
    assert life(folder, "alice") == {"mayor-1": mayor.uid, "alice": alice.uid}
    give_directory(str(folder / "homes" / "agent-home-alice"), alice, 0o700)
    give_directory(str(folder / "rigs" / "rig-1" / "worktrees" / "w"), mayor, 0o700)
    (folder / "rigs" / FILE).unlink()
    if memory is not None:
        (folder / "rigs" / FILE).write_text(memory)
    if memory == "an agent's":
        (folder / "rigs" / FILE).write_text(json.dumps({"mayor": alice.uid}))
        os.chown(folder / "rigs" / FILE, alice.uid, alice.gid)
    with capture_logs() as log:
        again = life(folder, "bob", "alice")
    assert again == {"mayor-1": UIDS[2], "bob": UIDS[3], "alice": UIDS[4]}
    assert [line["event"] for line in log][:-1] == (["agents.uids_forgotten"] if memory is not None else [])
    assert life(folder, "alice", "bob") == again


@needs_root
def test_when_only_uids_are_left_that_somebody_had_nobody_gets_one(folder: Path) -> None:
    give_directory(str(folder / "homes" / "agent-home-alice"), ALICE, 0o700)
    with pytest.raises(BadAgentUser, match="no user left for mayor"):
        life(folder, count=1)
