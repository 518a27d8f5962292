"""Conversations in homes of users below us: all that is done there is done with their rights."""

from __future__ import annotations

import os
import shutil
import sqlite3
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, closing
from pathlib import Path

import pytest
import trio

from gastown.boot.accounts import find_python
from gastown.contract.secret import Secret
from gastown.isolation.agent_users import prepare_home
from gastown.isolation.users import as_user
from gastown.testing.network import open_network
from gastown.testing.users import ALICE, BOB, KEEPER, needs_root, open_folder
from gastown.testing.worker import FakeWorker
from gastown.worker.client import WorkerClient
from gastown.worker.snapshots import store as snapshots
from gastown.worker.snapshots.database import database_path
from gastown.worker.snapshots.database_work import DatabaseWork
from gastown.worker.snapshots.store import NotSaved, Snapshots
from gastown.worker.tokens import Credentials, LiveCredentials

pytestmark = needs_root
AGENT = ("rig-1", "pole-1")


class Home:
    """Alice's home and a worker."""

    def __init__(self, folder: Path, worker: FakeWorker, client: WorkerClient, work: DatabaseWork) -> None:
        self.folder = folder
        self.home = str(folder / "alice")
        self.worker = worker
        self.client = client
        self.snapshots = Snapshots(client, 1024 * 1024, work)
        self.work = work

    def works_as(self, script: str) -> None:
        """Let a script stand in the place of the Python that works on the database."""
        python = self.folder / "python"
        python.write_text(f"#!/bin/sh\n{script}\n")
        python.chmod(0o755)
        self.snapshots = Snapshots(self.client, 1024 * 1024, DatabaseWork(str(python)))

    @property
    def path(self) -> Path:
        return database_path(self.home)

    async def save(self) -> bool:
        return await self.snapshots.save(self.home, *AGENT, ALICE)

    async def restore(self) -> str:
        return await self.snapshots.restore(self.home, *AGENT, unused=True, user=ALICE)


