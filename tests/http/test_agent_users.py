"""A town whose agents are users of their own. No kilo and no git, but real files, and root as control server."""

from __future__ import annotations

import sqlite3
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, closing
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import trio

from gastown.isolation import users as module
from gastown.isolation.agent_users import AgentUsers
from gastown.testing.town import FakeTown, open_fake_town
from gastown.testing.users import UIDS, needs_root, open_folder, users
from gastown.worker.snapshots.database import database_path
from gastown.worker.snapshots.database_work import DatabaseWork

pytestmark = [needs_root, pytest.mark.virtual_time, pytest.mark.usefixtures("inline")]


@pytest.fixture(autouse=True)
def ended(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The users whose processes were ended: under a clock that jumps no process is waited for."""
    uids: list[int] = []

    async def end(user: Any) -> tuple[int, ...]:
        uids.append(user.uid)
        return ()

    monkeypatch.setattr("gastown.isolation.agent_users.end_processes_of", end)
    # The threads' work is done in place here: a guise would be the test's own.
    monkeypatch.setattr(module, "as_user", lambda user, call, *arguments: call(*arguments))
    for verb in ("is_sound", "copy", "unpack"):
        monkeypatch.setattr(DatabaseWork, verb, partial(_in_thread, getattr(DatabaseWork, verb)))
    return uids


def _in_thread(work: Any, _: Any, *arguments: Any) -> Any:
    return work(DatabaseWork(), None, *arguments)


def owner(path: str) -> tuple[int, int]:
    found = Path(path).lstat()
    return found.st_uid, found.st_mode & 0o777


@asynccontextmanager
async def town_of(there: AgentUsers, **options: Any) -> AsyncIterator[FakeTown]:
    with open_folder() as folder:
        async with open_fake_town(folder, users=there, **options) as town:
            yield town


async def test_a_prewarmed_mayor_is_found_by_its_start_as_the_same_user() -> None:
    async with town_of(users()) as town:
        town.mayor_known()
        await town.hydrated()
        assert (await town.start()).status_code == 201
        assert len(town.kilo.spawns) == 1
        spec = town.kilo.spawns[0].spec
        assert spec.user is not None
        assert spec.user.uid == UIDS[0]


async def test_every_agent_has_a_home_and_a_server_of_a_user_of_its_own(ended: list[int]) -> None:
    async with town_of(users()) as town:
        for name in ("pole-1", "pole-2"):
            assert (await town.start(name, role="triage")).status_code == 201
        specs = {name: town.kilo.server(name).spec for name in ("pole-1", "pole-2")}
        assert len({spec.user.uid for spec in specs.values()}) == 2
        for spec in specs.values():
            assert owner(spec.home) == (spec.user.uid, 0o700)
            assert spec.env["HOME"] == spec.home
            assert spec.env["TMPDIR"] == f"{spec.home}/tmp"
            assert f"/{spec.user.uid}/" in spec.env["GASTOWN_GIT_KEY"]
        await town.client.post("/agents/pole-1/stop")
        assert ended == [specs["pole-1"].user.uid] * 2  # before the last save, and after it


async def test_an_agent_whose_processes_cannot_be_ended_in_time_is_saved_and_ends_all_the_same(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def never(user: Any) -> tuple[int, ...]:
        await trio.sleep_forever()

    async with town_of(users()) as town:
        await town.start("pole-1", role="triage")
        with (
            closing(sqlite3.connect(database_path(town.kilo.server("pole-1").spec.home))) as connection,
            connection,
        ):
            connection.execute("CREATE TABLE message (word TEXT)")
        monkeypatch.setattr("gastown.isolation.agent_users.end_processes_of", never)
        await town.client.post("/agents/pole-1/stop")
        assert ("rig-1", "pole-1") in town.worker.snapshots
        assert (await town.status("pole-1"))["status"] == "exited"
        assert (await town.start("pole-1", role="triage")).status_code == 201


async def test_an_agent_keeps_its_user_over_a_restart_of_its_own() -> None:
    async with town_of(users()) as town:
        seen = []
        for _ in range(2):
            await town.start("pole-1", role="triage")
            seen.append(town.kilo.server("pole-1").spec.user)
        await town.client.post("/agents/pole-1/stop")
        await town.start("pole-2", role="triage")
        await town.start("pole-1", role="triage")
        seen.append(town.kilo.server("pole-1").spec.user)
        assert len(set(seen)) == 1


async def test_a_start_that_finds_no_user_left_fails_and_says_so() -> None:
    async with town_of(users(1)) as town:
        answer = await town.start("pole-1", role="triage")
        assert answer.status_code == 500
        assert "no user left" in answer.json()["error"]


async def test_the_dashboard_s_context_is_the_mayor_s_alone() -> None:
    async with town_of(users()) as town:
        await town.start()
        await town.client.post("/dashboard-context", json={"context": "page=beads"})
        file = Path(town.kilo.server("mayor-1").spec.env["GASTOWN_DASHBOARD_FILE"])
        assert "page=beads" in await trio.Path(file).read_text()
        assert owner(str(file.parent)) == (UIDS[0], 0o700)
