"""Child processes that cannot outlive their block.

A child gets a session of its own. Leaving the block sends TERM to it, waits, sends KILL to its process group,
and then ends what left the group: commands that a child put into sessions of their own are found by a mark
that every descendant inherits in its environment.
"""

from __future__ import annotations

import os
import secrets
import signal
from collections import deque
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from functools import partial
from subprocess import DEVNULL, PIPE

import trio

from gastown.isolation.descendants import descendants_of, loose_in, still_there
from gastown.isolation.proc import environment_of, process_ids, started_at
from gastown.isolation.starting import start_as
from gastown.isolation.users import User, identity, run_as

__all__ = [
    "CannotStart",
    "Child",
    "Exit",
    "Raw",
    "end_group",
    "marked_processes",
    "open_child",
    "send",
    "start_group",
]

MARK = "GASTOWN_SPAWN_MARK"
_HEAD_LINES, _TAIL_LINES = 10, 40
_LINE_LIMIT = 8192


@dataclass(frozen=True)
class Exit:
    """How a process ended. `returncode` is negative for a signal, as in `subprocess`."""

    returncode: int

    @property
    def signal(self) -> str | None:
        if self.returncode >= 0:
            return None
        try:
            return signal.Signals(-self.returncode).name
        except ValueError:
            return f"signal {-self.returncode}"

    def __str__(self) -> str:
        return f"was killed by {self.signal}" if self.signal else f"exited with code {self.returncode}"


class CannotStart(Exception):
    """The executable or the working directory cannot be used; the message says which and why."""


@dataclass(frozen=True)
class Raw:
    """Hears a child's stdout as it comes, and not line by line."""

    take: Callable[[bytes], None]


class Child:
    """A running child. `ended` is set once it has been reaped, and `exit` says how it went.

    `grace`, which its owner may change while it lives, is how many seconds lie between TERM and KILL; 0 is no
    TERM at all. `leftovers`, known once the block is left, are descendants that outlived even KILL, and processes
    that work in `folders` without a trace of their parents, so that they may be another one's; there should be
    none.
    """

    folders: Sequence[str] = ()

    def __init__(self, process: trio.Process, mark: str, grace: float, user: User | None = None) -> None:
        self.process = process
        self.mark = mark
        self.user = user
        self.grace = grace
        self.ended = trio.Event()
        self.exit: Exit | None = None
        self.leftovers: tuple[int, ...] = ()
        self._head: list[str] = []
        self._tail: deque[str] = deque(maxlen=_TAIL_LINES)
        self._stderr_read = trio.Event()
        self._stdout_read = trio.Event()

    @property
    def pid(self) -> int:
        return self.process.pid

    @property
    def stderr_tail(self) -> tuple[str, ...]:
        """The first lines of stderr, where a cause stands, and the last: a part of every report of a failure."""
        return (*self._head, *self._tail)

    def _keep_line(self, line: str) -> None:
        if len(self._head) < _HEAD_LINES:
            self._head.append(line)
        else:
            self._tail.append(line)

    async def _read_stderr(self) -> None:
        await _each_line(self.process.stderr, self._keep_line)
        self._stderr_read.set()

    async def _read_stdout(self, on_stdout: Callable[[str], None] | Raw) -> None:
        if isinstance(on_stdout, Raw):
            await _each_chunk(self.process.stdout, on_stdout.take)
        else:
            await _each_line(self.process.stdout, on_stdout)
        self._stdout_read.set()

    async def attend(self, on_stdout: Callable[[str], None] | Raw, scope: trio.CancelScope) -> None:
        """Drain both pipes and reap; ends with `scope`, or when the process has ended and the pipes are closed."""
        with scope:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._read_stdout, on_stdout, name="child.stdout")
                nursery.start_soon(self._read_stderr, name="child.stderr")
                nursery.start_soon(self._reap, name="child.reap")

    async def _reap(self) -> None:
        self.exit = Exit(await self.process.wait())
        # The last words are still in the pipes; a grandchild that holds them open must not keep us.
        with trio.move_on_after(0.5):
            await self._stderr_read.wait()
            await self._stdout_read.wait()
        self.ended.set()


async def start_group(
    argv: Sequence[str], cwd: str, env: Mapping[str, str], user: User | None, stdin: int = DEVNULL
) -> trio.Process:
    """Start `argv` as the leader of a session and group of its own. Its outputs are pipes. Raises `OSError`."""
    start = partial(
        trio.lowlevel.open_process,
        list(argv),
        cwd=cwd,
        env=env,
        stdin=stdin,
        stdout=PIPE,
        stderr=PIPE,
        start_new_session=True,
        **identity(user),
    )
    return await start_as(user, start)


