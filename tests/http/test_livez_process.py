"""`/livez` of a whole process: while nothing reads its log, and while its event loop is blocked."""

from __future__ import annotations

import fcntl
import http.client
import json
import os
import re
import select
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

GUARD_SECONDS = 60
PROBE_SECONDS = 3
PIPE_BYTES = 4096
WARNINGS = 200
BLOCKS_ON_A_SIGNAL = """
import signal, sys
from pathlib import Path
from gastown.cli import main

def blocks_the_loop(*_):
    Path(sys.argv[1]).read_text()

signal.signal(signal.SIGUSR1, blocks_the_loop)
raise SystemExit(main(["serve"]))
"""
"""Until something is written to the pipe of that name: a loop that waits for a file."""


class Container:
    """`gastown serve` with a log that is read only as far as a test asks for it."""

    def __init__(self, folder: Path) -> None:
        self._log, ours = os.pipe()
        fcntl.fcntl(ours, fcntl.F_SETPIPE_SZ, PIPE_BYTES)
        environment = {
            "PATH": os.environ["PATH"],
            "GASTOWN_CONTROL_HOST": "127.0.0.1",
            "GASTOWN_CONTROL_PORT": "0",
            "GASTOWN_KILO_BIN": sys.executable,
            "GASTOWN_WORKSPACE_ROOT": str(folder / "rigs"),
            "GASTOWN_AGENT_HOME_ROOT": str(folder / "homes"),
        }
        self.held_by = folder / "pipe"
        os.mkfifo(self.held_by)
        command = [sys.executable, "-c", BLOCKS_ON_A_SIGNAL, str(self.held_by)]
        self.process = subprocess.Popen(command, stderr=ours, env=environment)
        os.close(ours)
        text = ""
        while (serving := re.search(r'"port": (\d+), "event": "container.serving"', text)) is None:
            piece = os.read(self._log, PIPE_BYTES)
            assert piece, f"it ended: {text}"
            text += piece.decode()
        self.port = int(serving[1])

    def ask(self, method: str, path: str, *, headers: dict[str, str] | None = None, seconds: float) -> Any:
        with closing(http.client.HTTPConnection("127.0.0.1", self.port, timeout=seconds)) as client:
            client.request(method, path, headers={"Connection": "close", **(headers or {})})
            return json.loads(client.getresponse().read())

    def warn(self) -> None:
        """Make it log a warning."""
        self.ask("POST", "/sync-config", headers={"X-Town-Config": "nonsense"}, seconds=GUARD_SECONDS)

    def is_alive(self) -> bool:
        """What a liveness probe makes of it."""
        try:
            return bool(self.ask("GET", "/livez", seconds=PROBE_SECONDS) == {"status": "ok"})
        except TimeoutError:
            return False

    def read_until(self, event: str) -> dict[str, Any]:
        """The first line of the log with that event. The log is read as far as that, for at most a minute."""
        end, text = time.monotonic() + GUARD_SECONDS, b""
        while time.monotonic() < end:
            if select.select([self._log], [], [], 1)[0]:
                text += os.read(self._log, PIPE_BYTES)
            for line in text.splitlines(keepends=True):
                if line.endswith(b"\n") and (record := json.loads(line)).get("event") == event:
                    return dict(record)
        raise AssertionError(f"no {event} in {text.decode()}")


@pytest.fixture
def container(tmp_path: Path) -> Iterator[Container]:
    container = Container(tmp_path)
    try:
        yield container
    finally:
        container.process.kill()
        container.process.wait()


def test_a_process_whose_log_is_not_read_goes_on(container: Container) -> None:
    """The warnings are several times what the pipe holds."""
    for _ in range(WARNINGS):
        container.warn()
    assert container.is_alive()
    container.process.terminate()
    assert container.process.wait(GUARD_SECONDS) == 0


def test_a_blocked_loop_fails_its_probe_by_time_out_and_the_log_names_what_blocks_it(container: Container) -> None:
    container.process.send_signal(signal.SIGUSR1)
    stuck = container.read_until("loop.stuck")
    assert any(place.endswith(" blocks_the_loop") for place in stuck["where"])
    assert not container.is_alive()
    container.held_by.write_text("")
    container.read_until("loop.stood_still")
    assert container.is_alive()
    container.process.terminate()
    assert container.process.wait(GUARD_SECONDS) == 0
