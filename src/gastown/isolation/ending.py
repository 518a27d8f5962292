"""Ending every process of a user that only one agent has."""

from __future__ import annotations

import os
import signal
from contextlib import suppress
from functools import partial
from subprocess import DEVNULL
from typing import Any

import trio

from gastown.isolation.proc import process_ids
from gastown.isolation.starting import start_as
from gastown.isolation.users import User, identity, kill_at_once, lives_as, signal_those

__all__ = ["end_processes_of", "processes_of"]

_KILL_SECONDS = 1.0
_ENDING_SECONDS = 5.0
_SWEEPS = 20


async def end_processes_of(user: User) -> tuple[int, ...]:
    """KILL every process of a user that is alone; returns those that are still there. Takes seconds at most.

    First one kill for all, sent as the user itself: nothing can fork away from it. But they can stop the process
    that sends it, and a fork bomb leaves no room for it. So what is left after that we stop and kill one by one.
    """
    if not user.alone or user.uid == 0:
        raise ValueError(f"user {user.uid} is not alone")
    with trio.move_on_after(_ENDING_SECONDS):
        for _ in range(3):
            if not await trio.to_thread.run_sync(processes_of, user.uid):
                return ()
            await _kill_all_as(user)
            await trio.to_thread.run_sync(_kill_one_by_one, user.uid)
            await trio.sleep(0.02)
    return await trio.to_thread.run_sync(processes_of, user.uid)


async def _kill_all_as(user: User) -> None:
    options: Any = {"stdin": DEVNULL, "stdout": DEVNULL, "stderr": DEVNULL, "env": {"PATH": os.defpath}}
    command = ["/bin/sh", "-c", "kill -s KILL -- -1"]
    kill = partial(
        trio.run_process, command, check=False, cwd="/", deliver_cancel=kill_at_once, **options, **identity(user)
    )
    with trio.move_on_after(_KILL_SECONDS):
        async with trio.open_nursery() as nursery:
            with suppress(OSError):
                await start_as(user, partial(nursery.start, kill))


def _kill_one_by_one(uid: int) -> None:
    """Stop them all before one is killed: a stopped process cannot fork, and keeps its process slot."""
    stopped: set[int] = set()
    for _ in range(_SWEEPS):
        running = set(processes_of(uid)) - stopped
        if not running:
            break
        signal_those(running, uid, signal.SIGSTOP)
        stopped |= running
    signal_those(processes_of(uid), uid, signal.SIGKILL)


def processes_of(uid: int) -> tuple[int, ...]:
    """The processes with that real uid, zombies left out. Blocks."""
    return tuple(pid for pid in process_ids() if lives_as(uid, pid))
