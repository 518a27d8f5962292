"""Running git: argument lists only, no configuration but ours, and no process left when it is cancelled."""

from __future__ import annotations

import os
import signal
from collections import deque
from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from subprocess import DEVNULL, PIPE
from typing import Protocol

import trio

from gastown.concurrency.processes import end_group, send, start_group
from gastown.contract.secret import Secret
from gastown.git.errors import GitError, GitFailed, PrintedTooMuch, failure
from gastown.git.progress import OnProgress, read_progress
from gastown.isolation.users import User
from gastown.logs import redacted

__all__ = ["GitFailed", "GitRunner", "config_variables", "run_git"]

OUTPUT_LIMIT = 16 * 1024 * 1024
_STDERR_LINES = 40
_LINE_LIMIT = 4096
_CLOSE_SECONDS = 1.0
_GRACE_SECONDS = 2.0
"""Between TERM, at which git removes its lock files, and KILL."""

_QUIET = {
    "GIT_TERMINAL_PROMPT": "0",
    "GIT_CONFIG_NOSYSTEM": "1",
    "GIT_CONFIG_GLOBAL": "/dev/null",
    "GIT_ATTR_NOSYSTEM": "1",
    "GIT_OPTIONAL_LOCKS": "0",
    "GIT_LFS_SKIP_SMUDGE": "1",
    "GIT_ALLOW_PROTOCOL": "http:https:ssh",
    "GIT_SSH_COMMAND": "ssh -o BatchMode=yes -o StrictHostKeyChecking=accept-new",
    # No .netrc, no attributes and no ignore file of our own user. ssh looks its home up elsewhere.
    "HOME": "/nonexistent",
    "LC_ALL": "C.UTF-8",
    "LANGUAGE": "C",
}
_SETTINGS = (
    ("gc.auto", "0"),
    ("maintenance.auto", "false"),
    ("core.hooksPath", "/dev/null"),  # the hooks of a repository are for its owner's own git
    ("core.fsmonitor", "false"),
    ("core.quotePath", "false"),
    ("advice.detachedHead", "false"),
    ("safe.directory", "*"),
    ("submodule.recurse", "false"),
    # A transfer that stands still for half a minute is a broken one.
    ("http.lowSpeedLimit", "1"),
    ("http.lowSpeedTime", "30"),
)


class GitRunner(Protocol):
    """What `run_git` is. Tests in virtual time have one that runs no process."""

    async def __call__(  # noqa: PLR0913 - keywords
        self,
        *arguments: str,
        cwd: str,
        env: Mapping[str, str],
        config: Iterable[tuple[str, str]] = (),
        secrets: Iterable[Secret] = (),
        on_progress: OnProgress | None = None,
        user: User | None = None,
        stdin: bytes | None = None,
        most: int | None = None,
    ) -> str: ...


def config_variables(pairs: Iterable[tuple[str, str]]) -> dict[str, str]:
    """git configuration as environment variables: on no disk, in no argv, inherited by every git below."""
    variables: dict[str, str] = {}
    count = 0
    for name, value in pairs:
        variables[f"GIT_CONFIG_KEY_{count}"] = name
        variables[f"GIT_CONFIG_VALUE_{count}"] = value
        count += 1
    return {"GIT_CONFIG_COUNT": str(count), **variables}


