"""The town's container, as a child process of `gastown up`."""

from __future__ import annotations

import errno
import os
import signal
import socket
import sys
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from subprocess import DEVNULL

import trio

from gastown.contract.secret import Secret
from gastown.hall.control_client import ControlCallFailed
from gastown.hall.domain.town import TownRecord
from gastown.hall.server import PortTaken
from gastown.isolation.proc import environment_of, process_ids

__all__ = [
    "REFUSED",
    "Container",
    "ContainerDied",
    "ContainerLeft",
    "ContainerOptions",
    "base_environment",
    "choose_port",
    "container_environment",
    "end_strays",
    "run_container",
]

SERVE = (sys.executable, "-E", "-P", "-m", "gastown", "serve")
"""Without -P, a module in the folder where `up` was started would run in the container, with its tokens. With -I,
a gastown that was installed for one user alone would not be found."""

REFUSED = 2
"""The exit code of a container that will not run with this configuration; its last line says why."""

_KILL_SECONDS = 5
_DEATH_SECONDS = 0.5
_LAST_LINES = 5
_TAIL_BYTES = 16_384
_SWEEPS, _SWEEP_SECONDS = 20, 0.02
_MACHINE = frozenset({"PATH", "HOME", "USER", "LANG", "TZ", "TMPDIR"})
_NETWORK = frozenset({"HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY", "SSL_CERT_FILE", "SSL_CERT_DIR"})
_SETTINGS = frozenset({"KILO_API_URL", "KILO_OPENROUTER_BASE"})
_IDLE_SETTINGS = frozenset({"AGENT_IDLE_TIMEOUT_MS", "REFINERY_IDLE_TIMEOUT_MS"})
_INHERITED = _MACHINE | _NETWORK | {name.lower() for name in _NETWORK} | _SETTINGS | _IDLE_SETTINGS


class ContainerDied(Exception):
    """The container ended by itself. One sentence with the last lines of its log.

    `returncode` is as in `subprocess`; 2 is a refusal to run with this configuration.
    """

    def __init__(self, returncode: int, log: Path, last_lines: Sequence[str]) -> None:
        if returncode == REFUSED and last_lines:
            text = last_lines[-1].removeprefix("gastown: ")
        else:
            how = f"was killed by signal {-returncode}" if returncode < 0 else f"exited with code {returncode}"
            text = f"the container {how}; the end of {log}:"
            text += "".join(f"\n  {line}" for line in last_lines)
        super().__init__(text)
        self.returncode = returncode


class ContainerLeft(Exception):
    """The container has drained and ended, and not because this process asked for it. One sentence."""

    def __init__(self) -> None:
        super().__init__("the container was asked to drain (POST /drain, or a signal), and has left")


@dataclass(frozen=True, kw_only=True)
class ContainerOptions:
    """What a container is run with. `environment` is the child's whole environment.

    `drain_seconds` is how long it may take to end after a TERM. Processes that carry `homes` in their
    environment are the town's agents; all of them are ended with it.
    """

    environment: Mapping[str, str] = field(repr=False)
    log: Path
    homes: Path
    drain_seconds: float
    command: Sequence[str] = SERVE


class Container:
    """A running container. `died` is whether it ended by itself."""

    def __init__(self, process: trio.Process, options: ContainerOptions) -> None:
        self._process = process
        self._options = options
        self.stopping = False
        self.died = False

    @property
    def pid(self) -> int:
        return self._process.pid

    def terminate(self) -> None:
        """Send it a TERM: the first one drains, the second shortens the drain, the third ends it."""
        self.stopping = True
        with suppress(ProcessLookupError):
            self._process.terminate()

    def kill(self) -> None:
        """End it and its process group now."""
        self.stopping = True
        self._kill_group()

    def _kill_group(self) -> None:
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(self.pid, signal.SIGKILL)

    async def wait(self) -> int:
        """Its return code, once it has ended."""
        return await self._process.wait()

    async def stop(self) -> None:
        """Drain it, kill what does not end in time, and end every agent's process. Not cancellable.

        Takes at most the drain's seconds and about ten more.
        """
        if self._process.poll() is None:
            self.terminate()
            with trio.move_on_after(self._options.drain_seconds + _KILL_SECONDS, shield=True):
                await self._process.wait()
        elif not self.stopping:
            self.died = True
        self._kill_group()
        with trio.move_on_after(_KILL_SECONDS, shield=True):
            await self._process.wait()
            await trio.to_thread.run_sync(end_strays, self._options.homes)

    def end(self) -> ContainerDied | ContainerLeft:
        """What reports a container that has ended by itself. It ends with 0 after a drain, and never else."""
        if self._process.returncode == 0:
            return ContainerLeft()
        log = self._options.log
        return ContainerDied(self._process.returncode or 0, log, _last_lines(log))


def base_environment(given: Mapping[str, str]) -> dict[str, str]:
    """Of the caller's environment, what a container may inherit: the machine's, and gastown's settings."""
    return {
        name: value for name, value in given.items() if name in _INHERITED or name.startswith(("LC_", "GASTOWN_"))
    }


