"""Directories and files of users below us, and what such a user does to lead us elsewhere."""

from __future__ import annotations

import os
import resource
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import trio

from gastown.concurrency.processes import open_child
from gastown.git.errors import GitError
from gastown.git.workspace import write_agents_md
from gastown.isolation.ending import end_processes_of
from gastown.isolation.ownership import (
    NotOurs,
    check_path,
    give_directory,
    keep_root,
    read_small,
    remove_tree,
    write_whole,
)
from gastown.isolation.users import as_user, run_as
from gastown.testing.users import ALICE, BOB, KEEPER, make_deep, needs_root, open_folder

pytestmark = needs_root


@pytest.fixture
def folder() -> Iterator[Path]:
    with open_folder() as folder:
        yield folder


def owner(path: Path) -> tuple[int, int]:
    found = path.lstat()
    return found.st_uid, found.st_mode & 0o7777


def secret(folder: Path) -> Path:
    """A file of ours that nobody else may read."""
    path = folder / "secret"
    path.write_text("of root")
    path.chmod(0o600)
    return path


async def test_what_is_done_in_the_guise_of_a_user_has_that_user_s_rights_and_no_others_later(folder):
    ours = secret(folder)
    give_directory(str(folder / "home"), ALICE, 0o700)
    with pytest.raises(PermissionError):
        await run_as(ALICE, ours.read_text)
    with pytest.raises(PermissionError):
        await run_as(BOB, (folder / "home" / "x").touch)
    await run_as(ALICE, (folder / "home" / "x").touch)
    assert (folder / "home" / "x").stat().st_uid == ALICE.uid
    assert await trio.to_thread.run_sync(ours.read_text) == "of root"


def test_a_guise_that_cannot_be_had_is_an_error_and_nothing_is_done(monkeypatch):
    monkeypatch.setattr("ctypes.CDLL", lambda _: type("Libc", (), {"setfsuid": int, "setfsgid": int}))
    with pytest.raises(PermissionError, match=f"user {ALICE.uid}"):
        as_user(ALICE, pytest.fail, "it was done")


async def test_a_child_of_a_user_and_all_that_it_leaves_behind_is_ended_with_its_block(folder):
    said: list[str] = []
    lines = trio.Event()

    def hear(line: str) -> None:
        said.append(line)
        lines.set()

    script = "setsid sleep 1000 & echo $(id -u) $(id -g) $(id -G) $(umask) $!; wait"
    path = {"PATH": os.environ["PATH"]}
    async with open_child(["sh", "-c", script], cwd="/", env=path, on_stdout=hear, grace=0, user=ALICE) as child:
        await lines.wait()
    uid, gid, groups, umask, pid = said[0].split()
    assert (int(uid), int(gid), int(groups), umask) == (ALICE.uid, ALICE.gid, ALICE.gid, "0022")
    assert child.leftovers == ()
    assert not is_of(Path(f"/proc/{pid}/status"), ALICE.uid)


async def test_a_process_that_has_left_its_session_and_its_environment_is_ended_with_its_user(folder):
    command = ["setsid", "-f", "env", "-i", "/bin/sleep", "1000"]
    await trio.run_process(command, user=ALICE.uid, group=ALICE.gid, extra_groups=[], cwd="/")
    await trio.run_process(command, user=BOB.uid, group=BOB.gid, extra_groups=[], cwd="/")
    assert await end_processes_of(ALICE) == ()
    left = processes(ALICE.uid), processes(BOB.uid)
    assert await end_processes_of(BOB) == ()
    assert left == (0, 1)


async def test_a_user_that_leaves_no_room_for_one_more_process_is_ended_all_the_same(folder):
    command = ["setsid", "-f", "env", "-i", "/bin/sleep", "1000"]
    for user in (ALICE, ALICE, BOB):
        await trio.run_process(command, user=user.uid, group=user.gid, extra_groups=[], cwd="/")
    usual = resource.getrlimit(resource.RLIMIT_NPROC)
    resource.setrlimit(resource.RLIMIT_NPROC, (1, usual[1]))
    try:
        with pytest.raises(BlockingIOError):
            await trio.run_process(command, user=ALICE.uid, group=ALICE.gid, extra_groups=[], cwd="/")
        assert await end_processes_of(ALICE) == ()
    finally:
        resource.setrlimit(resource.RLIMIT_NPROC, usual)
    left = processes(ALICE.uid), processes(BOB.uid)
    assert await end_processes_of(BOB) == ()
    assert left == (0, 1)


async def test_a_user_that_stops_whoever_would_end_it_is_ended_all_the_same(folder):
    mallory, begun = replace(ALICE, uid=ALICE.uid + 50), trio.Event()
    command = ["/bin/sh", "-c", "echo begun; while :; do kill -s STOP -- -1 2>&-; done"]
    hear = {"on_stdout": lambda line: begun.set()}
    async with open_child(command, cwd="/", env={}, **hear, grace=0, user=mallory) as child:
        await begun.wait()
        try:
            with trio.fail_after(30):
                assert await end_processes_of(mallory) == ()
        finally:
            child.process.kill()
    assert processes(mallory.uid) == 0


