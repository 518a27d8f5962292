"""The hall's memory on a real SQLite file."""

from __future__ import annotations

import sqlite3
import stat
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from pathlib import Path

import pytest
import trio
import trio.testing
from sqlalchemy.exc import IntegrityError

from gastown.contract.secret import Secret
from gastown.contract.town import GitAuth
from gastown.hall.domain.town import RigRecord
from gastown.hall.store.database import MOST_EVENTS, Store, StoreError, open_store

NOTES = "these are my notes\n" * 100
NOW = datetime(2030, 5, 1, 12, 0, tzinfo=UTC)


def now() -> datetime:
    return NOW


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "town" / "hall.db"


@pytest.fixture
def notes(tmp_path: Path) -> Path:
    """A file that is something else."""
    path = tmp_path / "notes.txt"
    path.write_text(NOTES)
    return path


@pytest.fixture
async def store(path: Path) -> AsyncIterator[Store]:
    async with open_store(path, now) as store:
        await store.create_town("oak", name="Oak", jwt_secret=Secret("s3cret"), mayor_agent_id="mayor-1")
        yield store


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


async def test_only_the_owner_can_read_the_files(store: Store, path: Path) -> None:
    assert mode(path.parent) == 0o700
    assert {mode(file) for file in path.parent.iterdir()} == {0o600}
    assert {file.name for file in path.parent.iterdir()} >= {"hall.db", "hall.db-wal"}


async def test_a_town_is_there_again_after_closing(path: Path) -> None:
    async with open_store(path, now) as store:
        assert await store.create_town("oak", name="Oak", jwt_secret=Secret("one"), mayor_agent_id="mayor-1")
    async with open_store(path, now) as store:
        assert not await store.create_town("oak", name="New", jwt_secret=Secret("two"), mayor_agent_id="mayor-2")
        town = await store.town("oak")
        assert town is not None
        assert (town.name, town.mayor_agent_id) == ("Oak", "mayor-1")
        assert await store.jwt_secret("oak") == Secret("one")


async def test_an_unknown_town_is_none(store: Store) -> None:
    assert await store.town("elm") is None
    assert await store.jwt_secret("elm") is None


async def test_changed_settings_come_back_as_they_were_given(store: Store) -> None:
    await store.change_town(
        "oak",
        {
            "kilocode_token": Secret("token"),
            "organization_id": None,
            "role_models": {"mayor": "m"},
            "git_auth": GitAuth(github_token=Secret("gh")),
            "disable_ai_coauthor": True,
            "env_vars": {"A": Secret("ü")},
        },
    )
    town = await store.town("oak")
    assert town is not None
    assert (town.kilocode_token, town.organization_id, town.disable_ai_coauthor) == (Secret("token"), None, True)
    assert (town.role_models, town.env_vars) == ({"mayor": "m"}, {"A": Secret("ü")})
    assert town.git_auth == GitAuth(github_token=Secret("gh"))


async def test_a_setting_that_no_town_has_is_refused(store: Store) -> None:
    with pytest.raises(ValueError, match="jwt_secret"):
        await store.change_town("oak", {"jwt_secret": "mine"})  # type: ignore[typeddict-unknown-key]


async def test_rigs_come_with_the_town_in_order_of_their_names(store: Store) -> None:
    second = RigRecord(rig_id="b", git_url="https://x.test/b.git", default_branch="main")
    first = RigRecord(rig_id="a", git_url="https://x.test/a.git", default_branch="dev", model="rig/model")
    for rig in (second, first, first):
        await store.save_rig("oak", rig)
    town = await store.town("oak")
    assert town is not None
    assert town.rigs == (first, second)


async def test_a_rig_needs_its_town(store: Store) -> None:
    with pytest.raises(IntegrityError):
        await store.save_rig("elm", RigRecord(rig_id="a", git_url="https://x.test/a", default_branch="main"))


