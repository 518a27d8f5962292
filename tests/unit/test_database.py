"""kilo's database as a file, on real SQLite."""

from __future__ import annotations

import os
import signal
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest
import trio

from gastown.worker.snapshots import database
from gastown.worker.snapshots.database import FAILED, YES, CannotCopy, copy, install, is_sound, set_aside, unpack
from gastown.worker.snapshots.database_work import DatabaseWork

LIMIT = 64 * 1024 * 1024


@contextmanager
def kilo_like(path: Path) -> Iterator[sqlite3.Connection]:
    """A database as kilo keeps it: with a write-ahead log that is never folded in."""
    with closing(sqlite3.connect(path, isolation_level=None, check_same_thread=False)) as connection:
        connection.execute("PRAGMA journal_mode = wal")
        connection.execute("PRAGMA wal_autocheckpoint = 0")
        connection.execute("CREATE TABLE IF NOT EXISTS part (id INTEGER PRIMARY KEY, text TEXT, twice TEXT)")
        yield connection


def say(connection: sqlite3.Connection, count: int = 100) -> None:
    """Write `count` rows in one transaction."""
    connection.execute("BEGIN IMMEDIATE")
    for number in range(count):
        connection.execute("INSERT INTO part (text, twice) VALUES (?, ?)", (f"t{number}" * 50, f"t{number}" * 100))
    connection.execute("COMMIT")


def rows(content: bytes, folder: Path) -> int:
    """How many rows a copy has, once it has become a file."""
    path = folder / "restored.db"
    draft = unpack(content, path)
    assert draft is not None
    path.unlink(missing_ok=True)
    install(draft, path)
    with closing(sqlite3.connect(path)) as connection:
        return connection.execute("SELECT count(*) FROM part").fetchone()[0]


def test_a_copy_has_what_is_only_in_the_write_ahead_log(tmp_path: Path) -> None:
    with kilo_like(tmp_path / "kilo.db") as kilo:
        say(kilo, 500)
        assert (tmp_path / "kilo.db-wal").stat().st_size > (tmp_path / "kilo.db").stat().st_size
        assert rows(copy(tmp_path / "kilo.db", LIMIT), tmp_path) == 500


def test_a_copy_taken_while_another_connection_writes_holds_whole_transactions(tmp_path: Path) -> None:
    with kilo_like(tmp_path / "kilo.db") as kilo:
        say(kilo)
        over = threading.Event()
        counts = []

        def write() -> None:
            while not over.is_set():
                say(kilo)

        writer = threading.Thread(target=write)
        writer.start()
        try:
            counts = [rows(copy(tmp_path / "kilo.db", LIMIT), tmp_path) for _ in range(20)]
        finally:
            over.set()
            writer.join()
        assert [count % 100 for count in counts] == [0] * 20
        assert counts == sorted(counts)
        assert counts[0] < counts[-1]


def test_a_copy_leaves_out_a_transaction_that_is_not_committed(tmp_path: Path) -> None:
    with kilo_like(tmp_path / "kilo.db") as kilo:
        say(kilo, 7)
        kilo.execute("BEGIN IMMEDIATE")
        kilo.execute("INSERT INTO part (text) VALUES ('half')")
        assert rows(copy(tmp_path / "kilo.db", LIMIT), tmp_path) == 7
        kilo.execute("ROLLBACK")


def test_what_a_killed_writer_has_committed_is_in_the_copy(tmp_path: Path) -> None:
    script = (
        "import sqlite3, sys, time\n"
        "c = sqlite3.connect(sys.argv[1], isolation_level=None)\n"
        "c.execute('PRAGMA journal_mode = wal')\n"
        "c.execute('CREATE TABLE part (id INTEGER PRIMARY KEY, text TEXT)')\n"
        "c.execute('INSERT INTO part (text) VALUES (1)')\n"
        "print('ready', flush=True)\n"
        "time.sleep(600)\n"
    )
    path = tmp_path / "kilo.db"
    with subprocess.Popen([sys.executable, "-c", script, str(path)], stdout=subprocess.PIPE) as writer:
        assert writer.stdout.readline() == b"ready\n"
        os.kill(writer.pid, signal.SIGKILL)
    (tmp_path / "kilo.db-shm").unlink()
    assert rows(copy(path, LIMIT), tmp_path) == 1


def test_there_is_no_copy_of_nothing(tmp_path: Path) -> None:
    (tmp_path / "empty.db").touch()
    assert (copy(tmp_path / "none.db", LIMIT), copy(tmp_path / "empty.db", LIMIT)) == (None, None)


def test_a_database_that_is_too_big_is_not_copied(tmp_path: Path) -> None:
    with kilo_like(tmp_path / "kilo.db") as kilo:
        say(kilo, 500)
        with pytest.raises(CannotCopy, match=r"has \d+ bytes, more than the 100000 that may be sent"):
            copy(tmp_path / "kilo.db", 100_000)


