"""Publish and subscribe: the newest items per key, read by any number of subscribers at their own pace.

Publishing never waits and copies nothing: a subscriber is a position in ring buffers that exist anyway. A
subscriber that is too slow loses the items that fell out of the ring, gets a `Gap` that says which, and goes on.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import takewhile
from typing import Generic, TypeVar

import trio

__all__ = ["Gap", "Hub", "HubClosed", "Published", "Subscription"]

T = TypeVar("T")


class HubClosed(Exception):
    """The hub is closed and everything has been read; the message says why it was closed."""


@dataclass(slots=True, eq=False)
class Published(Generic[T]):
    """An item in its rings. `wire` caches its serialised form, which the first subscriber to send it makes."""

    key: str
    id: int
    item: T
    wire: bytes | None = None


@dataclass(frozen=True, slots=True)
class Gap:
    """What a subscriber has lost: items of `key`, or of any key, with ids in this range, both ends included."""

    key: str | None
    first: int
    last: int


class _Ring(Generic[T]):
    """The newest items of a key. `lost` is the id of the newest one that fell out."""

    def __init__(self, key: str | None, size: int) -> None:
        self.key = key
        self.items: deque[Published[T]] = deque(maxlen=size)
        self.lost = 0
        self.readers = 0
        self.asleep: dict[Subscription[T], None] = {}

    @property
    def newest(self) -> int:
        return self.items[-1].id if self.items else self.lost

    def add(self, entry: Published[T]) -> None:
        if len(self.items) == self.items.maxlen:
            self.lost = self.items[0].id
        self.items.append(entry)
        self.wake()

    def wake(self) -> None:
        if not self.asleep:
            return
        asleep, self.asleep = self.asleep, {}
        for subscription in asleep:
            subscription.wake()

    def after(self, last: int) -> list[Published[T]]:
        found = list(takewhile(lambda entry: entry.id > last, reversed(self.items)))
        found.reverse()
        return found

    def clear(self) -> None:
        self.lost = self.newest
        self.items.clear()


class Hub(Generic[T]):
    """Rings of `size` items. Ids are given by the publisher and increase over all keys.

    `subscribers` is the current number; `gaps` counts the gaps that subscribers were given.
    """

    def __init__(self, size: int) -> None:
        self._size = size
        self._rings: dict[str, _Ring[T]] = {}
        self._all: _Ring[T] = _Ring(None, size)
        self.newest = 0
        self.subscribers = 0
        self.gaps = 0
        self.closed: str | None = None

    def publish(self, key: str, number: int, item: T) -> None:
        """Never waits. The ring over all keys is filled only while it has readers."""
        entry = Published(key, number, item)
        self.newest = number
        self._ring(key).add(entry)
        if self._all.readers:
            self._all.add(entry)

    def after(self, key: str, last: int) -> list[T]:
        """The kept items of `key` with ids greater than `last`, oldest first."""
        ring = self._rings.get(key)
        return [entry.item for entry in ring.after(last)] if ring is not None else []

    def forget(self, key: str) -> None:
        """Drop all items of `key`. Its subscribers stay; one that has not read everything loses the rest."""
        if (ring := self._rings.get(key)) is not None:
            ring.clear()
            self._drop_if_unused(ring)

    def close(self, reason: str) -> None:
        """End every subscription, now and later, as soon as it has read what is kept."""
        self.closed = reason
        for ring in (self._all, *self._rings.values()):
            ring.wake()

    @contextmanager
    def subscribe(self) -> Iterator[Subscription[T]]:
        """A subscription to nothing yet, for the length of the block."""
        subscription: Subscription[T] = Subscription(self)
        self.subscribers += 1
        try:
            yield subscription
        finally:
            self.subscribers -= 1
            for ring in subscription.places:
                self.leave(ring)

    def enter(self, key: str | None) -> _Ring[T]:
        """For subscriptions: the ring of `key`, or that over all keys, with one reader more."""
        ring = self._all if key is None else self._ring(key)
        ring.readers += 1
        return ring

    def leave(self, ring: _Ring[T]) -> None:
        ring.readers -= 1
        self._drop_if_unused(ring)

    def _ring(self, key: str) -> _Ring[T]:
        ring = self._rings.get(key)
        if ring is None:
            ring = self._rings[key] = _Ring(key, self._size)
        return ring

    def _drop_if_unused(self, ring: _Ring[T]) -> None:
        if ring.readers:
            return
        if ring.key is None:
            ring.clear()
        elif not ring.items:
            self._rings.pop(ring.key, None)


class Subscription(Generic[T]):
    """Made by `Hub.subscribe`; one task reads it. `keys` are those that were asked for."""

    def __init__(self, hub: Hub[T]) -> None:
        self._hub = hub
        self._news = trio.Event()
        self._asleep = False
        self._late: list[Published[T] | Gap] = []
        self._all_since: int | None = None
        self.places: dict[_Ring[T], int] = {}
        self.keys: set[str] = set()

    def follow_all(self) -> None:
        """Everything that is published from now on, of any key."""
        if self._all_since is None:
            self._all_since = self._hub.newest
            self.places[self._hub.enter(None)] = self._all_since

    def follow(self, key: str, after: int | None = None) -> None:
        """First the kept items of `key`, then new ones, none twice. The key need not be known yet.

        With `after`, only the kept items with greater ids; what the ring has lost since then becomes a `Gap`. An
        id that was never given out is ignored.
        """
        if key in self.keys:
            return
        self.keys.add(key)
        ring = self._hub.enter(key)
        start = ring.lost if after is None or after > self._hub.newest else after
        if self._all_since is None:
            self.places[ring] = start
        else:
            # What came since is delivered with everything else: only the past is missing.
            self._late += self._read(ring, start, self._all_since)
            self._hub.leave(ring)
        if self._asleep:
            self.wake()  # it does not wait for that ring yet

    def wake(self) -> None:
        """Let `next` return although nothing was published."""
        self._news.set()

    async def next(self) -> list[Published[T] | Gap]:
        """All that is new, in the order of ids, gaps before what follows them; empty when `wake` was called.

        Raises `HubClosed` when the hub is closed and everything has been read.
        """
        found = self._collect()
        if found or self._news.is_set():
            self._news = trio.Event()
            await trio.lowlevel.checkpoint()
            return found
        if self._hub.closed is not None:
            raise HubClosed(self._hub.closed)
        await self._sleep()
        return self._collect()

    async def _sleep(self) -> None:
        for ring in self.places:
            ring.asleep[self] = None
        self._asleep = True
        try:
            await self._news.wait()
        finally:
            self._asleep = False
            self._news = trio.Event()
            for ring in self.places:
                ring.asleep.pop(self, None)

    def _collect(self) -> list[Published[T] | Gap]:
        found, self._late = self._late, []
        fresh = [ring for ring, place in self.places.items() if ring.newest > place]
        for ring in fresh:
            found += self._read(ring, self.places[ring])
            self.places[ring] = ring.newest
        if len(fresh) > 1:
            found.sort(key=lambda entry: entry.last if isinstance(entry, Gap) else entry.id)
        return found

    def _read(self, ring: _Ring[T], place: int, until: int | None = None) -> list[Published[T] | Gap]:
        """The items of `ring` with ids after `place` up to `until`; first a `Gap` for those that are lost."""
        kept = ring.after(place)
        lost = ring.lost
        if until is not None:
            kept, lost = [entry for entry in kept if entry.id <= until], min(lost, until)
        if lost <= place:
            return [*kept]
        self._hub.gaps += 1
        return [Gap(ring.key, place + 1, lost), *kept]
