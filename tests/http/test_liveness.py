"""`/livez` while the event loop really stands still: real sockets, a real thread, a loop that is really blocked.

The test's own thread is blocked by waiting for a client in another one; no wait is for a time to pass.
"""

from __future__ import annotations

import http.client
import json
import socket
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, closing, contextmanager
from io import StringIO
from pathlib import Path
from typing import Any, TypeVar

import pytest
import structlog
import trio
from quart_trio import QuartTrio

from gastown import logs, main
from gastown.concurrency import lag as loop_lag
from gastown.concurrency.lag import LoopLag
from gastown.control import liveness
from gastown.control.liveness import LoopWatch, watch_loop
from gastown.control.server import listen_on, serve_app
from gastown.testing.town import open_fake_town

GUARD_SECONDS = 30
T = TypeVar("T")


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Everything ten times as fast, in the same proportions."""
    monkeypatch.setattr(loop_lag, "PERIOD_SECONDS", 0.05)
    monkeypatch.setattr(liveness, "_LOOK_EVERY_SECONDS", 0.025)
    monkeypatch.setattr(liveness, "STANDS_STILL_SECONDS", 0.1)


@pytest.fixture
def log() -> Iterator[StringIO]:
    stream = StringIO()
    logs.configure(tuple, stream)
    yield stream
    structlog.reset_defaults()


def app() -> QuartTrio:
    here = QuartTrio("small")

    @here.get("/livez")
    async def livez() -> str:
        return "the loop"

    @here.get("/small")
    async def small() -> str:
        return "small"

    return here


@asynccontextmanager
async def serving(budget: float = 60.0) -> AsyncIterator[int]:
    """A watched server; the block has its port."""
    listener, stop = listen_on("127.0.0.1", 0), trio.Event()
    port = listener.getsockname()[1]
    async with trio.open_nursery() as nursery:
        adopt = await nursery.start(serve_app, app(), listener, stop)
        async with watch_loop(listener, LoopLag(), budget, adopt):
            yield port
        stop.set()


def while_blocked(work: Callable[[], T]) -> T:
    """What `work` returns in another thread, while this one, and so its event loop, does nothing but wait."""
    results: list[T] = []
    thread = threading.Thread(target=lambda: results.append(work()))
    thread.start()
    thread.join(GUARD_SECONDS)
    assert not thread.is_alive(), "nobody answered"
    return results[0]


def ask(port: int, path: str = "/livez") -> tuple[int, str]:
    """Status and body, on a connection of its own, as a probe asks."""
    with closing(http.client.HTTPConnection("127.0.0.1", port, timeout=GUARD_SECONDS / 2)) as client:
        client.request("GET", path, headers={"Connection": "close"})
        answer = client.getresponse()
        return answer.status, answer.read().decode()


def begin(port: int, words: bytes) -> socket.socket:
    connection = socket.create_connection(("127.0.0.1", port), timeout=GUARD_SECONDS / 2)
    connection.sendall(words)
    return connection


def read_all(connection: socket.socket) -> str:
    with closing(connection):
        return b"".join(iter(lambda: connection.recv(65536), b"")).decode()


SMALL = b"GET /small HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"


async def outside(work: Callable[..., T], *arguments: Any) -> T:
    """Do blocking work of a client beside the loop."""
    with trio.fail_after(GUARD_SECONDS):
        return await trio.to_thread.run_sync(work, *arguments, abandon_on_cancel=True)


def threads() -> list[str]:
    return [thread.name for thread in threading.enumerate() if "livez" in thread.name]


def descriptors() -> int:
    return sum(1 for _ in Path("/proc/self/fd").iterdir())


async def test_as_long_as_the_loop_goes_round_it_answers_itself() -> None:
    async with serving() as port:
        assert await outside(ask, port) == (200, "the loop")


async def test_a_thread_answers_for_a_loop_that_stands_still(log: StringIO) -> None:
    async with serving() as port:
        status, body = while_blocked(lambda: ask(port))
    answer = json.loads(body)
    assert (status, answer["status"]) == (200, "stalled")
    assert answer["stalledSeconds"] > 0


async def test_beyond_its_budget_the_loop_is_stuck_and_the_probe_fails(log: StringIO) -> None:
    async with serving(budget=0.1) as port:
        status, body = while_blocked(lambda: ask(port))
    assert (status, json.loads(body)["status"]) == (503, "stuck")


async def test_a_loop_that_goes_round_again_answers_itself_again(log: StringIO) -> None:
    async with serving() as port:
        assert while_blocked(lambda: ask(port))[1] != "the loop"
        while (await outside(ask, port)) != (200, "the loop"):
            pass


async def test_a_request_that_comes_meanwhile_waits_for_the_loop_and_is_answered_by_it(log: StringIO) -> None:
    async with serving() as port:

        def before_a_probe() -> socket.socket:
            connection = begin(port, SMALL)
            ask(port)  # what came before has been accepted, too
            return connection

        connection = while_blocked(before_a_probe)
        assert (await outside(read_all, connection)).endswith("small")


async def test_a_connection_that_says_nothing_meanwhile_is_kept_for_the_loop(log: StringIO) -> None:
    async with serving() as port:

        def before_a_probe() -> socket.socket:
            connection = begin(port, b"")
            ask(port)
            return connection

        connection = while_blocked(before_a_probe)
        connection.sendall(SMALL)
        assert (await outside(read_all, connection)).endswith("small")


async def test_of_more_silent_connections_than_the_thread_holds_the_oldest_is_kept_for_the_loop(
    log: StringIO, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(liveness, "_MOST_SILENT", 2)
    monkeypatch.setattr(liveness, "_MOST_KEPT", 0)  # so that one that is kept hears so at once
    async with serving() as port:

        def one_too_many() -> tuple[str, list[socket.socket], int]:
            first, *others = [begin(port, b"") for _ in range(3)]
            return read_all(first), others, ask(port)[0]

        refused, others, probe = while_blocked(one_too_many)
        for connection in others:
            connection.close()
    assert refused.startswith("HTTP/1.1 503 ")
    assert probe == 200


async def test_what_the_thread_holds_at_its_end_goes_to_the_loop(log: StringIO) -> None:
    adopted: list[socket.socket] = []
    with listen_on("127.0.0.1", 0) as listener:
        port = listener.getsockname()[1]

        def before_a_probe() -> socket.socket:
            connection = begin(port, b"")
            ask(port)
            return connection

        async with watch_loop(listener, LoopLag(), 60, adopted.append):
            silent = while_blocked(before_a_probe)
        with closing(silent), trio.fail_after(GUARD_SECONDS):
            while not adopted:
                await trio.lowlevel.checkpoint()
    adopted[0].close()


async def test_when_too_many_wait_the_next_is_told_to_come_back_and_a_probe_is_still_answered(
    log: StringIO, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(liveness, "_MOST_KEPT", 1)
    async with serving() as port:

        def one_too_many() -> tuple[socket.socket, str, int]:
            kept = begin(port, SMALL)
            return kept, read_all(begin(port, SMALL)), ask(port)[0]

        kept, refused, probe = while_blocked(one_too_many)
        assert refused.startswith("HTTP/1.1 503 ")
        assert probe == 200
        assert (await outside(read_all, kept)).endswith("small")


async def test_the_log_says_how_long_the_loop_stood_still_and_where(log: StringIO) -> None:
    async with serving(budget=0.1) as port:
        while_blocked(lambda: ask(port))
    stuck, stood_still = map(json.loads, log.getvalue().splitlines())
    assert (stuck["event"], stood_still["event"]) == ("loop.stuck", "loop.stood_still")
    for line in (stuck, stood_still):
        assert line["seconds"] > 0
        assert any(place.endswith(" while_blocked") for place in line["where"])


@pytest.mark.parametrize("how", ["ends", "fails", "is cancelled", "is cancelled before it began"])
async def test_when_the_block_is_over_nothing_of_the_thread_is_left(log: StringIO, how: str) -> None:
    before = descriptors()
    failure = pytest.RaisesGroup(ZeroDivisionError, flatten_subgroups=True)
    with (
        failure if how == "fails" else nothing(),
        trio.CancelScope() as scope,
        listen_on("127.0.0.1", 0) as listener,
    ):
        if how == "is cancelled before it began":
            scope.cancel()
        async with watch_loop(listener, LoopLag(), 60, socket.socket.close):
            assert threads() == ["livez"]
            if how == "fails":
                raise ZeroDivisionError
            if how == "is cancelled":
                scope.cancel()
                await trio.lowlevel.checkpoint()
    assert threads() == []
    assert descriptors() == before


@contextmanager
def nothing() -> Iterator[None]:
    yield


def test_a_process_that_was_stopped_is_not_taken_for_a_stuck_loop(monkeypatch: pytest.MonkeyPatch) -> None:
    with (
        listen_on("127.0.0.1", 0) as listener,
        closing(LoopWatch(listener, LoopLag(), 60, print, print)) as watch,
    ):
        seen: list[float] = []
        moments = iter([0.0, 3600.0, 3600.0])

        def monotonic() -> float:
            seen.append(watch.stood_still)
            if len(seen) == 2:
                watch.stop()
            return next(moments)

        monkeypatch.setattr(liveness.time, "monotonic", monotonic)
        watch.run(lambda: None)
    assert seen == [0.0, 0.0, 0.05]


@pytest.fixture
def real_time() -> trio.testing.MockClock:
    """A town on fakes wants to know that its clock is the test's; this one goes as fast as any other."""
    return trio.testing.MockClock(rate=1)


async def test_the_container_is_watched_from_its_first_answer_to_its_last_farewell(
    tmp_path: Path, real_time: trio.testing.MockClock
) -> None:
    """The composition of `gastown serve`, on fakes but for its socket and its clock."""
    listener = listen_on("127.0.0.1", 0)
    port = listener.getsockname()[1]
    async with open_fake_town(tmp_path) as town, trio.open_nursery() as nursery:
        nursery.start_soon(main._serve_until_told, town.opened, listener)
        assert json.loads((await outside(ask, port))[1]) == {"status": "ok", "stalledSeconds": 0.0}
        assert json.loads(while_blocked(lambda: ask(port))[1])["status"] == "stalled"
        assert "gastown_event_loop_lag_seconds_count" in (await outside(ask, port, "/metrics"))[1]
        town.opened.town.drain.ask("the test is over")
    assert threads() == []
