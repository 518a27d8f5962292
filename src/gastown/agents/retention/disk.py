"""How much room directories take on the disk."""

from __future__ import annotations

import os
import stat
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

import trio

from gastown.concurrency.supervise import Start

__all__ = ["DiskUse", "bytes_of"]

OTHER = "other"
MOST_RIGS = 100
_FRESH_SECONDS = 600.0

_PAUSE_EVERY = 500
_PAUSE_SECONDS = 0.001
"""A large tree is looked at beside the event loop, which wants its turn."""


def bytes_of(top: str) -> int:
    """What the files below `top` take, each once however many links it has, as far as they can be looked at.

    It blocks, and is for a thread.
    """
    total, looked, linked = 0, 0, set[tuple[int, int]]()
    waiting = [top]
    while waiting:
        with suppress(OSError), os.scandir(waiting.pop()) as entries:
            for entry in entries:
                looked += 1
                if looked % _PAUSE_EVERY == 0:
                    time.sleep(_PAUSE_SECONDS)
                with suppress(OSError):
                    found = entry.stat(follow_symlinks=False)
                    if stat.S_ISDIR(found.st_mode):
                        waiting.append(entry.path)
                    elif found.st_nlink > 1:
                        if (found.st_dev, found.st_ino) in linked:
                            continue
                        linked.add((found.st_dev, found.st_ino))
                    total += found.st_blocks * 512
    return total


class DiskUse:
    """The bytes of each rig below `root`, as they were when they were last counted."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._bytes: dict[str, int] = {}
        self._counted_at = float("-inf")
        self._counting = False

    def figures(self, start: Start) -> Mapping[str, int]:
        """Bytes by rig, the largest ones by name and the rest as `other`; never waits.

        Where they are older than ten minutes, they are counted anew by a task that `start` begins.
        """
        if not self._counting and trio.current_time() - self._counted_at >= _FRESH_SECONDS:
            self._counting = True
            start("disk use", self._count)
        largest = sorted(self._bytes.items(), key=lambda item: item[1], reverse=True)
        rest = sum(size for _, size in largest[MOST_RIGS:])
        return dict(largest[:MOST_RIGS]) | {OTHER: rest}

    async def _count(self) -> None:
        try:
            self._bytes = await trio.to_thread.run_sync(_by_rig, self._root, abandon_on_cancel=True)
            self._counted_at = trio.current_time()
        finally:
            self._counting = False


def _by_rig(root: Path) -> dict[str, int]:
    with suppress(FileNotFoundError):
        # Names with a dot in front are ours: journals, and what is being removed.
        rooms = [room for room in root.iterdir() if room.is_dir() and not room.name.startswith(".")]
        return {room.name: bytes_of(str(room)) for room in rooms if not room.is_symlink()}
    return {}
