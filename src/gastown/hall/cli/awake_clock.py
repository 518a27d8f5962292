"""A clock that stands still while the process is stopped, by Ctrl-Z or SIGSTOP."""

from __future__ import annotations

import time

from trio.abc import Clock

__all__ = ["AwakeClock"]

_LATE_SECONDS = 2.0


class AwakeClock(Clock):
    """The machine's monotonic clock, without the time in which this process could not run.

    Trio asks how long it may sleep until the next deadline; when it wakes up much later than that, the process
    was stopped. Without this, every deadline that passed meanwhile would cut its call at once, although what was
    called has answered long ago: a town would end because its terminal was put aside.
    """

    def __init__(self) -> None:
        self._stopped = 0.0
        self._expected = time.monotonic()

    def start_clock(self) -> None:
        """Nothing has to be begun."""

    def current_time(self) -> float:
        return self._look() - self._stopped

    def deadline_to_sleep_time(self, deadline: float) -> float:
        now = self._look()
        seconds = deadline - (now - self._stopped)
        self._expected = now + max(0.0, seconds)
        return seconds

    def _look(self) -> float:
        """The machine's clock; what it is too late by counts as stopped."""
        now = time.monotonic()
        late = now - self._expected
        if late > _LATE_SECONDS:
            self._stopped += late
        self._expected = now
        return now
