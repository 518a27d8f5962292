"""A child that processes of its own user stop before it runs its program."""

from __future__ import annotations

import os
import signal
from functools import partial
from typing import Any

import pytest
import trio

from gastown.concurrency.processes import open_child
from gastown.isolation.ending import end_processes_of, processes_of
from gastown.isolation.starting import start_as
from gastown.isolation.users import User, identity
from gastown.testing.users import ALICE, needs_root

pytestmark = needs_root


def stopped(user: User) -> Any:
    """A start whose child is stopped at the worst moment: as the user already, and our program still."""
    stop = lambda: os.kill(os.getpid(), signal.SIGSTOP)  # noqa: E731 - what runs after a fork is one call
    return partial(trio.lowlevel.open_process, ["/bin/true"], cwd="/", env={}, preexec_fn=stop, **identity(user))


async def test_a_child_that_is_stopped_before_its_program_is_killed_and_its_start_ends():
    process = await start_as(ALICE, stopped(ALICE))
    assert await process.wait() == -signal.SIGKILL
    assert processes_of(ALICE.uid) == ()


async def test_more_stopped_starts_than_there_are_threads_end_all_the_same():
    async def start() -> None:
        process = await start_as(ALICE, stopped(ALICE))
        ended.append(await process.wait())

    ended: list[int] = []
    async with trio.open_nursery() as nursery:
        for _ in range(45):
            nursery.start_soon(start)
    assert ended == [-signal.SIGKILL] * 45


async def test_a_start_that_is_cancelled_ends_and_hands_its_child_over():
    ended: list[int] = []

    async def start() -> None:
        process = await start_as(ALICE, stopped(ALICE))
        with trio.CancelScope(shield=True):
            ended.append(await process.wait())

    async with trio.open_nursery() as nursery:
        nursery.start_soon(start)
        while not processes_of(ALICE.uid):
            await trio.lowlevel.checkpoint()
        nursery.cancel_scope.cancel()
    assert (ended, processes_of(ALICE.uid)) == ([-signal.SIGKILL], ())


async def test_a_failure_to_start_is_raised_as_it_is():
    missing = partial(trio.lowlevel.open_process, ["/no/such/program"], cwd="/", env={}, **identity(ALICE))
    with pytest.raises(FileNotFoundError):
        await start_as(ALICE, missing)


async def test_a_child_beside_a_user_s_process_that_stops_all_others_always_gets_an_owner():
    """In the first tens of starts one hung for ever, with the thread that started it."""
    begun = trio.Event()
    loop = ["/bin/sh", "-c", "echo begun; while :; do kill -s STOP -- -1 2>&-; done"]
    hear = {"on_stdout": lambda line: begun.set()}
    async with open_child(loop, cwd="/", env={}, **hear, grace=0, user=ALICE) as child:
        await begun.wait()
        try:
            for _ in range(20):
                silent = {"on_stdout": lambda line: None}
                async with open_child(["/bin/true"], cwd="/", env={}, **silent, grace=0, user=ALICE):
                    pass
        finally:
            child.process.kill()
    assert await end_processes_of(ALICE) == ()
