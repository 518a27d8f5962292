"""What Ctrl-C and SIGTERM do to a town that is up."""

from __future__ import annotations

import signal

import trio

from gastown.hall.cli.screen import Screen
from gastown.hall.drivers.process import Container

__all__ = ["Interrupts"]


class Interrupts:
    """The first Ctrl-C or SIGTERM ends the town in order, further ones hurry its container.

    `scope` holds what `up` itself does with the town, and nothing that the container needs while it drains:
    the hall must still receive its last reports.
    """

    def __init__(self, screen: Screen) -> None:
        self.scope = trio.CancelScope()
        self.container: Container | None = None
        self._screen = screen
        self._count = 0

    async def handle_signals(self, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        with trio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
            task_status.started()
            async for _ in signals:
                self._count += 1
                self._act()

    def _act(self) -> None:
        if self._count == 1:
            self._screen.line("stopping: the container drains (Ctrl-C again hurries it)")
            self.scope.cancel(reason="interrupted")
        elif self.container is not None:
            if self._count <= 3:
                self.container.terminate()
            else:
                self.container.kill()