def processes(uid: int) -> int:
    return sum(is_of(path, uid) for path in Path("/proc").glob("[0-9]*/status"))


def is_of(status: Path, uid: int) -> bool:
    try:
        text = status.read_text()
    except OSError:
        return False
    return f"\nUid:\t{uid}\t" in text and "\nState:\tZ" not in text


def test_a_directory_is_made_for_its_user_alone(folder):
    give_directory(str(folder / "a" / "b"), ALICE, 0o700)
    assert owner(folder / "a" / "b") == (ALICE.uid, 0o700)
    assert owner(folder / "a") == (0, 0o755)


def test_a_directory_that_is_there_is_handed_over_with_all_that_is_ours_or_another_agent_s(folder):
    place = folder / "work"
    (place / "deep" / "er").mkdir(parents=True)
    for path, uid in (
        (place / "deep" / "ours", 0),
        (place / "deep" / "er" / "bobs", BOB.uid),
        (place / "x", 12_345),
    ):
        path.touch()
        os.chown(path, uid, uid)
    give_directory(str(place), ALICE, 0o700)
    assert owner(place / "deep" / "ours")[0] == owner(place / "deep" / "er" / "bobs")[0] == ALICE.uid
    assert owner(place / "deep" / "er")[0] == owner(place)[0] == ALICE.uid
    assert owner(place / "x")[0] == 12_345


def test_a_directory_is_settled_before_its_next_user_has_it_and_again_if_that_was_cut(folder):
    place, settled = folder / "work", []
    place.mkdir()

    def cut() -> None:
        (place / "seen").touch()
        raise KeyboardInterrupt

    def settle() -> None:
        settled.append(owner(place))

    give_directory(str(place), ALICE, 0o700, settle)  # nobody has worked in it
    give_directory(str(place), ALICE, 0o700, settle)
    with pytest.raises(KeyboardInterrupt):
        give_directory(str(place), BOB, 0o700, cut)
    assert (settled, owner(place / "seen")[0]) == ([], BOB.uid)
    for _ in range(2):
        give_directory(str(place), BOB, 0o700, settle)
    assert settled == [(BOB.uid, 0o300)]
    assert owner(place) == (BOB.uid, 0o700)


def test_a_tree_as_deep_as_it_likes_is_handed_over_and_removed(folder):
    deepest = make_deep(folder / "work", BOB)
    give_directory(str(folder / "work"), ALICE, 0o700)
    found = os.fstat(deepest).st_uid
    os.close(deepest)
    assert remove_tree(folder / "work")
    assert (found, list(folder.iterdir())) == (ALICE.uid, [])


def test_a_tree_is_removed_with_nothing_that_a_link_leads_to_and_says_when_it_is_still_there(folder):
    ours, place = secret(folder), folder / "work"
    (place / "a" / "b").mkdir(parents=True)
    (place / "a" / "file").touch()
    (place / "a" / "symbolic").symlink_to(ours)
    (place / "folder").symlink_to(folder)
    (place / "hard").hardlink_to(ours)
    (folder / "link").symlink_to(place)
    assert not remove_tree(folder / "link")
    assert (place / "a" / "b").is_dir()
    assert [remove_tree(place), remove_tree(folder / "missing")] == [True, True]
    assert {entry.name for entry in folder.iterdir()} == {"secret", "link"}
    assert ours.read_text() == "of root"


def test_a_directory_that_is_moved_while_its_tree_is_handed_over_leads_nowhere_else(folder, monkeypatch):
    """Up again from where it is now, we would give away what is not in the tree."""
    place, elsewhere = folder / "work", folder / "elsewhere"
    (place / "a" / "b").mkdir(parents=True)
    elsewhere.mkdir()
    (elsewhere / "ours").touch()
    chown = os.chown

    def moved(name, *more, **options) -> None:
        chown(name, *more, **options)
        if name == "b":
            (place / "a").rename(elsewhere / "a")

    monkeypatch.setattr(os, "chown", moved)
    with pytest.raises(NotOurs, match="was moved"):
        give_directory(str(place), ALICE, 0o700)
    assert owner(elsewhere / "ours")[0] == owner(elsewhere)[0] == 0
    assert owner(place)[0] == 0


def test_a_link_in_a_tree_that_is_handed_over_gives_nothing_away(folder):
    """A symbolic link to a file of ours, and a second name of one."""
    ours, place = secret(folder), folder / "work"
    place.mkdir()
    os.chown(place, BOB.uid, BOB.gid)
    (place / "symbolic").symlink_to(ours)
    (place / "folder").symlink_to(folder)
    (place / "hard").hardlink_to(ours)
    give_directory(str(place), ALICE, 0o700)
    assert owner(ours) == (0, 0o600)
    assert owner(folder) == (0, 0o755)
    assert owner(place)[0] == ALICE.uid


