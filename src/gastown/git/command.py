"""Running git."""

from __future__ import annotations

import os
import signal
from collections.abc import Mapping
from contextlib import suppress
from subprocess import DEVNULL

import trio

__all__ = ["GitFailed", "run_git"]

_QUIET = {
    "GIT_TERMINAL_PROMPT": "0",
    "GIT_CONFIG_NOSYSTEM": "1",
    "GIT_CONFIG_GLOBAL": "/dev/null",
    "GIT_OPTIONAL_LOCKS": "0",
    "LC_ALL": "C.UTF-8",
}


class GitFailed(Exception):
    """git ended with an error; the message holds the verb and its last line."""

    def __init__(self, arguments: tuple[str, ...], returncode: int, stderr: str) -> None:
        last = stderr.strip().splitlines()[-1][:300] if stderr.strip() else "no message"
        super().__init__(f"git {arguments[0]} failed with code {returncode}: {last}")
        self.returncode = returncode


async def run_git(*arguments: str, cwd: str, env: Mapping[str, str]) -> str:
    """Run git in `cwd` and return its stdout. `env` needs only PATH; no user or system configuration is read.

    Raises `GitFailed`. Cancelling ends the whole process group.
    """
    result = await trio.run_process(
        ["git", *arguments],
        cwd=cwd,
        env={"PATH": env["PATH"], **_QUIET, **env},
        stdin=DEVNULL,
        capture_stdout=True,
        capture_stderr=True,
        check=False,
        start_new_session=True,
        deliver_cancel=_kill_group,
    )
    if result.returncode:
        raise GitFailed(arguments, result.returncode, result.stderr.decode(errors="replace"))
    return bytes(result.stdout).decode(errors="replace")


async def _kill_group(process: trio.Process) -> None:
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
