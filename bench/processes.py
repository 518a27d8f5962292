"""Processes of a benchmark: its own, which end when it does, and what any process has used.

`python -m bench.processes PID MODULE …` runs a module of this folder, and ends when the process PID does.
"""

from __future__ import annotations

import os
import runpy
import select
import subprocess
import sys
import threading
from collections.abc import Awaitable, Callable, Iterator
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any, TypeVar

import trio

__all__ = ["command_of_module", "cpu_seconds", "line", "resident_mb", "run", "spawn"]

_ROOT = Path(__file__).parent.parent

_Found = TypeVar("_Found")


def run(main: Callable[..., Awaitable[_Found]], *arguments: Any) -> _Found:
    """`trio.run`; a SystemExit from inside nurseries comes out alone, as the one sentence that it is."""
    try:
        return trio.run(main, *arguments)
    except BaseExceptionGroup as group:
        found, others = group.split(SystemExit)
        if found is None or others is not None:
            raise
        raise SystemExit(next(_leaves(found)).code) from None


def _leaves(group: BaseExceptionGroup[SystemExit]) -> Iterator[SystemExit]:
    for one in group.exceptions:
        if isinstance(one, BaseExceptionGroup):
            yield from _leaves(one)
        else:
            yield one


def command_of_module(module: str, *arguments: str) -> list[str]:
    """What runs a module of this folder, and ends it when this process ends, however that is."""
    return [sys.executable, "-m", "bench.processes", str(os.getpid()), module, *arguments]


def spawn(stack: ExitStack, program: str, role: str, *arguments: str, log: Path) -> subprocess.Popen[str]:
    """`program` (a module of this folder) in one of its roles, until `stack` closes; stderr goes to `log`."""
    process = subprocess.Popen(
        command_of_module(program, "--role", role, *arguments),
        cwd=_ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=stack.enter_context(log.open("a")),
        text=True,
    )
    stack.enter_context(process)
    stack.callback(process.kill)
    return process


def line(process: subprocess.Popen[str]) -> str:
    """What a process says next."""
    assert process.stdout is not None
    return process.stdout.readline().strip()


def cpu_seconds(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def resident_mb(pid: int) -> float:
    """0 for a process that has ended and was not waited for."""
    status = Path(f"/proc/{pid}/status").read_text().partition("VmRSS:")[2].split()
    return int(status[0]) / 1024 if status else 0.0


def _end_with(pid: int) -> None:
    """End this process when the process `pid` has ended, at once and without a farewell."""
    with suppress(ProcessLookupError):  # it was faster
        select.select([os.pidfd_open(pid)], [], [])
    os._exit(1)


def _main() -> None:
    pid, module, *arguments = sys.argv[1:]
    threading.Thread(target=_end_with, args=(int(pid),), daemon=True).start()
    sys.argv[1:] = arguments
    runpy.run_module(module, run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    _main()
