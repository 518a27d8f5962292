"""The hydration gate: who waits, for which hold, and what lets them through."""

from __future__ import annotations

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from gastown.concurrency.gate import HydrationGate

pytestmark = pytest.mark.virtual_time


async def test_it_is_open_before_any_hydration() -> None:
    gate = HydrationGate()
    with trio.fail_after(1):
        await gate.wait()
    assert gate.is_open


async def test_it_is_closed_while_a_hydration_is_in_flight() -> None:
    gate = HydrationGate()
    with gate.hold():
        with trio.move_on_after(1_000) as patience:
            await gate.wait()
        assert (patience.cancelled_caught, gate.is_open) == (True, False)


async def test_the_end_of_a_hydration_lets_a_waiter_through() -> None:
    gate = HydrationGate()
    async with trio.open_nursery() as nursery:
        with gate.hold():
            nursery.start_soon(gate.wait)
            await wait_all_tasks_blocked()
    assert gate.is_open


async def test_a_hydration_that_fails_lets_a_waiter_through() -> None:
    gate = HydrationGate()
    async with trio.open_nursery() as nursery:
        try:
            with gate.hold():
                nursery.start_soon(gate.wait)
                await wait_all_tasks_blocked()
                raise ValueError("broken")
        except ValueError:
            pass
    assert gate.is_open


async def test_a_hydration_that_is_cancelled_lets_a_waiter_through() -> None:
    gate = HydrationGate()
    async with trio.open_nursery() as nursery:
        with trio.move_on_after(1), gate.hold():
            nursery.start_soon(gate.wait)
            await trio.sleep_forever()
    assert gate.is_open


async def test_its_holder_may_open_it_early() -> None:
    gate = HydrationGate()
    with gate.hold() as opened:
        opened.set()
        with trio.fail_after(1):
            await gate.wait()
        assert gate.is_open


async def test_a_second_hold_does_not_strand_the_waiter_of_the_first() -> None:
    gate = HydrationGate()
    through: list[str] = []

    async def wait(name: str) -> None:
        await gate.wait()
        through.append(name)

    async with trio.open_nursery() as nursery:
        first = gate.hold()
        first.__enter__()
        nursery.start_soon(wait, "of the first")
        await wait_all_tasks_blocked()
        with gate.hold():
            nursery.start_soon(wait, "of the second")
            await wait_all_tasks_blocked()
            first.__exit__(None, None, None)
            await wait_all_tasks_blocked()
            assert (through, gate.is_open) == (["of the first"], False)
    assert through == ["of the first", "of the second"]


async def test_waiting_at_an_open_gate_is_a_checkpoint() -> None:
    with trio.move_on_after(0) as scope:
        await HydrationGate().wait()
    assert scope.cancelled_caught
