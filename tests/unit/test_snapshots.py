"""Conversations at the worker: what is uploaded, and what never is."""

from __future__ import annotations

import errno
import sqlite3
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, closing
from dataclasses import dataclass
from pathlib import Path

import pytest
import trio

from gastown.contract.secret import Secret
from gastown.testing.network import open_network
from gastown.testing.worker import FakeWorker
from gastown.worker.client import WorkerClient
from gastown.worker.no_worker import NoWorker
from gastown.worker.snapshots.database import database_path
from gastown.worker.snapshots.store import KeptApart, NotSaved, Snapshots
from gastown.worker.tokens import Credentials, LiveCredentials

pytestmark = [pytest.mark.virtual_time, pytest.mark.usefixtures("inline")]

AGENT = ("rig-1", "pole-1")
GET, POST = "GET /db-snapshot", "POST /db-snapshot"


@dataclass
class Room:
    home: str
    worker: FakeWorker
    snapshots: Snapshots
    credentials: LiveCredentials

    @property
    def path(self) -> Path:
        return database_path(self.home)

    def query(self, *words: str) -> None:
        """What kilo does: open its database, or make one, and write to it."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        write(self.path, *words)

    def words(self) -> list[str]:
        return read(self.path)

    def stored(self) -> list[str]:
        """The conversation at the worker."""
        copy = Path(self.home) / "stored.db"
        copy.write_bytes(self.worker.snapshots[AGENT])
        return read(copy)

    def store(self, *words: str) -> None:
        """Let the worker have a conversation."""
        path = Path(self.home) / "elsewhere.db"
        path.parent.mkdir(parents=True, exist_ok=True)
        write(path, *words)
        self.worker.snapshots[AGENT] = path.read_bytes()

    async def save(self) -> bool:
        return await self.snapshots.save(self.home, *AGENT)

    async def restore(self, *, unused: bool = True) -> str:
        return await self.snapshots.restore(self.home, *AGENT, unused=unused)


def write(path: Path, *words: str) -> None:
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("CREATE TABLE IF NOT EXISTS message (word TEXT)")
        connection.executemany("INSERT INTO message VALUES (?)", [(word,) for word in words])


def read(path: Path) -> list[str]:
    with closing(sqlite3.connect(path)) as connection:
        return [word for (word,) in connection.execute("SELECT word FROM message")]


@asynccontextmanager
async def room(folder: Path, limit: int = 64 * 1024 * 1024) -> AsyncIterator[Room]:
    async with open_network() as network:
        worker = FakeWorker(network)
        credentials = LiveCredentials(Credentials(container_token=Secret("first")))
        client = WorkerClient(network.client(), worker.url, "oak", credentials)
        yield Room(str(folder / "home"), worker, Snapshots(client, limit), credentials)


async def test_a_saved_conversation_is_restored_in_a_fresh_home(tmp_path: Path) -> None:
    async with room(tmp_path) as here:
        here.query("heron")
        assert await here.save()
        here.home = str(tmp_path / "another")
        assert (await here.restore(), here.words()) == ("restored", ["heron"])


async def test_a_snapshot_is_sent_as_bytes_with_the_token_of_that_moment(tmp_path: Path) -> None:
    async with room(tmp_path) as here:
        here.query("heron")
        await here.save()
        here.credentials.replace_token(Secret("second"))
        await here.save()
        calls = here.worker.asked(POST)
        assert [call.bearer for call in calls] == ["first", "second"]
        assert {call.headers["content-type"] for call in calls} == {"application/octet-stream"}
        assert calls[0].headers["x-gastown-agent-id"] == "pole-1"


async def test_a_refused_token_is_refreshed_and_the_snapshot_sent_again(tmp_path: Path) -> None:
    async with room(tmp_path) as here:
        here.worker.expired.add("first")
        here.query("heron")
        await here.save()
        assert here.stored() == ["heron"]


async def test_where_kilo_has_written_nothing_there_is_nothing_to_save(tmp_path: Path) -> None:
    async with room(tmp_path) as here:
        await here.restore()
        assert (await here.save(), here.worker.snapshots) == (False, {})


async def test_without_a_worker_nothing_is_saved_and_nothing_fails(tmp_path: Path) -> None:
    alone = Snapshots(NoWorker(), 5000)
    home = str(tmp_path)
    assert await alone.restore(home, *AGENT) == "fresh"
    write(database_path(home), "heron")
    assert await alone.save(home, *AGENT) is False
    assert await alone.restore(home, *AGENT) == "local"


@pytest.mark.parametrize("content", [b"SQLite format 3\x00 and no more", b"never was one" * 1000])
async def test_a_damaged_conversation_never_replaces_a_good_one(tmp_path: Path, content: bytes) -> None:
    async with room(tmp_path) as here:
        here.query("heron")
        await here.save()
        here.path.write_bytes(content)
        with pytest.raises(NotSaved) as failure:
            await here.save()
        assert (failure.value.transient, here.stored()) == (False, ["heron"])


async def test_a_conversation_that_is_too_big_is_not_sent_and_says_how_big_it_is(tmp_path: Path) -> None:
    async with room(tmp_path, limit=5000) as here:
        here.query("heron" * 1000)
        with pytest.raises(NotSaved, match=r"\d+ bytes, more than the 5000"):
            await here.save()
        assert here.worker.asked(POST) == []


@pytest.mark.parametrize("fault", ["down", "503", "deaf"])
async def test_a_worker_that_is_away_may_be_asked_again(tmp_path: Path, fault: str) -> None:
    async with room(tmp_path) as here:
        here.query("heron")
        if fault == "down":
            here.worker.down()
        elif fault == "503":
            here.worker.statuses[POST] = 503
        else:
            here.worker.delays[POST] = float("inf")
        with pytest.raises(NotSaved) as failure:
            await here.save()
        assert (failure.value.transient, trio.current_time() <= 60) == (True, True)


async def test_a_worker_that_will_not_take_it_is_not_asked_again(tmp_path: Path) -> None:
    async with room(tmp_path) as here:
        here.query("heron")
        here.worker.statuses[POST] = 413
        with pytest.raises(NotSaved, match="answered 413") as failure:
            await here.save()
        assert not failure.value.transient


async def test_a_conversation_that_began_unasked_is_uploaded_once_there_is_none_stored(tmp_path: Path) -> None:
    async with room(tmp_path) as here:
        here.worker.statuses[GET] = 503
        assert await here.restore() == "unavailable"
        here.query("new")
        with pytest.raises(NotSaved) as failure:
            await here.save()
        assert (failure.value.transient, here.worker.asked(POST)) == (True, [])
        here.worker.statuses.clear()
        assert await here.save()
        assert here.stored() == ["new"]
        assert not await here.snapshots.is_unsettled(here.home)


async def test_a_conversation_that_began_unasked_is_never_uploaded_over_a_stored_one(tmp_path: Path) -> None:
    async with room(tmp_path) as here:
        here.store("old")
        here.worker.down()
        assert await here.restore() == "unavailable"
        here.query("new")
        here.worker.up()
        for _ in range(2):
            with pytest.raises(KeptApart):
                await here.save()
        assert (here.stored(), here.words()) == (["old"], ["new"])
        assert len(here.worker.asked(GET)) == 1


async def test_the_doubt_survives_the_container(tmp_path: Path) -> None:
    async with room(tmp_path) as here:
        here.store("old")
        here.worker.statuses[GET] = 503
        await here.restore()
        here.query("new")
    async with room(tmp_path) as here:
        here.store("old")
        with pytest.raises(KeptApart):
            await here.save()


async def test_at_the_next_start_the_stored_conversation_goes_on_and_the_other_is_kept(tmp_path: Path) -> None:
    async with room(tmp_path) as here:
        here.store("old")
        here.worker.down()
        await here.restore()
        here.query("new")
        here.worker.up()
        assert (await here.restore(), here.words()) == ("restored", ["old"])
        assert read(here.path.with_name("kilo.db.apart-1")) == ["new"]
        here.query("older")
        assert await here.save()
        assert here.stored() == ["old", "older"]


async def test_a_home_that_a_server_may_have_open_is_left_as_it_is(tmp_path: Path) -> None:
    async with room(tmp_path) as here:
        here.store("old")
        here.worker.down()
        await here.restore()
        here.query("new")
        here.worker.up()
        assert (await here.restore(unused=False), here.words()) == ("unavailable", ["new"])


async def test_when_the_next_start_learns_that_there_is_none_the_local_one_is_the_agents(tmp_path: Path) -> None:
    async with room(tmp_path) as here:
        here.worker.down()
        await here.restore()
        here.query("new")
        here.worker.up()
        assert (await here.restore(), await here.restore()) == ("local", "local")
        assert len(here.worker.asked(GET)) == 1


async def test_a_start_that_is_cut_while_it_asks_leaves_the_doubt(tmp_path: Path) -> None:
    async with room(tmp_path) as here:
        here.worker.delays[GET] = 5
        with trio.move_on_after(1):
            await here.restore()
        assert await here.snapshots.is_unsettled(here.home)


async def test_a_database_that_kilo_rejects_does_not_cost_a_stored_one_that_nobody_has_seen(
    tmp_path: Path,
) -> None:
    async with room(tmp_path) as here:
        here.store("old")
        here.worker.down()
        await here.restore()
        here.query("new")
        here.worker.up()
        await here.snapshots.reject(here.home, *AGENT)
        assert (here.path.exists(), here.stored()) == (False, ["old"])


async def test_a_database_that_appears_during_the_download_is_not_replaced(tmp_path: Path) -> None:
    async with room(tmp_path) as here:
        here.store("old")
        here.worker.delays[GET] = 5
        async with trio.open_nursery() as nursery:
            outcomes: list[str] = []

            async def restore() -> None:
                outcomes.append(await here.restore(unused=False))

            nursery.start_soon(restore)
            await trio.sleep(1)
            here.query("new")
        assert (here.words(), here.stored()) == (["new"], ["old"])
        with pytest.raises(KeptApart):
            await here.save()


async def test_a_disk_that_fails_is_a_reason_and_no_crash(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with room(tmp_path) as here:
        here.query("heron")

        def full(*_: object) -> None:
            raise OSError(errno.ENOSPC, "No space left on device")

        monkeypatch.setattr("gastown.worker.snapshots.database.copy", full)
        with pytest.raises(NotSaved, match="No space left on device"):
            await here.save()
