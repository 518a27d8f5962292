"""Whom children and files belong to, where the control server is root and agents are not.

A user that is None is ourselves, everywhere: then nothing here changes anything.
"""

from __future__ import annotations

import ctypes
import os
import signal
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass
from subprocess import DEVNULL
from typing import Any, TypedDict, TypeVar, TypeVarTuple

import trio

from gastown.isolation.proc import process_ids, status_of

__all__ = [
    "PRIVATE",
    "SHARED",
    "User",
    "as_user",
    "end_processes_of",
    "hide_memory",
    "identity",
    "kill_at_once",
    "run_as",
    "uid_of",
]

PRIVATE = 0o022
"""The umask of an agent's processes: what they make is private by the directories that it lies in."""
SHARED = 0o027
"""The umask of what other users of the same group may read."""

_PR_SET_DUMPABLE = 4
_KILL_SECONDS = 1.0
_ENDING_SECONDS = 5.0
_SWEEPS = 20
_Arguments = TypeVarTuple("_Arguments")
_Result = TypeVar("_Result")


@dataclass(frozen=True)
class User:
    """A user below us. `name` is what its processes take themselves for; it need not be in the password file.

    `alone`: no process but those of one agent, and what we run for it, has this uid. What belonged to one of the
    uids `takes_from`, or to us, becomes this one's with the directory that it lies in.
    """

    uid: int
    gid: int
    name: str
    alone: bool = False
    umask: int = PRIVATE
    takes_from: range = range(0)


class Identity(TypedDict, total=False):
    """The options of `subprocess` that make a child somebody else's."""

    user: int
    group: int
    extra_groups: list[int]
    umask: int


def identity(user: User | None) -> Identity:
    """What to start a child with, so that it is `user`'s and in no group but its own."""
    if user is None:
        return {}
    return {"user": user.uid, "group": user.gid, "extra_groups": [], "umask": user.umask}


def uid_of(user: User | None) -> int:
    return user.uid if user is not None else os.getuid()


def as_user(user: User | None, call: Callable[[*_Arguments], _Result], *arguments: *_Arguments) -> _Result:
    """Call with the rights that `user` has to files and to /proc, and no other; only in a worker thread.

    Linux keeps the file system's user per thread (setfsuid(2)), and with it goes root's right to everything. No
    process of the user can signal or trace the thread meanwhile. New files belong to the user. It needs no
    more than CAP_SETUID and CAP_SETGID, where reading another's /proc as root would need CAP_SYS_PTRACE.
    """
    if user is None:
        return call(*arguments)
    libc = ctypes.CDLL(None)
    try:
        libc.setfsgid(user.gid)
        libc.setfsuid(user.uid)
        # The calls report no error: only asking again (with an impossible id) tells.
        if (libc.setfsuid(-1), libc.setfsgid(-1)) != (user.uid, user.gid):
            raise PermissionError(f"cannot act as user {user.uid}")
        return call(*arguments)
    finally:
        libc.setfsuid(os.geteuid())
        libc.setfsgid(os.getegid())


async def run_as(
    user: User | None,
    call: Callable[[*_Arguments], _Result],
    *arguments: *_Arguments,
    abandon_on_cancel: bool = False,
) -> _Result:
    """`as_user`, in a thread. What might wait for ever on a pipe that an agent has put there is not for it."""
    return await trio.to_thread.run_sync(as_user, user, call, *arguments, abandon_on_cancel=abandon_on_cancel)


def hide_memory() -> None:
    """Close this process's memory and environment to other processes of its user, for good; its children's not."""
    if ctypes.CDLL(None).prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0) != 0:
        raise OSError("prctl(PR_SET_DUMPABLE) failed")


async def end_processes_of(user: User) -> tuple[int, ...]:
    """KILL every process of a user that is alone; returns those that are still there. Takes seconds at most.

    First one kill for all, sent as the user itself: nothing can fork away from it. But they can stop the process
    that sends it, and a fork bomb leaves no room for it. So what is left after that we stop and kill one by one.
    """
    if not user.alone or user.uid == 0:
        raise ValueError(f"user {user.uid} is not alone")
    with trio.move_on_after(_ENDING_SECONDS):
        for _ in range(3):
            if not await trio.to_thread.run_sync(_processes_of, user.uid):
                return ()
            await _kill_all_as(user)
            await trio.to_thread.run_sync(_kill_one_by_one, user.uid)
            await trio.sleep(0.02)
    return await trio.to_thread.run_sync(_processes_of, user.uid)


async def _kill_all_as(user: User) -> None:
    options: Any = {"stdin": DEVNULL, "stdout": DEVNULL, "stderr": DEVNULL, "env": {"PATH": os.defpath}}
    command = ["/bin/sh", "-c", "kill -s KILL -- -1"]
    with trio.move_on_after(_KILL_SECONDS), suppress(OSError):
        await trio.run_process(
            command, check=False, cwd="/", deliver_cancel=kill_at_once, **options, **identity(user)
        )


async def kill_at_once(process: trio.Process) -> None:
    """To cancel a child of a user below us (`deliver_cancel`): one that is stopped would never heed a TERM."""
    process.kill()


def _kill_one_by_one(uid: int) -> None:
    """Stop them all before one is killed: who is stopped cannot fork, and keeps the place that others wait for."""
    stopped: set[int] = set()
    for _ in range(_SWEEPS):
        running = set(_processes_of(uid)) - stopped
        if not running:
            break
        _signal(running, uid, signal.SIGSTOP)
        stopped |= running
    _signal(_processes_of(uid), uid, signal.SIGKILL)


def _signal(pids: Iterable[int], uid: int, number: signal.Signals) -> None:
    """Signal those that still belong to `uid`: a number may have gone to somebody else meanwhile."""
    for pid in pids:
        with suppress(OSError):
            descriptor = os.pidfd_open(pid)
            try:
                if _lives_as(uid, pid):
                    signal.pidfd_send_signal(descriptor, number)
            finally:
                os.close(descriptor)


def _processes_of(uid: int) -> tuple[int, ...]:
    """The processes with that real uid, zombies left out."""
    return tuple(pid for pid in process_ids() if _lives_as(uid, pid))


def _lives_as(uid: int, pid: int) -> bool:
    status = status_of(pid)
    return bool(status) and int(status["Uid"].split()[0]) == uid and status["State"][0] not in "ZX"