async def run_git(  # noqa: PLR0913 - keywords
    *arguments: str,
    cwd: str,
    env: Mapping[str, str],
    config: Iterable[tuple[str, str]] = (),
    secrets: Iterable[Secret] = (),
    on_progress: OnProgress | None = None,
    user: User | None = None,
    stdin: bytes | None = None,
    most: int | None = None,
) -> str:
    """Run git in `cwd` as `user` and return its stdout, which may have `most` bytes, 16 MiB if not told otherwise.

    `env` needs PATH; no configuration of a user or of the system is read, and `config` is added to ours.
    `secrets` are taken out of what an error says. A repository is looked for in `cwd` and nowhere above it.

    Raises `GitFailed` or one of its kinds. Cancelling ends the whole process group: TERM, two seconds, KILL.
    """
    environment = {**env, **_QUIET, **_bounds(cwd), **config_variables((*_SETTINGS, *config))}
    process = await _open(arguments, cwd, environment, user, DEVNULL if stdin is None else PIPE)
    said = _Said(on_progress, OUTPUT_LIMIT if most is None else most)
    try:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(said.read_stdout, process, name="git stdout")
            nursery.start_soon(said.read_stderr, process, name="git stderr")
            if stdin is not None:
                nursery.start_soon(_tell, process, stdin, name="git stdin")
            await process.wait()
            # Something below git may hold a pipe open; the last words of git itself are in it already.
            nursery.cancel_scope.deadline = trio.current_time() + 1
    finally:
        with trio.move_on_after(_GRACE_SECONDS + 3, shield=True):
            await _end(process)
        with trio.move_on_after(_CLOSE_SECONDS, shield=True):
            await _close_pipes(process)
    if said.too_much:
        raise PrintedTooMuch(arguments[0], said.most, bytes(said.stdout))
    if process.returncode:
        raise failure(arguments[0], process.returncode, redacted(said.stderr, secrets), bytes(said.stdout))
    return said.stdout.decode(errors="surrogateescape")


async def _open(
    arguments: tuple[str, ...], cwd: str, env: Mapping[str, str], user: User | None, stdin: int
) -> trio.Process:
    """git, begun as the leader of a session of its own. Raises `GitError`."""
    try:
        return await start_group(("git", *arguments), cwd, env, user, stdin)
    except OSError as error:
        raise GitError(f"git {arguments[0]} cannot run: {error.strerror or type(error).__name__}") from None


async def _end(process: trio.Process) -> None:
    if process.returncode is None:
        await end_group(process, _GRACE_SECONDS)
        await process.wait()


async def _close_pipes(process: trio.Process) -> None:
    """Close what is read and written. Waits for nothing: each is closed before its checkpoint."""
    for pipe in (process.stdin, process.stdout, process.stderr):
        if pipe is not None:
            await pipe.aclose()


def _bounds(cwd: str) -> dict[str, str]:
    """Where the repository in `cwd` is damaged, git would take the next one above for it, whatever that is.

    The nearest of these directories counts; one with a colon in it, as a rig's name may have, cannot be said.
    """
    above = (str(directory) for directory in Path(cwd).resolve().parents)
    return {"GIT_CEILING_DIRECTORIES": ":".join(directory for directory in above if ":" not in directory)}


class _Said:
    """The output of a git: all of its stdout, the last lines of its stderr without the progress."""

    def __init__(self, on_progress: OnProgress | None, most: int) -> None:
        self.most = most
        self.stdout = bytearray()
        self.too_much = False
        self._lines: deque[str] = deque(maxlen=_STDERR_LINES)
        self._on_progress = on_progress

    @property
    def stderr(self) -> str:
        return "\n".join(self._lines)

    async def read_stdout(self, process: trio.Process) -> None:
        assert process.stdout is not None  # noqa: S101 - opened as a pipe
        async for chunk in process.stdout:
            if len(self.stdout) + len(chunk) > self.most:
                self.too_much = True
                self.stdout += chunk[: self.most - len(self.stdout)]
                send(os.killpg, process.pid, signal.SIGKILL)
                return
            self.stdout += chunk

    async def read_stderr(self, process: trio.Process) -> None:
        assert process.stderr is not None  # noqa: S101 - opened as a pipe
        rest = b""
        async for chunk in process.stderr:
            *lines, rest = (rest + chunk).replace(b"\r", b"\n").split(b"\n")
            for line in lines:
                self._take(line)
            rest = rest[-_LINE_LIMIT:]
        self._take(rest)

    def _take(self, line: bytes) -> None:
        text = line[:_LINE_LIMIT].decode(errors="replace").strip()
        progress = read_progress(text)
        if progress is not None:
            if self._on_progress is not None:
                self._on_progress(progress)
        elif text:
            self._lines.append(text)


async def _tell(process: trio.Process, text: bytes) -> None:
    assert process.stdin is not None  # noqa: S101 - opened as a pipe
    # It has ended before it has read all: its exit code says why.
    with suppress(trio.BrokenResourceError):
        await process.stdin.send_all(text)
    await process.stdin.aclose()
