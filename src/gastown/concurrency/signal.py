"""A change that happens again and again, which any number of tasks wait for."""

from __future__ import annotations

from collections.abc import Callable

from trio.lowlevel import ParkingLot, checkpoint

__all__ = ["Signal"]


class Signal:
    """Wakes every waiting task each time it is sent; `count` says how often that was.

    `trio.Event` is for something that happens once. A signal keeps no state between two sends, so a task looks
    at the state itself and must not miss a change between its look and its wait:

    - nothing is awaited in between: `wait()` right after the look, or `wait_until`;
    - something is: note `count` before the look; `wait(after=noted)` returns at once if the signal was sent since.
    """

    def __init__(self) -> None:
        self.count = 0
        self._waiting = ParkingLot()

    def send(self) -> None:
        """Wake every task that waits now."""
        self.count += 1
        self._waiting.unpark_all()

    async def wait(self, *, after: int | None = None) -> None:
        """Return at the next send; with `after`, at the first one since `count` had that value."""
        if after is not None and self.count != after:
            await checkpoint()
        else:
            await self._waiting.park()

    async def wait_until(self, holds: Callable[[], bool]) -> None:
        """Return once `holds()` is true: it is asked now, without waiting, and again after every send."""
        while not holds():
            await self.wait()
