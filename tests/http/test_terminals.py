"""Terminals: opened, found again, resized, looked at by several, and what ends them."""

from __future__ import annotations

from contextlib import AbstractAsyncContextManager, suppress
from typing import Any
from unittest.mock import ANY

import pytest
import trio
from wsproto.utilities import LocalProtocolError

from gastown.testing.kilo.ptys import FakePty
from gastown.testing.sockets import Closed, Socket, open_socket
from gastown.testing.town import FakeTown

pytestmark = pytest.mark.virtual_time


def kilo_ptys(town: FakeTown) -> list[FakePty]:
    return list(town.kilo.server("mayor-1").kilo.ptys.all.values())


async def opened(town: FakeTown) -> tuple[str, FakePty]:
    """The address of a new terminal of a running mayor, and what is behind it."""
    await town.start("mayor-1")
    answer = await town.client.post("/agents/mayor-1/pty")
    assert answer.status_code == 200
    return f"/agents/mayor-1/pty/{answer.json()['id']}", kilo_ptys(town)[0]


def look(town: FakeTown, path: str, query: str = "") -> AbstractAsyncContextManager[Socket]:
    return open_socket(town.client, f"ws://town{path}/connect{query}")


async def test_a_terminal_shows_the_agents_session_in_its_directory(town_on_fakes) -> None:
    async with town_on_fakes() as town:
        await town.start("mayor-1")
        answer = (await town.client.post("/agents/mayor-1/pty")).json()
        status, server = await town.status(), town.kilo.server("mayor-1")
    assert answer == {
        "id": "pty_1",
        "status": "running",
        "title": "kilo attach",
        "command": "/bin/sh",
        "args": ["-c", ANY, "/usr/bin/kilo", "attach", server.endpoint.url, f"--session={status['sessionId']}"],
        "cwd": server.spec.cwd,
        "pid": 4711,
    }


async def test_a_running_terminal_is_used_again_also_by_those_who_ask_at_once(town_on_fakes) -> None:
    async with town_on_fakes() as town:
        await town.start("mayor-1")
        asked = [town.later(lambda: town.client.post("/agents/mayor-1/pty")) for _ in range(5)]
        assert {(await later.result()).json()["id"] for later in asked} == {"pty_1"}
        kilo_ptys(town)[0].end()
        assert (await town.client.post("/agents/mayor-1/pty")).json()["id"] == "pty_2"


async def test_terminals_are_listed_shown_resized_and_removed(town_on_fakes) -> None:
    async with town_on_fakes() as town:
        path, pty = await opened(town)
        size = {"size": {"rows": 40, "cols": 120}}
        assert [p["id"] for p in (await town.client.get("/agents/mayor-1/pty")).json()] == [pty.id]
        assert (await town.client.get(path)).json()["id"] == pty.id
        assert (await town.client.put(path, json=size)).json()["status"] == "running"
        assert pty.size == size["size"]
        removed = await town.client.delete(path)
        assert (removed.status_code, removed.json()) == (200, True)
        assert [(await town.client.request(m, path, json=size)).status_code for m in ("GET", "PUT", "DELETE")] == [
            404,
            404,
            404,
        ]
        assert (await town.client.get(path)).json() == {"error": f"Terminal {pty.id} not found"}
        assert (await town.client.get("/agents/mayor-1/pty")).json() == []


@pytest.mark.parametrize("size", [{"rows": 0, "cols": 80}, {"rows": "many", "cols": 80}, {"rows": 40}, 7])
async def test_a_size_that_is_none_is_a_400(town_on_fakes, size: Any) -> None:
    async with town_on_fakes() as town:
        path, _ = await opened(town)
        answer = await town.client.put(path, json={"size": size})
        assert (answer.status_code, answer.json()["error"]) == (400, "Invalid request body")