@pytest.mark.parametrize("damage", ["cut", "text", "page"])
def test_a_damaged_database_is_not_copied(tmp_path: Path, damage: str) -> None:
    path = tmp_path / "kilo.db"
    with kilo_like(path) as kilo:
        say(kilo, 2000)
        kilo.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    content = bytearray(path.read_bytes())
    if damage == "cut":
        path.write_bytes(content[: len(content) // 2])
    elif damage == "text":
        path.write_text("this is no database, although it is long enough" * 100)
    else:
        middle = len(content) // 2 // 4096 * 4096
        content[middle : middle + 4096] = os.urandom(4096)
        path.write_bytes(content)
    assert not is_sound(path)
    with pytest.raises(CannotCopy):
        copy(path, LIMIT)


def test_a_copy_needs_no_room_on_the_disk(tmp_path: Path) -> None:
    with kilo_like(tmp_path / "kilo.db") as kilo:
        say(kilo)
        before = {path.name for path in tmp_path.iterdir()}
        assert copy(tmp_path / "kilo.db", LIMIT)
        assert {path.name for path in tmp_path.iterdir()} == before


def test_a_fetched_database_never_replaces_one_that_is_there(tmp_path: Path) -> None:
    path = tmp_path / "kilo.db"
    with kilo_like(tmp_path / "stored.db") as stored:
        say(stored)
        draft = unpack(copy(tmp_path / "stored.db", LIMIT), path)
    path.write_text("what a server has open")
    with pytest.raises(FileExistsError):
        install(draft, path)
    assert (path.read_text(), draft.exists()) == ("what a server has open", False)


def test_a_half_fetched_database_leaves_nothing_behind(tmp_path: Path) -> None:
    with kilo_like(tmp_path / "stored.db") as stored:
        say(stored, 2000)
        content = copy(tmp_path / "stored.db", LIMIT)
    folder = tmp_path / "home"
    folder.mkdir()
    assert unpack(content[: len(content) // 2], folder / "kilo.db") is None
    assert list(folder.iterdir()) == []


def test_a_database_is_set_aside_with_its_log_and_never_over_another_one(tmp_path: Path) -> None:
    names = []
    for _ in range(2):
        for name in ("kilo.db", "kilo.db-wal", "kilo.db-shm"):
            (tmp_path / name).touch()
        names.append(set_aside(tmp_path / "kilo.db", "apart"))
    assert names == ["kilo.db.apart-1", "kilo.db.apart-2"]
    assert len(list(tmp_path.iterdir())) == 6
    assert not (tmp_path / "kilo.db").exists()


def without_room(work: list[str], content: bytes, most_blocks: int) -> subprocess.CompletedProcess[bytes]:
    """Do it as a program that may write no file larger than so many blocks of 512 or 1024 bytes."""
    limited = f'ulimit -f {most_blocks}; exec "$0" -I -S "$@"'
    command = ["/bin/sh", "-c", limited, sys.executable, database.__file__, *work]
    return subprocess.run(command, input=content, capture_output=True, check=False)


def test_of_a_sound_database_on_a_full_disk_nothing_is_known(tmp_path: Path) -> None:
    path = tmp_path / "kilo.db"
    with kilo_like(path) as kilo:
        say(kilo)
    answer = without_room(["sound", str(path)], b"", 0)
    assert (answer.returncode, answer.stdout[:31]) == (FAILED, b"the database cannot be checked:")
    assert without_room(["sound", str(path)], b"", 1024).returncode == YES


def test_of_a_database_that_another_one_has_locked_nothing_is_known(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(database, "_BUSY_SECONDS", 0)
    with kilo_like(tmp_path / "kilo.db") as kilo:
        kilo.execute("PRAGMA locking_mode = exclusive")
        say(kilo)
        with pytest.raises(OSError, match="cannot be checked: database is locked"):
            is_sound(tmp_path / "kilo.db")


def test_a_fetched_database_for_which_there_is_no_room_leaves_nothing_behind(tmp_path: Path) -> None:
    with kilo_like(tmp_path / "stored.db") as stored:
        stored.execute("INSERT INTO part (text) VALUES ('small')")
        content = copy(tmp_path / "stored.db", LIMIT)
    folder = tmp_path / "home"
    folder.mkdir()
    assert len(content) <= 8192
    for most_blocks in (0, 16):  # none for the content; enough for it, and none for SQLite's index of the log
        answer = without_room(["unpack", str(folder / "kilo.db")], content, most_blocks)
        assert answer.returncode == FAILED
        assert answer.stdout
        assert list(folder.iterdir()) == []


async def test_a_check_that_nobody_waits_for_any_more_is_left_to_itself(monkeypatch, tmp_path):
    entered, over, waited = trio.Event(), threading.Event(), []
    token = trio.lowlevel.current_trio_token()

    def check(_: Path) -> bool:
        token.run_sync_soon(entered.set)
        waited.append(over.wait(10))
        return True

    monkeypatch.setattr(database, "is_sound", check)
    try:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(DatabaseWork().is_sound, None, tmp_path / "kilo.db")
            await entered.wait()
            nursery.cancel_scope.cancel()
        assert waited == []
    finally:
        over.set()