def container_environment(
    base: Mapping[str, str],
    town: TownRecord,
    token: Secret,
    *,
    api_url: str,
    stand_in: bool,
    data_dir: Path,
    port: int,
) -> dict[str, str]:
    """The container's whole environment: `base`, and over it what this town is.

    `token` is the container's, `api_url` the hall's base URL, which is the gateway's too with `stand_in`.
    """
    own = {
        "GASTOWN_API_URL": api_url,
        "GASTOWN_TOWN_ID": town.id,
        "GASTOWN_CONTAINER_TOKEN": token.reveal(),
        "GASTOWN_CONTROL_HOST": "127.0.0.1",
        "GASTOWN_CONTROL_PORT": str(port),
        "GASTOWN_WORKSPACE_ROOT": str(data_dir / "rigs"),
        "GASTOWN_AGENT_HOME_ROOT": str(data_dir / "homes"),
        # It watches this process and ends when it is gone, also after a SIGKILL.
        "GASTOWN_PARENT_PID": str(os.getpid()),
        "KILOCODE_TOKEN": town.kilocode_token.reveal() if town.kilocode_token else None,
        "GASTOWN_ORGANIZATION_ID": town.organization_id,
        "KILO_API_URL": api_url if stand_in else base.get("KILO_API_URL"),
        "GASTOWN_GATEWAY_URL": None if stand_in else base.get("GASTOWN_GATEWAY_URL"),
    }
    inherited = {name: value for name, value in base.items() if name not in own}
    return inherited | {name: value for name, value in own.items() if value is not None}


def choose_port(host: str, port: int) -> int:
    """`port`, or a free one for 0; PortTaken when it is not free now.

    The container binds it itself, so another process may still be faster; it then says so and ends.
    """
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            if error.errno == errno.EADDRINUSE:
                raise PortTaken(f"port {port} on {host} is taken; choose another one (0: any)") from None
            raise PortTaken(f"cannot listen on {host} port {port}: {error.strerror}") from None
        chosen: int = probe.getsockname()[1]
        return chosen


@asynccontextmanager
async def run_container(options: ContainerOptions) -> AsyncIterator[Container]:
    """Run the container for the length of the block.

    When it ends by itself the block is cancelled and ContainerDied raised, in place of anything else, or
    ContainerLeft after a drain that others asked for. Leaving the block sends it a TERM and waits for its drain,
    also when the block was cancelled; what then still runs is killed: its process group, and the agents' processes
    that left the group.
    """
    log = await trio.to_thread.run_sync(_open_log, options.log)
    try:
        process = await trio.lowlevel.open_process(
            list(options.command),
            env=dict(options.environment),
            stdin=DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    finally:
        os.close(log)
    container = Container(process, options)
    try:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_watch, container, nursery.cancel_scope, name="container.watch")
            try:
                yield container
            except (ControlCallFailed, ExceptionGroup):
                # A call that was cut off may be the first sign of its end; the end is the better report.
                with trio.move_on_after(_DEATH_SECONDS):
                    await container.wait()  # noqa: ASYNC120
                raise
            finally:
                await container.stop()  # noqa: ASYNC102 (its own shields, each with a budget)
                nursery.cancel_scope.cancel(reason="the container has ended")
    finally:
        if container.died:
            raise container.end()


async def _watch(container: Container, block: trio.CancelScope) -> None:
    await container.wait()
    if not container.stopping:
        container.died = True
        block.cancel(reason="the container died")


def _open_log(path: Path) -> int:
    """A new log that only its owner can read; the log of the previous run is kept beside it."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    if path.exists():
        path.replace(path.with_name(f"{path.name}.old"))
    return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND | os.O_CLOEXEC, 0o600)


def _last_lines(path: Path) -> list[str]:
    try:
        with path.open("rb") as log:
            log.seek(max(0, path.stat().st_size - _TAIL_BYTES))
            text = log.read(_TAIL_BYTES).decode(errors="replace")
    except OSError:
        return []
    return [line.rstrip() for line in text.splitlines() if line.strip()][-_LAST_LINES:]


def end_strays(homes: Path) -> None:
    """Kill the unsupervised processes of this town: their environment names its homes, or one of them.

    Call it only while no container of the town is meant to run. kilo ends itself when its supervisor is gone,
    but the commands that it ran go on; and the container of an `up` that was killed may still wait for the hall
    of that `up`. Blocks for some milliseconds.
    """
    for _ in range(_SWEEPS):
        strays = [pid for pid in process_ids() if pid != os.getpid() and _is_of_town(environment_of(pid), homes)]
        if not strays:
            return
        for pid in strays:
            with suppress(ProcessLookupError, PermissionError):
                os.kill(pid, signal.SIGKILL)
        time.sleep(_SWEEP_SECONDS)


def _is_of_town(environment: bytes, homes: Path) -> bool:
    """Whether it is that of an agent's process, or of a container that an `up` has spawned."""
    if f"={homes}{os.sep}".encode() in environment:
        return True
    return b"GASTOWN_PARENT_PID=" in environment and f"_HOME_ROOT={homes}\0".encode() in environment
