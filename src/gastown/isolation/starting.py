"""Starting a child as a user that may be hostile to it.

Between becoming the user and running the program, a child can be stopped by every other process of that user. Its
start would then wait for ever, in a thread that cannot be cancelled.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Awaitable, Callable
from typing import TypeVar

import trio

from gastown.isolation.proc import command_of, process_ids, status_of
from gastown.isolation.users import User, signal_those

__all__ = ["start_as"]

_LOOK_SECONDS = 0.25
"""A start takes some milliseconds, so that hardly one is looked at."""
_Started = TypeVar("_Started")


async def start_as(user: User | None, start: Callable[[], Awaitable[_Started]]) -> _Started:
    """What `start` answers, which starts a child as `user`; it raises what `start` raises.

    A child that is stopped before it runs its program is killed: it has then ended by SIGKILL, as its owner sees.
    """
    if user is None:
        return await start()
    started: list[_Started] = []
    failure: OSError | None = None
    async with trio.open_nursery() as nursery:
        # The start cannot be cancelled either; it ends with the first look at the latest that finds it stopped.
        watching = trio.CancelScope(shield=True)
        nursery.start_soon(_watch, user.uid, watching, name="isolation.start")
        try:
            started.append(await start())
        except OSError as error:
            failure = error
        finally:
            watching.cancel(reason="the start is over")
    if failure is not None:
        raise failure  # as it is, and not in a nursery's group
    return started[0]


async def _watch(uid: int, scope: trio.CancelScope) -> None:
    limiter = trio.CapacityLimiter(1)  # those of all are held by the starts, where many are stopped
    with scope:
        while True:
            await trio.sleep(_LOOK_SECONDS)
            await trio.to_thread.run_sync(_end_stopped, uid, limiter=limiter)


def _end_stopped(uid: int) -> None:
    """Kill our children with that uid that are stopped and still run our program."""
    program = command_of("self")
    children = [pid for pid in process_ids() if _is_stopped_child(pid) and command_of(pid) == program]
    signal_those(children, uid, signal.SIGKILL)


def _is_stopped_child(pid: int) -> bool:
    status = status_of(pid)
    return status.get("State", "").startswith("T") and status["PPid"] == str(os.getpid())
