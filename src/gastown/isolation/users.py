"""The users that children and files belong to, where the control server is root and agents are not.

A user that is None is the control server's own, everywhere: then nothing here changes anything.
"""

from __future__ import annotations

import ctypes
import os
import signal
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass
from typing import TypedDict, TypeVar, TypeVarTuple

import trio

from gastown.isolation.proc import status_of

__all__ = [
    "PRIVATE",
    "SHARED",
    "User",
    "as_user",
    "hide_memory",
    "identity",
    "kill_at_once",
    "lives_as",
    "run_as",
    "signal_those",
    "uid_of",
]

PRIVATE = 0o022
"""The umask of an agent's processes: what they make is private by the directories that it lies in."""
SHARED = 0o027
"""The umask of what other users of the same group may read."""

_PR_SET_DUMPABLE = 4
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
    """The options of `subprocess` that start a child as another user."""

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


async def kill_at_once(process: trio.Process) -> None:
    """To cancel a child of a user below us (`deliver_cancel`): one that is stopped would never heed a TERM."""
    process.kill()


def signal_those(pids: Iterable[int], uid: int, number: signal.Signals) -> None:
    """Signal those that still belong to `uid`: a pid may have been reused meanwhile."""
    for pid in pids:
        with suppress(OSError):
            descriptor = os.pidfd_open(pid)
            try:
                if lives_as(uid, pid):
                    signal.pidfd_send_signal(descriptor, number)
            finally:
                os.close(descriptor)


def lives_as(uid: int, pid: int) -> bool:
    """Whether that is the real user of a process, which is no zombie."""
    status = status_of(pid)
    return bool(status) and int(status["Uid"].split()[0]) == uid and status["State"][0] not in "ZX"
