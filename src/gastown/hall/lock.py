"""One hall for a data directory: a lock that the kernel releases, however its holder ends."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

__all__ = ["DirectoryUnusable", "only_one"]


class DirectoryUnusable(Exception):
    """The data directory cannot be had: not writable, or another process has it. One clear sentence."""


@contextmanager
def only_one(directory: Path) -> Iterator[None]:
    """Hold `directory` for the length of the block; DirectoryUnusable at once when that is impossible.

    A missing directory is made, for its owner only. The lock file stays: removing it would race the next one.
    """
    path = directory / "hall.lock"
    try:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        # Not inheritable: the container must not keep the lock of a dead hall.
        handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise DirectoryUnusable(f"cannot write to {directory}: {error.strerror}") from error
    try:
        _lock(handle, directory)
        os.ftruncate(handle, 0)
        os.pwrite(handle, f"{os.getpid()}\n".encode(), 0)
        yield
    finally:
        os.close(handle)


def _lock(handle: int, directory: Path) -> None:
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        holder = os.pread(handle, 20, 0).decode("ascii", "replace").strip()
        holding = f"process {holder}" if holder.isdigit() else "another process"
        raise DirectoryUnusable(f"{directory} is in use by {holding}; stop it, or choose another --dir") from None
    except OSError as error:
        raise DirectoryUnusable(f"cannot lock {directory}: {error.strerror}") from error