async def test_the_registry_is_replaced_whole(store: Store) -> None:
    assert await store.registry("oak") == []
    await store.replace_registry("oak", [{"agentId": "a"}, {"agentId": "b"}])
    await store.replace_registry("oak", [{"agentId": "c", "new": "\ud800"}])
    assert await store.registry("oak") == [{"agentId": "c", "new": "\ud800"}]


async def test_registries_written_at_once_leave_the_last_one_that_came(store: Store) -> None:
    async with trio.open_nursery() as nursery:
        for number in range(20):
            nursery.start_soon(store.replace_registry, "oak", [number])
            await trio.testing.wait_all_tasks_blocked()
    assert await store.registry("oak") == [19]


async def test_a_snapshot_is_kept_replaced_and_forgotten(store: Store) -> None:
    assert await store.snapshot("oak", "r", "a") is None
    await store.save_snapshot("oak", "r", "a", b"one")
    await store.save_snapshot("oak", "r", "a", b"two\x00")
    await store.save_snapshot("oak", "r", "b", b"other")
    assert await store.snapshot("oak", "r", "a") == b"two\x00"
    assert await store.delete_snapshot("oak", "r", "a")
    assert not await store.delete_snapshot("oak", "r", "a")
    assert await store.snapshot("oak", "r", "a") is None
    assert await store.snapshot("oak", "r", "b") == b"other"


async def test_events_are_read_from_where_one_left_off(store: Store) -> None:
    assert await store.last_event_id("oak") == 0
    for name in ("one", "two", "three"):
        await store.add_event("oak", name, {"event": name})
    first, *rest = await store.events("oak")
    assert first.body == {"event": "one"}
    assert [event.event for event in rest] == ["two", "three"]
    assert await store.events("oak", after=first.id) == rest
    assert await store.last_event_id("oak") == rest[-1].id


async def test_only_the_newest_events_of_a_town_are_kept(store: Store, path: Path) -> None:
    await store.create_town("elm", name="Elm", jwt_secret=Secret("x"), mayor_agent_id=None)
    await store.add_event("elm", "kept", {})
    with sqlite3.connect(path) as connection:
        connection.executemany(
            "INSERT INTO container_events (town_id, received_at, event, body) VALUES ('oak', '', ?, '{}')",
            [(str(number),) for number in range(MOST_EVENTS)],
        )
    connection.close()
    await store.add_event("oak", "newest", {})
    events = await store.events("oak")
    assert (len(events), events[0].event, events[-1].event) == (MOST_EVENTS, "1", "newest")
    assert len(await store.events("elm")) == 1


async def test_cancelling_waits_for_the_statement_that_runs(store: Store) -> None:
    with trio.CancelScope() as scope:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(store.save_snapshot, "oak", "r", "a", b"x" * 1_000_000)
            nursery.start_soon(store.replace_registry, "oak", ["waits"])
            await trio.lowlevel.checkpoint()
            scope.cancel()
    assert await store.snapshot("oak", "r", "a") in (None, b"x" * 1_000_000)
    await store.replace_registry("oak", ["after"])
    assert await store.registry("oak") == ["after"]


async def test_a_database_that_others_could_read_is_its_owners_after_opening(path: Path) -> None:
    """The mode of a file that was there before is set right, too."""
    await trio.Path(path.parent).mkdir(parents=True, exist_ok=True)
    await trio.Path(path).touch()
    await trio.Path(path).chmod(0o644)
    async with open_store(path, now):
        assert stat.S_IMODE((await trio.Path(path).stat()).st_mode) == 0o600


async def test_a_file_that_is_no_database_is_refused_and_left_as_it_is(notes: Path) -> None:
    with pytest.raises(StoreError, match="as a database"):
        async with open_store(notes, now):
            pass
    assert await trio.Path(notes).read_text() == NOTES


async def test_a_place_that_cannot_be_written_is_refused(notes: Path) -> None:
    with pytest.raises(StoreError, match="cannot write"):
        async with open_store(notes / "hall.db", now):
            pass
