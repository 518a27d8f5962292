"""One lock per name, for as long as it is used."""

from __future__ import annotations

from weakref import WeakValueDictionary

import trio

__all__ = ["NamedLocks"]


class NamedLocks:
    """`async with locks.of(name)`: at most one holder per name. A lock without holder and waiters is dropped."""

    def __init__(self) -> None:
        self._locks: WeakValueDictionary[str, trio.Lock] = WeakValueDictionary()

    def __len__(self) -> int:
        return len(self._locks)

    def of(self, name: str) -> trio.Lock:
        lock = self._locks.get(name)
        if lock is None:
            lock = self._locks[name] = trio.Lock()
        return lock
