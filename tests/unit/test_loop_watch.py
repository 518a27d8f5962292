"""The watcher of the event loop: real threads, and a loop that is really blocked until the watcher has spoken."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
import structlog
import trio

from gastown import logs, main
from gastown.concurrency import lag as loop_lag
from gastown.concurrency import loop_watch
from gastown.concurrency.lag import LoopLag
from gastown.concurrency.loop_watch import LoopWatch, watch_loop
from gastown.control.server import listen_on
from gastown.testing.town import open_fake_town

GUARD_SECONDS = 30


class Log(StringIO):
    """A log that a blocked test waits for: `written` is set by the first line with the event `loop.stuck`."""

    def __init__(self) -> None:
        super().__init__()
        self.written = threading.Event()

    def write(self, text: str) -> int:
        size = super().write(text)
        if "loop.stuck" in text:
            self.written.set()
        return size

    def lines(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.getvalue().splitlines()]


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Everything ten times as fast, in the same proportions."""
    monkeypatch.setattr(loop_lag, "PERIOD_SECONDS", 0.05)
    monkeypatch.setattr(loop_watch, "_LOOK_EVERY_SECONDS", 0.025)
    monkeypatch.setattr(loop_watch, "STANDS_STILL_SECONDS", 0.1)
    monkeypatch.setattr(loop_watch, "STUCK_SECONDS", 0.2)


@pytest.fixture
def log() -> Iterator[Log]:
    stream = Log()
    logs.configure(tuple, stream)
    yield stream
    structlog.reset_defaults()


def block_the_loop(log: Log) -> None:
    """Keep this thread, and so its event loop, from doing anything until `loop.stuck` is logged."""
    assert log.written.wait(GUARD_SECONDS), "the watcher logged nothing"


async def until_logged(log: Log, event: str) -> dict[str, Any]:
    with trio.fail_after(GUARD_SECONDS):
        while True:
            found = [line for line in log.lines() if line["event"] == event]
            if found:
                return found[0]
            await trio.sleep(0.01)


def watchers() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name == "loop watch"]


async def test_the_log_names_the_function_that_blocks_the_loop_while_it_blocks_it(log: Log) -> None:
    async with watch_loop(LoopLag()):
        block_the_loop(log)
        (stuck,) = log.lines()
    assert stuck["event"] == "loop.stuck"
    assert stuck["seconds"] > 0
    assert any(place.endswith(" block_the_loop") for place in stuck["where"])


async def test_the_log_says_how_long_the_loop_stood_still_once_it_goes_round_again(log: Log) -> None:
    async with watch_loop(LoopLag()):
        block_the_loop(log)
        stood_still = await until_logged(log, "loop.stood_still")
    assert stood_still["seconds"] > 0
    assert any(place.endswith(" block_the_loop") for place in stood_still["where"])


async def test_a_stall_at_whose_end_the_watch_is_over_is_told_as_well(log: Log) -> None:
    async with watch_loop(LoopLag()):
        block_the_loop(log)
    await until_logged(log, "loop.stood_still")


@pytest.mark.parametrize("how", ["ends", "fails", "is cancelled", "is cancelled before it began"])
async def test_when_the_block_is_over_the_thread_is_gone(log: Log, how: str) -> None:
    with trio.CancelScope() as scope:
        if how == "is cancelled before it began":
            scope.cancel()
        try:
            async with watch_loop(LoopLag()):
                assert watchers() == ["loop watch"]
                if how == "fails":
                    raise ZeroDivisionError
                if how == "is cancelled":
                    scope.cancel()
                    await trio.lowlevel.checkpoint()
        except* ZeroDivisionError:
            assert how == "fails"
    assert watchers() == []


def test_a_process_that_was_stopped_is_not_taken_for_a_stuck_loop(monkeypatch: pytest.MonkeyPatch) -> None:
    watch = LoopWatch(LoopLag(), print)
    seen: list[float] = []
    moments = iter([0.0, 3600.0])

    def monotonic() -> float:
        seen.append(watch.stood_still)
        if len(seen) == 3:
            watch.stop()
            return 3600.0
        return next(moments)

    monkeypatch.setattr(loop_watch.time, "monotonic", monotonic)
    watch.run()
    assert seen == [0.0, 0.0, 0.05]


@pytest.fixture
def real_time() -> trio.testing.MockClock:
    """A town on fakes wants to know that its clock is the test's; this one goes as fast as any other."""
    return trio.testing.MockClock(rate=1)


async def test_the_container_is_watched_from_its_first_answer_to_the_end_of_its_drain(
    tmp_path: Path, real_time: trio.testing.MockClock
) -> None:
    """The composition of `gastown serve`, on fakes but for its socket and its clock."""
    async with open_fake_town(tmp_path) as town, trio.open_nursery() as nursery:
        nursery.start_soon(main._serve_until_drained, town.opened, listen_on("127.0.0.1", 0))
        with trio.fail_after(GUARD_SECONDS):
            while not town.opened.town.lag.beats:
                await trio.sleep(0.01)
        assert watchers() == ["loop watch"]
        town.opened.town.drain.ask("the test is over")
    assert watchers() == []
