"""Telling the worker which agents a next container must bring back."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import pytest
import trio

from gastown.contract.secret import Secret
from gastown.contract.worker import RegistryEntry
from gastown.testing.network import MemoryNetwork, open_network
from gastown.testing.town import TOWN, start_request
from gastown.testing.worker import FakeWorker
from gastown.worker.client import WorkerClient
from gastown.worker.registry import RegistryWriter, open_registry_writer
from gastown.worker.tokens import Credentials, LiveCredentials

pytestmark = pytest.mark.virtual_time

READ, WRITE = "GET /container-registry", "POST /container-registry"


def stored(*names: str) -> list[dict[str, Any]]:
    return [
        {"agentId": name, "request": start_request(name), "workdir": f"/w/{name}", "env": {}} for name in names
    ]


@dataclass
class Desk:
    """A writer, the state that it writes, and the worker that it writes to."""

    writer: RegistryWriter
    worker: FakeWorker
    names: list[str]

    def change(self, *names: str) -> None:
        self.names[:] = names
        self.writer.changed()

    def written(self) -> list[list[str]]:
        """The agents of every registry that was stored."""
        return [[entry["agentId"] for entry in registry] for registry in self.worker.registries]


@asynccontextmanager
async def open_desk(
    worker: Callable[[MemoryNetwork], FakeWorker] = FakeWorker, *, loaded: bool = True
) -> AsyncIterator[Desk]:
    names: list[str] = []
    async with open_network() as network:
        fake = worker(network)
        client = WorkerClient(
            network.client(), fake.url, TOWN, LiveCredentials(Credentials(container_token=Secret("t")))
        )

        def entries() -> list[RegistryEntry]:
            return [RegistryEntry.model_validate(entry) for entry in stored(*names)]

        async with open_registry_writer(client, entries) as writer:
            if loaded:
                writer.loaded()
            yield Desk(writer, fake, names)


async def test_a_change_is_written() -> None:
    async with open_desk() as desk:
        desk.change("a")
        await desk.writer.flushed()
        assert desk.written() == [["a"]]
        assert desk.writer.clean


async def test_nothing_is_written_before_something_changes() -> None:
    async with open_desk() as desk:
        await trio.sleep(100)
        assert desk.worker.calls == []


async def test_changes_that_pile_up_during_a_write_become_one_write_of_the_newest_state() -> None:
    async with open_desk() as desk:
        desk.worker.delays[WRITE] = 5
        desk.change("a")
        await trio.sleep(1)
        for names in (("a", "b"), ("a", "b", "c"), ("c",)):
            desk.change(*names)
        await desk.writer.flushed()
        assert desk.written() == [["a"], ["c"]]


async def test_writes_follow_one_another_and_never_overlap() -> None:
    async with open_desk() as desk:
        desk.worker.delays[WRITE] = 3
        for number in range(5):
            desk.change(f"a{number}")
            await trio.sleep(2)
        await desk.writer.flushed()
        began = [call.at for call in desk.worker.asked(WRITE)]
        assert all(after - before >= 3 for before, after in pairwise(began))
        assert desk.written()[-1] == ["a4"]


async def test_a_state_is_never_followed_by_an_older_one_although_writes_fail() -> None:
    async with open_desk() as desk:
        desk.worker.statuses[WRITE] = 503
        desk.change("old")
        await trio.sleep(3)
        desk.change("new")
        del desk.worker.statuses[WRITE]
        await desk.writer.flushed()
        assert desk.written() == [["new"]]


async def test_flushed_waits_for_the_state_of_its_moment() -> None:
    async with open_desk() as desk:
        desk.worker.delays[WRITE] = 4
        desk.change("a")
        await trio.sleep(1)
        desk.change("b")
        await desk.writer.flushed()
        assert (desk.written(), trio.current_time()) == ([["a"], ["b"]], 8)


async def test_flushed_does_not_wait_for_changes_that_come_later() -> None:
    async with open_desk() as desk, trio.open_nursery() as nursery:

        async def keep_changing() -> None:
            for number in range(100):
                desk.change(f"a{number}")
                await trio.sleep(0.5)

        desk.worker.delays[WRITE] = 1
        nursery.start_soon(keep_changing)
        await trio.sleep(0.1)
        await desk.writer.flushed()
        assert trio.current_time() == 1


async def test_flushed_returns_at_once_when_all_is_written() -> None:
    async with open_desk() as desk:
        await desk.writer.flushed()
        assert trio.current_time() == 0


async def test_while_the_worker_is_away_it_is_asked_more_and_more_rarely() -> None:
    async with open_desk() as desk:
        desk.worker.statuses[WRITE] = 503
        desk.change("a")
        await trio.sleep(300)
        began = [call.at for call in desk.worker.asked(WRITE)]
        pauses = [after - before for before, after in pairwise(began)]
        assert pauses[0] <= 0.2
        assert all(5 <= pause <= 10 for pause in pauses[8:])
        assert 25 <= len(pauses) <= 70


async def test_a_worker_that_comes_back_gets_the_newest_state() -> None:
    async with open_desk() as desk:
        desk.worker.down()
        desk.change("a")
        await trio.sleep(60)
        desk.change("b")
        desk.worker.up()
        await desk.writer.flushed()
        assert desk.written() == [["b"]]


async def test_a_worker_that_never_answers_is_left_after_ten_seconds_and_asked_again() -> None:
    async with open_desk() as desk:
        desk.worker.delays[WRITE] = float("inf")
        desk.change("a")
        await trio.sleep(15)
        desk.worker.delays.clear()
        await desk.writer.flushed()
        assert desk.written() == [["a"]]
        assert 20 <= trio.current_time() <= 21


async def test_what_is_stored_is_read_before_the_first_write_of_a_container_that_never_read_it() -> None:
    async with open_desk(loaded=False) as desk:
        desk.worker.registry = stored("last-1", "last-2")
        desk.change("new")
        await desk.writer.flushed()
        assert desk.written() == [["last-1", "last-2", "new"]]


async def test_a_failed_read_wipes_nothing_out() -> None:
    async with open_desk(loaded=False) as desk:
        desk.worker.registry = stored("last")
        desk.worker.statuses[READ] = 500
        desk.change("new")
        await trio.sleep(100)
        assert desk.written() == []
        del desk.worker.statuses[READ]
        await desk.writer.flushed()
        assert desk.written() == [["last", "new"]]


async def test_an_entry_that_was_taken_over_is_not_kept_when_its_agent_has_ended() -> None:
    async with open_desk(loaded=False) as desk:
        desk.worker.registry = stored("last", "other")
        desk.change("last")
        await desk.writer.flushed()
        desk.change()
        await desk.writer.flushed()
        assert desk.written() == [["other", "last"], ["other"]]


async def test_an_empty_town_is_written_as_such() -> None:
    async with open_desk() as desk:
        desk.change("a")
        await desk.writer.flushed()
        desk.change()
        await desk.writer.flushed()
        assert desk.written() == [["a"], []]


async def test_what_was_kept_for_hydration_is_left_out_once_hydration_has_read_it() -> None:
    async with open_desk(loaded=False) as desk:
        desk.worker.registry = stored("stopped-meanwhile")
        desk.change("new")
        await desk.writer.flushed()
        desk.writer.loaded()
        await desk.writer.flushed()
        assert desk.written() == [["stopped-meanwhile", "new"], ["new"]]


async def test_hydration_that_comes_first_while_the_writer_reads_leaves_nothing_to_keep() -> None:
    async with open_desk(loaded=False) as desk:
        desk.worker.registry = stored("stopped-meanwhile")
        desk.worker.delays[READ] = 5
        desk.change("new")
        await trio.sleep(1)
        desk.writer.loaded()
        await desk.writer.flushed()
        assert desk.written() == [["new"]]
