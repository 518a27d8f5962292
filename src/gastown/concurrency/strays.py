"""Processes that a control server left when it was killed: they go on, and hold what they work with."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterable

import structlog
import trio

from gastown.concurrency.processes import MARK, send
from gastown.isolation.ending import end_processes_of
from gastown.isolation.proc import environment_of, folder_of, process_ids, started_at
from gastown.isolation.users import User, run_as

__all__ = ["end_all_at", "end_strays", "strays_at"]

log = structlog.get_logger()

OWNER = "KILO_PARENT_PID"
"""The variable that tells a child of a control server its pid."""
_ENDINGS = ((signal.SIGTERM, 3.0), (signal.SIGKILL, 2.0))
_LOOK_AGAIN_SECONDS = 0.05


async def end_strays(home: str, user: User | None) -> tuple[int, ...]:
    """End what an earlier control server has left at an agent's home; returns what is still there after 5 s.

    Two servers on one home would write one database. Children of a control server that lives are let alone.
    """
    found = await run_as(user, strays_at, home)
    if found:
        log.warning("server.strays_found", home=home, pids=found)
    for number, seconds in _ENDINGS if found else ():
        _signal(found, number)
        with trio.move_on_after(seconds):
            while found := await run_as(user, strays_at, home):  # noqa: ASYNC110 (they tell no event)
                await trio.sleep(_LOOK_AGAIN_SECONDS)
        if not found:
            break
    return found


async def end_all_at(place: str, user: User | None) -> tuple[int, ...]:
    """KILL all that works at or below `place`, or has its home there; returns what is still there after 2 s.

    Only for a place in which nobody works but what we have started there. With a user that is alone, and nobody
    else at this moment, it is all that the user runs.
    """
    if user is not None and user.alone:
        await end_processes_of(user)
    found = await run_as(user, _at, place)
    with trio.move_on_after(_ENDINGS[-1][1]):
        while found:
            _signal(found, signal.SIGKILL)
            await trio.sleep(_LOOK_AGAIN_SECONDS)
            found = await run_as(user, _at, place)
    return found


def _at(place: str) -> tuple[int, ...]:
    home = f"HOME={place}/".encode()
    return tuple(pid for pid in process_ids() if pid != os.getpid() and _is_at(pid, place, home))


def _is_at(pid: int, place: str, home: bytes) -> bool:
    folder = folder_of(pid)
    if folder is not None and (folder == place or folder.startswith(f"{place}/")):
        return True
    return any(one.startswith(home) for one in environment_of(pid).split(b"\0"))


def _signal(pids: Iterable[int], number: int) -> None:
    for pid in pids:
        send(os.kill, pid, number)


def strays_at(home: str) -> tuple[int, ...]:
    """Processes with that home whose control server is gone. Reads /proc; run it in a thread, as their user."""
    return tuple(pid for pid in process_ids() if _is_stray(pid, f"HOME={home}".encode()))


def _is_stray(pid: int, home: bytes) -> bool:
    content = environment_of(pid)
    if home not in content:
        return False
    variables = content.split(b"\0")
    owners = [one.partition(b"=")[2] for one in variables if one.startswith(f"{OWNER}=".encode())]
    marked = any(one.startswith(f"{MARK}=".encode()) for one in variables)
    if home not in variables or not marked or not owners or not owners[0].isdigit():
        return False
    # A pid is used again after a restart: in a container the new control server often has that of the old one.
    owner, own = started_at(int(owners[0])), started_at(pid)
    return own is not None and (owner is None or owner > own)
