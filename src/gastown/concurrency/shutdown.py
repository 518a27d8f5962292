"""When and how fast the process shuts down: signals ask, then shorten the budget, then end it."""

from __future__ import annotations

import os
import signal
import threading
from contextlib import AsyncExitStack, suppress

import structlog
import trio

from gastown.concurrency.signal import Signal

__all__ = ["Shutdown", "ending_signals"]

log = structlog.get_logger()

PRESSED_SECONDS = 5.0
"""What is left of the budget after a second signal."""
_LAST_RESORT_SECONDS = 30.0


def ending_signals() -> tuple[signal.Signals, ...]:
    """The signals that ask this process to end: TERM, INT, and HUP, the end of its terminal.

    HUP is not among them when it was ignored from the start, as under `nohup`.
    """
    usual = (signal.SIGTERM, signal.SIGINT)
    return usual if signal.getsignal(signal.SIGHUP) is signal.SIG_IGN else (*usual, signal.SIGHUP)


class Shutdown:
    """`requested` is set by the first request; from then on `budget` is the cancel scope in which the drain runs.

    `moved` is sent whenever the budget's deadline changes.
    """

    def __init__(self, seconds: float) -> None:
        self.requested = trio.Event()
        self.budget = trio.CancelScope()
        self.moved = Signal()
        self.seconds = seconds
        self.why: str | None = None
        self._usual = seconds
        self._signals = 0

    @property
    def seconds_left(self) -> float | None:
        """What is left of the budget; None before a shutdown was requested."""
        return max(0.0, self.budget.deadline - trio.current_time()) if self.requested.is_set() else None

    def ask(self, why: str, seconds: float | None = None) -> None:
        """Request a shutdown within `seconds`, or within the usual budget. Another request can only shorten it."""
        within = self._usual if seconds is None else seconds
        if not self.requested.is_set():
            self.why, self.seconds = why, within
            log.info("container.leaving", why=why, seconds=within)
            self.requested.set()
        self._end_by(trio.current_time() + within)

    def tell(self, why: str) -> None:
        """Count a signal: the first one requests, the second leaves five seconds, the third none."""
        self._signals += 1
        log.info("container.told", why=why, signals=self._signals)
        if self._signals == 1:
            self.ask(why)
        elif self._signals == 2:
            self._end_by(trio.current_time() + PRESSED_SECONDS)
        else:
            self.budget.cancel(reason=why)

    async def hard_exit_timer(self, at_the_end: AsyncExitStack) -> None:
        """End the process from a thread some time after the budget, should the event loop itself hang.

        For a real process only. The timer starts with the request and is cancelled when `at_the_end` closes.
        """
        await self.requested.wait()
        timer = threading.Timer(self.seconds + _LAST_RESORT_SECONDS, os._exit, (1,))
        timer.daemon = True
        timer.start()
        at_the_end.callback(timer.cancel)

    async def handle_signals(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Count each TERM and INT, until cancelled; HUP only as the first: kernel and shell both send it."""
        with trio.open_signal_receiver(*ending_signals()) as signals:
            task_status.started()
            async for number in signals:
                if number != signal.SIGHUP or not self._signals:
                    self.tell(signal.Signals(number).name)

    async def watch_parent(self, pid: int) -> None:
        """Request a shutdown within five seconds once the process `pid` has ended, or if there is none."""
        with suppress(ProcessLookupError):
            descriptor = os.pidfd_open(pid)
            try:
                await trio.lowlevel.wait_readable(descriptor)
            finally:
                os.close(descriptor)
        self.ask(f"the parent process {pid} is gone")
        # The town has ended with its parent: a long drain would have no receiver.
        self._end_by(trio.current_time() + PRESSED_SECONDS)

    def _end_by(self, deadline: float) -> None:
        if deadline < self.budget.deadline:
            self.budget.deadline = deadline
            self.moved.send()
