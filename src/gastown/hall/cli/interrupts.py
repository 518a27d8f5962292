"""What Ctrl-C, SIGTERM, the end of the terminal, and the end of what reads the output do to a town that is up."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager

import trio

from gastown.concurrency.shutdown import ending_signals
from gastown.hall.cli.screen import Screen
from gastown.hall.drivers.process import Container

__all__ = ["Interrupts"]


class Interrupts:
    """The first of them ends the town in order; a further Ctrl-C or SIGTERM hurries its container.

    They end what `up` itself does with the town, in a `block`, and nothing that the container needs while it
    drains: the hall must still receive its last reports. `told` is whether there was one, `by_hand` whether it was
    Ctrl-C.
    """

    def __init__(self, screen: Screen) -> None:
        self.told = False
        self.container: Container | None = None
        self.by_hand = False
        self._screen = screen
        self._count = 0
        self._scopes: list[trio.CancelScope] = []

    @contextmanager
    def block(self) -> Iterator[None]:
        """What the first interruption ends; at once, where it has come already."""
        with trio.CancelScope() as scope:
            if self.told:
                scope.cancel(reason="interrupted before")
            self._scopes.append(scope)
            try:
                yield
            finally:
                self._scopes.remove(scope)

    async def handle_signals(self, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        with trio.open_signal_receiver(*ending_signals()) as signals:
            task_status.started()
            async for number in signals:
                self._count += 1
                self._act(number)

    def _act(self, number: int) -> None:
        if self._count == 1:
            self.by_hand = number == signal.SIGINT
            self._end()
        elif number == signal.SIGHUP:
            pass  # the kernel sends it when a terminal closes, and a shell once more
        elif self.container is not None:
            if self._count <= 3:
                self.container.terminate()
            else:
                self.container.kill()

    def end(self) -> None:
        """End the town in order, as the first signal does."""
        if not self.told:
            self._count += 1
            self._end()

    def _end(self) -> None:
        if self.container is not None:
            self._screen.line("stopping: the container drains (Ctrl-C again hurries it)")
        self.told = True
        for scope in self._scopes:
            scope.cancel(reason="interrupted")

    async def watch_reader(self) -> None:
        """End the town when nobody reads any more what `up` says: then nobody wants it, either."""
        await self._screen.reader_left()
        if not self._count:
            self._end()
