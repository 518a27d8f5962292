"""A thread that logs what the event loop is doing while it does not go round (ADR 0035)."""

from __future__ import annotations

import sys
import threading
import time
import traceback
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import partial

import structlog
import trio

from gastown.concurrency.lag import LoopLag

__all__ = ["LoopWatch", "watch_loop"]

log = structlog.get_logger()

STANDS_STILL_SECONDS = 1.0
"""Twice the time between two beats of `LoopLag`."""
STUCK_SECONDS = 5.0
"""Short enough that the line is written before a liveness probe has the process ended."""
_LOOK_EVERY_SECONDS = 0.25
_FRAMES = 8

InLoop = Callable[[Callable[[], None]], None]


class LoopWatch:
    """Compares the beats of `lag` from a thread; `in_loop` has a function called in the event loop.

    Only time in which this thread ran and the loop did not counts as standing still: a process that was stopped,
    or got no processor, is not taken for a stuck one when it goes on.
    """

    def __init__(self, lag: LoopLag, in_loop: InLoop) -> None:
        self.stood_still = 0.0
        self._lag = lag
        self._in_loop = in_loop
        self._loop_thread = threading.get_ident()
        self._stopped = threading.Event()
        self._where: list[str] = []

    def run(self) -> None:
        """Watch until `stop` is called. Blocks; for a thread."""
        beats, looked = self._lag.beats, time.monotonic()
        while not self._stopped.wait(_LOOK_EVERY_SECONDS):
            now = time.monotonic()
            if self._lag.beats == beats:
                self._stands_still(min(now - looked, 2 * _LOOK_EVERY_SECONDS))
            else:
                beats = self._lag.beats
                self._goes_round()
            looked = now
        self._goes_round()

    def stop(self) -> None:
        """Let `run` return; for the loop's thread."""
        self._stopped.set()

    def _stands_still(self, seconds: float) -> None:
        before, self.stood_still = self.stood_still, self.stood_still + seconds
        if before < STANDS_STILL_SECONDS <= self.stood_still:
            self._where = self._stack()
        if before < STUCK_SECONDS <= self.stood_still:
            # Logged from this thread, since the loop may never run again. The redaction reads objects that the
            # loop changes, but the loop has not run for seconds.
            self._where = self._stack()
            log.error("loop.stuck", seconds=round(self.stood_still, 1), where=self._where)

    def _goes_round(self) -> None:
        stood_still, self.stood_still = self.stood_still, 0.0
        if stood_still >= STANDS_STILL_SECONDS:
            # Logged in the loop: the redaction reads objects that the loop changes again.
            said = partial(log.warning, "loop.stood_still", seconds=round(stood_still, 1), where=self._where)
            self._in_loop(said)

    def _stack(self) -> list[str]:
        """Where the loop is, innermost last: files, lines and functions, no values."""
        frame = sys._current_frames().get(self._loop_thread)  # noqa: SLF001 # pyright: ignore[reportPrivateUsage]
        frames = traceback.extract_stack(frame, _FRAMES) if frame is not None else []
        return [f"{entry.filename}:{entry.lineno} {entry.name}" for entry in frames]


@asynccontextmanager
async def watch_loop(lag: LoopLag) -> AsyncIterator[None]:
    """Measure the current event loop into `lag`, and watch it, for the length of the block."""
    watch = LoopWatch(lag, trio.lowlevel.current_trio_token().run_sync_soon)
    thread = threading.Thread(target=watch.run, name="loop watch", daemon=True)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(lag.measure, name="loop lag")
        thread.start()
        try:
            yield
        finally:
            watch.stop()
            thread.join()  # it waits for nothing but `stop`
            nursery.cancel_scope.cancel(reason="the loop is no longer watched")