async def test_an_agent_that_is_unknown_is_a_404_and_one_that_does_not_run_a_409(town_on_fakes) -> None:
    async with town_on_fakes() as town:
        assert (await town.client.post("/agents/nobody/pty")).status_code == 404
        await town.start("mayor-1")
        await town.client.post("/agents/mayor-1/stop")
        for method, path in (("POST", ""), ("GET", ""), ("GET", "/pty_1"), ("DELETE", "/pty_1")):
            answer = await town.client.request(method, f"/agents/mayor-1/pty{path}")
            assert (answer.status_code, answer.json()["status"]) == (409, "exited")


@pytest.mark.parametrize("name", ["..%2Fsession", "pty%3Fx", "a b", "%00"])
async def test_a_name_that_no_terminal_has_never_reaches_kilo(town_on_fakes, name: str) -> None:
    async with town_on_fakes() as town:
        await opened(town)
        before = len(town.kilo.server("mayor-1").kilo.asked)
        answer = await town.client.get(f"/agents/mayor-1/pty/{name}")
        assert (answer.status_code, len(town.kilo.server("mayor-1").kilo.asked)) == (404, before)


async def test_text_stays_text_and_bytes_stay_bytes_both_ways(town_on_fakes) -> None:
    async with town_on_fakes() as town:
        path, pty = await opened(town)
        async with look(town, path) as viewer:
            assert await viewer.next() == b'\x00{"cursor": 0}'
            for frame in ("häl", b"lo\r", b""):
                await viewer.send(frame)
            pty.show(b"\x00\xfe raw")
            shown = [await viewer.next() for _ in range(4)]
        assert sorted(map(repr, shown)) == sorted(map(repr, ["häl", "lo\r", "", b"\x00\xfe raw"]))
        assert pty.typed == ["häl", b"lo\r", b""]


async def test_several_look_at_one_terminal_and_who_goes_ends_only_its_own_view(town_on_fakes) -> None:
    async with town_on_fakes() as town:
        path, pty = await opened(town)
        async with look(town, path) as one:
            async with look(town, path) as two:
                assert [await one.next(), await two.next()] == [b'\x00{"cursor": 0}'] * 2
                await one.send("hello")
                assert [await one.next(), await two.next()] == ["hello", "hello"]
            await trio.sleep(1)
            assert (len(pty.viewers), pty.ended.is_set()) == (1, False)
            pty.show("still there")
            assert await one.next() == "still there"


@pytest.mark.parametrize(
    ("query", "replay"), [("", ["hello"]), ("?cursor=2", ["llo"]), ("?cursor=-1", []), ("?cursor=x", ["hello"])]
)
async def test_who_comes_again_gets_a_replay(town_on_fakes, query: str, replay: list[str]) -> None:
    async with town_on_fakes() as town:
        path, pty = await opened(town)
        pty.show("hello")
        async with look(town, path, query) as viewer:
            frames = [await viewer.next() for _ in range(len(replay) + 1)]
        assert frames == [*replay, b'\x00{"cursor": 5}']


async def test_what_is_typed_early_waits_for_the_terminal(town_on_fakes) -> None:
    async with town_on_fakes() as town:
        path, pty = await opened(town)
        town.kilo.server("mayor-1").kilo.ptys.slow = 5
        async with look(town, path) as viewer:
            for number in range(50):
                await viewer.send(str(number))
            await trio.sleep(6)
        assert pty.typed == [str(number) for number in range(50)]


async def test_who_types_more_than_may_wait_is_cut_with_1008(town_on_fakes) -> None:
    async with town_on_fakes() as town:
        path, pty = await opened(town)
        town.kilo.server("mayor-1").kilo.ptys.slow = 1000
        async with look(town, path) as viewer:
            with suppress(LocalProtocolError):  # it is closed while it still types
                for _ in range(300):
                    await viewer.send("x")
            assert await viewer.closed() == Closed(1008, "More input than the terminal takes")
        assert pty.typed == []


