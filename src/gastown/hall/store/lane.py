"""A connection to the hall's file, one statement at a time; and what it says when another process has the file."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from math import inf
from pathlib import Path
from typing import TypeVar

import trio

__all__ = ["BUSY_SECONDS", "Lane", "StoreBusy", "StoreError", "is_busy"]

BUSY_SECONDS = 5
"""How long a statement waits for another process that holds the file."""
_T = TypeVar("_T")


class StoreError(Exception):
    """The file cannot be used: not writable, no database, or of another version. One clear sentence."""


class StoreBusy(StoreError):
    """Another process has held the file for too long; nothing was changed. One clear sentence."""

    def __init__(self, path: Path) -> None:
        super().__init__(
            f"another process holds {path}; end it (a sqlite3 shell, a backup of the file), and try again"
        )


class Lane:
    """A connection, used for one thing at a time on a worker thread, in the order in which it was asked for."""

    def __init__(self, connection: sqlite3.Connection, path: Path) -> None:
        self.connection = connection
        self._path = path
        self._one_at_a_time = trio.CapacityLimiter(1)
        self._busy_at = -inf

    async def run(self, work: Callable[[sqlite3.Connection], _T]) -> _T:
        """Do `work`. StoreBusy when another process keeps it away from the file for five seconds; what has waited
        behind it is refused at once, so that the waits do not add up.

        Cancelling it waits for the statement that is running.
        """
        asked_at = trio.current_time()
        async with self._one_at_a_time:
            if asked_at < self._busy_at:
                raise StoreBusy(self._path)
            try:
                return await trio.to_thread.run_sync(work, self.connection)
            except sqlite3.OperationalError as error:
                if not is_busy(error):
                    raise
                self._busy_at = trio.current_time()
                raise StoreBusy(self._path) from error


def is_busy(error: sqlite3.Error) -> bool:
    """Whether another process was in the way. The low byte of an extended code is the code."""
    return getattr(error, "sqlite_errorcode", 0) & 0xFF in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED)
