"""When a process leaves: signals, the end of its parent, and the timer of last resort."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import AsyncExitStack

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from gastown.concurrency.shutdown import PRESSED_SECONDS, Shutdown


def timers() -> list[threading.Timer]:
    return [thread for thread in threading.enumerate() if isinstance(thread, threading.Timer)]


async def test_the_last_resort_is_armed_by_being_told_and_gone_when_the_process_has_left_in_order() -> None:
    shutdown, before = Shutdown(300), timers()
    async with AsyncExitStack() as at_the_end, trio.open_nursery() as nursery:
        nursery.start_soon(shutdown.hard_exit_timer, at_the_end)
        await wait_all_tasks_blocked()
        assert timers() == before
        shutdown.ask("a test")
        await wait_all_tasks_blocked()
        (armed,) = [timer for timer in timers() if timer not in before]
        assert armed.interval > shutdown.seconds
    await trio.to_thread.run_sync(armed.join, 5)
    assert not armed.is_alive()


@pytest.fixture
def parent() -> Iterator[subprocess.Popen[bytes]]:
    process = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


async def test_when_the_parent_ends_five_seconds_are_left(
    parent: subprocess.Popen[bytes], mock_clock: trio.testing.MockClock
) -> None:
    shutdown = Shutdown(300)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(shutdown.watch_parent, parent.pid)
        await wait_all_tasks_blocked()
        assert not shutdown.requested.is_set()
        parent.kill()
    assert shutdown.seconds_left == PRESSED_SECONDS
    assert shutdown.why == f"the parent process {parent.pid} is gone"


async def test_a_parent_that_is_gone_already_leaves_five_seconds_as_well(
    parent: subprocess.Popen[bytes], mock_clock: trio.testing.MockClock
) -> None:
    parent.kill()
    parent.communicate()
    shutdown = Shutdown(300)
    await shutdown.watch_parent(parent.pid)
    assert shutdown.seconds_left == PRESSED_SECONDS


async def test_each_signal_to_the_process_presses_harder(mock_clock: trio.testing.MockClock) -> None:
    shutdown, left = Shutdown(300), []
    async with trio.open_nursery() as nursery:
        await nursery.start(shutdown.handle_signals)
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGTERM):
            os.kill(os.getpid(), number)
            await wait_all_tasks_blocked(0.01)
            left.append((shutdown.seconds_left, shutdown.budget.cancel_called))
        nursery.cancel_scope.cancel()
    assert left == [(300, False), (PRESSED_SECONDS, False), (PRESSED_SECONDS, True)]
