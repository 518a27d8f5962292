"""How late the event loop is, by a task that asks to be woken twice a second."""

from __future__ import annotations

from typing import NoReturn

import trio

from gastown.metrics.counters import Histogram

__all__ = ["PERIOD_SECONDS", "LoopLag"]

PERIOD_SECONDS = 0.5


class LoopLag:
    """`beats` grows with every wake-up, so that a thread sees whether the loop goes round; `lags` are in seconds.

    For the process that really serves: a town in virtual time would have to wake up for every half second.
    """

    def __init__(self) -> None:
        self.beats = 0
        self.lags = Histogram("gastown_event_loop_lag_seconds")

    async def measure(self) -> NoReturn:
        """Wake up and look at the clock, until cancelled."""
        while True:
            due = trio.current_time() + PERIOD_SECONDS
            await trio.sleep_until(due)
            self.beats += 1
            self.lags.observe(trio.current_time() - due)
