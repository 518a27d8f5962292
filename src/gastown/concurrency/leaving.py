"""When and how fast a process is to leave: the first signal asks, the second presses, the third ends it."""

from __future__ import annotations

import os
import signal
import threading
from contextlib import suppress

import structlog
import trio

__all__ = ["Leaving"]

log = structlog.get_logger()

PRESSED_SECONDS = 5.0
"""What a second signal leaves of the budget."""
_LAST_RESORT_SECONDS = 30.0


class Leaving:
    """`told` is set by the first signal; from then on `budget` is the scope in which all farewells happen."""

    def __init__(self, seconds: float) -> None:
        self.told = trio.Event()
        self.budget = trio.CancelScope()
        self._seconds = seconds

    def tell(self, why: str) -> None:
        """Ask to leave; asked again, leave sooner."""
        log.info("container.leaving", why=why, seconds=self._seconds)
        now = trio.current_time()
        if not self.told.is_set():
            self.told.set()
            self.budget.deadline = now + self._seconds
            self._arm_last_resort()
        elif self.budget.deadline > now + PRESSED_SECONDS:
            self.budget.deadline = now + PRESSED_SECONDS
        else:
            self.budget.cancel(reason=why)

    async def heed_signals(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Tell on each TERM and INT, until cancelled."""
        with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
            task_status.started()
            async for number in signals:
                self.tell(signal.Signals(number).name)

    async def watch_parent(self, pid: int) -> None:
        """Leave in a hurry when the process `pid` has ended; at once when there is none."""
        with suppress(ProcessLookupError):
            descriptor = os.pidfd_open(pid)
            try:
                await trio.lowlevel.wait_readable(descriptor)
            finally:
                os.close(descriptor)
        # Twice, as it were: nobody is there any more to hear a long farewell.
        self.tell(f"the parent process {pid} is gone")
        self.budget.deadline = min(self.budget.deadline, trio.current_time() + PRESSED_SECONDS)

    def _arm_last_resort(self) -> None:
        """Should the event loop itself hang, a thread ends the process some time after the budget."""
        timer = threading.Timer(self._seconds + _LAST_RESORT_SECONDS, os._exit, (1,))
        timer.daemon = True
        timer.start()
