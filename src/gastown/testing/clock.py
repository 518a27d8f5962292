"""Virtual time: a clock that jumps, and what may not be used under it.

The rules for a test under this clock:

- Time stands still while any task can run, and jumps to the next deadline when all of them wait. An hour costs
  nothing, and `trio.current_time()` differences are exact: assert them with `==`.
- Only Trio's waiting counts. The clock takes a thread, a process or a socket for idleness and jumps past it: such
  parts belong into tests in real time. Work that Trio gives to threads (files, above all) is done in place instead
  (`threads_in_place`).
- A wait for something that never comes does not hang: the town's heartbeats let the time pass until
  `LONGEST_SECONDS`, which raises `trio.TooSlowError`.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import Any, TypeVar
from unittest import mock

import trio
import trio.testing

__all__ = ["EPOCH", "LONGEST_SECONDS", "WallClock", "in_virtual_time", "threads_in_place"]

EPOCH = datetime(2030, 5, 1, 12, 0, tzinfo=UTC)
"""What the town's wall clock says when virtual time begins."""
LONGEST_SECONDS = 6 * 3600.0
"""Virtual time that no test needs: heartbeats never end, so a wait for nothing would not be a deadlock."""

Result = TypeVar("Result")


def in_virtual_time(
    test: Callable[..., Awaitable[Result]],
    *,
    clock: trio.abc.Clock | None = None,
    instruments: Sequence[trio.abc.Instrument] = (),
) -> Result:
    """`trio.run` under a clock that starts at 0 and jumps to the next deadline when every task waits."""
    return trio.run(test, clock=clock or trio.testing.MockClock(autojump_threshold=0), instruments=instruments)


async def _in_place(call: Callable[..., Result], *arguments: Any, **_: Any) -> Result:
    """Stands for `trio.to_thread.run_sync`."""
    await trio.lowlevel.checkpoint()
    return call(*arguments)


@contextmanager
def threads_in_place() -> Iterator[None]:
    """For the length of the block, work for Trio's threads is done in place; that of `trio.Path`, too."""
    with mock.patch("trio.to_thread.run_sync", _in_place), mock.patch("trio._path.run_sync", _in_place):
        yield


class WallClock:
    """The town's wall clock: `EPOCH` when virtual time begins, and wrong by `ahead`, which a test may set."""

    def __init__(self) -> None:
        self.ahead = timedelta()
        self._clock = trio.lowlevel.current_clock()  # threads may ask, too

    def __call__(self) -> datetime:
        return EPOCH + timedelta(seconds=self._clock.current_time()) + self.ahead
