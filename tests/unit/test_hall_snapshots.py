"""Snapshots are files beside the database, and whatever happens a row names a whole one."""

from __future__ import annotations

import errno
import stat
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from pathlib import Path

import pytest
import trio

from gastown.contract.secret import Secret
from gastown.hall.store.database import Store, StoreError, open_store

PLACE = ("oak", "r", "a")


def now() -> datetime:
    return datetime(2030, 5, 1, tzinfo=UTC)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "snapshots"


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[Store]:
    async with open_store(tmp_path / "hall.db", now) as store:
        await store.create_town("oak", name="Oak", jwt_secret=Secret("s3cret"), mayor_agent_id=None)
        yield store


def files(folder: Path) -> list[Path]:
    return list(folder.iterdir())


def contents(folder: Path) -> list[bytes]:
    return sorted(path.read_bytes() for path in files(folder))


def modes(folder: Path) -> list[int]:
    return sorted(stat.S_IMODE(path.stat().st_mode) for path in (folder, *files(folder)))


def size_of_the_database(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.glob("hall.db*"))


async def test_each_agent_has_one_file_that_only_the_owner_can_read(store: Store, folder: Path) -> None:
    for content in (b"one", b"two"):
        await store.save_snapshot(*PLACE, content)
        await store.save_snapshot("oak", "r", "b", content + b" of b")
    assert contents(folder) == [b"two", b"two of b"]
    assert modes(folder) == [0o600, 0o600, 0o700]
    assert await store.delete_snapshot(*PLACE)
    assert contents(folder) == [b"two of b"]


async def test_the_database_does_not_grow_with_a_snapshot(store: Store, tmp_path: Path) -> None:
    await store.save_snapshot(*PLACE, b"x" * 5_000_000)
    assert size_of_the_database(tmp_path) < 1_000_000


async def test_a_full_disk_leaves_the_old_one(store: Store, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    await store.save_snapshot(*PLACE, b"old")

    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(OSError, match="No space left"):
        await store.save_snapshot(*PLACE, b"new")
    assert (contents(folder), await store.snapshot(*PLACE)) == ([b"old"], b"old")


@pytest.mark.parametrize("harm", ["gone", "damaged"])
async def test_a_file_that_is_not_what_was_written_is_no_snapshot(
    store: Store, folder: Path, harm: str, caplog: pytest.LogCaptureFixture
) -> None:
    """The agent begins a new conversation, and the log says why."""
    await store.save_snapshot(*PLACE, b"one")
    (file,) = files(folder)
    if harm == "gone":
        file.unlink()
    else:
        file.write_bytes(b"half of")
    assert await store.snapshot(*PLACE) is None
    assert f"the snapshot of agent a, {file.name}, is missing or damaged" in caplog.text
    await store.save_snapshot(*PLACE, b"two")
    assert await store.snapshot(*PLACE) == b"two"


async def test_what_no_row_names_is_removed_at_the_next_opening(tmp_path: Path, folder: Path) -> None:
    """A file of a process that ended before its row; what others put there stays."""
    async with open_store(tmp_path / "hall.db", now) as store:
        await store.create_town("oak", name="Oak", jwt_secret=Secret("s3cret"), mayor_agent_id=None)
        await store.save_snapshot(*PLACE, b"one")
    for name in ("0" * 32, f"{'1' * 32}.part", "notes.txt"):
        (folder / name).write_bytes(b"x")
    async with open_store(tmp_path / "hall.db", now) as store:
        assert await store.snapshot(*PLACE) == b"one"
    assert contents(folder) == [b"one", b"x"]
    assert (folder / "notes.txt").exists()


async def test_one_that_is_read_while_it_is_replaced_is_whole(store: Store) -> None:
    """The file that a row named may be gone when it is opened: then there is a newer one."""
    sizes = range(1, 40)
    await store.save_snapshot(*PLACE, bytes(1000))

    async def replace() -> None:
        for size in sizes:
            await store.save_snapshot(*PLACE, bytes([size]) * 10_000)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(replace)
        for _ in sizes:
            found = await store.snapshot(*PLACE)
            assert found is not None
            assert len(set(found)) == 1


async def test_a_folder_that_cannot_be_read_is_refused_in_one_sentence(tmp_path: Path, folder: Path) -> None:
    async with open_store(tmp_path / "hall.db", now):
        pass
    await trio.Path(folder / ("0" * 32)).mkdir(parents=True)
    with pytest.raises(StoreError, match="cannot use the snapshots beside"):
        async with open_store(tmp_path / "hall.db", now):
            pass