async def _start(argv: Sequence[str], cwd: str, env: Mapping[str, str], grace: float, user: User | None) -> Child:
    mark = secrets.token_hex(8)
    try:
        process = await start_group(argv, cwd, {**env, MARK: mark}, user)
    except OSError as error:
        raise CannotStart(f"{argv[0]} in {cwd}: {error.strerror or error}") from error
    return Child(process, mark, grace, user)


@asynccontextmanager
async def open_child(
    argv: Sequence[str],
    *,
    cwd: str,
    env: Mapping[str, str],
    on_stdout: Callable[[str], None] | Raw,
    grace: float,
    user: User | None = None,
    folders: Sequence[str] = (),
) -> AsyncIterator[Child]:
    """Run `argv` for the length of the block, as `user`; raises `CannotStart` when that is not possible.

    Both pipes are drained for as long as it lives: `on_stdout` gets each line of stdout, stderr is kept as a
    tail. Leaving the block takes at most `grace` plus about two seconds, also when the block is cancelled, and
    leaves no descendant, but one that has neither a living parent nor its environment: those of them that work in
    `folders` are among its `leftovers`.
    """
    child = await _start(argv, cwd, env, grace, user)
    child.folders = folders
    async with trio.open_nursery() as nursery:
        # A cancelled block still has to see its child end; the scope is cancelled below, at the latest.
        attending = trio.CancelScope(shield=True)
        nursery.start_soon(child.attend, on_stdout, attending, name="child")
        try:
            yield child
        finally:
            # A budget on top of the grace: TERM, KILL and the sweep are quick, or the kernel is stuck.
            with trio.move_on_after(child.grace + 2, shield=True):
                await _end(child)
            attending.cancel(reason="the child has ended")


async def end_group(process: trio.Process, grace: float, *, ask: Callable[[int, int], None] = os.killpg) -> None:
    """End a process that leads its group: TERM, `grace` seconds, then KILL to what is left of the group.

    The TERM is for the whole group, or with `os.kill` as `ask` for the process alone; a `grace` of 0 is no TERM.
    The process may not have been reaped yet: `process.wait()` returns soon. A shield is the caller's.
    """
    if grace and process.returncode is None:
        send(ask, process.pid, signal.SIGTERM)
        with trio.move_on_after(grace):
            await process.wait()
    send(os.killpg, process.pid, signal.SIGKILL)


async def _end(child: Child) -> None:
    began = started_at(child.pid)
    # Now, for with the child the thread to those of them is cut that have cleared their environment.
    family = await trio.to_thread.run_sync(descendants_of, child.pid)
    # Only to the child: it ends its own processes in its own order.
    await end_group(child.process, child.grace, ask=os.kill)
    for _ in range(20):
        # As its user: to read /proc/*/environ of another one takes more than being root (CAP_SYS_PTRACE).
        marked = await run_as(child.user, marked_processes, child.mark)
        child.leftovers = tuple({*marked, *still_there(family)})
        if not child.leftovers:
            break
        for pid in child.leftovers:
            send(os.kill, pid, signal.SIGKILL)
        await trio.sleep(0.05)
    if child.folders and began is not None:
        loose = await run_as(child.user, loose_in, child.folders, MARK, os.getpid(), began)
        child.leftovers += tuple(set(loose) - set(child.leftovers))
    await child.ended.wait()


def send(how: Callable[[int, int], None], pid: int, number: int) -> None:
    """Signal a process or, with `os.killpg`, its group, if it is still there and ours."""
    with suppress(ProcessLookupError, PermissionError):
        how(pid, number)


def marked_processes(mark: str) -> tuple[int, ...]:
    """The processes whose environment carries `mark`, zombies left out. Reads /proc; run it in a thread."""
    needle = f"{MARK}={mark}".encode()
    return tuple(pid for pid in process_ids() if needle in environment_of(pid))


async def _each_chunk(stream: trio.abc.ReceiveStream | None, take: Callable[[bytes], object]) -> None:
    """Give what `stream` brings to `take` until it ends."""
    if stream is None:
        return
    async with stream:
        with suppress(trio.ClosedResourceError, trio.BrokenResourceError):
            async for chunk in stream:
                take(bytes(chunk))


async def _each_line(stream: trio.abc.ReceiveStream | None, take: Callable[[str], object]) -> None:
    """Give every line of `stream` to `take` until it ends; an endless line is cut at 8 KiB."""
    if stream is None:
        return
    buffer = b""
    async with stream:
        with suppress(trio.ClosedResourceError, trio.BrokenResourceError):
            async for chunk in stream:
                *lines, buffer = (buffer + chunk).split(b"\n")
                for line in lines:
                    take(line.decode(errors="replace").rstrip("\r"))
                if len(buffer) > _LINE_LIMIT:
                    take(buffer.decode(errors="replace"))
                    buffer = b""
        if buffer:
            take(buffer.decode(errors="replace"))
