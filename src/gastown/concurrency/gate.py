"""The hydration gate: new requests wait while the agents of the previous container are being claimed."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import trio

from gastown.concurrency.waiting import wait_any
from gastown.metrics.counters import Histogram

__all__ = ["HydrationGate"]


class HydrationGate:
    """Open at first; closed while a `hold()` is in progress; open again when that hold ends, however it ends.

    Every hold creates its own event and sets it at its end; a waiter waits for the event that was current when it
    arrived. So a second hydration can never strand a waiter of the first. Waiters go on in the order in which they
    came: of two requests the later one has the last word, and Trio wakes the waiters of an event in any order.
    `waiting` is the number of waiting tasks, `waits` the histogram of finished waits.
    """

    def __init__(self) -> None:
        self.waiting = 0
        self.waits = Histogram("gastown_gate_wait_seconds")
        self._current = trio.Event()
        self._current.set()
        self._order = trio.Lock()

    @property
    def is_open(self) -> bool:
        return self._current.is_set()

    @contextmanager
    def hold(self) -> Iterator[trio.Event]:
        """Close the gate for the length of the block. The block may open it early with `event.set()`."""
        event = trio.Event()
        self._current = event
        try:
            yield event
        finally:
            event.set()

    async def wait(self, *others: trio.Event) -> None:
        """Return when the hydration that was current on arrival lets requests through, or when one of `others`
        is set; a checkpoint always.
        """
        began, current = trio.current_time(), self._current
        self.waiting += 1
        try:
            async with self._order:
                await wait_any(current, *others)
        finally:
            self.waiting -= 1
            self.waits.observe(trio.current_time() - began)