def converse(path: Path, word: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute("CREATE TABLE IF NOT EXISTS message (word TEXT)")
        connection.execute("INSERT INTO message VALUES (?)", (word,))


def words(content: bytes, folder: Path) -> list[str]:
    copy = folder / "copy.db"
    copy.write_bytes(content)
    with closing(sqlite3.connect(copy)) as connection:
        return [word for (word,) in connection.execute("SELECT word FROM message")]


@asynccontextmanager
async def open_home() -> AsyncIterator[Home]:
    with open_folder() as folder:
        await prepare_home(str(folder / "alice"), ALICE)
        await prepare_home(str(folder / "bob"), BOB)
        work = DatabaseWork(find_python(str(KEEPER.uid), os.environ["PATH"]))
        async with open_network() as network:
            worker = FakeWorker(network)
            credentials = LiveCredentials(Credentials(container_token=Secret("t")))
            client = WorkerClient(network.client(), "http://worker", "oak", credentials)
            with trio.fail_after(60):  # noqa: ASYNC100 - the test is inside
                yield Home(folder, worker, client, work)


def owners(folder: Path) -> set[int]:
    return {path.lstat().st_uid for path in (folder, *folder.rglob("*"))}


async def test_a_conversation_is_saved_and_comes_back_as_its_agent_s() -> None:
    async with open_home() as home:
        assert await home.restore() == "fresh"
        as_user(ALICE, converse, home.path, "hello")
        assert await home.save()
        assert words(home.worker.snapshots[AGENT], home.folder) == ["hello"]
        shutil.rmtree(home.path.parent)
        assert await home.restore() == "restored"
        assert await home.restore() == "local"
        assert owners(Path(home.home)) == {ALICE.uid}
        assert words(home.path.read_bytes(), home.folder) == ["hello"]


async def test_a_link_to_another_agent_s_conversation_saves_nothing_of_it() -> None:
    async with open_home() as home:
        theirs = database_path(str(home.folder / "bob"))
        as_user(BOB, converse, theirs, "of bob")
        as_user(ALICE, home.path.parent.mkdir, 0o777, True)
        home.path.symlink_to(theirs)
        before = theirs.read_bytes()
        with pytest.raises(NotSaved, match="Permission denied"):
            await home.save()
        home.worker.snapshots[AGENT] = before
        await home.restore()
        assert theirs.read_bytes() == before
        assert owners(home.folder / "bob") == {BOB.uid}


async def test_a_home_that_leads_out_of_itself_gets_nothing_written_elsewhere() -> None:
    async with open_home() as home:
        (home.folder / "ours").mkdir()
        (Path(home.home) / ".local").symlink_to(home.folder / "ours")
        with pytest.raises(PermissionError):
            await home.restore()
        assert list((home.folder / "ours").iterdir()) == []


async def test_a_pipe_in_the_database_s_place_keeps_nobody_waiting_for_ever() -> None:
    async with open_home() as home:
        as_user(ALICE, home.path.parent.mkdir, 0o777, True)
        os.mkfifo(home.path)
        os.chown(home.path, ALICE.uid, ALICE.gid)
        with trio.move_on_after(1) as patience:
            await home.work.copy(ALICE, home.path, 1024)
        assert patience.cancelled_caught or not patience.cancel_called


async def test_a_broken_or_a_too_large_conversation_is_not_sent_and_says_why() -> None:
    async with open_home() as home:
        as_user(ALICE, converse, home.path, "x" * 2_000_000)
        with pytest.raises(NotSaved, match="more than the 1048576 that may be sent"):
            await home.save()
        as_user(ALICE, home.path.write_bytes, b"no database at all" * 1000)
        assert not await home.work.is_sound(ALICE, home.path)
        assert await home.restore() == "fresh"
        assert [path.name for path in home.path.parent.glob("*.broken-1")] == ["kilo.db.broken-1"]


async def test_a_process_that_says_more_than_it_may_is_ended(tmp_path: Path) -> None:
    """It is the agent's: whoever may trace it has the say over what it says."""
    with open_folder() as folder:
        babbler = folder / "python"
        babbler.write_text("#!/bin/sh\nexec yes\n")
        babbler.chmod(0o755)
        with trio.fail_after(20), pytest.raises(OSError, match="without an answer"):
            await DatabaseWork(str(babbler)).copy(ALICE, tmp_path / "kilo.db", 100_000)


def _said_of(ending: str) -> str:
    return {"exit 1": "without an answer", "kill -9 $$": "ended by signal 9"}.get(ending, "No space left")


@pytest.mark.parametrize("ending", ["exit 1", "kill -9 $$", "echo No space left; exit 12"])
async def test_a_process_that_fails_says_nothing_of_a_conversation_and_none_is_lost(ending: str) -> None:
    async with open_home() as home:
        as_user(ALICE, converse, home.path, "kept")
        assert await home.save()
        stored = dict(home.worker.snapshots)
        home.works_as(ending)
        with pytest.raises(OSError, match=_said_of(ending)):
            await home.restore()
        assert home.path.exists()
        as_user(ALICE, home.path.unlink)
        with pytest.raises(OSError, match=_said_of(ending)):
            await home.restore()
        assert home.worker.snapshots == stored


async def test_a_full_disk_costs_neither_the_conversation_at_home_nor_the_stored_one() -> None:
    async with open_home() as home:
        as_user(ALICE, converse, home.path, "kept")
        assert await home.save()
        stored = dict(home.worker.snapshots)
        home.works_as(f'ulimit -f 16; exec {home.work.python} "$@"')
        for _ in range(2):  # with the local one, and without it
            with pytest.raises(OSError, match="cannot be checked"):
                await home.restore()
            assert home.worker.snapshots == stored
            assert [path.name for path in home.path.parent.glob("*.broken*")] == []
            home.path.unlink(missing_ok=True)


async def test_work_whose_process_cannot_be_started_is_work_that_failed() -> None:
    async with open_home() as home:
        as_user(ALICE, converse, home.path, "kept")
        home.snapshots = Snapshots(home.client, 1024 * 1024, DatabaseWork("/nowhere/python"))
        with pytest.raises(FileNotFoundError):
            await home.restore()
        with pytest.raises(NotSaved, match="nowhere"):
            await home.save()
        over = home.snapshots.operations.over.values
        assert {labels for labels, times in over.items() if times} == {("restore", "failed"), ("save", "failed")}
        assert home.path.exists()


@pytest.mark.parametrize(("ending", "transient"), [("kill -9 $$", True), ("exit 1", False), ("yes", False)])
async def test_a_save_that_somebody_s_signal_has_cut_off_may_be_tried_again(ending: str, transient: bool) -> None:
    async with open_home() as home:
        as_user(ALICE, converse, home.path, "kept")
        home.works_as(ending)
        with pytest.raises(NotSaved) as failure:
            await home.save()
        assert failure.value.transient == transient


async def test_agents_that_stop_their_copies_keep_the_others_waiting_for_a_time_only(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(snapshots, "_COPY_SECONDS", 0.1)
    monkeypatch.setattr(snapshots, "_COPIES", 1)
    async with open_home() as home:
        as_user(ALICE, converse, home.path, "kept")
        home.works_as(f'case $0:$* in *alice*) kill -STOP $$;; esac; exec {home.work.python} "$@"')
        as_user(BOB, converse, database_path(str(home.folder / "bob")), "of bob")
        with pytest.raises(NotSaved, match="no copy of the database in") as failure:
            await home.save()
        assert failure.value.transient
        monkeypatch.setattr(snapshots, "_COPY_SECONDS", 60)
        assert await home.snapshots.save(str(home.folder / "bob"), "rig-1", "pole-2", BOB)