async def test_the_end_of_a_terminal_closes_its_views_with_1000(town_on_fakes) -> None:
    async with town_on_fakes() as town:
        path, pty = await opened(town)
        async with look(town, path) as one, look(town, path) as two:
            await one.next()
            await two.next()
            pty.end()
            assert [await one.closed(), await two.closed()] == [Closed(1000, "The terminal has ended")] * 2


@pytest.mark.parametrize(
    ("path", "reason"),
    [
        ("/agents/nobody/pty/pty_1", "Agent nobody not found"),
        ("/agents/mayor-1/pty/pty_9", "Terminal pty_9 not found"),
        ("/agents/mayor-1/pty/a b", "Terminal a b not found"),
    ],
)
async def test_what_is_not_there_closes_with_1011(town_on_fakes, path: str, reason: str) -> None:
    async with town_on_fakes() as town:
        await opened(town)
        async with look(town, path) as viewer:
            assert await viewer.closed() == Closed(1011, reason)


async def test_the_end_of_an_agent_closes_its_terminals_with_1011(town_on_fakes) -> None:
    async with town_on_fakes() as town:
        path, _ = await opened(town)
        async with look(town, path) as viewer:
            await viewer.next()
            stopped = await town.client.post("/agents/mayor-1/stop")
            assert await viewer.closed() == Closed(1011, "The agent's server has ended")
        assert stopped.json() == {"stopped": True, "leftovers": []}
        async with look(town, path) as viewer:
            assert await viewer.closed() == Closed(1011, "Agent mayor-1 is exited, not running")


async def test_the_crash_of_a_server_closes_its_terminals_with_1011(town_on_fakes) -> None:
    async with town_on_fakes() as town:
        path, _ = await opened(town)
        async with look(town, path) as viewer:
            await viewer.next()
            town.kilo.kill(town.kilo.server("mayor-1"))
            assert (await viewer.closed()).code == 1011


async def test_another_server_closes_the_terminals_of_the_one_before_with_a_sentence(town_on_fakes) -> None:
    async with town_on_fakes() as town:
        path, _ = await opened(town)
        async with look(town, path) as viewer:
            await viewer.next()
            refreshed = town.later(lambda: town.client.post("/refresh-token", json={"token": "new"}))
            assert await viewer.closed() == Closed(1011, "The agent's server was replaced: open its terminal anew")
            await refreshed.result()
        assert (await town.client.get(path)).status_code == 404


async def test_when_the_container_drains_terminals_close_with_1001(town_on_fakes) -> None:
    async with town_on_fakes() as town:
        path, _ = await opened(town)
        async with look(town, path) as viewer:
            await viewer.next()
            town.opened.town.drain.ask("the test says so")
            town.later(lambda: town.client.post("/agents/mayor-1/stop"))
            assert await viewer.closed() == Closed(1001, "The container stops")


async def test_a_kilo_that_hangs_is_a_504_after_20_seconds(town_on_fakes) -> None:
    async with town_on_fakes() as town:
        await town.start("mayor-1")
        kilo = town.kilo.server("mayor-1").kilo
        kilo.script.hangs = frozenset({"GET /pty"})
        began = trio.current_time()
        answer = await town.client.post("/agents/mayor-1/pty")
        assert (answer.status_code, trio.current_time() - began) == (504, 20)


async def test_an_agent_that_stops_while_its_kilo_is_asked_is_a_409(town_on_fakes) -> None:
    """What kilo says last would be a 502: the agent is looked at again once kilo has answered."""
    async with town_on_fakes() as town:
        await town.start("mayor-1")
        town.kilo.server("mayor-1").kilo.script.hangs = frozenset({"GET /pty"})
        asked = town.later(lambda: town.client.get("/agents/mayor-1/pty"))
        await trio.testing.wait_all_tasks_blocked()
        await town.client.post("/agents/mayor-1/stop")
        answer = await asked.result()
        assert (answer.status_code, "mayor-1" in answer.json()["error"]) == (409, True)
