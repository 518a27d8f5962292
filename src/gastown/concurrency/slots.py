"""Spawn slots: a bounded number at a time, the most urgent first."""

from __future__ import annotations

import heapq
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from enum import IntEnum
from itertools import count
from types import TracebackType
from typing import Self

import trio

__all__ = ["Priority", "PrioritySlots", "Slot"]


class Priority(IntEnum):
    """Spawn priority; lower first."""

    INTERACTIVE = 0
    PREWARM = 1
    REFRESH = 2
    RESUME = 3


@dataclass(order=True)
class _Waiter:
    priority: Priority
    arrival: int
    granted: trio.Event = field(compare=False, default_factory=trio.Event)


class Slot:
    """The right to spawn. `release()` may be called more than once; leaving the block releases it too."""

    def __init__(self, slots: PrioritySlots) -> None:
        self._slots: PrioritySlots | None = slots

    def release(self) -> None:
        if self._slots is not None:
            slots, self._slots = self._slots, None
            slots.give_back()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release()


class PrioritySlots:
    """At most `capacity` slots are out at a time; waiters are served by priority, then by arrival.

    Inside `hold_resumes()` no RESUME is granted: starting a server is pure CPU, and a resume beside the
    mayor costs the mayor seconds (measured: 2.2 s alone, 3.2-4.1 s beside one other, 9 s beside two, on two
    cores). A resume that already has its slot keeps it.
    """

    def __init__(self, capacity: int) -> None:
        if capacity < 1:
            raise ValueError("at least one slot is needed")
        self.capacity = capacity
        self.in_use = 0
        self._holds = 0
        self._waiters: list[_Waiter] = []
        self._arrivals = count()

    @property
    def waiting(self) -> int:
        return len(self._waiters)

    def waiting_at(self, priority: Priority) -> int:
        """How many wait with that priority."""
        return sum(waiter.priority is priority for waiter in self._waiters)

    async def take(self, priority: Priority) -> Slot:
        """Wait for a slot. Use it as `with await slots.take(...):`. Cancelling gives up the place in the queue."""
        waiter = _Waiter(priority, next(self._arrivals))
        heapq.heappush(self._waiters, waiter)
        self._grant()
        try:
            await waiter.granted.wait()
        except BaseException:
            if waiter.granted.is_set():
                self.in_use -= 1
            else:
                self._waiters.remove(waiter)
                heapq.heapify(self._waiters)
            self._grant()
            raise
        return Slot(self)

    @contextmanager
    def hold_resumes(self) -> Iterator[None]:
        """Keep resumes waiting for the length of the block."""
        self._holds += 1
        try:
            yield
        finally:
            self._holds -= 1
            self._grant()

    def give_back(self) -> None:
        """For `Slot.release`, which calls it once."""
        self.in_use -= 1
        self._grant()

    def _grant(self) -> None:
        while self._waiters and self.in_use < self.capacity:
            if self._holds and self._waiters[0].priority >= Priority.RESUME:
                return
            self.in_use += 1
            heapq.heappop(self._waiters).granted.set()
