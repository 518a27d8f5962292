"""The supervisor of tasks in the background."""

from __future__ import annotations

import pytest
import structlog.testing
import trio

from gastown.concurrency.supervise import open_supervisor

pytestmark = pytest.mark.virtual_time


async def test_the_failure_of_one_task_is_logged_and_counted_and_ends_no_other():
    ended = trio.Event()

    async def fail() -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(trio.sleep_forever)
            raise ValueError("odd")

    async def go_on() -> None:
        await trio.sleep(5)
        ended.set()

    with structlog.testing.capture_logs() as lines:
        async with open_supervisor() as supervisor:
            supervisor.start("goes on", go_on)
            supervisor.start("fails", fail)
            await ended.wait()
    assert supervisor.failures == 1
    assert [(line["event"], line["task"], line["exc_info"]) for line in lines] == [("task.failed", "fails", True)]


async def test_leaving_the_block_cancels_the_tasks_and_waits_for_them():
    ends = []

    async def linger() -> None:
        try:
            await trio.sleep_forever()
        finally:
            with trio.CancelScope(shield=True):
                await trio.sleep(1)
            ends.append("ended")

    async with open_supervisor() as supervisor:
        supervisor.start("lingers", linger)
        await trio.testing.wait_all_tasks_blocked()
    assert (ends, supervisor.failures) == (["ended"], 0)
