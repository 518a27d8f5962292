"""The signal: a change that happens again and again wakes every waiting task, and none misses it."""

from __future__ import annotations

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from gastown.concurrency.signal import Signal

pytestmark = pytest.mark.virtual_time


async def test_one_send_wakes_every_waiting_task() -> None:
    signal, woken = Signal(), []

    async def wait(name: str) -> None:
        await signal.wait()
        woken.append(name)

    async with trio.open_nursery() as nursery:
        for name in "ab":
            nursery.start_soon(wait, name)
        await wait_all_tasks_blocked()
        signal.send()
    assert sorted(woken) == ["a", "b"]


async def test_a_wait_that_begins_after_a_send_is_for_the_next_one() -> None:
    signal = Signal()
    signal.send()
    with trio.move_on_after(10) as patience:
        await signal.wait()
    assert patience.cancelled_caught


async def test_a_send_between_the_look_and_the_wait_is_not_missed() -> None:
    signal = Signal()
    seen = signal.count
    signal.send()
    with trio.fail_after(1):
        await signal.wait(after=seen)


async def test_nothing_sent_since_the_look_is_waited_for() -> None:
    signal = Signal()
    signal.send()
    with trio.move_on_after(10) as patience:
        await signal.wait(after=signal.count)
    assert patience.cancelled_caught


async def test_a_wait_is_a_checkpoint_even_when_the_signal_was_sent_already() -> None:
    signal = Signal()
    signal.send()
    with trio.testing.assert_checkpoints():
        await signal.wait(after=0)


async def test_wait_until_asks_again_after_every_send_until_it_holds() -> None:
    signal, state, asked = Signal(), 0, []

    def holds() -> bool:
        asked.append(state)
        return state == 2

    async with trio.open_nursery() as nursery:
        nursery.start_soon(signal.wait_until, holds)
        await wait_all_tasks_blocked()
        for state in (1, 2):  # noqa: B007 - read by the condition
            signal.send()
            await wait_all_tasks_blocked()
    assert asked == [0, 1, 2]


async def test_a_cancelled_wait_leaves_the_others_waiting() -> None:
    signal, woken = Signal(), []

    async def wait() -> None:
        await signal.wait()
        woken.append(trio.current_time())

    async with trio.open_nursery() as nursery:
        nursery.start_soon(wait)
        with trio.move_on_after(1):
            await signal.wait()
        signal.send()
    assert len(woken) == 1
