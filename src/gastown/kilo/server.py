"""One `kilo serve` process, from its spawn to the moment when nothing of it is left."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Protocol

import trio

from gastown.concurrency.processes import CannotStart, Child, Exit, open_child
from gastown.concurrency.strays import end_strays
from gastown.concurrency.waiting import wait_any
from gastown.kilo.client import Endpoint, new_password
from gastown.kilo.errors import ServerDied
from gastown.kilo.spec import ServerSpec

__all__ = ["KiloProcess", "Launcher", "RunningServer", "launch"]

_LISTENING = re.compile(r"^kilo server listening on (http://\S+)$")
GRACE_SECONDS = 3.0
"""Between TERM and KILL. kilo needs 0.3 s to leave, 1.3 s with an event stream open (measured, 7.7.7)."""


class RunningServer(Protocol):
    """A server that listens. What fakes must offer, too."""

    @property
    def endpoint(self) -> Endpoint: ...
    @property
    def pid(self) -> int: ...
    @property
    def ended(self) -> trio.Event: ...
    @property
    def exit(self) -> Exit | None: ...
    @property
    def stderr_tail(self) -> tuple[str, ...]: ...
    @property
    def leftovers(self) -> tuple[int, ...]: ...


class Launcher(Protocol):
    """Starts a server for the length of a block; entering waits until it listens, leaving until it is gone.

    Every server gets a password of its own, which is not part of the spec: equal specs are interchangeable.
    Entering raises `ServerDied` when the process ends first. There is no time-out: deadlines are the caller's.
    """

    def __call__(self, spec: ServerSpec) -> AbstractAsyncContextManager[RunningServer]: ...


class KiloProcess:
    """A real `kilo serve` that printed its address."""

    def __init__(self, child: Child, endpoint: Endpoint) -> None:
        self._child = child
        self.endpoint = endpoint

    @property
    def pid(self) -> int:
        return self._child.pid

    @property
    def ended(self) -> trio.Event:
        return self._child.ended

    @property
    def exit(self) -> Exit | None:
        return self._child.exit

    @property
    def stderr_tail(self) -> tuple[str, ...]:
        return self._child.stderr_tail

    @property
    def leftovers(self) -> tuple[int, ...]:
        return self._child.leftovers


@asynccontextmanager
async def launch(spec: ServerSpec) -> AsyncIterator[KiloProcess]:
    """Run the spec's process. See `Launcher`. What a killed control server has left at its home is ended first."""
    if left := await end_strays(spec.home, spec.user):
        raise ServerDied(None, (), f"processes of an earlier control server still use {spec.home}: {left}")
    address: list[str] = []
    password = new_password()
    env = {**spec.env, "KILO_SERVER_PASSWORD": password.reveal()}
    listening = trio.Event()

    def read(line: str) -> None:
        if found := _LISTENING.match(line):
            address.append(found[1])
            listening.set()

    try:
        # One that does not listen yet has nothing to save, and its busy thread would let a TERM wait.
        async with open_child(
            spec.argv, cwd=spec.cwd, env=env, on_stdout=read, grace=0, user=spec.user,
            folders=(spec.cwd, spec.home),
        ) as child:  # fmt: skip
            await wait_any(listening, child.ended)
            if listening.is_set():
                child.grace = GRACE_SECONDS
                yield KiloProcess(child, Endpoint(address[0], password))
                return
    except CannotStart as error:
        raise ServerDied(None, (), str(error)) from error
    # Raised outside of the child's nursery, so that it is a plain exception and not a group of one.
    raise ServerDied(child.exit, spec.redacted(child.stderr_tail))
