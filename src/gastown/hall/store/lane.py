"""A connection to the hall's file, one piece of work at a time; and its errors."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from math import inf
from pathlib import Path
from typing import TypeVar

import trio
from sqlalchemy import URL, Connection, create_engine, event
from sqlalchemy.exc import DBAPIError, OperationalError
from sqlalchemy.pool import NullPool

__all__ = ["BUSY_SECONDS", "Lane", "StoreBusy", "StoreError", "connect", "connect_to_read", "usable"]

BUSY_SECONDS = 5.0
"""How long a statement waits for another process that holds the file."""
_T = TypeVar("_T")
_WRITING = ("journal_mode = WAL", "synchronous = NORMAL", "foreign_keys = ON", "journal_size_limit = 67108864")
_READING = ("query_only = ON",)


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

    def __init__(self, connection: Connection, path: Path) -> None:
        self.connection = connection
        self._path = path
        self._one_at_a_time = trio.CapacityLimiter(1)
        self._busy_at = -inf

    async def run(self, work: Callable[[Connection], _T]) -> _T:
        """Do `work`. StoreBusy when another process keeps it away from the file for five seconds; what has waited
        behind it is refused at once, so that the waits do not add up.

        Cancelling it waits for the work that is running.
        """
        asked_at = trio.current_time()
        async with self._one_at_a_time:
            if asked_at < self._busy_at:
                raise StoreBusy(self._path)
            try:
                return await trio.to_thread.run_sync(work, self.connection)
            except OperationalError as error:
                if not _is_busy(error):
                    raise
                self._busy_at = trio.current_time()
                raise StoreBusy(self._path) from error


def connect(path: Path) -> Connection:
    """Open the file to write, made where it is missing. Blocks; StoreError."""
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        # SQLite gives the files that it makes beside this one the mode of this one.
        os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
        path.chmod(0o600)
    except OSError as error:
        raise StoreError(f"cannot write {path}: {error.strerror}") from error
    # IMMEDIATE: what another process keeps away from the file waits at its beginning, and has done nothing yet.
    return _connection(path, _WRITING, "BEGIN IMMEDIATE", "rw")


def connect_to_read(path: Path, *, mode: str = "rw") -> Connection:
    """A connection that writes nothing; with mode `ro` to a file that may be missing or no database, and that
    stays as it is. Blocks; StoreError.
    """
    return _connection(path, _READING, "BEGIN", mode)


@contextmanager
def usable(path: Path) -> Iterator[None]:
    """What goes wrong with the file inside the block is a StoreError."""
    try:
        yield
    except (DBAPIError, sqlite3.Error) as error:
        if _is_busy(error):
            raise StoreBusy(path) from error
        said = error.orig if isinstance(error, DBAPIError) else error
        raise StoreError(f"cannot use {path} as a database: {said}") from error


def _connection(path: Path, pragmas: tuple[str, ...], begin: str, mode: str) -> Connection:
    """Blocks; StoreError. The driver begins no transaction by itself (`isolation_level`): `begin` does."""
    driver = {"isolation_level": None, "check_same_thread": False, "timeout": BUSY_SECONDS}
    url = URL.create("sqlite", database=path.absolute().as_uri(), query={"uri": "true", "mode": mode})
    engine = create_engine(url, poolclass=NullPool, connect_args=driver)
    with usable(path):
        connection = engine.connect()
        try:
            for pragma in pragmas:
                connection.connection.cursor().execute(f"PRAGMA {pragma}")
        except BaseException:
            connection.close()
            raise
    event.listen(engine, "begin", lambda connection: connection.exec_driver_sql(begin))
    return connection


def _is_busy(error: DBAPIError | sqlite3.Error) -> bool:
    """Whether another process was in the way. The low byte of an extended code is the code."""
    cause = error.orig if isinstance(error, DBAPIError) else error
    return getattr(cause, "sqlite_errorcode", 0) & 0xFF in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED)
