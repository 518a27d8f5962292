"""Processes of a benchmark: its own in their roles, and what any process has used."""

from __future__ import annotations

import os
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path

__all__ = ["cpu_seconds", "line", "resident_mb", "spawn"]

_ROOT = Path(__file__).parent.parent


def spawn(stack: ExitStack, program: str, role: str, *arguments: str, log: Path) -> subprocess.Popen[str]:
    """`program` (a module of this folder) in one of its roles, until `stack` closes; stderr goes to `log`."""
    process = subprocess.Popen(
        [sys.executable, "-m", program, "--role", role, *arguments],
        cwd=_ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=stack.enter_context(log.open("a")),
        text=True,
    )
    stack.callback(process.wait)
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
