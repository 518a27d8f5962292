"""What /proc says of processes. A process may end at any moment: then there is nothing to read of it."""

from __future__ import annotations

import os
from pathlib import Path
from typing import NamedTuple

__all__ = [
    "Kin",
    "command_of",
    "environment_of",
    "folder_of",
    "kin_of",
    "process_ids",
    "resident_bytes",
    "started_at",
    "status_of",
]

_PAGE = os.sysconf("SC_PAGE_SIZE")


def process_ids() -> list[int]:
    """Every process, zombies too."""
    return [int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdecimal()]


def environment_of(pid: int) -> bytes:
    """The environment with which a process was started; empty when the process is gone, or another user's."""
    return _read(pid, "environ")


def command_of(pid: int | str) -> bytes:
    """The program and arguments that a process runs, each ended by a zero byte; empty when the process is gone."""
    return _read(pid, "cmdline")


def status_of(pid: int | str) -> dict[str, str]:
    """The fields of a process's status; empty when the process is gone."""
    lines = _read(pid, "status").decode(errors="replace").splitlines()
    return {name: value.strip() for name, _, value in (line.partition(":") for line in lines)}


class Kin(NamedTuple):
    """Where a process comes from. `started` is in clock ticks since the boot: with the pid it names a process."""

    parent: int
    has_terminal: bool
    started: int


def kin_of(pid: int) -> Kin | None:
    """None when the process is gone, or only waits to be reaped."""
    fields = _read(pid, "stat").decode(errors="replace").rpartition(")")[2].split()
    if not fields or fields[0] in "ZX":
        return None
    return Kin(int(fields[1]), fields[4] != "0", int(fields[19]))


def started_at(pid: int) -> int | None:
    """When a process started; None when it is gone, or only waits to be reaped."""
    kin = kin_of(pid)
    return None if kin is None else kin.started


def folder_of(pid: int) -> str | None:
    """The working directory of a process, without links, and as it was called before it was removed; None when the
    process is gone, or another user's.
    """
    try:
        return str(Path(f"/proc/{pid}/cwd").readlink()).removesuffix(" (deleted)")
    except OSError:
        return None


def resident_bytes(pid: int) -> int:
    """Resident memory of a process; 0 when it is gone."""
    sizes = _read(pid, "statm").split()
    return int(sizes[1]) * _PAGE if sizes else 0


def _read(pid: int | str, name: str) -> bytes:
    try:
        return Path(f"/proc/{pid}/{name}").read_bytes()
    except OSError:
        return b""
