"""What a child has started, as far as /proc tells: a process can hide all of it but where it works."""

from __future__ import annotations

import os
from collections.abc import Sequence

from gastown.isolation.proc import Kin, environment_of, folder_of, kin_of, process_ids

__all__ = ["descendants_of", "loose_in", "still_there"]


def descendants_of(root: int) -> dict[int, int]:
    """The processes below `root`, and when each started. One whose parents have ended is not among them."""
    kin = _all_kin()
    return {pid: its.started for pid, its in kin.items() if pid != root and _is_below(pid, root, kin)}


def still_there(processes: dict[int, int]) -> tuple[int, ...]:
    """Those that live, and are not others with the same pid."""
    return tuple(pid for pid, started in processes.items() if (its := kin_of(pid)) and its.started == started)


def loose_in(folders: Sequence[str], mark: str, ours: int, since: int) -> tuple[int, ...]:
    """Processes that work in `folders` and belong to nobody here: started after `since` with an environment that
    lacks `mark`, without a terminal, and not below the process `ours`.
    """
    kin, real = _all_kin(), [os.path.realpath(folder) for folder in folders]
    return tuple(
        pid
        for pid, its in kin.items()
        if its.started >= since
        and not its.has_terminal
        and _is_inside(folder_of(pid), real)
        and not _is_below(pid, ours, kin)
        and f"{mark}=".encode() not in environment_of(pid)
    )


def _all_kin() -> dict[int, Kin]:
    return {pid: its for pid in process_ids() if (its := kin_of(pid)) is not None}


def _is_below(pid: int, root: int, kin: dict[int, Kin]) -> bool:
    seen: set[int] = set()
    while pid in kin and pid not in seen:
        if pid == root:
            return True
        seen.add(pid)
        pid = kin[pid].parent
    return False


def _is_inside(folder: str | None, folders: Sequence[str]) -> bool:
    return folder is not None and any(folder == one or folder.startswith(f"{one}/") for one in folders)
