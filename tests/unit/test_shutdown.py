"""The last resort of a process that leaves: a thread, and the thread's end."""

from __future__ import annotations

import threading
from contextlib import AsyncExitStack

import trio
from trio.testing import wait_all_tasks_blocked

from gastown.concurrency.shutdown import Shutdown


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