def test_a_link_in_the_place_of_a_directory_is_refused_and_leads_nowhere(folder):
    (folder / "elsewhere").mkdir()
    (folder / "home").symlink_to(folder / "elsewhere")
    with pytest.raises(NotOurs, match="home is not a directory of ours"):
        give_directory(str(folder / "home"), ALICE, 0o700)
    assert owner(folder / "elsewhere") == (0, 0o755)


@pytest.mark.parametrize("trap", ["a link", "a directory of another"])
def test_what_another_user_put_where_all_may_is_set_aside(folder, trap):
    """A home below /tmp, whose name anybody can guess."""
    folder.chmod(0o1777)
    home = folder / "agent-home-alice"
    if trap == "a link":
        (folder / "elsewhere").mkdir()
        home.symlink_to(folder / "elsewhere")
        os.chown(home, BOB.uid, BOB.gid, follow_symlinks=False)
    else:
        home.mkdir()
        (home / "plugin.js").write_text("bad()")
        os.chown(home, BOB.uid, BOB.gid)
    give_directory(str(home), ALICE, 0o700)
    assert owner(home) == (ALICE.uid, 0o700)
    assert list(home.iterdir()) == []
    assert os.path.lexists(f"{home}.aside-1")
    give_directory(str(home), ALICE, 0o700)
    assert not os.path.lexists(f"{home}.aside-2")


def test_a_root_loses_what_would_let_others_exchange_what_is_in_it(folder):
    (folder / "rigs").mkdir()
    (folder / "rigs").chmod(0o770)
    keep_root(str(folder / "rigs"))
    assert owner(folder / "rigs") == (0, 0o751)
    folder.chmod(0o777)
    with pytest.raises(NotOurs, match=f"{folder} can be changed by other users.*chmod go-w"):
        keep_root(str(folder / "rigs"))
    folder.chmod(0o1777)
    check_path(str(folder / "rigs"))
    keep_root(str(folder))
    assert owner(folder) == (0, 0o1777)
    folder.chmod(0o700)
    with pytest.raises(NotOurs, match="cannot be passed through"):
        check_path(str(folder / "rigs"))


def test_a_place_for_temporary_files_stays_one_and_becomes_one_where_nobody_renames_what_is_another_s(
    folder, monkeypatch
):
    """As a volume is mounted: writable for all, and nothing else said."""
    monkeypatch.setattr("tempfile.tempdir", str(folder))
    folder.chmod(0o777)
    keep_root(str(folder))
    assert owner(folder) == (0, 0o1777)


async def test_instructions_are_written_through_no_link_and_wait_for_no_pipe(folder):
    ours, work = secret(folder), folder / "work"
    give_directory(str(work), ALICE, 0o700)
    (work / "AGENTS.md").symlink_to(ours)
    (work / ".AGENTS.md.new").symlink_to(ours)
    await write_agents_md(str(work), "text", ALICE)
    assert ours.read_text() == "of root"
    assert ((work / "AGENTS.md").read_text(), owner(work / "AGENTS.md")[0]) == ("text", ALICE.uid)
    (work / "AGENTS.md").unlink()
    os.mkfifo(work / "AGENTS.md")
    with trio.fail_after(5):
        await write_agents_md(str(work), "text", ALICE)
    assert (work / "AGENTS.md").read_text() == "text"


async def test_a_worktree_that_is_a_link_to_another_agent_s_is_written_as_who_made_it(folder):
    give_directory(str(folder / "alice"), ALICE, 0o700)
    give_directory(str(folder / "bob"), BOB, 0o700)
    (folder / "alice" / "work").symlink_to(folder / "bob")
    with pytest.raises(GitError):
        await write_agents_md(str(folder / "alice" / "work"), "text", ALICE)
    assert list((folder / "bob").iterdir()) == []


def test_a_small_file_is_read_and_nothing_else_is(folder):
    (folder / "plain").write_text("text")
    (folder / "link").symlink_to("plain")
    os.mkfifo(folder / "pipe")
    assert read_small(folder / "plain") == "text"
    assert [read_small(folder / name) for name in ("link", "pipe", "missing", ".")] == [None] * 4


def test_a_file_is_written_whole_and_through_no_link(folder):
    ours = secret(folder)
    (folder / "context.json").symlink_to(ours)
    write_whole(folder / "context.json", "[]", 0o600)
    assert (ours.read_text(), (folder / "context.json").read_text()) == ("of root", "[]")
    assert owner(folder / "context.json") == (0, 0o600)
    assert {entry.name for entry in folder.iterdir()} == {"secret", "context.json"}


def test_a_keeper_s_files_can_be_read_by_the_agents_and_written_by_none(folder):
    give_directory(str(folder / "repo"), KEEPER, 0o750)
    as_user(KEEPER, (folder / "repo" / "x").write_text, "x")
    assert as_user(ALICE, (folder / "repo" / "x").read_text) == "x"
    with pytest.raises(PermissionError):
        as_user(ALICE, (folder / "repo" / "y").write_text, "y")
